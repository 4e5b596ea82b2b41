"""Global search for the constants of any law: many problems (starts, resamples, held values) at once.

Local search from far starts often ends in a false minimum (on the published 240 points of Hoffmann et al.
2022 91% of the usual 4,500 starts do). So the parameters in which a law is linear are solved for at each
point of a grid over the others (variable projection, Golub and Pereyra 1973), and the best points and some
spread over the whole grid are followed down together with damped Newton steps (`analysis.newton`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.coordinates import Coordinates, StepTerms, coordinates, place, scatter
from analysis.law import Array, Law, Values, take
from analysis.newton import L1_DELTA, Box, Data, Minimum, Objective, Terms, huber, minimise, residuals
from analysis.projection import project
from analysis.vertex import to_vertex

_GRID = {1: 41, 2: 21}  # points each way over as many nonlinear parameters; more are scattered
_SCATTER = 512
_BLOCK = 40_000  # residuals per block: the working set stays in the cache of one core
_RACE, _MANY = 2, 100  # steps after which only the best start goes on, where a table has many rows
LARGE = 20_000  # rows from which tables are searched in a sample; see `analysis.large`
_SAMPLE = 4_000
_EFFORT = 8e4  # numbers that the starts of one search may hold; fewer starts for long tables


@dataclass(frozen=True)
class Found:
    """z at the optimum, the best start before any descent, and how the starts ended."""

    z_K: Array
    first_K: Array
    starts: int
    agree: float  # share of starts whose objective is the best one to 1e-6


@dataclass(frozen=True)
class Search:
    """A law at fixed rows, ready to be fitted to one or many columns of measured values y_RP."""

    law: Law
    x: Values
    y_RP: Array
    objective: Objective
    sigma_P: Array | None
    held: frozenset[str]

    @cached_property
    def at(self) -> Coordinates:
        return coordinates(self.law, self.x, self.y_RP, self.held)

    @cached_property
    def box(self) -> Box:
        return self.at.box()

    @cached_property
    def terms(self) -> Terms:
        """Written-out derivatives where the law has them and its terms are fitted recentred."""
        log = self.objective.space == "log"
        centred = all(self.at.recentred(p) for p in self.law.parameters if p.power or p.ratio)
        if self.law.analytic and centred:
            return self.law.analytic(self.x, self.at.centre, log)
        return StepTerms(self.law, self.x, self.at, log)

    @cached_property
    def target_RP(self) -> Array:
        return self.objective.transform(self.y_RP)

    @property
    def slope_RP(self) -> Array | None:
        return None if self.sigma_P is None else 1.0 / self.sigma_P[None]

    @cached_property
    def unit(self) -> float:
        """A residual of relative size 1."""
        size = 1.0 if self.objective.space == "log" else np.median(np.abs(self.y_RP))
        return float(size if self.slope_RP is None else np.median(self.slope_RP) * size)

    @property
    def width(self) -> float:
        return L1_DELTA * self.unit if self.objective.name == "l1" else self.objective.width

    def data(self, weight_RP: Array, rows: slice = slice(None)) -> Data:
        """Rows of the problems: those of y and of the weights, each of which may be one for all."""
        pick = slice(None) if len(self.target_RP) == 1 else rows
        weight = weight_RP if len(weight_RP) == 1 else weight_RP[rows]
        return Data(self.target_RP[pick], weight, self.slope_RP)

    def exact(self, data: Data) -> float:
        """An objective that is rounding alone."""
        power = 1 if self.objective.name == "l1" else 2
        return float(data.target_RP.shape[1] * data.rounding**power)

    def cost(self, z_RK: Array, data: Data, width: float) -> Array:
        """The objective at each point; infinite where the law has no value."""
        with np.errstate(all="ignore"):
            residual = residuals(self.terms, self.value(z_RK), data)
            total = (data.weight_RP * huber(residual, width)).sum(1)
        return np.where(np.isfinite(total), total, np.inf)

    def value(self, z_RK: Array) -> Array:
        with np.errstate(all="ignore"):
            return self.law.predict(self.at.natural(z_RK), self.x)

    @property
    def searched(self) -> tuple[str, ...]:
        """Parameters that are neither solved for nor held."""
        return tuple(name for name in self.law.names if name not in (*self.law.linear, *self.held))

    def grid(self, coarse: bool) -> Array:
        """Points over the parameters that are searched for; the others at any value."""
        names = self.searched
        if not names:
            return scatter(self.at, 1, ())
        if len(names) not in _GRID:
            return scatter(self.at, _SCATTER // 4 if coarse else _SCATTER, names)
        every = 1 if not coarse else 4 if self.y_RP.shape[1] > _MANY else 2
        side = np.linspace(0.0, 1.0, _GRID[len(names)])[::every]
        share = np.full((len(side) ** len(names), len(self.law.names)), 0.5)
        mesh = np.meshgrid(*[side] * len(names), indexing="ij")
        for name, axis in zip(names, mesh, strict=True):
            share[:, self.law.names.index(name)] = axis.ravel()
        return place(self.at, share)


def widths(width: float, unit: float = 1.0) -> list[float]:
    """Huber widths to pass through: a narrow one is a landscape of kinks, met from a wide one."""
    stages = [width]
    while stages[0] < 1e-3 * unit:
        stages.insert(0, min(stages[0] * 30, 1e-3 * unit))
    return stages


def settle(search: Search, starts_SRK: Array, data: Data, race: int = 0) -> Minimum:
    """The lowest end of each problem's starts, and its objective. In a race only the start that is lowest
    after `race` steps goes on."""
    first = widths(search.width, search.unit)[0]
    if race and len(starts_SRK) > 1:
        ahead = lowest([minimise(search.terms, z, data, first, search.box, race) for z in starts_SRK])
        return _descend(search, ahead.z_RK, data, ahead.mu_R)
    # All starts in one batch: for few rows the steps cost what NumPy's calls cost.
    starts, rows, K = starts_SRK.shape
    together = _descend(search, starts_SRK.reshape(-1, K), data.rows(np.tile(np.arange(rows), starts)))
    return lowest([together.rows(np.arange(s * rows, (s + 1) * rows)) for s in range(starts)])


def _descend(search: Search, z_RK: Array, data: Data, mu_R: Array | None = None) -> Minimum:
    """Newton through narrowing Huber widths; absolute error goes to the vertex as soon as one is found."""
    first, *rest = widths(search.width, search.unit)
    minimum = minimise(search.terms, z_RK, data, first, search.box, mu_R=mu_R)
    if search.objective.name != "l1":
        return _narrow(search, minimum, data, rest)
    end = to_vertex(search.terms, minimum.z_RK, data, search.box)
    left = np.flatnonzero(end.excess_R > 1e-9)
    if len(left):
        some = data.rows(left)
        near = _narrow(search, minimum.rows(left), some, rest)
        again = to_vertex(search.terms, near.z_RK, some, search.box)
        lower = again.f_R < end.f_R[left]
        end.z_RK[left[lower]], end.f_R[left[lower]] = again.z_RK[lower], again.f_R[lower]
    return Minimum(end.z_RK, end.f_R, minimum.mu_R, minimum.settled_R)


def _narrow(search: Search, minimum: Minimum, data: Data, stages: list[float]) -> Minimum:
    for stage in stages:
        minimum = minimise(search.terms, minimum.z_RK, data, stage, search.box)
    return minimum


def lowest(minima: list[Minimum]) -> Minimum:
    """Each problem's lowest end."""
    pick, row = np.argmin(np.stack([end.f_R for end in minima]), 0), np.arange(len(minima[0].f_R))
    return Minimum(*(
        np.stack([getattr(end, name) for end in minima])[pick, row]
        for name in ("z_RK", "f_R", "mu_R", "settled_R")
    ))  # fmt: skip


