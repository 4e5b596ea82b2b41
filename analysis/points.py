"""`scaling predict FIT --at points.csv`: the loss of every row of a table, with the interval of one new run.

Rows are answered as they stand: none is dropped, other columns are kept. Of parameters, tokens and FLOPs two
are enough; the third follows from what a token costs in the fit. Where the rows hold measured losses, they
are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.allocate import Demand
from analysis.columns import SIZES, named
from analysis.family import family
from analysis.fit import find
from analysis.law import Array, Values
from analysis.optimum import Cost, cost_of
from analysis.predict import NewRuns
from analysis.roles import RUN_NAMES, convert, role
from analysis.surfaces import SURFACES
from analysis.table import read
from scaling.errors import UserError

PREDICTED = ("predicted_loss", "predicted_low_90", "predicted_high_90")


@dataclass(frozen=True)
class Columns:
    """Names and units that the command line gave, by role; the others are found by their usual names."""

    names: dict[str, str]
    units: dict[str, str]


@dataclass(frozen=True)
class Points:
    """`rows` as strict JSON; `table`: the columns given with `PREDICTED` after them; `score` where losses
    were measured: {rows, rms_error, mean_error, inside_90}, errors of log loss."""

    rows: list[dict[str, Any]]
    table: pd.DataFrame
    law: str
    method: str
    score: dict[str, Any] | None
    notes: list[str]


def law_of(content: dict[str, Any], law: str | None) -> str:
    """The law that answers: the one named, else the fit's surface, else its first law of a loss."""
    laws = content["laws"]
    if law is not None:
        if law not in laws:
            raise UserError(f"--law is {law!r}; fit {content['name']} holds {', '.join(laws)}.")
        return law
    for name in (*SURFACES, *laws):
        if name in laws and laws[name]["output"] == "loss":
            return name
    raise UserError(f"fit {content['name']} holds {', '.join(laws)}, no law of a loss; give --law.")


def at_points(
    content: dict[str, Any], path: str, law: str | None = None, columns: Columns | None = None
) -> Points:
    """Predictions for every row of the table `path`.

    Rows {row, run, the law's inputs, loss, interval (90%, null for printed constants), measured (null)}:
    parameters by the count of the fit's law, tokens, nats per token. Raises UserError for a column that is
    missing and for a value that is not a positive number, by its row.
    """
    law = law_of(content, law)
    columns = columns or Columns({}, {})
    raw = read(Path(path))
    if not len(raw):
        raise UserError(f"{path} holds no rows; give a table with one row for each prediction.")
    raw = raw.rename(columns=lambda name: str(name).strip()).reset_index(drop=True)
    inputs = find(law).inputs
    count = content["laws"][law]["n_count"]
    if "n" not in columns.names and f"n_{count}" in raw.columns:  # our tables know every count
        columns = Columns(columns.names | {"n": f"n_{count}"}, columns.units)
    values, notes = _inputs(raw, path, inputs, columns, cost_of(content))
    # Of a law of one size alone it is not known how far the compute lies beyond the rows.
    c_P = values.get("c", np.ones(len(raw)))
    x = Values(**{name: values[name] for name in inputs})
    entry = content["laws"][law]
    best_K = np.array([[entry["parameters"][name] for name in find(law).names]])
    loss_P = family(find(law)).predict(best_K, x)[0]
    if not np.isfinite(loss_P).all():
        row = int(np.flatnonzero(~np.isfinite(loss_P))[0]) + 1
        raise UserError(f"{path}: {law} has no value at row {row}; check its columns.")
    low, high, method = NewRuns.of(content, law).intervals(x, c_P)
    measured = _measured(raw, columns, path)
    table = raw.assign(**{PREDICTED[0]: loss_P})
    if low is not None:
        table = table.assign(**{PREDICTED[1]: low, PREDICTED[2]: high})
    rows = [
        {"row": i + 1, "run": label}
        | {name: float(values[name][i]) for name in dict.fromkeys((*inputs, *values))}
        | {
            "loss": float(loss_P[i]),
            "interval": None if low is None else [float(low[i]), float(high[i])],
            "measured": None if measured is None else _or_null(measured[i]),
        }
        for i, label in enumerate(_labels(raw))
    ]
    return Points(rows, table, law, method, _score(measured, loss_P, low, high), notes)


