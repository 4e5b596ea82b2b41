"""Approach 2 of Hoffmann et al. 2022 (section 3.2): the best size of each budget from a parabola.

Budgets are found by gaps in log C, never by rounding: one significant figure merges 1.5e19 and
2.4e19. The parabola is of the loss in log N; where alpha != beta or the sizes are far from the
optimum it is biased (arXiv 2603.22339), which the surface of approach 3 is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import interval
from analysis.laws import SAME_X
from analysis.lines import Optima, power_laws
from analysis.newton import Array

# Cells of one budget lie within 1% of it; digitised published points within a few percent.
GAP = np.log(1 + SAME_X)
SPAN = np.log(1.25)
MINIMUM_BUDGETS = 3
MINIMUM_SIZES = 3


def budgets(c_P: Array) -> list[NDArray[np.intp]]:
    """Rows grouped by budget, ascending: a new group at every gap of 6% in C, or past 25% in all."""
    order = np.argsort(c_P, kind="stable")
    groups: list[list[int]] = []
    for index in order:
        last = groups[-1] if groups else []
        if last and np.log(c_P[index] / c_P[last[-1]]) <= GAP and np.log(c_P[index] / c_P[last[0]]) <= SPAN:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return [np.array(group) for group in groups]


@dataclass(frozen=True)
class _Minimum:
    """Parabolas loss = k0 + k1 u + k2 u^2, u = log N - centre, and their minima, one per weighting.

    `state_R`: 0 fine, 1 too few sizes, 2 no minimum, 3 below the smallest size, 4 above the largest.
    """

    k_RK: Array
    log_n_R: Array
    loss_R: Array
    state_R: NDArray[np.intp]
    centre: float


def _minimum(n_G: Array, loss_G: Array, weight_RG: Array) -> _Minimum:
    log_n = np.log(n_G)
    centre = float(log_n.mean())
    u = log_n - centre
    X = np.stack([np.ones_like(u), u, u * u], 1)
    sizes, which = np.unique(np.round(u, 9), return_inverse=True)
    present = np.stack([weight_RG[:, which == i].sum(1) > 0 for i in range(len(sizes))], 1)
    enough = present.sum(1) >= MINIMUM_SIZES
    M = np.einsum("rg,gi,gj->rij", weight_RG, X, X)
    M[~enough] = np.eye(3)
    v = np.einsum("rg,gi,g->ri", weight_RG, X, loss_G)
    k = np.linalg.solve(M, v[:, :, None])[:, :, 0]
    low = np.where(present, sizes, np.inf).min(1)
    high = np.where(present, sizes, -np.inf).max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -k[:, 1] / (2 * k[:, 2])
    state = np.select([~enough, k[:, 2] <= 0, vertex <= low, vertex >= high], [1, 2, 3, 4], 0)
    return _Minimum(k, vertex + centre, k[:, 0] + k[:, 1] * vertex / 2, state, centre)


def _refusal(state: int, sizes: int, lowest_last: bool) -> str:
    if state == 1:
        return f"needs {MINIMUM_SIZES} sizes, has {sizes}"
    if state == 2:
        return f"no minimum: the loss bends down; add {'larger' if lowest_last else 'smaller'} models"
    return f"the minimum lies at the {'smallest' if state == 3 else 'largest'} size or beyond: add " + (
        "smaller models" if state == 3 else "larger models"
    )


def isoflop(
    names: list[str], n_P: Array, d_P: Array, c_P: Array, loss_P: Array, draws_RP: Array
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Approach 2's entry of the fit file, and the resamples of its power laws."""
    described: list[dict[str, Any]] = []
    columns: list[tuple[float, _Minimum, _Minimum, Array, Array]] = []
    for group in budgets(c_P):
        n_G, loss_G = n_P[group], loss_P[group]
        c = float(np.exp(np.log(c_P[group]).mean()))
        sizes = len(np.unique(np.round(np.log(n_G), 9)))
        entry: dict[str, Any] = {"c": c, "rows": len(group), "runs": [names[i] for i in group]}
        if sizes < 2:
            continue  # a run alone at its budget is no isoFLOP profile, and no news
        best = _minimum(n_G, loss_G, np.ones((1, len(group))))
        state = int(best.state_R[0])
        if state:
            entry["refused"] = _refusal(state, sizes, bool(n_G[loss_G.argmin()] > np.exp(best.centre)))
            described.append(entry)
            continue
        slope, at = np.polyfit(np.log(n_G) - best.centre, np.log(d_P[group]), 1)
        drawn = _minimum(n_G, loss_G, draws_RP[:, group])
        log_d = [at + slope * (part.log_n_R - best.centre) for part in (best, drawn)]
        columns.append((c, best, drawn, log_d[0], log_d[1]))
        described.append(entry | _describe(best, float(log_d[0][0])) | _intervals(drawn, log_d[1]))
    if len(columns) < MINIMUM_BUDGETS:
        refused = [f"{part['c']:.3g} FLOPs ({part['refused']})" for part in described if "refused" in part]
        why = f"needs {MINIMUM_BUDGETS} budgets with a minimum inside their sizes, has {len(columns)}"
        why += f"; refused {', '.join(refused[:4])}" if refused else ""
        why += f" and {len(refused) - 4} more" if len(refused) > 4 else ""
        return {"skipped": why, "budgets": described}, None
    entry, resamples = power_laws(
        np.log([c for c, *_ in columns]),
        _optima([(best, log_d) for _, best, _, log_d, _ in columns]),
        _optima([(drawn, log_d) for _, _, drawn, _, log_d in columns]),
    )
    points = [{key: b[key] for key in ("c", "n", "d", "loss")} for b in described if "refused" not in b]
    return entry | {"points": points, "budgets": described}, resamples


def _describe(best: _Minimum, log_d: float) -> dict[str, Any]:
    """The parabola in plain log N, k0 + k1 log N + k2 (log N)^2, and its minimum."""
    k0, k1, k2 = best.k_RK[0]
    u = best.centre
    return {
        "parabola": [float(k0 - k1 * u + k2 * u * u), float(k1 - 2 * k2 * u), float(k2)],
        "n": float(np.exp(best.log_n_R[0])),
        "d": float(np.exp(log_d)),
        "loss": float(best.loss_R[0]),
    }


def _intervals(drawn: _Minimum, log_d_R: Array) -> dict[str, Any]:
    """Of the minimum's size and tokens, over the resamples that have one inside their sizes."""
    fine = drawn.state_R == 0
    found = {"n_interval": drawn.log_n_R, "d_interval": log_d_R}
    return {name: interval(np.exp(np.where(fine, values, np.nan))) for name, values in found.items()}


def _optima(columns: list[tuple[_Minimum, Array]]) -> Optima:
    """Budgets side by side; a resample whose minimum fell outside the sizes has weight 0 there."""
    fine = np.stack([minimum.state_R == 0 for minimum, _ in columns], 1)
    log_n = np.stack([minimum.log_n_R for minimum, _ in columns], 1)
    log_d = np.stack([log_d for _, log_d in columns], 1)
    return Optima(np.where(fine, log_n, 0.0), np.where(fine, log_d, 0.0), fine.astype(np.float64))
