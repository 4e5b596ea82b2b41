"""Laws judged by what they were not shown: the largest runs are hidden, each law is fitted to the rest.

A law's score is the mean log density that its forecast (`analysis.predictive`) gives the hidden runs, in nats
a run: it rewards being near, and being as unsure as one is wrong. Beside it stand how many hidden runs fell
into the 50% and 90% intervals, and the error itself. R^2 of the fitted rows is printed to be looked at, not
ranked by: laws that bend differently beyond the rows often have the same.

A law of every row is scored on every hidden run. A law of the frontier, such as L(C), says nothing of a run
off it: all laws are scored a second time on the hidden runs of the frontier (no run of less compute undercuts
their loss), and there they compare with it.

    content   {kind: "ranking", source, rows, objective, hold_out: {by, factor, edge, largest, fitted, held,
              frontier}, laws: {name: {formula, source, parameters, rows_used, in_sample: {rms, r2}, scatter,
              degrees, drift: {rate, cuts}, all, frontier, seconds}}, skipped: {name: reason},
              ranking, ranking_frontier: [names], margin, margin_frontier, influence, outliers, forecasts}
    score     all and frontier: {runs, log_score, coverage_50, coverage_90, rms, bias}: of log(measured /
              forecast), bias its mean; null where there is nothing to score
    margin    {first, second, log_score, error}: the difference of the first two in nats a run, and its
              standard error over hidden runs; second null where one law is ranked alone
    forecasts [{run, n, d, c, measured, frontier, laws: {name: {loss, low, high, share}}}] of the hidden runs;
              share: of the forecast's distribution below the measured value
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.design import lacks
from analysis.family import family
from analysis.fit import Measured, Settings, find, inputs
from analysis.frontier import frontier
from analysis.influence import influence, outliers
from analysis.law import Array, Law, Values, take
from analysis.laws import LAWS
from analysis.newton import Objective
from analysis.predictive import Predictive, predictive, runs_of
from analysis.resample import resample
from analysis.scatter import objective_of
from analysis.table import Runs
from scaling.errors import UserError

BY = ("c", "n", "d")
# Laws of a table of N, D and loss whose search takes hundredths of a second; the others take seconds.
CHEAP = ("kaplan_c", "saturating_c", "chinchilla", "chinchilla_tied")
_BELOW, _ABOVE = 0.05, 0.95


@dataclass(frozen=True)
class Split:
    """Which rows are hidden: those whose x (`by`) is above largest / factor."""

    by: str
    factor: float
    held_P: NDArray[np.bool_]
    along_P: Array
    frontier_P: NDArray[np.bool_]

    @property
    def edge(self) -> float:
        return float(self.along_P[~self.held_P].max())


def rank(
    source: Runs | Mapping[str, Any],
    laws: Sequence[str | Law] | None = None,
    by: str = "c",
    factor: float = 10.0,
    objective: Objective | None = None,
    resamples: int = 200,
    seed: int = 0,
    examine: bool = True,
) -> dict[str, Any]:
    """The laws ranked by their forecasts of the largest runs, as plain data; see the top of the module.

    source: a runs table, or the content of a fit file. laws: default every law of the loss that the rows can
    carry. by, factor: runs within `factor` of the largest c, n or d are hidden. objective: by default as
    `analysis.fit.fit` chooses for the rows that are fitted; of a fit file, the file's. examine: also the
    influence of single runs and the outliers, for the law ranked first. Raises UserError where nothing is
    left to fit or to hide, and for a named law that the fitted rows cannot carry.
    """
    runs = source if isinstance(source, Runs) else runs_of(source)
    split = split_of(runs, by, factor)
    fitted = _rows(runs, ~split.held_P)
    objective = objective or (objective_of(fitted) if isinstance(source, Runs) else _stated(source))
    how = Settings(objective, resamples, seed)
    chosen, skipped = _carried(laws, fitted, split)
    entries, scored = {}, {}
    for law in chosen:
        began = time.process_time()
        entry, forecast = _one(law, runs, fitted, split, how)
        entries[law.name] = entry | {"seconds": time.process_time() - began}
        scored[law.name] = forecast
    order, order_frontier = (_order(entries, rows) for rows in ("all", "frontier"))
    content = {
        "kind": "ranking", "source": runs.source, "rows": len(runs.runs), "objective": objective.describe(),
        "resamples": resamples, "seed": seed,
        "hold_out": {
            "by": by, "factor": factor, "edge": split.edge, "largest": float(split.along_P.max()),
            "fitted": int((~split.held_P).sum()), "held": int(split.held_P.sum()),
            "frontier": int((split.held_P & split.frontier_P).sum()),
        },
        "laws": entries, "skipped": skipped, "ranking": order, "ranking_frontier": order_frontier,
        "margin": _margin(order, scored, np.ones(int(split.held_P.sum()), bool)),
        "margin_frontier": _margin(order_frontier, scored, split.frontier_P[split.held_P]),
        "influence": None, "outliers": None,
        "forecasts": _forecasts(runs, split, scored),
    }  # fmt: skip
    first = (order or order_frontier)[0]
    if examine:
        law, best_K = next(law for law in chosen if law.name == first), entries[first]["parameters"]
        content |= _examine(law, runs, fitted, split, how, np.array(list(best_K.values())))
    return content


def split_of(runs: Runs, by: str = "c", factor: float = 10.0) -> Split:
    """Raises UserError for a `by` that is none, a factor that hides nothing, and where nothing is left."""
    if by not in BY:
        raise UserError(f"--hold-out is {by!r}; choose from {', '.join(BY)}.")
    if not 1 < factor < np.inf:
        raise UserError(
            f"--factor is {factor}; give a number above 1: runs within it of the largest are hidden."
        )
    x_P, loss_P = runs.column(by), runs.column("loss")
    held_P = x_P > x_P.max() / factor * (1 + 1e-6)
    if held_P.all():
        raise UserError(
            f"{runs.source}: all runs are within {factor:g} of the largest {by}, so none is left to fit; "
            f"give --factor below {x_P.max() / x_P.min():.3g}."
        )
    cost_P = runs.column("c") if runs.has("c") else x_P
    return Split(by, factor, held_P, x_P, frontier(cost_P, loss_P)[0] > 0)


def _carried(
    laws: Sequence[str | Law] | None, fitted: Runs, split: Split
) -> tuple[list[Law], dict[str, str]]:
    """The laws to rank, and why others are not."""
    wanted = [find(law) for law in laws] if laws else [law for law in LAWS.values() if law.output == "loss"]
    chosen: list[Law] = []
    skipped: dict[str, str] = {}
    for law in wanted:
        reason = _other_kind(law) or lacks(law, fitted) or (None if laws else _partial(law, chosen))
        if reason and laws:
            raise UserError(f"{fitted.source}, {len(fitted.runs)} rows fitted: {law.name} {reason}.")
        if reason:
            skipped[law.name] = reason
        else:
            chosen.append(law)
    if not chosen:
        raise UserError(
            f"{fitted.source} has {len(fitted.runs)} rows below the hidden ones, too few for any law; "
            f"give --factor below {split.factor:g}."
        )
    return chosen, skipped


def _other_kind(law: Law) -> str | None:
    if law.prepare is not None:
        return "is a law of whole curves"
    return None if law.output == "loss" else f"is a law of {law.output}, not of the loss"


def _partial(law: Law, chosen: Sequence[Law]) -> str | None:
    """Why a law is ranked only where it is named: one of N or D alone says nothing of a run's other half."""
    if not ("c" in law.inputs or {"n", "d"} <= set(law.inputs) or {"n", "steps"} <= set(law.inputs)):
        return f"reads {' and '.join(law.inputs)} alone"
    same = next((each.name for each in chosen if each.formula == law.formula), None)
    return f"is {same} with C counted otherwise" if same else None


