"""Profiles: how far one constant can be moved while all others make up for it.

The scale of the noise is concentrated out. Errors of density exp(-rho(r) / s) have the likelihood
Q^(-n/p) at the best s, Q = sum rho(r), where rho grows as the power p of r: 2 for least squares, 1 for
absolute values, for Huber's what it is at the fit (sum of psi r over sum of rho). A constant is within its
interval while (Q / Q_best)^(2/p) <= 1 + t^2 / (n - K), t the quantile of Student's t with n - K degrees of
freedom: in a linear model with least squares that is the textbook's t interval. n counts runs, whose points
are not independent, and K the constants fitted.

A side on which the objective stays below that as far as the constant is followed is open: the data do not
determine the constant there. It is followed to its bound, a scale to `FAR` times and the `FAR`th part of its
best value (of a power, A n^-alpha, whose own value is that at n = 1: `FARTHER`), others to `FAR` times their
size. From `analysis.solver.LARGE` rows on the objective is the parabola that it becomes as rows are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.bootstrap import LEVEL, slopes
from analysis.family import family
from analysis.law import Array, Law, Parameter, Values
from analysis.newton import Objective
from analysis.solver import LARGE

FAR, FARTHER = 100.0, 1000.0
_COARSE, _FINE = 6, 3  # values held on each side, first over the whole reach, then where the limit lies


@dataclass(frozen=True)
class Rows:
    """What a law is fitted to: its inputs, measured values, the number of each row's run, known noise."""

    x: Values
    y_P: Array
    run_P: NDArray[np.intp]
    sigma_P: Array | None = None


@dataclass(frozen=True)
class Profile:
    """values_V held and what they cost, root_V = sqrt((n - K) ((Q / Q_best)^(2/p) - 1)), which in a linear
    model is |t|; low and high are the 90% limits, None where open."""

    values_V: Array
    root_V: Array
    low: float | None
    high: float | None


def reach(parameter: Parameter, best: float, y_P: Array) -> tuple[float, float]:
    """The ends to which a constant is followed."""
    low, high = parameter.low, parameter.high
    if parameter.kind == "floor":
        high = min(high, float(np.max(np.abs(y_P))))
    if parameter.kind == "scale":
        factor = FARTHER if parameter.power or parameter.ratio else FAR
        return max(low, best / factor), min(high, best * factor)
    far = FAR * max(abs(best), float(np.finfo(float).tiny))
    return max(low, best - far), min(high, best + far)


def profiles(
    law: Law,
    rows: Rows,
    best_K: Array,
    objective: Objective,
    fixed: Mapping[str, float] | None = None,
    level: float = LEVEL,
) -> dict[str, Profile]:
    """The profile of every constant that was fitted, by name. `best_K` is the global fit of the rows;
    constants in `fixed` keep the values given there."""
    fixed = dict(fixed or {})
    free = [name for name in law.names if name not in fixed]
    spare = max(len(np.unique(rows.run_P)) - len(free), 1)
    measure = _Measure(law, rows, best_K, objective, fixed, spare)
    limit = float(stdtrit(spare, (1 + level) / 2))
    return {name: _profile(measure, name, limit) for name in free}


@dataclass(frozen=True)
class _Measure:
    """The root of the rise of the objective, by the value at which a constant is held."""

    law: Law
    rows: Rows
    best_K: Array
    objective: Objective
    fixed: dict[str, float]
    spare: int

    def residual(self, params_RK: Array) -> Array:
        predicted = family(self.law).predict(params_RK, self.rows.x)
        sigma = 1.0 if self.rows.sigma_P is None else self.rows.sigma_P
        return self.objective.residual(predicted, self.rows.y_P, sigma)

    def root(self, name: str, held_R: Array) -> Array:
        rows, held = self.rows, {name: held_R} | dict(self.fixed)
        found = family(self.law).refit(
            rows.x, rows.y_P, None, self.best_K, self.objective, held, rows.sigma_P
        )
        here = self.residual(self.best_K[None])
        least = float(self.objective.rho(here).sum())
        total_R = self.objective.rho(self.residual(found)).sum(1)
        total_R = np.where(np.isfinite(total_R), total_R, np.inf)
        least = max(least, 1e-30 * float(np.max(total_R, initial=0.0, where=np.isfinite(total_R))), 1e-300)
        ratio = np.maximum(total_R / least, 1.0) ** (2 / self._power(here))
        return np.asarray(np.sqrt(self.spare * (ratio - 1)))

    def _power(self, residual: Array) -> float:
        """d log Q / d log r: 1 where residuals lie in the linear part of rho, 2 in the quadratic."""
        size, width = np.abs(residual), self.objective.width
        total = float(self.objective.rho(residual).sum())
        if self.objective.name == "l1" or total == 0:
            return 1.0 if self.objective.name == "l1" else 2.0
        return float((size * np.minimum(size, width)).sum() / total)

    def error(self, name: str) -> float:
        """Standard error of a constant from the law linearised at the fit; 0 where there is none."""
        log = self.objective.space == "log"
        J = slopes(self.law, self.best_K, self.rows.x, log)
        J = J[:, [n not in self.fixed for n in self.law.names]]
        if self.rows.sigma_P is not None:
            J = J / self.rows.sigma_P[:, None]
        size = np.linalg.norm(J, axis=0)
        size = np.where(size > 0, size, 1.0)
        inverse = np.linalg.pinv((J / size).T @ (J / size), hermitian=True)
        k = [n for n in self.law.names if n not in self.fixed].index(name)
        noise = float((self.residual(self.best_K[None]) ** 2).sum()) / self.spare
        return float(np.sqrt(max(inverse[k, k], 0.0) * noise) / size[k])


