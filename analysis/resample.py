"""A law refitted to resampled runs; how they are resampled is `analysis.bootstrap`'s."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from analysis import bootstrap, large
from analysis.bootstrap import Resampling
from analysis.family import Family, family
from analysis.law import Array, Law
from analysis.newton import Objective
from analysis.profile import Rows
from analysis.solver import LARGE

_TRIAL = 16  # resamples searched globally, to learn whether the rest need it
_SAME = 1e-4  # of the objective


def resample(
    law: Law,
    rows: Rows,
    best_K: Array,
    objective: Objective,
    resamples: int,
    seed: int = 0,
    resampling: Resampling = "wild",
    fixed: Mapping[str, float] | None = None,
    at_bounds: Collection[str] = (),
) -> Array:
    """Constants R x K, in the law's order, of a law refitted to resampled runs. `best_K` is its fit to the
    rows; constants in `fixed` keep their values, those `at_bounds` do not follow the noise."""
    fixed = dict(fixed or {})
    if len(rows.y_P) >= LARGE:
        return large.resample(
            law, rows, best_K, objective, resamples, seed, resampling, fixed, tuple(at_bounds)
        )
    if resampling == "pairs":
        weight_RP = bootstrap.pairs(rows.run_P, resamples, seed)
        return family(law).refit(rows.x, rows.y_P, weight_RP, best_K, objective, fixed, rows.sigma_P)
    log = objective.space == "log"
    predicted_P = family(law).predict(best_K[None], rows.x)[0]
    sigma_P = np.ones(len(rows.y_P)) if rows.sigma_P is None else rows.sigma_P
    slopes_PK = bootstrap.slopes(law, best_K, rows.x, log) / sigma_P[:, None]
    moving = [name not in fixed and name not in at_bounds for name in law.names]
    residual_P = -objective.residual(predicted_P, rows.y_P, sigma_P)
    noise_RP = sigma_P * bootstrap.wild(residual_P, slopes_PK[:, moving], rows.run_P, resamples, seed)
    y_RP = predicted_P * np.exp(noise_RP) if log else predicted_P + noise_RP
    return _refit(family(law), rows, y_RP, best_K, objective, fixed)


def _refit(
    model: Family, rows: Rows, y_RP: Array, best_K: Array, objective: Objective, fixed: dict[str, float]
) -> Array:
    """Refits to values made about a known fit. Their optimum is that fit moved a little, unless the law has
    other optima of nearly the same objective: some resamples are searched from there alone and globally, and
    the rest globally only where that found anything lower."""

    def refit(made_RP: Array, near: bool) -> Array:
        return model.refit(rows.x, made_RP, None, best_K, objective, fixed, rows.sigma_P, near)

    def cost(params_RK: Array, made_RP: Array) -> Array:
        sigma = 1.0 if rows.sigma_P is None else rows.sigma_P
        residual_RP = objective.residual(model.predict(params_RK, rows.x), made_RP, sigma)
        return np.asarray(np.nan_to_num(objective.rho(residual_RP).sum(1), nan=np.inf))

    trial, rest = y_RP[:_TRIAL], y_RP[_TRIAL:]
    found, near = refit(trial, False), refit(trial, True)
    if not len(rest):
        return found
    as_low = cost(near, trial) <= cost(found, trial) * (1 + _SAME)
    return np.concatenate([found, refit(rest, bool(as_low.all()))])
