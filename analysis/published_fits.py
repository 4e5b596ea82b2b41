"""Published constants against ours: the same rows, the same objective, both values of it.

A printed constant is judged by what it costs: the objective at it, and the lowest objective that its
rounding leaves room for (each constant moved by up to half of its last digit). Where that is the optimum,
the two agree; where it is above, the published fit is not the optimum of what it says it minimises,
and the registry says why. A constant that the rows do not determine agrees with anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import porian
from analysis.bootstrap import LEVEL, array, interval, weights
from analysis.critical import trade
from analysis.family import Family, family
from analysis.fit import Measured, Settings
from analysis.fit import fit_law as fit_one
from analysis.forms.hyperparameters import critical_batch
from analysis.isoflop import Profiles, isoflop
from analysis.law import Array, Law, Values
from analysis.laws import LAWS
from analysis.minima import grouped
from analysis.newton import Objective, parse_objective
from analysis.optimum import Cost
from analysis.published import Estimation
from analysis.table import Runs
from scaling.errors import UserError

REFERENCE = 256.0  # Zhang et al. 2024: B* is where 1.2 times the examples of this batch are needed


@dataclass(frozen=True)
class Constant:
    """Our value, its 90% interval, and the words where the rows do not determine it."""

    value: float
    interval: Sequence[float | None] | None = None
    not_determined: str | None = None


@dataclass(frozen=True)
class Fitted:
    """Our fit of one choice of rows. `value` is the objective at the optimum, summed over `rows` rows;
    `value_at` and `value_within` are the objective at printed constants, and within their rounding; `r2`
    the share of the variance explained, at ours (None) or printed ones, where some rows were held out."""

    constants: dict[str, Constant]
    rows: int
    describes: str
    output: str = "loss"
    level: float = LEVEL
    value: float | None = None
    converged: bool = True
    value_at: Callable[[Mapping[str, str]], float | None] = lambda printed: None
    value_within: Callable[[Mapping[str, str]], float | None] = lambda printed: None
    r2: Callable[[Mapping[str, str] | None], dict[str, float] | None] = lambda printed: None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """A law on fixed rows under an objective, some constants held."""

    law: Law
    x: Values
    y_P: Array
    objective: Objective
    fixed: Mapping[str, float]

    @property
    def family(self) -> Family:
        return family(self.law)

    def values(self, params_RK: Array) -> Array:
        """The objective, summed over rows, at each of R rows of constants."""
        residual_RP = self.objective.residual(self.family.predict(params_RK, self.x), self.y_P)
        return np.asarray(self.objective.rho(residual_RP).sum(-1), np.float64)

    def at(self, printed: Mapping[str, str]) -> float | None:
        """The objective at printed constants; those that were not printed take their best values."""
        given = self._given(printed)
        if not given:
            return None
        held = {**self.fixed, **{name: float(text) for name, text in given.items()}}
        if set(held) >= set(self.law.names):
            return float(self.values(np.array([[held[name] for name in self.law.names]]))[0])
        best_K, _ = self.family.fit(self.x, self.y_P, self.objective, fixed=held)
        return float(self.values(best_K[None])[0])

    def within(self, printed: Mapping[str, str], best_K: Array) -> float | None:
        """The lowest objective whose constants round to the printed ones."""
        given = self._given(printed)
        if not given:
            return None
        low, high = (np.array([float(t) + sign * half(t) for t in given.values()]) for sign in (-1, 1))
        start = np.clip([best_K[self.law.names.index(name)] for name in given], low, high)
        if {*given, *self.fixed} >= set(self.law.names):
            return self._bounded(list(given), low, high, start)
        others = {name: np.array([value]) for name, value in self.fixed.items()}

        def lowest(points_RG: Array) -> Array:
            held = others | {name: points_RG[:, i] for i, name in enumerate(given)}
            return self.values(self.family.refit(self.x, self.y_P, None, best_K, self.objective, fixed=held))

        return _pattern(lowest, low, high, start)

    def _bounded(self, names: list[str], low: Array, high: Array, start: Array) -> float:
        """The lowest objective in a box of every constant that is not held."""
        from scipy.optimize import least_squares  # half a second to import

        def rows(share: Array) -> Array:
            values = dict(zip(names, low + share * (high - low), strict=True))
            return np.array([[{**self.fixed, **values}[name] for name in self.law.names]])

        def residual(share: Array) -> Array:
            return self.objective.residual(self.family.predict(rows(share), self.x), self.y_P)[0]

        found = [float(self.values(rows((start - low) / (high - low)))[0])]
        width = self.objective.width
        for share in (np.clip((start - low) / (high - low), 1e-6, 1 - 1e-6), np.full(len(low), 0.5)):
            end = least_squares(
                residual, share, bounds=(0, 1), jac="3-point",
                loss="linear" if np.isinf(width) else "huber", f_scale=1.0 if np.isinf(width) else width,
                xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=200,
            )  # fmt: skip
            found.append(float(self.values(rows(end.x))[0]))
        return min(found)

    def _given(self, printed: Mapping[str, str]) -> dict[str, str]:
        return {name: text for name, text in printed.items() if name in self.law.names}


def half(printed: str) -> float:
    """Half a unit of the last digit printed: .34 -> .005, 406.4 -> .05, 22.9e-6 -> .05e-6."""
    digits, _, power = printed.lower().partition("e")
    decimals = len(digits.partition(".")[2])
    return float(0.5 * 10.0 ** (int(power or 0) - decimals))


def _pattern(lowest: Callable[[Array], Array], low: Array, high: Array, start: Array) -> float:
    """Search of a box of one to three constants: steps along every direction, halved where none gains."""
    size = len(low)
    steps = np.array(np.meshgrid(*[(-1, 0, 1)] * size)).reshape(size, -1).T
    point, value, reach = start, float(lowest(start[None])[0]), 0.5
    while reach > 1e-3:
        tried = np.clip(point + reach * steps * (high - low), low, high)
        values = lowest(tried)
        if values.min() < value * (1 - 1e-9):
            point, value = tried[values.argmin()], float(values.min())
        else:
            reach *= 0.5
    return value


def as_runs(item: str, frame: pd.DataFrame) -> Runs:
    """The rows as the runs table that every fit reads; each row a run of its own where none is named."""
    names = frame["run"] if "run" in frame else [f"row {i}" for i in range(1, len(frame) + 1)]
    sizes = {name: frame[name] for name in ("n", "d", "c") if name in frame}
    if "c" not in sizes and {"n", "d"} <= sizes.keys():
        sizes["c"] = 6 * sizes["n"] * sizes["d"]
    table = frame.drop(columns=["run", *sizes], errors="ignore")
    table = pd.concat([pd.DataFrame({"run": names, **sizes}), table], axis=1)
    return Runs(
        source=item, name=item, table=table, n_name="given", c_name="given", own=False, fixed_n=True
    )  # fmt: skip


def fit_law(
    fit: Estimation, frame: pd.DataFrame, rest: pd.DataFrame | None, resamples: int, seed: int
) -> Fitted:
    """One law on the chosen rows, as `scaling fit` fits it. Fewer runs than constants say nothing of how far
    either could be off: no interval then."""
    law, objective = LAWS[fit.law], parse_objective(fit.objective, fit.space)
    how = Settings(objective, resamples, seed, fixed=dict(fit.fixed))
    measured = Measured.of(law, as_runs(fit.title, frame), how)
    problem = Problem(law, measured.x, measured.y_P, objective, fit.fixed)
    free = [name for name in law.names if name not in fit.fixed]
    few = len(set(measured.runs)) <= len(free)
    if few:
        best_K, certificate = problem.family.fit(problem.x, problem.y_P, objective, fixed=fit.fixed)
        constants = {name: Constant(float(best_K[law.names.index(name)])) for name in free}
        converged = certificate.converged
    else:
        entry, _ = fit_one(law, measured, how)
        best_K = np.array([entry["parameters"][name] for name in law.names])
        constants = _constants(entry, free)
        converged = entry["certificate"]["converged"]
    held_out = None
    if rest is not None:
        other = Measured.of(law, as_runs(fit.title, rest), how)
        held_out = Problem(law, other.x, other.y_P, objective, fit.fixed)
    return Fitted(
        constants=constants,
        rows=len(frame),
        describes=law.name,
        value=float(problem.values(best_K[None])[0]),
        converged=converged,
        value_at=problem.at,
        value_within=lambda printed: problem.within(printed, best_K),
        r2=lambda printed: _r2(problem, held_out, best_K, printed),
    )


def _constants(entry: dict[str, Any], free: list[str]) -> dict[str, Constant]:
    """Of a fit file's entry: the constants that were fitted and what is derived from them."""
    constants = {
        name: Constant(entry["parameters"][name], entry["intervals"][name], entry["not_determined"].get(name))
        for name in free
    }
    for name, value in entry["derived"].items():
        if value is not None and name != "b":  # 1 - a
            constants[name] = Constant(value, entry["derived_intervals"][name])
    return constants


