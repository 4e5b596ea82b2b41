"""Resampling by run: points of one run share its seed and are not independent, so a run moves whole.

wild    For laws of every row. The measured values are made again about the fitted law: a run's residuals,
        corrected for leverage, times one random sign for the run and one random size for the resample; the
        law is fitted to them with its own objective. Percentiles of the refits are the interval.
pairs   For laws of a frontier, and for what is not a law: runs are drawn with replacement, as many as there
        are, and everything is fitted again to the same draws. A run's count in a draw is its weight.

Why wild. Nine to thirty runs carry a law of five constants. Residuals are then much smaller than the noise,
so that resampling them as they are gives intervals far too narrow, and a pairs draw leaves too few distinct
runs, so that its percentiles lie too far apart. Corrections that make the wild intervals hold
(benchmarks/coverage.py measures them on clustered noise, percentiles of pairs beside them):
  residuals   (I - H) r, H the hat matrix of the law linearised at the fit: what least squares would leave.
              A fit by absolute values passes through as many points as it has constants, and so few
              residuals, many of them zero, do not look like the noise.
  leverage    CR2: a run's residuals are multiplied by (I - H_gg)^-1/2 (Bell and McCaffrey 2002), which
              makes their variance that of the noise where noise is alike, and asks nothing where it is not.
  few runs    the whole noise of a resample is multiplied by sqrt(nu / chi2_nu), so that percentiles are
              those of Student's t and not of the normal; nu by Bell and McCaffrey's approximation: 2 / nu
              is the relative variance of a constant's variance, of which the mean over constants is taken.
              Below 4 the approximation asks for more than is needed: nu is at least 4, or runs less
              constants where these are fewer.
Signs are Rademacher's (Cameron, Gelbach and Miller 2008; Davidson and Flachaire 2008). Residuals of all runs
thrown together would be simpler and need fewer runs, but real noise is not alike in all runs: on published
points that gives far narrower intervals than those on which wild and pairs agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.law import Array, Law, Values, rows_of

LEVEL = 0.9
Resampling = Literal["wild", "pairs"]
_STEP = 1e-30  # of a complex step
_FEWEST = 4  # degrees of freedom below which Bell and McCaffrey's approximation is not followed
_FULL = 1e-6  # 1 - leverage of a direction in which a run decides the fit alone


def clusters(runs: Sequence[str]) -> NDArray[np.intp]:
    """run_P: the number of each row's run, from 0 in the order of first appearance."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(run, len(number)) for run in runs], np.intp)


