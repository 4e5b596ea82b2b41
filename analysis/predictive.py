"""What a fitted law of any form says of a run it has not seen: a distribution, not a number.

The logarithm of the outcome (accuracy and error: the outcome itself) is a mixture over resamples of the law,
each with Student's t about it. Three parts make its width, as in docs/forecasting.md:

    law      the law refitted to resampled runs, at the new run
    scatter  a run's own distance from the law: Student's t through the fit's residuals by maximum likelihood,
             widened by sqrt(P / (P - K)) for the K constants that were fitted to P rows
    drift    the law being the wrong curve, which grows with the distance beyond the rows: rate times
             log(x / largest x fitted), x the compute (or N, or D). What rates are likely is learnt from the
             rows' own larger runs forecast from their smaller ones (`analysis.drift`)

A mixture has a density and a distribution function in closed form, so that a forecast can be scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln, stdtr

from analysis.drift import Drift, drift
from analysis.family import family
from analysis.fit import Measured, Settings, find, resamples
from analysis.law import Array, Law, Values
from analysis.newton import Objective
from analysis.table import Runs
from scaling.errors import UserError

SHARES = ("accuracy", "error")  # outcomes that may be 0: their spread is their own, not their logarithm's
MOST = 100  # resamples in a mixture: its tails are those of its parts
_DEGREES = (2.5, 4.0, 8.0, 30.0)


@dataclass(frozen=True)
class Predictive:
    """`best_K`, `draws_RK`: constants in the law's order; `scale`, `degrees`: of the scatter, in the unit of
    `transform`; `along`: the role in which `drift` counts its distance."""

    law: Law
    best_K: Array
    draws_RK: Array
    scale: float
    degrees: float
    drift: Drift
    along: str

    def transform(self, y: Array) -> Array:
        return y if self.law.output in SHARES else np.log(y)

    def centre(self, x: Values) -> Array:
        """The law at its fit, P, in the unit of the outcome."""
        return family(self.law).predict(self.best_K[None], x)[0]

    def cumulative(self, x: Values, along_P: Array, y_P: Array) -> Array:
        """P: the share of the distribution of each row that lies below y."""
        standard, _, weight_G = self._parts(x, along_P, y_P)
        return np.asarray(np.einsum("g,grp->p", weight_G, stdtr(self.degrees, standard)) / standard.shape[1])

    def log_density(self, x: Values, along_P: Array, y_P: Array) -> Array:
        """P: log of the density of the transformed outcome at y, nats."""
        standard, scale_GP, weight_G = self._parts(x, along_P, y_P)
        terms = _log_t(standard, self.degrees) - np.log(scale_GP)[:, None]
        with np.errstate(divide="ignore"):
            terms += np.log(weight_G / standard.shape[1])[:, None, None]
        top = terms.max((0, 1))
        return np.asarray(top + np.log(np.exp(terms - top).sum((0, 1))))

    def quantiles(self, x: Values, along_P: Array, shares: tuple[float, ...] = (0.05, 0.95)) -> Array:
        """S x P quantiles of the outcome, in its unit, by bisection of `cumulative`."""
        mu_RP, scale_GP = self._centres(x), self._scales(along_P)
        reach = 1e3 * scale_GP.max(0) + np.ptp(mu_RP, axis=0)
        out = np.empty((len(shares), len(along_P)))
        for s, share in enumerate(shares):
            low, high = mu_RP.min(0) - reach, mu_RP.max(0) + reach
            for _ in range(32):
                middle = 0.5 * (low + high)
                below = self._below(mu_RP, scale_GP, middle) < share
                low, high = np.where(below, middle, low), np.where(below, high, middle)
            out[s] = 0.5 * (low + high)
        return out if self.law.output in SHARES else np.exp(out)

    def _below(self, mu_RP: Array, scale_GP: Array, y_P: Array) -> Array:
        standard = (y_P - mu_RP)[None] / scale_GP[:, None]
        below = stdtr(self.degrees, standard).mean(1)
        return np.asarray(self.drift.weight_G @ below)

    def _centres(self, x: Values) -> Array:
        """R x P: the law at its resamples, moved so that their median is the law at its fit."""
        with np.errstate(all="ignore"):
            mu_P = self.transform(self.centre(x))
            mu_RP = self.transform(family(self.law).predict(self.draws_RK, x))
        usable = np.isfinite(mu_RP).all(1)
        if not np.isfinite(mu_P).all():
            raise UserError(f"{self.law.name} has no value at some rows; give rows with positive columns.")
        if not usable.any():
            return mu_P[None]
        return np.asarray(mu_RP[usable] + mu_P - np.median(mu_RP[usable], 0))

    def _scales(self, along_P: Array) -> Array:
        """G x P: scale of Student's t by rate of drift."""
        distance_P = np.maximum(0.0, np.log(np.asarray(along_P, np.float64) / self.drift.edge))
        return np.asarray(np.hypot(self.scale, self.drift.rate_G[:, None] * distance_P))

    def _parts(self, x: Values, along_P: Array, y_P: Array) -> tuple[Array, Array, Array]:
        """Standardised distances G x R x P, scales G x P and the weights of the rates."""
        mu_RP, scale_GP = self._centres(x), self._scales(along_P)
        apart = (self.transform(np.asarray(y_P, np.float64)) - mu_RP)[None]
        return apart / scale_GP[:, None], scale_GP, self.drift.weight_G


