"""The Chinchilla surface L = E + A/N^alpha + B/D^beta, fitted to many loss vectors at once.

Hoffmann et al. 2022 (arXiv 2203.15556) eq. 10 is minimised. Local search from far starts often
ends in a false minimum (on the published 240 points 91% of the usual 4,500 starts do), so each
fit starts from a grid over (alpha, beta) on which E, A and B are a 3 x 3 non-negative least
squares problem (variable projection), and ends with damped Newton steps (`analysis.newton`).

Inside, coordinates are x = log N - mean, y = log D - mean and z = (E, A', B', alpha, beta) with
A' = A exp(-alpha mean log N): the raw parameters have a condition number near 1e11, these near 1e2.
Exponents of centred coordinates cannot overflow, so sums of exponentials need no shift.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from analysis.newton import Array, Minimum, Objective, huber, minimise

PARAMETERS = ("A", "B", "E", "alpha", "beta")
EXPONENT_BOUNDS = (1e-3, 4.0)
_EXPONENTS = np.geomspace(0.03, 2.5, 21)
_COARSE = _EXPONENTS[::2]  # for resamples, whose neighbourhood is known
_BLOCK = 80_000  # residuals per block: the working set stays in the cache of one core


@dataclass(frozen=True)
class Surface:
    """The law at fixed rows in centred coordinates; see `analysis.newton.Model`."""

    x_P: Array
    y_P: Array

    def __call__(self, z_RK: Array) -> tuple[Array, Array]:
        E, A, B, alpha, beta = (column[:, None] for column in z_RK.T)
        n_RP, d_RP = np.exp(-alpha * self.x_P), np.exp(-beta * self.y_P)
        loss_RP = E + A * n_RP + B * d_RP
        J = np.empty((len(z_RK), 5, len(self.x_P)))
        J[:, 0] = 1.0 / loss_RP
        J[:, 1] = n_RP * J[:, 0]
        J[:, 2] = d_RP * J[:, 0]
        J[:, 3] = J[:, 1] * (-A * self.x_P)
        J[:, 4] = J[:, 2] * (-B * self.y_P)
        return loss_RP, J

    def curve(self, J_RKP: Array, c_RP: Array) -> Array:
        out = np.zeros((len(c_RP), 5, 5))
        for coefficient, exponent, axis_P in ((1, 3, self.x_P), (2, 4, self.y_P)):
            slope_RP = -c_RP * axis_P
            cross = np.einsum("rp,rp->r", slope_RP, J_RKP[:, coefficient])
            out[:, coefficient, exponent] = out[:, exponent, coefficient] = cross
            out[:, exponent, exponent] = np.einsum("rp,rp->r", slope_RP, J_RKP[:, exponent])
        return out


@dataclass(frozen=True)
class Problem:
    """Rows of the table ready for the solver: n parameters, d tokens, both > 0."""

    n_P: Array
    d_P: Array

    @property
    def centre(self) -> tuple[float, float]:
        return float(np.log(self.n_P).mean()), float(np.log(self.d_P).mean())

    @property
    def surface(self) -> Surface:
        n0, d0 = self.centre
        return Surface(np.log(self.n_P) - n0, np.log(self.d_P) - d0)

    def plain(self, z_RK: Array) -> Array:
        """(E, A', B', alpha, beta) in centred coordinates -> (A, B, E, alpha, beta)."""
        n0, d0 = self.centre
        E, A, B, alpha, beta = z_RK.T
        return np.stack([A * np.exp(alpha * n0), B * np.exp(beta * d0), E, alpha, beta], 1)

    def centred(self, params_RK: Array) -> Array:
        """The inverse of `plain`."""
        n0, d0 = self.centre
        A, B, E, alpha, beta = params_RK.T
        return np.stack([E, A * np.exp(-alpha * n0), B * np.exp(-beta * d0), alpha, beta], 1)


def predict(params_RK: Array, n_P: Array, d_P: Array) -> Array:
    """Loss in nats per token, R x P, for parameters in the order of PARAMETERS."""
    A, B, E, alpha, beta = (column[:, None] for column in np.atleast_2d(params_RK).T)
    return E + A * np.exp(-alpha * np.log(n_P)) + B * np.exp(-beta * np.log(d_P))


def bounds(loss: Array) -> tuple[Array, Array]:
    """Box of (E, A', B', alpha, beta). E may be 0; the terms that vary may not vanish wholly,
    or their exponents would mean nothing."""
    scale, (low, high) = float(np.max(loss)), EXPONENT_BOUNDS
    return (
        np.array([0.0, 1e-9 * scale, 1e-9 * scale, low, low]),
        np.array([scale, 1e9 * scale, 1e9 * scale, high, high]),
    )


def grid_starts(
    surface: Surface, loss_RP: Array, weight_RP: Array, exponents: Array = _EXPONENTS
) -> tuple[Array, Array]:
    """Variable projection: for every (alpha, beta) of the grid and every problem the non-negative
    E, A', B' of least squared relative error. Returns z as R x G x 5 and the squared error R x G."""
    alpha_G, beta_G = (axis.ravel() for axis in np.meshgrid(exponents, exponents, indexing="ij"))
    n_PG, d_PG = np.exp(-np.outer(surface.x_P, alpha_G)), np.exp(-np.outer(surface.y_P, beta_G))
    basis = (np.ones_like(n_PG), n_PG, d_PG)
    square_RP = weight_RP / loss_RP**2
    linear_RP = weight_RP / loss_RP
    rows = max(len(square_RP), len(linear_RP))
    M = np.empty((3, 3, rows, len(alpha_G)))
    v = np.empty((3, rows, len(alpha_G)))
    for i in range(3):
        v[i] = linear_RP @ basis[i]
        for j in range(i, 3):
            M[i, j] = M[j, i] = square_RP @ (basis[i] * basis[j])
    coefficients, fall = nonnegative_3(M, v)
    total = np.broadcast_to(weight_RP, np.broadcast_shapes(weight_RP.shape, loss_RP.shape)).sum(1)
    pairs = np.broadcast_to(np.stack([alpha_G, beta_G], -1), (rows, len(alpha_G), 2))
    return np.concatenate([np.moveaxis(coefficients, 0, -1), pairs], -1), total[:, None] - fall


def nonnegative_3(M: Array, v: Array) -> tuple[Array, Array]:
    """Minimise c'Mc - 2 v'c over c >= 0 for a stack of 3 x 3 problems (axes 0, 1 are the matrix).

    Tries the 7 supports and keeps the best feasible one. Returns c and v'c, the fall in the
    squared error.
    """
    best = np.zeros_like(v)
    fall = np.zeros(v.shape[1:])
    for support in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        c = _solve_support(M, v, support)
        gain = (v * c).sum(0)
        take = (c >= 0).all(0) & (gain > fall)
        best = np.where(take, c, best)
        fall = np.where(take, gain, fall)
    return best, fall


def _solve_support(M: Array, v: Array, support: tuple[int, ...]) -> Array:
    """Cramer's rule on a ridge of 1e-12: columns nearly collinear (tiny exponents) stay finite."""
    c = np.zeros_like(v)
    ridge = 1.0 + 1e-12
    if len(support) == 1:
        (i,) = support
        c[i] = v[i] / M[i, i]
    elif len(support) == 2:
        i, j = support
        det = ridge**2 * M[i, i] * M[j, j] - M[i, j] ** 2
        c[i] = (ridge * M[j, j] * v[i] - M[i, j] * v[j]) / det
        c[j] = (ridge * M[i, i] * v[j] - M[i, j] * v[i]) / det
    else:
        a, b, d = ridge * M[0, 0], ridge * M[1, 1], ridge * M[2, 2]
        p, q, r = M[0, 1], M[0, 2], M[1, 2]
        c00, c01, c02 = b * d - r * r, q * r - p * d, p * r - q * b
        c11, c12, c22 = a * d - q * q, p * q - a * r, a * b - p * p
        det = a * c00 + p * c01 + q * c02
        c[0] = (c00 * v[0] + c01 * v[1] + c02 * v[2]) / det
        c[1] = (c01 * v[0] + c11 * v[1] + c12 * v[2]) / det
        c[2] = (c02 * v[0] + c12 * v[1] + c22 * v[2]) / det
    return c