def _r2(
    problem: Problem, held_out: Problem | None, best_K: Array, printed: Mapping[str, str] | None
) -> dict[str, float] | None:
    if held_out is None or (printed is not None and not set(printed) >= set(problem.law.names)):
        return None
    params_K = best_K if printed is None else np.array([float(printed[name]) for name in problem.law.names])
    found = {}
    for rows, part in (("fitted", problem), ("held_out", held_out)):
        left_P = part.y_P - part.family.predict(params_K[None], part.x)[0]
        found[rows] = float(1 - (left_P**2).sum() / ((part.y_P - part.y_P.mean()) ** 2).sum())
    return found


def fit_critical_batch(
    fit: Estimation, frame: pd.DataFrame, rest: pd.DataFrame | None, resamples: int, seed: int
) -> Fitted:
    """Zhang et al. 2024: steps = S_min + E_min / B by least squares of log steps at each size; B* where the
    examples are 1.2 times those at 256 sequences; a power law of B* in N / 1e6 by least squares of logs.

    Intervals: the batches of every size are drawn anew.
    """
    objective = parse_objective("lsq")
    steps, line = LAWS["steps_batch"], LAWS["batch_n"]
    best, drawn, sizes = [], [], []
    for i, (size, rows) in enumerate(frame.groupby("n")):
        found = trade(
            rows["batch"].to_numpy(np.float64), rows["steps"].to_numpy(np.float64), resamples, seed + i
        )
        best.append(critical_batch(found.s_min, found.e_min, REFERENCE))
        with np.errstate(divide="ignore", invalid="ignore"):  # draws without a floor have no B*
            drawn.append(critical_batch(found.s_min_R, found.e_min_R, REFERENCE))
        sizes.append(float(size))  # type: ignore[arg-type]  # pandas types a group's key as a label
    second = Problem(line, Values(n=np.array(sizes) / 1e6), np.array(best), objective, {})
    best_K, certificate = second.family.fit(second.x, second.y_P, objective)
    y_RP = np.stack(drawn, 1)
    usable = (np.isfinite(y_RP) & (y_RP > 0)).all(1)
    draws_RK = second.family.refit(second.x, y_RP[usable], None, best_K, objective)
    return Fitted(
        constants={
            name: Constant(float(best_K[i]), interval(draws_RK[:, i])) for i, name in enumerate(line.names)
        },
        rows=len(frame),
        describes=f"{steps.name}, then {line.name}",
        output=line.output,
        value=float(second.values(best_K[None])[0]),
        converged=certificate.converged,
        value_at=second.at,
        value_within=lambda printed: second.within(printed, best_K),
    )