def find(search: Search, weight_P: Array, held: dict[str, float]) -> Found:
    """The global fit of one column of measured values, some parameters held at given values."""
    if len(weight_P) >= LARGE:
        return _find_in_sample(search, weight_P, held)
    data, box = search.data(weight_P[None]), search.box
    grid = _hold(search, search.grid(coarse=False), held)
    grid = project(search, grid, weight_P[None])[0][0]
    grid = np.where(box.held_K, grid, np.clip(grid, box.low_K, box.high_K))
    cost = search.cost(grid, data, max(search.width, 1e-3 * search.unit))
    order = np.argsort(cost, kind="stable")
    usable = order[np.isfinite(cost[order])]
    # The best, and some from everywhere: every few of the order in which the grid was walked.
    most = 48 if isinstance(search.terms, StepTerms) else 132
    count = int(np.clip(_EFFORT / (load(search) * len(search.law.names)), 12, most))
    spread = np.linspace(0, len(grid) - 1, min(count, len(grid))).astype(int)
    starts = np.unique(np.concatenate([usable[:12], spread[np.isfinite(cost[spread])]]))
    if not len(starts):
        starts = np.arange(len(grid))
    ends = settle(search, grid[None, starts], data)
    best = int(np.argmin(ends.f_R))
    agree = float(np.mean(ends.f_R <= ends.f_R[best] * (1 + 1e-6) + search.exact(data)))
    return Found(ends.z_RK[best], grid[int(order[0])], len(starts), agree)


def _find_in_sample(search: Search, weight_P: Array, held: dict[str, float]) -> Found:
    """The search on a sample of the rows, ended on all of them."""
    pick = np.sort(np.random.default_rng(0).choice(len(weight_P), _SAMPLE, replace=False))
    sigma_P = None if search.sigma_P is None else search.sigma_P[pick]
    part = replace(search, x=take(search.x, pick), y_RP=search.y_RP[:, pick], sigma_P=sigma_P)
    found, box = find(part, weight_P[pick], held), search.box

    def here(z_K: Array) -> Array:
        z_RK = _hold(search, search.at.fitted(part.at.natural(z_K[None])), held)
        return np.where(box.held_K, z_RK, np.clip(z_RK, box.low_K, box.high_K))

    end = settle(search, here(found.z_K)[None], search.data(weight_P[None]))
    return Found(end.z_RK[0], here(found.first_K)[0], found.starts, found.agree)


