"""A stranger's table: which columns hold N, D, C and the loss, in which units, and which rows count.

Nothing is guessed silently: a column found by its name, a row left out, a unit that looks wrong
each make a note, and a value that cannot be a loss or a size is an error that names its row.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import UserError

COUNT_UNITS = {"1": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
FLOP_UNITS = {"FLOP": 1.0, "PF-days": 8.64e19}
LOSS_UNITS = {"nats": 1.0, "bits": math.log(2)}

# Lower-case names under which these columns are found when no flag names them.
_COMMON = {
    "n": ("n", "params", "parameters", "n_params", "num_params", "n_total", "model_size"),
    "d": ("d", "tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens"),
    "c": ("c", "flops", "flop", "compute", "train_flops", "training_flops", "c_matmul"),
    "loss": ("loss", "val_loss", "validation_loss", "final_loss", "eval_loss", "l"),
    "run": ("run", "run_id", "run_name", "name"),
    "status": ("status", "state"),
}
# What a run that did not end well is called here, in wandb, in Slurm.
_NOT_DONE = {
    "diverged", "failed", "fail", "error", "running", "crashed", "killed", "stopped", "pending",
    "preempted", "preempting", "cancelled", "canceled", "timeout", "interrupted", "queued",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read a table: column names (None = find by name) and the units they are in.

    `n_count` and `c_count` choose a convention of `scaling.accounting` for our own runs.
    """

    n: str | None = None
    d: str | None = None
    c: str | None = None
    loss: str | None = None
    run: str | None = None
    step: str | None = None
    n_unit: str = "1"
    d_unit: str = "1"
    c_unit: str = "FLOP"
    loss_unit: str = "nats"
    n_count: str | None = None
    c_count: str | None = None

    def __post_init__(self) -> None:
        for name, units in (
            ("n", COUNT_UNITS), ("d", COUNT_UNITS), ("c", FLOP_UNITS), ("loss", LOSS_UNITS)
        ):  # fmt: skip
            unit = getattr(self, f"{name}_unit")
            if unit not in units:
                raise UserError(f"--{name}-unit is {unit!r}; choose from {', '.join(units)}.")
        if self.step and not self.run:
            raise UserError(f"--step {self.step} orders the rows of a run; name the run's column with --run.")

    @property
    def names_columns(self) -> bool:
        return any((self.n, self.d, self.c, self.loss, self.run, self.step))


@dataclass(frozen=True)
class Canonical:
    """Columns run (text), n, d, c, loss (float64, units 1, FLOP, nats), row (1-based in the source)."""

    table: pd.DataFrame
    c_name: str
    dropped: list[dict[str, str]]
    notes: list[str]


def canonical(raw: pd.DataFrame, reading: Reading, source: str, loss: bool = True) -> Canonical:
    """Read `raw` as one row per run; without `loss`, rows are runs to predict.

    Raises UserError for a column that is missing and for a value that is not a positive finite
    number in a row that counts. Rows whose status says they did not finish are dropped by name.
    """
    if not len(raw):
        raise UserError(f"{source} holds no rows; give a table with one row per run.")
    raw = raw.rename(columns=lambda name: str(name).strip()).reset_index(drop=True)
    notes: list[str] = []
    columns = _choose(raw, reading, source, notes, loss)
    frame = raw.assign(_row=np.arange(1, len(raw) + 1))
    label = _labels(frame, reading, source, notes)
    frame = frame.assign(_run=label)
    if reading.run:
        frame = _last_of_each(frame, reading, columns, source)
    frame, dropped = _finished(frame, raw)
    if not len(frame):
        raise UserError(f"{source}: all {len(dropped)} runs are left out by their status; finish some first.")
    values = {name: _numbers(frame, column, source) for name, column in columns.items()}
    factors = {
        "n": COUNT_UNITS[reading.n_unit], "d": COUNT_UNITS[reading.d_unit],
        "c": FLOP_UNITS[reading.c_unit], "loss": LOSS_UNITS[reading.loss_unit],
    }  # fmt: skip
    values = {name: value * factors[name] for name, value in values.items()}
    values, c_name = _complete(values, notes)
    _look_at_units(values, columns, reading, notes)
    table = pd.DataFrame({"run": frame["_run"].to_numpy(str), "row": frame["_row"].to_numpy(int), **values})
    return Canonical(table, c_name, dropped, notes)


def _find(raw: pd.DataFrame, name: str) -> str | None:
    """The one column whose lower-case name is common for `name`; None when none or several are."""
    hits = [column for column in raw.columns if column.lower() in _COMMON[name]]
    return hits[0] if len(hits) == 1 else None


def _named(raw: pd.DataFrame, flag: str, column: str, source: str) -> str:
    if column in raw.columns:
        return column
    close = difflib.get_close_matches(column.lower(), [c.lower() for c in raw.columns], 3, 0.5)
    near = [c for c in raw.columns if c.lower() in close]
    hint = f"close: {', '.join(near)}" if near else f"it has {_listing(raw)}"
    raise UserError(f"{source} has no column {column!r} for --{flag}; {hint}.")


