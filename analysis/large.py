"""Tables of many rows, a laboratory's whole history: the answers without the searches that few rows need.

From `analysis.solver.LARGE` rows on
    search      the global search runs on a random sample of the rows, and Newton's method takes its answer to
                the optimum of all rows, where it is certified as ever (`analysis.solver`)
    resamples   each refit is one Newton step from the fit of all rows (Davidson and MacKinnon 1999,
                "Bootstrap testing in nonlinear models"): a second step would change it by a part that falls
                as 1 / rows
    profile     the parabola that it becomes as rows are added (`analysis.profile`)
    frontier    resamples keep only rows that can lie on one: a row that `DEPTH` others undercut is on the
                frontier of a resample with a chance of e^-DEPTH
No array of resamples x rows is ever held: resamples are made a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from analysis import bootstrap
from analysis.bootstrap import Resampling
from analysis.family import Family
from analysis.frontier import frontier
from analysis.law import Array, Law, take
from analysis.newton import Objective, residuals
from analysis.profile import Rows
from analysis.solver import Search

DEPTH = 40
_BLOCK = 2_000_000  # numbers in a block of resamples x rows


def possible(x_P: Array, loss_P: Array) -> NDArray[np.intp]:
    """Rows that can lie on the frontier of a resample of the rows, ascending."""
    left = np.arange(len(x_P))
    kept = np.zeros(len(x_P), bool)
    for _ in range(DEPTH):
        on = frontier(x_P[left], loss_P[left])[0] > 0
        kept[left[on]] = True
        left = left[~on]
        if not len(left):
            break
    return np.flatnonzero(kept)


def pairs_at(run_P: NDArray[np.intp], rows: NDArray[np.intp], resamples: int, seed: int = 0) -> Array:
    """`analysis.bootstrap.pairs` at some rows, R x rows: runs are drawn from all of them."""
    rng, runs = np.random.default_rng(seed), int(run_P.max()) + 1
    out = np.empty((resamples, len(rows)))
    for r in range(resamples):
        out[r] = np.bincount(rng.integers(0, runs, runs), minlength=runs)[run_P[rows]]
    return out


def resample(
    law: Law, rows: Rows, best_K: Array, objective: Objective, resamples: int, seed: int,
    resampling: Resampling, fixed: dict[str, float], at_bounds: tuple[str, ...],
) -> Array:  # fmt: skip
    """As `analysis.resample.resample`, for many rows."""
    if law.rows == "frontier":
        keep = possible(np.asarray(rows.x[law.inputs[0]]), rows.y_P)
        weight_RP = pairs_at(rows.run_P, keep, resamples, seed)
        sigma_P = None if rows.sigma_P is None else rows.sigma_P[keep]
        model = Family(law)
        return model.refit(take(rows.x, keep), rows.y_P[keep], weight_RP, best_K, objective, fixed, sigma_P)
    search = Family(law).search(rows.x, rows.y_P[None], objective, rows.sigma_P, fixed)
    step = _Step(search, search.at.fitted(best_K[None])[0], at_bounds)
    blocks = (_wild if resampling == "wild" else _pairs)(step, rows, resamples, seed)
    z_RK = np.concatenate([step.take(residual, weight) for residual, weight in blocks])
    return np.asarray(search.at.natural(z_RK))


class _Step:
    """Newton's step from the fit, for residuals and weights other than those that were fitted."""

    def __init__(self, search: Search, z_K: Array, at_bounds: tuple[str, ...]) -> None:
        self.search, self.z_K = search, z_K
        data = search.data(np.ones((1, 1)))
        with np.errstate(all="ignore"):
            value, J = search.terms(z_K[None])
            self.residual_P = residuals(search.terms, value, data)[0]
        slope = 1.0 if data.slope_RP is None else data.slope_RP
        names = search.law.names
        self.free = np.array(
            [name not in at_bounds and not held for name, held in zip(names, search.box.held_K, strict=True)]
        )
        self.J_PK = np.where(np.isfinite(J[0]), J[0] * slope, 0.0).T[:, self.free]
        size = np.linalg.norm(self.J_PK, axis=0)
        self.size_K = np.where(size > 0, size, 1.0)
        self.J_PK = self.J_PK / self.size_K
        k = self.J_PK.shape[1]
        self.upper = np.triu_indices(k)
        self.square_PM = self.J_PK[:, self.upper[0]] * self.J_PK[:, self.upper[1]]
        self.width = search.width
        # Absolute errors bend at 0 alone: their curvature is read over a width of the spread.
        spread = 1.4826 * float(np.median(np.abs(self.residual_P)))
        self.inner = max(self.width, 0.5 * spread * len(self.residual_P) ** -0.2)
        if np.isinf(self.width):
            self.inner = np.inf

    def take(self, residual_RP: Array, weight_RP: Array | None) -> Array:
        """z of each problem, R x K. residual: law less measured, in the objective's units."""
        psi = np.clip(residual_RP, -self.width, self.width)
        inside = (np.abs(residual_RP) <= self.inner).astype(np.float64)
        if weight_RP is not None:
            psi, inside = psi * weight_RP, inside * weight_RP
        g_RK = psi @ self.J_PK
        share = 1.0 if np.isinf(self.width) else self.width / self.inner
        H = np.zeros((len(inside), self.J_PK.shape[1], self.J_PK.shape[1]))
        H[:, self.upper[0], self.upper[1]] = share * (inside @ self.square_PM)
        H[:, self.upper[1], self.upper[0]] = H[:, self.upper[0], self.upper[1]]
        H += 1e-12 * np.eye(H.shape[1])
        z_RK = np.repeat(self.z_K[None], len(H), 0)
        z_RK[:, self.free] -= np.linalg.solve(H, g_RK[:, :, None])[:, :, 0] / self.size_K
        box = self.search.box
        return np.where(box.held_K, z_RK, np.clip(z_RK, box.low_K, box.high_K))


def _wild(step: _Step, rows: Rows, resamples: int, seed: int) -> Iterator[tuple[Array, Array | None]]:
    """Residuals of made values about the fit: the noise that was added, with its sign turned."""
    noise_P, nu = bootstrap.corrected(-step.residual_P, step.J_PK, rows.run_P)
    rng, runs = np.random.default_rng(seed), int(rows.run_P.max()) + 1
    for count in _counts(resamples, len(noise_P)):
        sign_RG = rng.integers(0, 2, (count, runs), np.int8).astype(np.float64) * 2 - 1
        size_R = np.sqrt(nu / rng.chisquare(nu, count))
        yield -size_R[:, None] * sign_RG[:, rows.run_P] * noise_P, None


def _pairs(step: _Step, rows: Rows, resamples: int, seed: int) -> Iterator[tuple[Array, Array | None]]:
    """The residuals of the fit, each row as often as its run is drawn."""
    every = np.arange(len(rows.run_P))
    for block, count in enumerate(_counts(resamples, len(every))):
        yield step.residual_P[None], pairs_at(rows.run_P, every, count, seed + block * resamples)


def _counts(resamples: int, rows: int) -> list[int]:
    each = max(1, _BLOCK // rows)
    return [min(each, resamples - done) for done in range(0, resamples, each)]