def _log_t(z: Array, degrees: float) -> Array:
    constant = gammaln((degrees + 1) / 2) - gammaln(degrees / 2) - 0.5 * np.log(degrees * np.pi)
    return np.asarray(constant - (degrees + 1) / 2 * np.log1p(z * z / degrees))


def scatter(residual_P: Array, constants: int) -> tuple[float, float]:
    """Scale and degrees of freedom of Student's t about 0 through residuals, by maximum likelihood; the scale
    widened for the constants fitted, the degrees no more than the rows have to spare (2 at least)."""
    spare = max(len(residual_P) - constants, 1)
    best = (-np.inf, 0.0, 0.0)
    for degrees in _DEGREES:
        scale2 = float(np.mean(residual_P**2)) + 1e-24
        for _ in range(50):  # expectation-maximisation (Liu and Rubin 1995)
            scale2 = float(np.mean((degrees + 1) * residual_P**2 / (degrees + residual_P**2 / scale2)))
            scale2 = max(scale2, 1e-24)
        likelihood = float((_log_t(residual_P / np.sqrt(scale2), degrees) - 0.5 * np.log(scale2)).sum())
        best = max(best, (likelihood, float(np.sqrt(scale2)), degrees))
    return best[1] * float(np.sqrt(len(residual_P) / spare)), min(best[2], max(float(spare), 2.0))


def predictive(
    law: Law,
    data: Measured,
    along_P: Array,
    best_K: Array,
    draws_RK: Array,
    objective: Objective,
    along: str = "c",
    fixed: Mapping[str, float] | None = None,
) -> Predictive:
    """The distribution of new runs under a law fitted to `data` by `objective`; along_P: x of each row, in
    which `analysis.drift` counts how far a new run lies beyond the rows; constants in `fixed` were held.

    Of a frontier's law, scatter and drift are those of the frontier's rows.
    """
    rows = data.rows(data.used_P)
    with np.errstate(all="ignore"):
        predicted_P = family(law).predict(best_K[None], rows.x)[0]
        log = law.output not in SHARES
        residual_P = np.log(rows.y_P / predicted_P) if log else rows.y_P - predicted_P
    fixed = {each: value for each, value in (fixed or {}).items() if each in law.names}
    scale, degrees = scatter(residual_P, len(law.names) - len(fixed))
    draws_RK = draws_RK[np.isfinite(draws_RK).all(1)]
    draws_RK = draws_RK[:: max(1, len(draws_RK) // MOST)][:MOST]
    found = drift(law, rows, np.asarray(along_P)[data.used_P], best_K, scale, objective, fixed)
    return Predictive(law, best_K, draws_RK, scale, degrees, found, along)


def runs_of(content: Mapping[str, Any]) -> Runs:
    """The rows of a fit file as the runs table they came from."""
    conventions = content["conventions"]
    return Runs(
        source=content["source"], name=content["name"], table=pd.DataFrame(content["rows"]),
        n_name=conventions["n"], c_name=conventions["c"], own=content["own"], notes=list(content["notes"]),
        fixed_n=not content["own"],
    )  # fmt: skip


def of_fit(content: Mapping[str, Any], name: str, law: Law | None = None) -> Predictive:
    """The distribution of new runs under a law of a fit file; `law`: its declaration, for one of your own.

    Ask it at `Values` of the law's inputs (n by the count in the law's entry of the file); its along_P is
    compute in FLOPs as the file counts it (`along`: "c"), D where the rows have no compute. Raises UserError
    for a law that the file does not hold, and for one of whole curves.
    """
    if name not in content["laws"]:
        raise UserError(f"the fit has no law {name!r}; it has {', '.join(content['laws'])}.")
    law, runs, entry = law or find(name), runs_of(content), content["laws"][name]
    if law.prepare is not None:
        raise UserError(f"{name} is a law of whole curves: it says nothing of a run by its sizes alone.")
    stated = content["objective"]
    objective = Objective(stated["name"], stated["delta"] or 0.0, stated["space"])
    data = Measured.of(law, runs, Settings(objective))
    used = set(entry["rows_used"])
    data = replace(data, used_P=np.array([run in used for run in runs.runs]))
    along = next((role for role in ("c", "d", "n") if runs.has(role)), law.inputs[0])
    best_K = np.array([entry["parameters"][each] for each in law.names])
    draws_RK = resamples(dict(content), name)
    fixed = {each: entry["parameters"][each] for each in entry["fixed"]}
    return predictive(law, data, runs.column(along), best_K, draws_RK, objective, along, fixed)