def _hold(search: Search, z_RK: Array, held: dict[str, float]) -> Array:
    out = z_RK.copy()
    for name, value in held.items():
        out[:, search.law.names.index(name)] = value
    return out


def refit(
    search: Search, weight_RP: Array, best_K: Array | None, held_RK: Array, rows: int, near: bool = False
) -> Array:
    """Fits of `rows` problems near a known fit (natural units), or of none: natural parameters R x K.

    Each problem starts from the known fit (none: from its least squares) and from points of its own coarse
    grid, the rows weighted there as the known fit's residuals deserve. Small tables have false minima and
    cost little: more of their points are followed. A resample with few distinct rows may leave a
    valley of equal optima, where the point reached is as good as any. `held_RK` gives the held
    parameters' values. `near`: from the known fit alone.
    """
    known = search.at.fitted(best_K[None])[0] if best_K is not None else None
    if known is not None and not np.isfinite(known).all():
        known = None
    points = search.y_RP.shape[1]
    count = int(np.clip(60 / points, 1 if len(search.searched) <= 2 else 2, 4))
    if near and known is not None:
        own = np.empty((0, rows, len(known)))
    else:
        own = _own_starts(search, weight_RP * _trust(search, known), held_RK, rows, count)

    def one(block: slice) -> Array:
        data = search.data(weight_RP, block)
        if known is None:
            z = minimise(search.terms, own[0, block], data, np.inf, search.box, 30).z_RK
        else:
            z = np.where(search.box.held_K, held_RK[block], known)
        starts = np.concatenate([z[None], own[:, block]])
        return settle(search, starts, data, _RACE if points > _MANY else 0).z_RK

    return search.at.natural(blocks(one, rows, load(search)))


def _trust(search: Search, known: Array | None) -> Array:
    """IRLS weights at the known fit: least squares then asks about what the objective does."""
    if known is None:
        return np.ones((1, 1))
    data = search.data(np.ones((1, 1)))
    with np.errstate(all="ignore"):
        size = np.abs(residuals(search.terms, search.value(known[None]), data))
    trust = np.minimum(1.0, search.width / np.maximum(size, 1e-300))
    return np.maximum(np.where(np.isfinite(trust), trust, 0.0), 1e-6)


def _own_starts(search: Search, weight_RP: Array, held_RK: Array, rows: int, count: int) -> Array:
    """Points of each problem's own coarse grid, S x R x K: the best and some further down the order."""
    grid = search.grid(coarse=True)
    columns = np.flatnonzero(search.box.held_K)
    ranks = np.unique(np.geomspace(1, max(len(grid) / 3, 1), count).astype(int) - 1)
    out = np.empty((len(ranks), rows, len(search.law.names)))
    groups, member = np.unique(held_RK[:, columns], axis=0, return_inverse=True)
    for g, values in enumerate(groups if len(columns) else [np.empty(0)]):
        index = np.flatnonzero(member.ravel() == g) if len(columns) else np.arange(rows)
        start = grid.copy()
        start[:, columns] = values
        out[:, index] = _ranked(search, start, weight_RP, index, ranks).swapaxes(0, 1)
    box = search.box
    return np.where(box.held_K, out, np.clip(out, box.low_K, box.high_K))


def _ranked(
    search: Search, grid: Array, weight_RP: Array, index: NDArray[np.intp], ranks: NDArray[np.intp]
) -> Array:
    """For each problem of `index` the grid's points of given ranks in its order, R x S x K."""

    def first(block: slice) -> Array:
        weight = weight_RP if len(weight_RP) == 1 else weight_RP[index[block]]
        y = None if len(search.y_RP) == 1 else search.y_RP[index[block]]
        z, cost = project(search, grid, weight, y)
        rows = len(index[block])
        cost = np.broadcast_to(cost, (rows, cost.shape[1]))
        chosen = cost.argmin(1)[:, None] if len(ranks) == 1 else np.argsort(cost, 1)[:, ranks]
        return np.broadcast_to(z, (rows, *z.shape[1:]))[np.arange(rows)[:, None], chosen]

    return blocks(first, len(index), _BLOCK, at_least=128)


def load(search: Search) -> int:
    """Numbers that one problem holds: its residuals, in complex steps twice, and what its inputs hold when a
    row of them is more than a number each."""
    each = max(np.size(column) for column in vars(search.x).values())
    return int(each) * (2 if isinstance(search.terms, StepTerms) else 1)


def blocks(work: Callable[[slice], Array], rows: int, points: int, at_least: int = 1) -> Array:
    """Run `work` over blocks of rows on the cores at hand (NumPy lets go of the interpreter lock)."""
    size = max(at_least, _BLOCK // points)
    slices = [slice(i, min(i + size, rows)) for i in range(0, rows, size)]
    if len(slices) == 1:
        return work(slices[0])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(work, slices)))
