"""Where a valley of losses is lowest, and how surely: a local quadratic in log coordinates.

A row is a loss y at u = the log of a learning rate (K = 1), or the logs of a rate and a batch (K = 2). About
a centre

    y = a + b.u + u.C.u + higher orders + noise

The quadratic is free. Real valleys are steeper on one side: higher orders are there too, as
normal variates whose size is known beside the curvature (`THIRD`, `FOURTH`), so that far rows count little,
a lopsided valley widens the interval, and where the rows are many and exact the lopsidedness is fitted.
The centre is moved to the lowest point until it stays.

The noise is what the rows leave about such valleys: restricted maximum likelihood over all cells of a sweep
at once, so that seeds and spare rates speak alike. Where every seed ran several rates of a cell, it has an
intercept of its own: what a seed does to all rates alike moves no optimum.

The interval holds every point at which the slope may be zero: |slope| <= t times its standard error
(Fieller 1954), t with the degrees of freedom of the noise. It may be open: then the rows do not show the
turn. With two coordinates each has the interval of the points where some value of the other lets both slopes
be zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from analysis.bootstrap import LEVEL
from analysis.law import Array

# The k-th Taylor coefficient of a valley over its second is a normal variate of deviation 2 r^(k-2) / k!, as
# if its shape changed over 1/r of a logarithm base e.
ROUGHNESS = 1.2
_DEGREE = {1: 6, 2: 4}  # by the number of coordinates: what follows is nothing within `REACH`
_PLACES = {1: 241, 2: 121}  # of the interval's search in each coordinate
# Shares of the higher orders' size that are tried where noise is estimated: where places repeat, where none.
_SMOOTHER, _UNKNOWN = (0.0, 0.3, 0.6, 1.0), (0.0, 0.3)


@dataclass(frozen=True)
class Rows:
    """Losses of one cell: u_PK logs of the coordinates, y_P nats per token, seed_P intercepts (0, 1, ...)."""

    u_PK: Array
    y_P: Array
    seed_P: NDArray[np.intp]

    @property
    def fixed(self) -> int:
        """Constants that are free: intercepts, slopes, curvatures."""
        size = self.u_PK.shape[1]
        return int(self.seed_P.max()) + 1 + size + size * (size + 1) // 2


@dataclass(frozen=True)
class Noise:
    """Standard error of a row, nats per token; degrees of freedom (inf: given); how it was had."""

    sigma: float
    df: float
    how: str


@dataclass(frozen=True)
class Valley:
    """A fitted cell. `at_K` the lowest point (logs), `low_K`, `high_K` its interval (infinite: open),
    `loss` there (mean over seeds), `curvature_KK` the second derivatives, `inside` whether the lowest point
    lies among the rows and turns up in every direction."""

    at_K: Array
    low_K: Array
    high_K: Array
    loss: float
    curvature_KK: Array
    inside: bool
    constants_J: Array

    def curve(self, u_PK: Array) -> Array:
        """The fitted losses at other places, mean over seeds."""
        count = len(_powers(len(self.at_K)))
        height = self.constants_J[:-count].mean()
        return np.asarray(height + _monomials(u_PK - self.at_K) @ self.constants_J[-count:])


@cache
def _powers(size: int) -> NDArray[np.intp]:
    """J x K: exponents of every monomial in `size` coordinates, by degree from 1."""
    found = []
    for degree in range(1, _DEGREE[size] + 1):
        for chosen in combinations_with_replacement(range(size), degree):
            found.append([chosen.count(k) for k in range(size)])
    return np.array(found, np.intp)


def _monomials(u_PK: Array) -> Array:
    return np.asarray(np.prod(u_PK[:, None, :] ** _powers(u_PK.shape[1]), 2))


def _slopes(u_PK: Array) -> Array:
    """P x K x J: derivative by each coordinate of each monomial."""
    powers, size = _powers(u_PK.shape[1]), u_PK.shape[1]
    parts = []
    for k in range(size):
        lower = np.maximum(powers - np.eye(size, dtype=np.intp)[k], 0)
        parts.append(powers[:, k] * np.prod(u_PK[:, None, :] ** lower, 2))
    return np.stack(parts, 1)


def _second(size: int) -> slice:
    """Where the constants of the second degree stand among the monomials."""
    return slice(size, size + size * (size + 1) // 2)


def _bend(constants_J: Array, size: int) -> Array:
    """Second derivatives at the centre, K x K."""
    out = np.zeros((size, size))
    for (i, k), constant in zip(
        combinations_with_replacement(range(size), 2), constants_J[_second(size)], strict=True
    ):
        out[i, k] += constant
        out[k, i] += constant
    return out


def _deviations(curvature_K: Array) -> Array:
    """Standard deviation of each monomial's constant: infinite up to the second degree."""
    powers = _powers(len(curvature_K))
    degree = powers.sum(1)
    scale = np.prod(curvature_K ** (powers / degree[:, None]), 1)
    share = np.array([2 * ROUGHNESS ** (k - 2) / factorial(k) for k in degree])
    return np.where(degree <= 2, np.inf, scale * share)