def widths(width: float) -> list[float]:
    """Huber widths to pass through: a narrow one is a landscape of kinks, met from a wide one."""
    stages = [width]
    while stages[0] < 1e-3:
        stages.insert(0, min(stages[0] * 30, 1e-3))
    return stages


def settle(
    surface: Surface,
    start_RK: Array,
    log_loss_RP: Array,
    weight_RP: Array,
    width: float,
    iterations: int = 100,
) -> Minimum:
    """Newton from each start through narrowing Huber widths to `width`."""
    low, high = bounds(np.exp(log_loss_RP))
    z = start_RK
    for stage in widths(width):
        minimum = minimise(surface, z, log_loss_RP, weight_RP, stage, low, high, iterations)
        z = minimum.z_RK
    return minimum


@dataclass(frozen=True)
class GlobalFit:
    """z at the optimum, the grid's best point before any descent, and how the starts ended."""

    z_K: Array
    first_K: Array
    starts: int
    agree: float  # share of starts whose objective is the best one to 1e-6


def fit_best(problem: Problem, loss_P: Array, objective: Objective) -> GlobalFit:
    """The global fit of one loss vector.

    Starts: every second grid point each way (121), plus the best 12 of the whole grid by Huber cost.
    """
    surface, log_loss = problem.surface, np.log(loss_P)[None]
    ones = np.ones_like(log_loss)
    grid_GK = np.maximum(grid_starts(surface, loss_P[None], ones)[0][0], bounds(loss_P)[0])
    side = len(_EXPONENTS)
    residual = np.log(surface(grid_GK)[0]) - log_loss
    cost = huber(residual, max(objective.width, 1e-3)).sum(1)
    coarse = np.arange(side * side).reshape(side, side)[::2, ::2].ravel()
    starts = np.unique(np.concatenate([coarse, np.argsort(cost)[:12]]))
    ends = settle(surface, grid_GK[starts], log_loss, ones, objective.width)
    best = int(np.nanargmin(ends.f_R))
    floor = len(loss_P) * 1e-30
    agree = float(np.mean(ends.f_R <= ends.f_R[best] * (1 + 1e-6) + floor))
    return GlobalFit(ends.z_RK[best], grid_GK[int(cost.argmin())], len(starts), agree)


