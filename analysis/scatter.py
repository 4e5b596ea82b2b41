"""How wide Huber's function should be for the runs at hand: as wide as they scatter.

The 1e-3 of Hoffmann et al. (2022) suits losses known to a thousandth. Runs of one to eight sequences a step
scatter by a percent about any law; there so narrow a function is the sum of absolute values, which throws
away a third of what normal noise leaves to be learnt, and the forecast of a larger run pays for it. Huber
(1964, section 5): with delta = 1.345 sigma 95% of it is kept, and outliers still weigh no more than delta.
"""

from __future__ import annotations

import numpy as np

from analysis.chinchilla import PARAMETERS, fit_many, predict
from analysis.newton import Objective
from analysis.table import Runs

EFFICIENT = 1.345  # delta over sigma at 95% efficiency under normal noise
NORMAL = 1.4826  # sigma over the median absolute residual, under the same
LEAST_ROWS = 8  # below, five parameters leave residuals that say nothing of the scatter


def objective_of(runs: Runs) -> Objective:
    """Huber's in log loss: delta = 1.345 x the robust scatter of our own runs, 1e-3 at least; where repeated
    seeds tell the noise of each run, 1.345 of that.

    The scatter is that about the Chinchilla law fitted with delta 1e-3 (so that no outlier sets it),
    rounded to two digits. 1e-3 for tables of others, whose published fits used it, and for few runs.
    """
    usual = Objective()
    if runs.own and runs.has("noise"):
        return Objective("huber", EFFICIENT)  # delta counts sigmas, which are known
    known = all(runs.has(name) for name in ("n", "d", "loss"))
    if not (runs.own and known and len(runs.runs) >= LEAST_ROWS):
        return usual
    n_P, d_P, loss_P = (runs.column(name) for name in ("n", "d", "loss"))
    law_K = fit_many(n_P, d_P, loss_P[None], usual)
    residual_P = usual.residual(predict(law_K, n_P, d_P)[0], loss_P)
    # A law of K constants passes through K rows when it is fitted this narrowly: they show no scatter.
    sigma = NORMAL * float(np.median(np.sort(np.abs(residual_P))[len(PARAMETERS) :]))
    return Objective("huber", max(usual.delta, float(f"{EFFICIENT * sigma:.2g}")), "log")