def _one(
    law: Law, runs: Runs, fitted: Runs, split: Split, how: Settings
) -> tuple[dict[str, Any], dict[str, Array]]:
    """One law's entry, and its forecasts of the hidden rows."""
    data = Measured.of(law, fitted, how)
    rows, along_P = data.rows(data.used_P), split.along_P[~split.held_P]
    best_K, certificate = family(law).fit(rows.x, rows.y_P, how.objective, sigma_P=rows.sigma_P)
    draws_RK = resample(
        law, data.rows(np.ones_like(data.used_P)), best_K, how.objective, how.resamples, how.seed,
        "pairs" if law.rows == "frontier" else "wild", {}, certificate.at_bounds,
    )  # fmt: skip
    said = predictive(law, data, along_P, best_K, draws_RK, how.objective, split.by)
    forecast = _forecast(said, take(inputs(law, runs)[0], split.held_P), runs, split)
    predicted_P = family(law).predict(best_K[None], rows.x)[0]
    left_P = np.log(rows.y_P / predicted_P)
    everywhere = np.ones(int(split.held_P.sum()), bool)
    entry = {
        "formula": law.formula,
        "source": law.source,
        "parameters": dict(zip(law.names, best_K.tolist(), strict=True)),
        "certified": certificate.converged,
        "rows_used": int(data.used_P.sum()),
        "in_sample": {
            "rms": float(np.sqrt(np.mean(left_P**2))),
            "r2": float(
                1 - ((rows.y_P - predicted_P) ** 2).sum() / ((rows.y_P - rows.y_P.mean()) ** 2).sum()
            ),
        },
        "scatter": said.scale,
        "degrees": said.degrees,
        "drift": {"rate": said.drift.rate, "cuts": len(said.drift.cuts)},
        "all": _score(forecast, everywhere) if law.rows == "all" else None,
        "frontier": _score(forecast, split.frontier_P[split.held_P]),
    }
    return entry, forecast