def fit_weighted(
    problem: Problem, loss_P: Array, weight_RP: Array, best_K: Array, objective: Objective
) -> Array:
    """Fits of the same rows under R weight vectors (bootstrap counts), near a known fit `best_K`.

    Each resample starts from the known fit and from its own grid optimum, the rows weighted there
    as the known fit's residuals deserve. Returns parameters R x 5 (PARAMETERS). A resample with few
    distinct rows may leave a valley of equal optima, where the point reached is as good as any.
    """
    surface, log_loss = problem.surface, np.log(loss_P)[None]
    residual = np.abs(np.log(surface(best_K[None])[0]) - log_loss)
    trust = np.maximum(np.minimum(1.0, objective.width / np.maximum(residual, 1e-300)), 1e-6)

    def first(block: slice) -> Array:
        z, cost = grid_starts(surface, loss_P[None], weight_RP[block] * trust, _COARSE)
        return z[np.arange(len(z)), cost.argmin(1)]

    own = blocks(first, len(weight_RP), _BLOCK, at_least=128)

    def one(block: slice) -> Array:
        known = np.broadcast_to(best_K, own[block].shape)
        return _better(surface, (known, own[block]), log_loss, weight_RP[block], objective)

    return problem.plain(blocks(one, len(weight_RP), len(loss_P)))


def fit_many(n_P: Array, d_P: Array, losses_RP: Array, objective: Objective | None = None) -> Array:
    """Fit R loss vectors on the same rows: parameters R x 5 in the order of PARAMETERS.

    For simulation studies: n in parameters, d in tokens, losses in nats per token, all > 0.
    """
    objective = objective or Objective()
    problem = Problem(np.asarray(n_P, float), np.asarray(d_P, float))
    surface, losses_RP = problem.surface, np.asarray(losses_RP, float)

    def first(block: slice) -> Array:
        loss = losses_RP[block]
        z, cost = grid_starts(surface, loss, np.ones_like(loss), _COARSE)
        return z[np.arange(len(z)), cost.argmin(1)]

    starts = blocks(first, len(losses_RP), _BLOCK, at_least=128)

    def one(block: slice) -> Array:
        loss = losses_RP[block]
        ones = np.ones_like(loss)
        squares = settle(surface, starts[block], np.log(loss), ones, np.inf, iterations=30).z_RK
        return _better(surface, (starts[block], squares), np.log(loss), ones, objective)

    return problem.plain(blocks(one, len(losses_RP), losses_RP.shape[1]))


def _better(
    surface: Surface, starts: tuple[Array, ...], log_loss: Array, weight: Array, objective: Objective
) -> Array:
    ends = [settle(surface, start, log_loss, weight, objective.width) for start in starts]
    pick = np.argmin(np.stack([end.f_R for end in ends]), 0)
    return np.stack([end.z_RK for end in ends])[pick, np.arange(len(pick))]


def blocks(work: Callable[[slice], Array], rows: int, points: int, at_least: int = 1) -> Array:
    """Run `work` over blocks of rows on the cores at hand (NumPy lets go of the interpreter lock)."""
    size = max(at_least, _BLOCK // points)
    slices = [slice(i, min(i + size, rows)) for i in range(0, rows, size)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(work, slices)))