def _profile(measure: _Measure, name: str, limit: float) -> Profile:
    k = measure.law.names.index(name)
    parameter, best = measure.law.parameters[k], float(measure.best_K[k])
    log = parameter.kind == "scale" and best > 0
    ends = reach(parameter, best, measure.rows.y_P)
    if not np.isfinite(best) or (log and ends[0] <= 0):
        return Profile(np.array([best]), np.zeros(1), None, None)
    to: Callable[[Any], Any] = np.log if log else np.asarray
    back: Callable[[Any], Any] = np.exp if log else np.asarray
    error = measure.error(name) / (best if log else 1.0)
    if len(measure.rows.y_P) >= LARGE:
        return _parabola(best, log, ends, error, limit)
    offsets = [_offsets(float(abs(to(end) - to(best))), error) for end in ends]
    held = np.concatenate([-offsets[0], offsets[1]])
    root = measure.root(name, back(to(best) + held))
    brackets = [_bracket(held, root, sign, limit) for sign in (-1, 1)]
    fine = np.concatenate([_between(bracket) for bracket in brackets])
    if len(fine):
        held = np.concatenate([held, fine])
        root = np.concatenate([root, measure.root(name, back(to(best) + fine))])
    order = np.argsort(np.append(held, 0.0))
    held, root = np.append(held, 0.0)[order], np.append(root, 0.0)[order]
    low, high = (_crossing(held, root, sign, limit) for sign in (-1, 1))
    values = back(to(best) + held)
    return Profile(
        np.where(held == 0, best, values),
        root,
        None if low is None else float(back(to(best) + low)),
        None if high is None else float(back(to(best) + high)),
    )


def _parabola(best: float, log: bool, ends: tuple[float, float], error: float, limit: float) -> Profile:
    """The profile of a fit that is linear in its constants, which many rows make it: root = |t|."""
    steps = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * limit
    values = best * np.exp(steps * error) if log else best + steps * error
    low, high = float(values[1]), float(values[3])
    return Profile(
        values,
        np.abs(steps),
        low if error > 0 and low > ends[0] else None,
        high if error > 0 and high < ends[1] else None,
    )


def _offsets(far: float, error: float) -> Array:
    """Distances from the best value out to the end of the reach, none where that is where it stands."""
    if not far > 0:
        return np.empty(0)
    near = min(error, far / 2) if error > 0 else far / 2**_COARSE
    return np.geomspace(max(near, far * 1e-9) / 2, far, _COARSE)


def _outermost(held: Array, root: Array, sign: int, limit: float) -> tuple[float, float | None]:
    """The farthest distance within the limit on one side, and the next one beyond it (None: the end)."""
    side = np.sort(held[held * sign > 0] * sign)
    root_of = dict(zip(held * sign, root, strict=True))
    inside = [distance for distance in side if root_of[distance] <= limit]
    last = float(inside[-1]) if inside else 0.0
    beyond = side[side > last]
    return last, float(beyond[0]) if len(beyond) else None


def _bracket(held: Array, root: Array, sign: int, limit: float) -> tuple[float, float] | None:
    last, beyond = _outermost(held, root, sign, limit)
    return None if beyond is None else (sign * last, sign * beyond)


def _between(bracket: tuple[float, float] | None) -> Array:
    return np.empty(0) if bracket is None else np.linspace(*bracket, _FINE + 2)[1:-1]


def _crossing(held: Array, root: Array, sign: int, limit: float) -> float | None:
    """Where the root passes the limit, in a straight line between values held; None: open."""
    last, beyond = _outermost(held, root, sign, limit)
    if beyond is None:
        return None
    at = dict(zip(held, root, strict=True))
    low, high = at[sign * last], at[sign * beyond]
    share = (limit - low) / (high - low) if np.isfinite(high) else 0.0
    return sign * (last + share * (beyond - last))
