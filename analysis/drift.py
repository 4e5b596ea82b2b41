"""How fast a law leaves its runs where it is extrapolated, learnt inside the rows it is fitted to.

Resampling shows how well the rows determine a law's constants, not whether the runs follow the law. So the
rows are cut at several places: those above the cut (in compute, or N, or D) are hidden, the law is fitted to
the rest, and the hidden rows are forecast. What the noise of the rows and of that fit does not explain of
the errors is drift: log error per e-fold of x beyond the largest x fitted.

The rate of drift is not one number but a distribution: a half-Cauchy prior of scale `PRIOR`, times the
likelihood of the errors found. A table that cannot be cut leaves the prior, so that no forecast is made as
if its law were known to be the right curve. Errors of one cut share their drift: a cut counts once, however
many rows it hides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import slopes
from analysis.family import family
from analysis.law import Array, Law, take
from analysis.newton import Objective
from analysis.profile import Rows

# Half-Cauchy, log outcome per e-fold of x: half of it below .004, a tenth above .025. Chinchilla's law fitted
# below the top decade of compute of nine published sets leaves it at .002 to .03, median .005
# (docs/extrapolation.md).
PRIOR = 0.004
RATES: Array = np.concatenate([[0.0], np.geomspace(3e-4, 0.06, 11)])
_MOST = 5  # cuts
_SPARE = 3  # rows that disagree with a law, without which fitting it is a formality


@dataclass(frozen=True)
class Cut:
    """One hidden octave of x, forecast from the rows below a cut.

    rows      rows fitted
    distance  log(x of the octave / largest x fitted), its median row
    error     median log(measured / forecast) of its rows (shares: measured - forecast)
    expected  standard error of that error if the law is the right curve
    """

    rows: int
    distance: float
    error: float
    expected: float


@dataclass(frozen=True)
class Drift:
    """Rates with their probabilities; distance counts from `edge`, the largest x fitted."""

    edge: float
    rate_G: Array
    weight_G: Array
    cuts: tuple[Cut, ...]

    @property
    def rate(self) -> float:
        """Root mean square rate."""
        return float(np.sqrt((self.weight_G * self.rate_G**2).sum()))


def drift(
    law: Law,
    rows: Rows,
    along_P: Array,
    best_K: Array,
    scale: float,
    objective: Objective,
    fixed: Mapping[str, float] | None = None,
) -> Drift:
    """The drift of `law`, fitted to `rows` with constants `best_K` and scatter `scale`, along x."""
    edge = float(along_P.max())
    cuts = _cuts(law, rows, along_P, best_K, scale, objective, fixed or {})
    share_G = np.diff(_edges(RATES)) / (1 + (RATES / PRIOR) ** 2)
    log_G = np.log(np.maximum(share_G / share_G.sum(), 1e-300))
    for group in cuts:
        each = [_log_normal(cut.error, np.hypot(cut.expected, RATES * cut.distance)) for cut in group]
        log_G = log_G + np.mean(each, 0)
    weight_G = np.exp(log_G - log_G.max())
    return Drift(edge, RATES, weight_G / weight_G.sum(), tuple(cut for group in cuts for cut in group))


def _edges(rate_G: Array) -> Array:
    """Ends of the interval that each rate stands for."""
    middle = 0.5 * (rate_G[1:] + rate_G[:-1])
    return np.concatenate([[0.0], middle, [2 * rate_G[-1] - middle[-1]]])


def _log_normal(error: float, scale_G: Array) -> Array:
    return np.asarray(-0.5 * (error / scale_G) ** 2 - np.log(scale_G))


def _cuts(
    law: Law, rows: Rows, along_P: Array, best_K: Array, scale: float, objective: Objective,
    fixed: Mapping[str, float],
) -> list[list[Cut]]:  # fmt: skip
    """Groups of hidden octaves, a group for each cut."""
    octave_P = np.round(np.log2(along_P.max() / along_P)).astype(int)
    places = [int(first) for first in np.unique(octave_P)[1:] if _carries(law, rows, octave_P >= first)]
    if not places:
        return []
    chosen = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, _MOST).astype(int))]
    kept_CP = np.array([octave_P >= first for first in chosen])
    params_CK = family(law).refit(
        rows.x, rows.y_P, kept_CP.astype(np.float64), best_K, objective, fixed, rows.sigma_P
    )
    groups = [
        _hidden(law, rows, along_P, octave_P, kept_P, params_K, scale)
        for kept_P, params_K in zip(kept_CP, params_CK, strict=True)
        if np.isfinite(params_K).all()
    ]
    return [group for group in groups if group]


def _carries(law: Law, rows: Rows, kept_P: NDArray[np.bool_]) -> bool:
    if kept_P.sum() < len(law.names) + _SPARE:
        return False
    kept = take(rows.x, kept_P)
    return all(
        len(np.unique(np.round(np.asarray(kept[name]), 9))) >= 3
        for name in ("n", "d", "c")
        if name in law.inputs
    )


def _hidden(
    law: Law, rows: Rows, along_P: Array, octave_P: NDArray[Any], kept_P: NDArray[np.bool_],
    params_K: Array, scale: float,
) -> list[Cut]:  # fmt: skip
    """What one cut's fit says of each octave it hides."""
    log = law.output not in ("accuracy", "error")
    with np.errstate(all="ignore"):
        predicted_P = family(law).predict(params_K[None], rows.x)[0]
        error_P = np.log(rows.y_P / predicted_P) if log else rows.y_P - predicted_P
    J = slopes(law, params_K, rows.x, log)
    size_K = np.linalg.norm(J[kept_P], axis=0)
    J = J / np.where(size_K > 0, size_K, 1.0)
    spread = np.linalg.pinv(J[kept_P].T @ J[kept_P], rcond=1e-10, hermitian=True)
    found = []
    for octave in np.unique(octave_P[~kept_P]):
        here = octave_P == octave
        distance = float(np.log(np.median(along_P[here]) / along_P[kept_P].max()))
        error = float(np.median(error_P[here]))
        if distance <= 0 or not np.isfinite(error):
            continue
        # Rows of an octave share the error of the fit; their own is that of a median.
        mean_K = J[here].mean(0)
        law_variance = float(mean_K @ spread @ mean_K)
        expected = scale * np.sqrt(law_variance + 0.5 * np.pi / here.sum())
        found.append(Cut(int(kept_P.sum()), distance, error, float(expected)))
    return found
