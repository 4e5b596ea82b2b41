"""Solvers of scipy's, started elsewhere, that check what the search found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from analysis.law import Array
from analysis.newton import Data, huber, residuals
from analysis.vertex import absolute

if TYPE_CHECKING:
    from analysis.solver import Search

_PROGRAMS = 40
MOST_PROGRAMMED = 5_000  # rows of a linear program of absolute errors


def trust_region(search: Search, starts: tuple[Array, Array], data: Data) -> float:
    """Objective that scipy's bounded trust-region least squares reaches from the search's best start, or,
    where it ends higher than the answer, from beside the answer."""
    from_start, from_beside = starts[0], _beside(search, starts[1])
    lowest = _trust_region(search, from_start, data)
    if lowest > search.cost(starts[1][None], data, search.width)[0] * (1 + 1e-6):
        lowest = min(lowest, _trust_region(search, from_beside, data))
    return lowest


def _beside(search: Search, z_K: Array) -> Array:
    """A point a percent away within the bounds."""
    box = search.box
    return np.where(box.held_K, z_K, np.clip(z_K * 1.01, box.low_K, box.high_K))


def _trust_region(search: Search, start_K: Array, data: Data) -> float:
    from scipy.optimize import least_squares  # half a second to import

    free, width = ~search.box.held_K, search.width
    low, high = search.box.low_K[free], search.box.high_K[free]
    weight_P, slope = data.weight_RP[0], 1.0 if data.slope_RP is None else data.slope_RP

    def full(free_K: Array) -> Array:
        z_K = start_K.copy()
        z_K[free] = free_K
        return z_K[None]

    def residual(free_K: Array) -> Array:
        with np.errstate(all="ignore"):
            out = residuals(search.terms, search.terms(full(free_K))[0], data)[0]
        return np.nan_to_num(out, nan=1e6, posinf=1e6, neginf=-1e6)

    def jacobian(free_K: Array) -> Array:
        with np.errstate(all="ignore"):
            J = search.terms(full(free_K))[1][0] * slope
        return np.nan_to_num(J[free].T, nan=0.0, posinf=0.0, neginf=0.0)

    def loss(square_P: Any) -> Any:
        """Weighted Huber function of squared residuals in units of f_scale, and its two derivatives."""
        size = np.sqrt(np.maximum(square_P, 1e-300))
        outer = (size > 1) & np.isfinite(width)
        rho = np.where(outer, 2 * size - 1, square_P)
        first = np.where(outer, 1 / size, 1.0)
        second = np.where(outer, -0.5 / np.maximum(size, 1.0) ** 3, 0.0)
        return np.stack([rho, first, second]) * weight_P

    start = np.clip(start_K[free], low, high)
    margin = 1e-9 * (1 + np.abs(start))
    start = np.clip(start, np.minimum(low + margin, high), np.maximum(high - margin, low))
    result = least_squares(
        residual, start, jac=jacobian, bounds=(low, high), loss=cast(Any, loss),
        f_scale=width if np.isfinite(width) else 1.0, x_scale="jac",
        xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=500,
    )  # fmt: skip
    return float((weight_P * huber(result.fun, width)).sum())


def linear_programs(search: Search, starts: tuple[Array, Array], data: Data) -> float:
    """Sum of absolute errors that linear programs reach, one after another in a box that shrinks when the law
    bends away (successive linear programming), from the best start and from beside the answer."""
    return min(_programs(search, z_K, data) for z_K in (starts[0], _beside(search, starts[1])))


def _programs(search: Search, z_K: Array, data: Data) -> float:
    free = np.flatnonzero(~search.box.held_K)
    reach_K = 0.1 * np.maximum(np.abs(z_K[free]), 1e-3)
    cost = float(absolute(search.terms, z_K[None], data)[0])
    for _ in range(_PROGRAMS):
        step_K = _program(search, z_K, reach_K, data)
        if step_K is None:
            break
        lower = float(absolute(search.terms, (z_K + step_K)[None], data)[0])
        if lower < cost:
            small = cost - lower <= 1e-13 * cost
            z_K, cost, reach_K = z_K + step_K, lower, reach_K * 2
        else:
            reach_K = reach_K / 8
            small = reach_K.max() < 1e-12
        if small:
            break
    return cost


def _program(search: Search, z_K: Array, reach_K: Array, data: Data) -> Array | None:
    """The step that is best for the law made linear at z, within `reach_K` and the bounds."""
    from scipy.optimize import linprog

    free, weight_P = np.flatnonzero(~search.box.held_K), data.weight_RP[0]
    with np.errstate(all="ignore"):
        value, J = search.terms(z_K[None])
        residual_P = residuals(search.terms, value, data)[0]
    J_PK = J[0, free].T * (1.0 if data.slope_RP is None else data.slope_RP[0][:, None])
    if not (np.isfinite(J_PK).all() and np.isfinite(residual_P).all()):
        return None
    low = np.maximum(-reach_K, search.box.low_K[free] - z_K[free])
    high = np.minimum(reach_K, search.box.high_K[free] - z_K[free])
    above = np.eye(len(weight_P))  # one variable per row, >= |residual|
    result = linprog(
        np.concatenate([np.zeros(len(free)), weight_P]),
        A_ub=np.block([[J_PK, -above], [-J_PK, -above]]),
        b_ub=np.concatenate([-residual_P, residual_P]),
        bounds=[*zip(low, high, strict=True), *[(0, None)] * len(weight_P)],
        method="highs",
    )
    if result.x is None:
        return None
    step_K = np.zeros(len(z_K))
    step_K[free] = result.x[: len(free)]
    return step_K