def _design(rows: Rows, centre_K: Array) -> Array:
    seeds = np.eye(int(rows.seed_P.max()) + 1)[rows.seed_P]
    return np.concatenate([seeds, _monomials(rows.u_PK - centre_K)], 1)


@dataclass(frozen=True)
class _Posterior:
    mean_J: Array
    cov_JJ: Array


def _posterior(rows: Rows, centre_K: Array, curvature_K: Array, sigma: float) -> _Posterior:
    """Constants of the rows about a centre, given the size of the third and fourth orders and the noise."""
    X = _design(rows, centre_K)
    seeds = X.shape[1] - len(_powers(len(centre_K)))
    deviation = np.concatenate([np.full(seeds, np.inf), _deviations(curvature_K)])
    prior = np.diag(1 / deviation)[np.isfinite(deviation)]
    M = np.concatenate([X / sigma, prior])
    target = np.concatenate([rows.y_P / sigma, np.zeros(len(prior))])
    scale_J = np.linalg.norm(M, axis=0)
    U, s, V = np.linalg.svd(M / scale_J, full_matrices=False)
    seen = s > 1e-11 * s[0]
    inverse = (V[seen].T / s[seen]) / scale_J[:, None]
    return _Posterior(inverse @ (U[:, seen].T @ target), inverse @ inverse.T)


def plain_curvature(rows: Rows, centre_K: Array) -> Array:
    """Second Taylor coefficients (half the second derivatives) of least squares on the quadratic, floored at
    a share of what the losses span: what the sizes of the higher orders are first taken from."""
    X = _design(rows, centre_K)[:, : rows.fixed]
    found = np.linalg.lstsq(X, rows.y_P, rcond=None)[0][int(rows.seed_P.max()) + 1 :]
    return _positive(np.asarray(found, np.float64), rows)


def _positive(constants_J: Array, rows: Rows) -> Array:
    half = np.diag(_bend(constants_J, rows.u_PK.shape[1])) / 2
    reach = np.maximum(np.ptp(rows.u_PK, axis=0), 1e-9)
    return np.asarray(np.maximum(half, 0.02 * float(np.ptp(rows.y_P)) / reach**2 + 1e-12))


@dataclass(frozen=True)
class _Settled:
    centre_K: Array
    curvature_K: Array
    posterior: _Posterior
    settled: bool