def _inputs(
    raw: pd.DataFrame, source: str, inputs: tuple[str, ...], columns: Columns, cost: Cost
) -> tuple[dict[str, Array], list[str]]:
    """The law's inputs and c; a note on columns that no flag named."""
    wanted = [*SIZES, *(name for name in inputs if name not in SIZES)]
    if "unique" in inputs and "unique" not in columns.names:
        wanted.append("epochs")
    found: dict[str, str] = {}
    for name in wanted:
        if name in columns.names:
            found[name] = named(raw, name, columns.names[name], source)
        elif (column := _usual(raw, name, set(found.values()) | set(columns.names.values()))) is not None:
            found[name] = column
    if {"n", "d"} <= found.keys() and "c" not in columns.names:
        found.pop("c", None)  # as the fit counts it, not as a stranger's column may
    values = {name: _numbers(raw, name, column, source, columns) for name, column in found.items()}
    notes = [f"{column} as {name}" for name, column in found.items() if name not in columns.names]
    said = [f"columns found by name: {', '.join(notes)}"] if notes else []
    if set(inputs) & {"n", "d"}:
        said += _complete(values, cost)
    if "unique" in inputs and "unique" not in values and {"epochs", "d"} <= values.keys():
        values["unique"] = values["d"] / values["epochs"]
    missing = [name for name in inputs if name not in values]
    if missing:
        other = " (of n, d and c two are enough)" if set(missing) & {"n", "d"} else ""
        which = "which columns are" if len(missing) > 1 else "which column is"
        raise UserError(
            f"{source}: {which} {' and '.join(missing)}? Give --column {missing[0]}=COLUMN{other}; it has "
            f"{', '.join(map(str, raw.columns))}."
        )
    values.pop("epochs", None)
    if "c" not in values and {"n", "d"} <= values.keys():
        values["c"] = Demand(cost).of(np.log(values["n"]), np.log(values["d"]))
    return values, said


def _usual(raw: pd.DataFrame, name: str, taken: set[str]) -> str | None:
    hits = [column for column in raw.columns if column.lower() in role(name).common and column not in taken]
    exact = [column for column in hits if column.lower() == name]
    return hits[0] if len(hits) == 1 else exact[0] if len(exact) == 1 else None


def _numbers(raw: pd.DataFrame, name: str, column: str, source: str, columns: Columns) -> Array:
    numbers = pd.to_numeric(raw[column], errors="coerce").to_numpy(np.float64)
    bad = ~(np.isfinite(numbers) & (numbers > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        shown = "nan or empty" if pd.isna(raw[column].iloc[row]) else str(raw[column].iloc[row])
        raise UserError(
            f"{source}: row {row + 1} has {column} = {shown}, which is not a positive number; mend it."
        )
    return convert(name, columns.units.get(name, role(name).unit), numbers)


def _complete(values: dict[str, Array], cost: Cost) -> list[str]:
    """The missing one of n and d from c, by what a token costs in the fit."""
    said = "6N" if cost == Cost() else "the fit's FLOPs per token"
    if {"n", "c"} <= values.keys() and "d" not in values:
        values["d"] = values["c"] / np.exp(cost.per_token(np.log(values["n"])))
        return [f"D is C / {said}"]
    if {"d", "c"} <= values.keys() and "n" not in values:
        values["n"] = _size(values["c"] / values["d"], cost)
        return [f"N is that of C / D = {said}"]
    return []


def _size(per_token_P: Array, cost: Cost) -> Array:
    """N whose token costs so many FLOPs, by bisection."""
    low, high = np.full(len(per_token_P), -20.0), np.full(len(per_token_P), 100.0)
    for _ in range(90):
        middle = 0.5 * (low + high)
        below = cost.per_token(middle) < np.log(per_token_P)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(np.exp(0.5 * (low + high)))


def _measured(raw: pd.DataFrame, columns: Columns, source: str) -> Array | None:
    """Losses that the table holds; NaN in rows without one."""
    if "loss" in columns.names:
        column: str | None = named(raw, "loss", columns.names["loss"], source)
    else:
        column = _usual(raw, "loss", set())
    if column is None:
        return None
    numbers = pd.to_numeric(raw[column], errors="coerce").to_numpy(np.float64)
    converted = convert("loss", columns.units.get("loss", "nats"), np.where(numbers > 0, numbers, np.nan))
    return converted if np.isfinite(converted).any() else None


def _score(measured: Array | None, loss_P: Array, low: Any, high: Any) -> dict[str, Any] | None:
    if measured is None:
        return None
    rows = np.isfinite(measured)
    error = np.log(measured[rows] / loss_P[rows])
    inside = None if low is None else float(((measured >= low) & (measured <= high))[rows].mean())
    return {
        "rows": int(rows.sum()),
        "rms_error": float(math.sqrt(np.mean(error**2))),
        "mean_error": float(error.mean()),
        "inside_90": inside,
    }


def _labels(raw: pd.DataFrame) -> list[str]:
    by_name = {str(column).lower(): column for column in reversed(list(raw.columns))}
    column = next((by_name[name] for name in RUN_NAMES if name in by_name), None)
    if column is None:
        return [f"row {i + 1}" for i in range(len(raw))]
    return [str(value) for value in raw[column]]


def _or_null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
