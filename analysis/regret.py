"""What a model of another size than the best one costs: in loss at equal cost, in cost at equal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.allocate import Demand, Plan, best
from analysis.law import Array
from analysis.surfaces import Surface, spread

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Regret:
    """At multiples M of N*: `loss`, nats per token above the best that the same money buys, and `cost`, the
    share of it that reaching the best loss takes on top (inf where no tokens will do). Of the fit, M, and of
    its resamples, R x M: there each law's own best is the measure, so that they hold what is lost because
    the best size is not known, too."""

    multiple_M: Array
    loss_M: Array
    cost_M: Array
    loss_RM: Array
    cost_RM: Array


def regret(surface: Surface, demand: Demand, plan: Plan, multiples: Array | tuple[float, ...]) -> Regret:
    """About the fit's plan (one law)."""
    multiple_M, budget = np.asarray(multiples, np.float64), float(plan.cost[0])
    own = best(surface.draws, demand, budget)
    rows = []
    for laws, loss in ((surface.best, plan.loss), (surface.draws, own.loss)):
        lost, dearer = [], []
        for multiple in multiple_M:
            u = plan.u + np.log(multiple) + np.zeros_like(laws.A)
            v = demand.tokens(u, budget, laws.unique)
            lost.append(laws.loss(u, v) - loss)
            v = laws.tokens_for(u, loss)
            with np.errstate(all="ignore"):
                dearer.append(np.where(np.isfinite(v), demand.of(u, v, laws.unique) / budget - 1, np.inf))
        rows.append((np.stack(lost, 1), np.stack(dearer, 1)))
    (loss_1M, cost_1M), (loss_RM, cost_RM) = rows
    # The best size itself: its regret is 0, of which rounding leaves a little.
    floor = [np.maximum(each, 0.0) for each in (loss_1M[0], cost_1M[0], loss_RM, cost_RM)]
    return Regret(multiple_M, *floor)


def plain(found: Regret, plan: Plan) -> list[dict[str, Any]]:
    """As strict JSON: a row for each multiple."""
    return [
        {
            "n_over_optimum": float(multiple),
            "n": float(plan.n[0] * multiple),
            "loss": _finite(found.loss_M[m]),
            "loss_interval": spread(found.loss_RM[:, m]),
            "extra_cost": _finite(found.cost_M[m]),
            "extra_cost_interval": spread(found.cost_RM[:, m]),
        }
        for m, multiple in enumerate(found.multiple_M)
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