def fit_isoflop(
    fit: Estimation, frame: pd.DataFrame, rest: pd.DataFrame | None, resamples: int, seed: int
) -> Fitted:
    """a of N* ~ C^a by the protocol of Porian et al. 2024, with the 95% interval of its noise draws; beside
    it the parabola and the surface's profile of `analysis.isoflop`, rows resampled, 95% too."""
    n_P, d_P, c_P, loss_P = (frame[name].to_numpy(np.float64) for name in ("n", "d", "c", "loss"))
    found = porian.exponent(n_P, c_P, loss_P)
    constants = {"a": Constant(found["a"], found["a_interval"])}
    profiles = Profiles([f"row {i}" for i in range(1, len(frame) + 1)], grouped(n_P, d_P, c_P), Cost())
    entries, drawn = isoflop(profiles, loss_P, weights(len(frame), resamples, seed))
    for name, reading in (("isoflop", "parabola"), ("isoflop_surface", "profile")):
        if "a" in entries[name]:
            a_R = array(drawn[name])[:, drawn[name]["columns"].index("a")]
            constants[f"a, {reading}"] = Constant(entries[name]["a"], interval(a_R, porian.LEVEL))
    refused = [
        f"{budget['c']:.3g} FLOPs: {budget['refused']}" for budget in found["budgets"] if "refused" in budget
    ]
    return Fitted(
        constants=constants,
        rows=len(frame),
        describes="isoFLOP, Akima",
        level=porian.LEVEL,
        notes=refused,
    )


_KINDS: dict[str, Callable[[Estimation, pd.DataFrame, pd.DataFrame | None, int, int], Fitted]] = {
    "law": fit_law,
    "critical_batch": fit_critical_batch,
    "isoflop": fit_isoflop,
}


def fitted(fit: Estimation, frame: pd.DataFrame, resamples: int, seed: int) -> Fitted:
    """Our fit of an estimation's rows of the set's table. Raises UserError where they are too few."""
    rows = fit.chosen(frame)
    needed = LAWS[fit.law].minimum_rows - len(fit.fixed) if fit.kind == "law" else 10
    if len(rows) < needed:
        raise UserError(
            f"{len(rows)} of {len(frame)} rows are those of {fit.title!r} ({fit.rows}), which needs "
            f"{needed}; take the file anew."
        )
    return _KINDS[fit.kind](fit, rows, fit.rest(frame), resamples, seed)
