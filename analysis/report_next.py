"""What would sharpen the answer: which further run narrows the interval of N* or of the loss most.

The resampled laws stand for what is not known. With q the answer's logarithm (of N*, or of the law's loss
at the budget) and y the log loss of a further run, both over the resamples, one measurement of y with
scatter s leaves the share

    sqrt(1 - cov(q, y)^2 / (var(q) (var(y) + s^2)))

of q's interval: the update of a Gaussian of that covariance (Rasmussen & Williams 2006, eq. A.6). The ends
of both are drawn in to their 2% and 98% quantiles first, so that a few wild resamples do not decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.law import Array
from analysis.optimum import cost_of, optimum, surface

SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the best size of the candidate's budget
BUDGETS = (1.0, 3.0)  # times the largest compute fitted, where that is below the budget asked about
_LEAST = 50  # resamples below which a covariance says nothing


@dataclass(frozen=True)
class Candidate:
    """A further run: parameters, tokens and FLOPs by the fit's counts, its N over the best of its FLOPs, and
    the shares of the 90% intervals of N* and of the law's loss that it would leave (1: no help)."""

    n: float
    d: float
    flops: float
    over_best: float
    n_left: float
    loss_left: float


def candidates(fit: dict[str, Any], budget: float) -> list[Candidate]:
    """Further runs by what they leave of the interval of N* at `budget` (FLOPs), the most useful first.

    [] where the fit has too few resamples to tell."""
    best_K, draws_RK = surface(fit)
    if len(draws_RK) < _LEAST:
        return []
    cost, scatter = cost_of(fit), float(fit["laws"]["chinchilla"]["rms"])
    at = optimum(draws_RK, budget, cost)
    log_n, log_loss = _drawn_in(np.log(at.n_R)), _drawn_in(np.log(at.loss_R))
    top = max(row["c"] for row in fit["rows"])
    found = []
    for multiple in BUDGETS:
        flops = multiple * top
        if multiple > 1 and flops > 0.5 * budget:
            continue
        here = float(optimum(best_K[None], flops, cost).n_R[0])
        for over in SIZES:
            u = np.log(over * here)
            v = np.log(flops) - float(cost.per_token(np.array(u)))
            y_R = _drawn_in(np.log(_loss(draws_RK, u, v)))
            left = [_left(q_R, y_R, scatter) for q_R in (log_n, log_loss)]
            found.append(Candidate(float(np.exp(u)), float(np.exp(v)), flops, over, *left))
    return sorted(found, key=lambda each: each.n_left)


def _loss(params_RK: Array, u: float, v: float) -> Array:
    A, B, E, alpha, beta = params_RK.T
    return np.asarray(E + A * np.exp(-alpha * u) + B * np.exp(-beta * v))


def _drawn_in(values: Array) -> Array:
    low, high = np.nanquantile(values, [0.02, 0.98])
    return np.asarray(np.clip(np.nan_to_num(values, nan=float(np.nanmedian(values))), low, high))


def _left(q_R: Array, y_R: Array, scatter: float) -> float:
    (var_q, both), (_, var_y) = np.cov(q_R, y_R)
    if var_q <= 0:
        return 1.0
    return float(np.sqrt(max(0.0, 1 - both**2 / (var_q * (var_y + scatter**2)))))