def weights(runs: int, resamples: int, seed: int = 0) -> Array:
    """How often each run is drawn: resamples x runs, whole numbers, rows sum to `runs`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples).astype(np.float64)


def pairs(run_P: NDArray[np.intp], resamples: int, seed: int = 0) -> Array:
    """Weights R x P of the rows: each row counts as often as its run is drawn."""
    return weights(int(run_P.max()) + 1, resamples, seed)[:, run_P]


def slopes(law: Law, params_K: Array, x: Values, log: bool) -> Array:
    """P x K: derivative of the law (log: of its logarithm) by each parameter, by complex step."""
    columns = np.empty((rows_of(x), len(law.names)))
    for k in range(len(law.names)):
        shifted = params_K.astype(np.complex128)
        shifted[k] += 1j * _STEP
        p = Values(**{name: shifted[i : i + 1, None] for i, name in enumerate(law.names)})
        with np.errstate(all="ignore"):
            out = np.broadcast_to(np.asarray(law.function(p, x)), (1, rows_of(x)))[0]
            columns[:, k] = out.imag / _STEP / (out.real if log else 1.0)
    return np.where(np.isfinite(columns), columns, 0.0)


def wild(
    residual_P: Array, slopes_PK: Array, run_P: NDArray[np.intp], resamples: int, seed: int = 0
) -> Array:
    """Noise R x P to add to the fitted law, in the units of `residual_P`; see the module.

    residual_P and slopes_PK are of the law at its fit, divided by known noise and multiplied by the root
    of the weight where there are any; leave out the columns of constants held or at a bound.
    """
    noise_P, nu = corrected(residual_P, slopes_PK, run_P)
    rng = np.random.default_rng(seed)
    sign_RG = rng.integers(0, 2, (resamples, int(run_P.max()) + 1)) * 2.0 - 1.0
    size_R = np.sqrt(nu / rng.chisquare(nu, resamples))
    return np.asarray(size_R[:, None] * sign_RG[:, run_P] * noise_P)


def corrected(residual_P: Array, slopes_PK: Array, run_P: NDArray[np.intp]) -> tuple[Array, float]:
    """CR2 residuals P, and the degrees of freedom of Student's t, see the module.

    Where a run decides a direction alone its residual there is 0 whatever the noise: the rms of all
    residuals per degree of freedom stands in for it.
    """
    basis_PJ, effect_PK = _basis(slopes_PK)
    left_P = residual_P - basis_PJ @ (basis_PJ.T @ residual_P)
    spare = max(len(left_P) - basis_PJ.shape[1], 1)
    typical = float(np.sqrt((left_P**2).sum() / spare))
    runs, count = int(run_P.max()) + 1, np.bincount(run_P)
    out_P = np.empty_like(left_P)
    own_GK = np.empty((runs, effect_PK.shape[1]))
    shared_GKJ = np.empty((runs, effect_PK.shape[1], basis_PJ.shape[1]))
    # Runs of one row, all at once: the same formulas for numbers.
    alone = np.flatnonzero(count[run_P] == 1)
    kept = 1 - (basis_PJ[alone] ** 2).sum(1)
    shown = kept > _FULL
    gain = np.where(shown, 1 / np.sqrt(np.where(shown, kept, 1.0)), 0.0)
    out_P[alone] = np.where(shown, gain * left_P[alone], typical)
    felt = effect_PK[alone] * gain[:, None]
    own_GK[run_P[alone]] = felt**2
    shared_GKJ[run_P[alone]] = felt[:, :, None] * basis_PJ[alone][:, None]
    order = np.argsort(run_P, kind="stable")
    ends = np.cumsum(count)
    for g in np.flatnonzero(count > 1):
        rows = order[ends[g] - count[g] : ends[g]]
        V, s, _ = np.linalg.svd(basis_PJ[rows], full_matrices=False)
        kept = 1 - s**2  # of the noise along V, the share that residuals show
        shown = kept > _FULL
        along = V.T @ left_P[rows]
        gain = np.where(shown, 1 / np.sqrt(np.where(shown, kept, 1.0)), 0.0)
        out_P[rows] = left_P[rows] + V @ (np.where(shown, gain * along, typical) - along)
        felt = effect_PK[rows] + V @ ((gain - 1)[:, None] * (V.T @ effect_PK[rows]))
        own_GK[g] = (felt**2).sum(0)
        shared_GKJ[g] = felt.T @ basis_PJ[rows]
    least = min(_FEWEST, max(runs - basis_PJ.shape[1], 1))
    return out_P, max(_degrees(own_GK, shared_GKJ), float(least))


def _basis(slopes_PK: Array) -> tuple[Array, Array]:
    """An orthonormal basis P x J of what the law can follow (its outer product is the hat matrix H), and
    how much each constant moves with each row, P x K, up to a factor for each constant."""
    size_K = np.linalg.norm(slopes_PK, axis=0)
    U, s, V = np.linalg.svd(slopes_PK / np.where(size_K > 0, size_K, 1.0), full_matrices=False)
    seen = s > 1e-10 * np.max(s, initial=1e-300)
    return U[:, seen], (U[:, seen] / s[seen]) @ V[seen]


def _degrees(own_GK: Array, shared_GKJ: Array) -> float:
    """(tr S)^2 / tr S^2, S_gh = felt_g (I - H)_gh felt_h, the harmonic mean over the constants."""
    found = []
    for own_G, shared_GJ in zip(own_GK.T, np.moveaxis(shared_GKJ, 1, 0), strict=True):
        length_G = (shared_GJ**2).sum(1)
        trace = float((own_G - length_G).sum())
        square = float((own_G**2 - 2 * own_G * length_G).sum() + ((shared_GJ.T @ shared_GJ) ** 2).sum())
        found.append(trace**2 / square if square > 0 else 1.0)
    return 1 / float(np.mean(1 / np.array(found))) if found else float(len(own_GK))


def interval(values: Array, level: float = LEVEL) -> list[float] | None:
    """Central interval of the finite values (percentiles); None when fewer than half are finite."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) < max(2, 0.5 * len(values)):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def table(columns: list[str], values_RK: Array) -> dict[str, Any]:
    """Resamples as plain data: rows with a value that is not finite hold nulls (strict JSON)."""
    return {
        "columns": columns,
        "values": [
            row if all(map(math.isfinite, row)) else [None] * len(columns) for row in values_RK.tolist()
        ],
    }


def array(stored: dict[str, Any]) -> Array:
    """The inverse of `table`: R x K, NaN where a resample had no answer."""
    return np.array(
        [[np.nan if value is None else value for value in row] for row in stored["values"]], np.float64
    ).reshape(len(stored["values"]), len(stored["columns"]))