def _forecast(said: Predictive, x: Values, runs: Runs, split: Split) -> dict[str, Array]:
    """Of each hidden row: predicted loss and 90% interval, share below the measured, log density."""
    measured_P, along_P = runs.column("loss")[split.held_P], split.along_P[split.held_P]
    low_P, high_P = said.quantiles(x, along_P, (_BELOW, _ABOVE))
    centre_P = said.centre(x)
    return {
        "loss": centre_P, "low": low_P, "high": high_P,
        "share": said.cumulative(x, along_P, measured_P),
        "log_density": said.log_density(x, along_P, measured_P),
        "error": np.log(measured_P / centre_P),
    }  # fmt: skip


def _score(forecast: dict[str, Array], keep_P: NDArray[np.bool_]) -> dict[str, Any] | None:
    if not keep_P.any():
        return None
    share, error = forecast["share"][keep_P], forecast["error"][keep_P]
    return {
        "runs": int(keep_P.sum()),
        "log_score": float(forecast["log_density"][keep_P].mean()),
        "coverage_50": float(np.mean((share >= 0.25) & (share <= 0.75))),
        "coverage_90": float(np.mean((share >= _BELOW) & (share <= _ABOVE))),
        "rms": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
    }


def _order(entries: Mapping[str, Any], rows: str) -> list[str]:
    scored = [name for name, entry in entries.items() if entry[rows]]
    return sorted(scored, key=lambda name: -entries[name][rows]["log_score"])


def _margin(
    order: Sequence[str], scored: Mapping[str, dict[str, Array]], keep_P: NDArray[np.bool_]
) -> dict[str, Any] | None:
    if not order:
        return None
    if len(order) == 1:
        return {"first": order[0], "second": None, "log_score": None, "error": None}
    apart_P = (scored[order[0]]["log_density"] - scored[order[1]]["log_density"])[keep_P]
    error = float(apart_P.std(ddof=1) / np.sqrt(len(apart_P))) if len(apart_P) > 1 else None
    return {"first": order[0], "second": order[1], "log_score": float(apart_P.mean()), "error": error}


def _examine(
    law: Law, runs: Runs, fitted: Runs, split: Split, how: Settings, best_K: Array
) -> dict[str, Any]:
    """What single runs do to the law ranked first, and what its outliers do to its score."""
    data = Measured.of(law, fitted, how)
    held = take(inputs(law, runs)[0], split.held_P)
    found = outliers(law, data, best_K)
    without = None
    if found:
        odd = {run for run, _ in found}
        stays_P = np.array(
            [run not in odd or held for run, held in zip(runs.runs, split.held_P, strict=True)]
        )
        less = _rows(runs, stays_P)
        rest = replace(
            split, held_P=split.held_P[stays_P], along_P=split.along_P[stays_P],
            frontier_P=split.frontier_P[stays_P],
        )  # fmt: skip
        kept = _rows(less, ~rest.held_P)
        without = _one(law, less, kept, rest, how)[0] if lacks(law, kept) is None else None
    return {
        "influence": influence(law, data, best_K, how.objective, held),
        "outliers": {
            "law": law.name,
            "runs": [{"run": run, "deviations": far} for run, far in found],
            "without": without,
        },
    }


def _rows(runs: Runs, keep_P: NDArray[np.bool_]) -> Runs:
    return replace(runs, table=runs.table[keep_P].reset_index(drop=True))


def _forecasts(runs: Runs, split: Split, scored: Mapping[str, dict[str, Array]]) -> list[dict[str, Any]]:
    held = np.flatnonzero(split.held_P)
    sizes = {name: runs.column(name)[held] for name in BY if runs.has(name)}
    measured, names = runs.column("loss")[held], [runs.runs[i] for i in held]
    return [
        {
            "run": names[p],
            **{name: float(column[p]) for name, column in sizes.items()},
            "measured": float(measured[p]),
            "frontier": bool(split.frontier_P[held[p]]),
            "laws": {
                name: {key: float(part[key][p]) for key in ("loss", "low", "high", "share")}
                for name, part in scored.items()
            },
        }
        for p in range(len(held))
    ]


def _stated(content: Mapping[str, Any]) -> Objective:
    stated = content["objective"]
    return Objective(stated["name"], stated["delta"] or 0.0, stated["space"])