def _settle(rows: Rows, start_K: Array, sigma: float, curvature_K: Array, rounds: int = 25) -> _Settled:
    """Move the centre to the lowest point, the curvature with it, until both stay."""
    size = rows.u_PK.shape[1]
    low_K, high_K = rows.u_PK.min(0), rows.u_PK.max(0)
    limit = 0.5 * np.maximum(high_K - low_K, 1e-9)
    centre, curvature, step = start_K, curvature_K, np.inf
    for _ in range(rounds):
        constants = _posterior(rows, centre, curvature, sigma).mean_J[-len(_powers(size)) :]
        curvature = _positive(constants, rows)
        values, vectors = np.linalg.eigh(_bend(constants, size))
        # Downhill where it bends down; never further than half of what was tried.
        move = -vectors @ ((vectors.T @ constants[:size]) / np.maximum(np.abs(values), 1e-9))
        move *= min(1.0, float(np.min(limit / np.maximum(np.abs(move), 1e-300))))
        moved = np.clip(centre + move, low_K - 0.25 * limit, high_K + 0.25 * limit)
        step = float(np.abs(moved - centre).max())
        centre = np.asarray(moved)
        if step < 1e-5:
            break
    return _Settled(centre, curvature, _posterior(rows, centre, curvature, sigma), step < 1e-3)


def lowest_row(rows: Rows) -> Array:
    """The place of the lowest mean loss."""
    places, which = np.unique(rows.u_PK.round(9), axis=0, return_inverse=True)
    which = which.reshape(-1)
    mean = np.bincount(which, rows.y_P) / np.bincount(which)
    return np.asarray(places[mean.argmin()])


def valley(rows: Rows, noise: Noise, level: float = LEVEL) -> Valley:
    """The lowest point of one cell and its interval at `level`; see the module."""
    start = lowest_row(rows)
    found = _settle(rows, start, noise.sigma, plain_curvature(rows, start))
    size = rows.u_PK.shape[1]
    bend = _bend(found.posterior.mean_J[-len(_powers(size)) :], size)
    low_K, high_K = rows.u_PK.min(0), rows.u_PK.max(0)
    inside = found.settled and bool(np.linalg.eigvalsh(bend).min() > 0)
    inside &= bool(((found.centre_K > low_K) & (found.centre_K < high_K)).all())
    inside &= size == 1 or _surrounded(rows.u_PK - found.centre_K)
    ends = _interval(rows, found, _quantile(noise.df, level)) if inside else np.full((2, size), np.nan)
    seeds = len(found.posterior.mean_J) - len(_powers(size))
    return Valley(
        found.centre_K, ends[0], ends[1], float(found.posterior.mean_J[:seeds].mean()), bend, inside,
        found.posterior.mean_J,
    )  # fmt: skip


def _quantile(df: float, level: float) -> float:
    q = (1 + level) / 2
    return float(ndtri(q) if np.isinf(df) else stdtrit(df, q))


def _surrounded(away_PK: Array) -> bool:
    """Whether the origin of a plane lies within the points' hull: no half-plane holds them all. Rates that
    move with the batch leave the corners of their range empty."""
    angle = np.sort(np.arctan2(away_PK[:, 1], away_PK[:, 0]))
    gaps = np.diff(np.concatenate([angle, angle[:1] + 2 * np.pi]))
    return bool(gaps.max() < np.pi)