def _listing(raw: pd.DataFrame) -> str:
    names = list(map(str, raw.columns))
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _choose(raw: pd.DataFrame, reading: Reading, source: str, notes: list[str], loss: bool) -> dict[str, str]:
    """Which column holds which quantity. Two of n, d, c named: the third is computed, not sought."""
    columns = {
        name: _named(raw, name, column, source)
        for name in ("n", "d", "c", "loss")
        if (column := getattr(reading, name)) is not None
    }
    sought = ["loss"] if loss and "loss" not in columns else []
    if len(columns.keys() & {"n", "d", "c"}) < 2:
        sought = [name for name in ("n", "d", "c") if name not in columns] + sought
    for name in sought:
        if name == "c" and {"n", "d"} <= columns.keys() and (reading.n or reading.d):
            continue
        if (found := _find(raw, name)) is not None and found not in columns.values():
            columns[name] = found
    by_name = [f"{columns[name]} as {name}" for name in sought if name in columns]
    if by_name:
        notes.append(f"columns found by name: {', '.join(by_name)}")
    missing = "loss" if loss and "loss" not in columns else None
    if len(columns.keys() & {"n", "d", "c"}) < 2:
        missing = "n" if "n" not in columns and "d" in columns else "d" if "n" in columns else "n and d"
    if missing:
        flag = {"n and d": "--n and --d (or --c)", "d": "--d (or --c)"}.get(missing, f"--{missing}")
        raise UserError(f"{source}: which column is {missing}? Give {flag}; it has {_listing(raw)}.")
    return columns


def _labels(frame: pd.DataFrame, reading: Reading, source: str, notes: list[str]) -> pd.Series:
    """What each row is called in messages, and for --run which run it belongs to."""
    if reading.run:
        return frame[_named(frame, "run", reading.run, source)].astype(str)
    by_name = {column.lower(): column for column in reversed(list(frame.columns))}
    found = next((by_name[name] for name in _COMMON["run"] if name in by_name), None)
    if found is not None:
        if frame[found].is_unique:
            return frame[found].astype(str)
        notes.append(
            f"column {found!r} repeats and every row is taken as a run of its own; "
            f"--run {found} keeps the last row of each"
        )
    return "row " + frame["_row"].astype(str)


def _last_of_each(
    frame: pd.DataFrame, reading: Reading, columns: dict[str, str], source: str
) -> pd.DataFrame:
    """The last row of every run: by --step, else by D (or C) where it varies, else by file order."""
    if reading.step:
        order = _named(frame, "step", reading.step, source)
    else:
        order = columns.get("d", columns.get("c", "_row"))
    rank = pd.to_numeric(frame[order], errors="coerce")
    if reading.step and rank.isna().any():
        row = int(frame.loc[rank.isna(), "_row"].iloc[0])
        raise UserError(f"{source}: row {row} has no number in column {order!r} (--step); mend or remove it.")
    ordered = frame.assign(_rank=rank.fillna(np.inf)).sort_values(["_rank", "_row"], kind="stable")
    return ordered.groupby("_run", sort=False).tail(1).sort_values("_row").drop(columns="_rank")


def _finished(frame: pd.DataFrame, raw: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    column = _find(raw, "status")
    if column is None:
        return frame, []
    status = frame[column].astype(str).str.strip().str.lower()
    out = status.isin(_NOT_DONE)
    dropped = [
        {"run": str(run), "reason": f"status {reason}"}
        for run, reason in zip(frame.loc[out, "_run"], status[out], strict=True)
    ]
    return frame[~out], dropped


def _numbers(frame: pd.DataFrame, column: str, source: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
    bad = ~(np.isfinite(numbers) & (numbers > 0))
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        value, row = frame[column].iloc[where], int(frame["_row"].iloc[where])
        label = str(frame["_run"].iloc[where])
        name = f"row {row}" if label == f"row {row}" else f"row {row} ({label})"
        shown = "empty" if pd.isna(value) or value == "" else f"{value!s}"
        raise UserError(
            f"{source}: {name} has {column} = {shown}, which is not a positive number; "
            "mend it, remove the row, or add a status column that says diverged."
        )
    return numbers


def _complete(
    values: dict[str, np.ndarray[Any, np.dtype[np.float64]]], notes: list[str]
) -> tuple[dict[str, np.ndarray[Any, np.dtype[np.float64]]], str]:
    """Fill in the missing one of n, d, c by C = 6 N D."""
    if "d" not in values:
        values["d"] = values["c"] / (6 * values["n"])
        notes.append("D is computed as C / 6N")
    elif "n" not in values:
        values["n"] = values["c"] / (6 * values["d"])
        notes.append("N is computed as C / 6D")
    if "c" not in values:
        values["c"] = 6 * values["n"] * values["d"]
        return values, "6nd"
    ratio = float(np.median(values["c"] / (6 * values["n"] * values["d"])))
    if not 0.2 < ratio < 5:
        notes.append(f"C is {ratio:.3g} x 6ND in the median row: check the units of C, N and D")
    return values, "given"


def _look_at_units(
    values: dict[str, np.ndarray[Any, np.dtype[np.float64]]],
    columns: dict[str, str],
    reading: Reading,
    notes: list[str],
) -> None:
    """A table in millions or billions fits as well as any, and its A and B mean something else."""
    for name, unit, limit, guess in (("n", reading.n_unit, 1e3, "M"), ("d", reading.d_unit, 1e4, "B")):
        largest = float(values[name].max())
        if name in columns and unit == "1" and largest < limit:
            words = {"M": "millions", "B": "billions"}[guess]
            notes.append(
                f"the largest {columns[name]} is {largest:g}: it looks like {words}; "
                f"--{name}-unit {guess} says so"
            )
    if "loss" in values and float(values["loss"].max()) > 50:
        notes.append(f"the largest loss is {values['loss'].max():g}: losses are read as nats per token")