def _interval(rows: Rows, found: _Settled, t: float) -> Array:
    """2 x K: the ends of each coordinate's set of points where the slopes may be zero, about the lowest."""
    size = len(found.centre_K)
    reach = np.maximum(rows.u_PK.max(0) - found.centre_K, found.centre_K - rows.u_PK.min(0))
    J = len(_powers(size))
    mean, cov = found.posterior.mean_J[-J:], found.posterior.cov_JJ[-J:, -J:]
    inverse = np.linalg.inv(_bend(mean, size))
    error = np.sqrt(np.diag(inverse @ cov[:size, :size] @ inverse))
    axes = [_axis(1.2 * r, e, _PLACES[size]) for r, e in zip(reach, error, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    G = _slopes(grid.reshape(-1, size))
    slope = G @ mean
    spread = G @ cov @ np.swapaxes(G, 1, 2)
    share = np.einsum("pk,pk->p", slope, np.linalg.solve(spread, slope[:, :, None])[:, :, 0])
    share = share.reshape(grid.shape[:-1])
    ends = np.empty((2, size))
    for k in range(size):
        others = tuple(i for i in range(size) if i != k)
        least = share.min(axis=others) if others else share
        ends[:, k] = found.centre_K[k] + _component(axes[k], least, t * t)
    return ends


def _axis(reach: float, error: float, places: int) -> Array:
    """Places from -reach to reach, dense about 0: the first ones an eighth of `error` apart."""
    half = places // 2
    power = np.clip(np.log(8 * reach / max(error, 1e-12)) / np.log(half), 1.0, 4.0)
    share = np.linspace(-1.0, 1.0, 2 * half + 1)
    return np.asarray(reach * np.sign(share) * np.abs(share) ** power)


def _component(axis: Array, value: Array, limit: float) -> Array:
    """Ends of the stretch about 0 where value <= limit, between grid places by straight lines."""
    middle = len(axis) // 2
    out = np.array([-np.inf, np.inf])
    for side, places in ((0, range(middle, 0, -1)), (1, range(middle, len(axis) - 1))):
        for i in places:
            j = i - 1 if side == 0 else i + 1
            if value[j] > limit:
                share = (limit - value[i]) / (value[j] - value[i])
                out[side] = axis[i] + float(np.clip(share, 0, 1)) * (axis[j] - axis[i])
                break
    return out


def noise_of(cells: list[Rows]) -> Noise | None:
    """The noise by restricted likelihood over cells; None where no row is to spare."""
    spare = sum(len(rows.y_P) - rows.fixed for rows in cells)
    if spare < 1:
        return None
    parts = []
    for rows in cells:
        centre = lowest_row(rows)
        parts.append((rows, centre, plain_curvature(rows, centre)))
    again = any(len(np.unique(rows.u_PK.round(9), axis=0)) < len(rows.y_P) for rows in cells)
    shares = _SMOOTHER if again else _UNKNOWN
    sigma = df = 0.0
    for _ in range(3):
        sigma, df = _likely([s for s in (_spectrum(*part) for part in parts) if s is not None], shares)
        settled = [_settle(*part[:2], sigma, part[2], rounds=3) for part in parts]
        parts = [(rows, s.centre_K, s.curvature_K) for (rows, _, _), s in zip(parts, settled, strict=True)]
    cells_ = "one cell" if len(cells) == 1 else f"{len(cells)} cells"
    return Noise(sigma, df, f"from {spare} spare rows of {cells_}")


def _spectrum(rows: Rows, centre_K: Array, curvature_K: Array) -> tuple[Array, Array] | None:
    """Of what the free constants leave of the rows: the variances of the higher orders, and the squares of
    the rows along them."""
    X = _design(rows, centre_K)
    if len(X) <= rows.fixed:
        return None
    Q = np.linalg.qr(X[:, : rows.fixed], mode="complete")[0][:, rows.fixed :]
    Z = Q.T @ (X[:, rows.fixed :] * _deviations(curvature_K)[_second(len(centre_K)).stop :])
    variance, vectors = np.linalg.eigh(Z @ Z.T)
    return np.maximum(variance, 0.0), (vectors.T @ (Q.T @ rows.y_P)) ** 2


def _likely(spectra: list[tuple[Array, Array]], shares: tuple[float, ...]) -> tuple[float, float]:
    """sigma and its degrees of freedom: the scaled inverse chi-squared with the mean and the variance that
    sigma^2 has where log sigma is uniform beforehand and valleys are rough by any of `shares`.
    With seeds that is the usual estimate. Without, a bend may be noise or roughness: it leans to noise."""
    variance = np.concatenate([v for v, _ in spectra])
    square = np.concatenate([s for _, s in spectra])
    top = float(np.sqrt(square.mean())) + 1e-12
    sigma2 = np.geomspace(1e-4 * top, 30 * top, 400) ** 2
    total = np.square(shares)[:, None, None] * variance + sigma2[:, None]
    log = -0.5 * (np.log(total) + square / total).sum(2)
    weight = np.exp(log - log.max()).sum(0)
    weight /= weight.sum()
    mean = float(weight @ sigma2)
    df = 4 + 2 * mean**2 / max(float(weight @ (sigma2 - mean) ** 2), 1e-300)
    return float(np.sqrt(mean * (df - 2) / df)), df
