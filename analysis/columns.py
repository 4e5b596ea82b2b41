"""A stranger's table: which columns hold which quantity, in which units, and which rows count.

Nothing is guessed silently: a column found by its name, a row left out, a unit that looks wrong
each make a note, and a value that cannot be a loss or a size is an error that names its row. What rows
say about each other (mixed units, points in the middle of a run, ...) is `analysis.checks`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.checks import Rows, examine
from analysis.newton import Array
from analysis.roles import ROLES, RUN_NAMES, check_unit, convert, plain, role
from scaling.errors import UserError

STATUS_NAMES = ("status", "state")
# What a run that did not end well is called here, in wandb, in Slurm.
NOT_DONE = {
    "diverged", "failed", "fail", "error", "running", "crashed", "killed", "stopped", "pending",
    "preempted", "preempting", "cancelled", "canceled", "timeout", "interrupted", "queued",
}  # fmt: skip
SIZES = ("n", "d", "c")  # two of them give the third
SURFACE = {"n": "", "d": "", "loss": ""}  # what a fit needs where no law is named


class Reading:
    """How to read a table: `Reading(n="params", d="tokens", loss="val_loss", units={"n": "M"})`.

    columns   role=column name; roles that are needed and not named are found by their common names
    units     role -> unit of that column (see analysis.roles), default the role's own
    run, step column that names the run where a run has many rows, and column that orders them
    where     ("COLUMN=VALUE", ...): only these rows; of one column several values may be named
    every_row keep every row of a run: for laws of whole loss curves
    n_count, c_count   a convention of `scaling.accounting`, for our own runs
    """

    def __init__(
        self,
        *,
        units: Mapping[str, str] | None = None,
        run: str | None = None,
        step: str | None = None,
        where: Sequence[str] = (),
        every_row: bool = False,
        n_count: str | None = None,
        c_count: str | None = None,
        **columns: str | None,
    ) -> None:
        """Raises UserError for a unit that the role does not have and for a --where that is none."""
        self.columns = {name: column for name, column in columns.items() if column is not None}
        self.units = dict(units or {})
        self.run, self.step, self.where, self.every_row = run, step, tuple(where), every_row
        self.n_count, self.c_count = n_count, c_count
        for name, unit in self.units.items():
            check_unit(name, unit)
        for condition in self.where:
            if not condition.partition("=")[0].strip() or "=" not in condition:
                raise UserError(f"--where is {condition!r}; give COLUMN=VALUE, for example dataset=c4.")
        if step and not run:
            raise UserError(f"--step {step} orders the rows of a run; name the run's column with --run.")

    @property
    def names_columns(self) -> bool:
        """Whether columns are named that our own tables know by themselves (their noise they do not)."""
        return bool(self.columns.keys() - {"noise"} or self.run or self.step)

    def unit(self, name: str) -> str:
        return self.units.get(name, role(name).unit)

    def of_run(self, run: str, step: str | None) -> Reading:
        """This reading of a table that names its runs in column `run`."""
        return Reading(
            units=self.units, run=run, step=step, where=self.where, every_row=self.every_row,
            n_count=self.n_count, c_count=self.c_count, **self.columns,
        )  # fmt: skip

    def by_map(self, roles: Mapping[str, Mapping[str, str]]) -> Reading:
        """This reading where no column is named: columns and units of a stored map (`analysis.importing`)."""
        units = {name: entry["unit"] for name, entry in roles.items()} | self.units
        columns = {name: entry["column"] for name, entry in roles.items()}
        return Reading(
            units=units, run=self.run, step=self.step, where=self.where, every_row=self.every_row,
            n_count=self.n_count, c_count=self.c_count, **columns,
        )  # fmt: skip


@dataclass(frozen=True)
class Canonical:
    """`table`: run (text), row (1-based in the source), one float64 column for every role that was read
    (parameters, tokens, FLOPs, nats per token); `columns`: role -> column of the source."""

    table: pd.DataFrame
    columns: dict[str, str]
    c_name: str
    dropped: list[dict[str, str]]
    notes: list[str]


def canonical(
    raw: pd.DataFrame, reading: Reading, source: str, needs: Mapping[str, str] | None = None
) -> Canonical:
    """Read `raw` as one row per run (with `reading.every_row`, one row per point of a curve).

    `needs`: role -> the law that needs it, "" for none in particular; default N, D and the loss. Of n, d
    and c two give the third by C = 6ND. Raises UserError for a column that is missing, for a value
    that is not a positive finite number in a row that counts, and for rows that must not be fitted together
    (see `analysis.checks`). Rows whose status says they did not finish are dropped by name.
    """
    needs = SURFACE if needs is None else needs
    if not len(raw):
        raise UserError(f"{source} holds no rows; give a table with one row per run.")
    raw = raw.rename(columns=lambda name: str(name).strip()).reset_index(drop=True)
    notes: list[str] = []
    frame = _where(raw.assign(_row=np.arange(1, len(raw) + 1)), reading, source, notes)
    columns = _choose(raw, reading, source, notes, needs)
    frame = frame.assign(_run=_labels(frame, reading, source))
    if reading.run and not reading.every_row:
        frame = _last_of_each(frame, reading, columns, source)
    frame, dropped = _finished(frame, raw)
    if not len(frame):
        raise UserError(f"{source}: all {len(dropped)} runs are left out by their status; finish some first.")
    frame, doubled = _identical(frame)
    values = {
        name: convert(name, reading.unit(name), _numbers(frame, name, column, source, reading.every_row))
        for name, column in columns.items()
    }
    values, c_name = _complete(values, notes)
    missing = {name: why for name, why in needs.items() if name not in values}
    if missing:
        raise UserError(_which(missing, raw, source))
    one_each = bool(reading.run) and not reading.every_row
    notes += examine(Rows(frame, values, columns, source), reading.where, one_each, reading.every_row)
    table = pd.DataFrame({"run": frame["_run"].to_numpy(str), "row": frame["_row"].to_numpy(int), **values})
    return Canonical(table, columns, c_name, dropped + doubled, notes)


def _where(frame: pd.DataFrame, reading: Reading, source: str, notes: list[str]) -> pd.DataFrame:
    wanted: dict[str, list[str]] = {}
    for condition in reading.where:
        column, _, value = condition.partition("=")
        wanted.setdefault(named(frame, "where", column.strip(), source), []).append(value.strip())
    for column, values in wanted.items():
        keep = np.zeros(len(frame), dtype=bool)
        for value in values:
            keep |= _equal(frame[column], value)
        if not keep.any():
            found = ", ".join(map(str, frame[column].drop_duplicates().head(8)))
            raise UserError(f"{source} has no row with {column} = {' or '.join(values)}; it has {found}.")
        notes.append(f"{int(keep.sum())} of {len(frame)} rows have {column} = {' or '.join(values)}")
        frame = frame[keep]
    return frame


def _equal(column: pd.Series, value: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """As text, as numbers (1 is 1.0) or as truth values (1 is True)."""
    text = column.astype(str).str.strip().str.lower()
    same = (text == value.lower()).to_numpy()
    try:
        number = float({"true": "1", "false": "0"}.get(value.lower(), value))
    except ValueError:
        return same
    numbers = pd.to_numeric(text.replace({"true": "1", "false": "0"}), errors="coerce")
    return np.asarray(same | (numbers == number).to_numpy())


def found_by_name(raw: pd.DataFrame, names: Iterable[str]) -> str | None:
    """The one column whose lower-case name is among `names`, else the one whose `plain` name is; None when
    none or several are. Of losses val/loss counts beside loss: which is meant is then not known."""
    exact = [str(column) for column in raw.columns if str(column).lower() in names]
    alike = [str(column) for column in raw.columns if plain(column) in names]
    hits = list(dict.fromkeys(exact + alike)) if "loss" in names else exact or alike
    if len(hits) > 1:  # a column of words names a kind of loss, it holds none
        hits = [hit for hit in hits if pd.to_numeric(raw[hit], errors="coerce").notna().any()]
    return hits[0] if len(hits) == 1 else None


def named(raw: pd.DataFrame, flag: str, column: str, source: str) -> str:
    """`column` if the table has it; else UserError with the columns that come close."""
    if column in raw.columns:
        return column
    close = difflib.get_close_matches(column.lower(), [c.lower() for c in raw.columns], 3, 0.5)
    near = [c for c in raw.columns if c.lower() in close]
    hint = f"close: {', '.join(near)}" if near else f"it has {_listing(raw)}"
    flag = role(flag).flag if flag in ROLES else f"--{flag}"
    raise UserError(f"{source} has no column {column!r} for {flag}; {hint}.")


def _listing(raw: pd.DataFrame) -> str:
    names = [name for name in map(str, raw.columns) if not name.startswith("_")]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _choose(
    raw: pd.DataFrame, reading: Reading, source: str, notes: list[str], needs: Mapping[str, str]
) -> dict[str, str]:
    """Which column holds which role. Two of n, d, c named: the third is computed, not sought."""
    columns = {name: named(raw, name, column, source) for name, column in reading.columns.items()}
    if "steps" in needs and "steps" not in columns and reading.step:
        columns["steps"] = named(raw, "step", reading.step, source)
    named_sizes = columns.keys() & set(SIZES)
    wanted = [name for name in needs if name not in SIZES]
    if "unique" in needs and "epochs" in columns:
        wanted.remove("unique")
    if len(named_sizes) < 2:
        # A law of one size alone takes the others too where they are plainly there: the approaches need them.
        wanted = [name for name in SIZES if name in needs or _usable(raw, name)] + wanted
    if "unique" in needs and "unique" not in columns and found_by_name(raw, role("unique").common) is None:
        wanted.append("epochs")
    sought = [name for name in wanted if name not in columns]
    by_name = []
    for name in sought:
        if name == "c" and {"n", "d"} <= columns.keys() and named_sizes and "c" not in needs:
            continue
        found = found_by_name(raw, role(name).common)
        if found is not None and found not in columns.values():
            columns[name] = found
            by_name.append(f"{found} as {name}")
    if by_name:
        notes.append(f"columns found by name: {', '.join(by_name)}")
    return columns


def _usable(raw: pd.DataFrame, name: str) -> bool:
    column = found_by_name(raw, role(name).common)
    if column is None:
        return False
    numbers = pd.to_numeric(raw[column], errors="coerce")
    return bool((np.isfinite(numbers) & (numbers > 0)).all())


def _which(missing: Mapping[str, str], raw: pd.DataFrame, source: str) -> str:
    """The question about what is missing, with the flags that answer it."""
    other = {"n": " (or --c)", "d": " (or --c)", "c": " (or --n and --d)", "unique": " (or --epochs)"}
    if {"n", "d"} <= missing.keys():
        other["n"] = ""  # said once
    flags = " and ".join(role(name).flag + other.get(name, "") for name in missing)
    laws = sorted({why for why in missing.values() if why})
    why = f", which {' and '.join(laws)} read{'' if len(laws) > 1 else 's'}" if laws else ""
    which = "which columns are" if len(missing) > 1 else "which column is"
    return f"{source}: {which} {' and '.join(missing)}{why}? Give {flags}; it has {_listing(raw)}."


def _labels(frame: pd.DataFrame, reading: Reading, source: str) -> pd.Series:
    """What each row is called in messages, and for --run which run it belongs to."""
    if reading.run:
        return frame[named(frame, "run", reading.run, source)].astype(str)
    by_name = {str(column).lower(): column for column in reversed(list(frame.columns))}
    found = next((by_name[name] for name in RUN_NAMES if name in by_name), None)
    if found is not None and frame[found].is_unique:
        return frame[found].astype(str)
    return "row " + frame["_row"].astype(str)


def _last_of_each(
    frame: pd.DataFrame, reading: Reading, columns: dict[str, str], source: str
) -> pd.DataFrame:
    """The last row of every run: by --step, else by D (or C) where it varies, else by file order."""
    if reading.step:
        order = named(frame, "step", reading.step, source)
    else:
        order = columns.get("d", columns.get("c", "_row"))
    rank = pd.to_numeric(frame[order], errors="coerce")
    if reading.step and rank.isna().any():
        row = int(frame.loc[rank.isna(), "_row"].iloc[0])
        raise UserError(f"{source}: row {row} has no number in column {order!r} (--step); mend or remove it.")
    ordered = frame.assign(_rank=rank.fillna(np.inf)).sort_values(["_rank", "_row"], kind="stable")
    return ordered.groupby("_run", sort=False).tail(1).sort_values("_row").drop(columns="_rank")


def _finished(frame: pd.DataFrame, raw: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    column = found_by_name(raw, STATUS_NAMES)
    if column is None:
        return frame, []
    status = frame[column].astype(str).str.strip().str.lower()
    out = status.isin(NOT_DONE)
    dropped = [
        {"run": str(run), "reason": f"status {reason}"}
        for run, reason in zip(frame.loc[out, "_run"], status[out], strict=True)
    ]
    return frame[~out], dropped


def _identical(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Rows that repeat another in every column are one measurement pasted twice: the first is kept."""
    content = [column for column in frame.columns if column not in ("_row", "_run")]
    again = frame.duplicated(content)
    if not again.any():
        return frame, []
    first = frame.groupby(content, dropna=False, sort=False)["_row"].transform("first")
    dropped = [
        {"run": f"row {row}", "reason": f"identical to row {original}"}
        for row, original in zip(frame.loc[again, "_row"], first[again], strict=True)
    ]
    return frame[~again], dropped


def _numbers(frame: pd.DataFrame, name: str, column: str, source: str, curves: bool) -> Array:
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
    may_be_zero = role(name).zero or (curves and name in ("steps", "lr"))  # a schedule starts or ends at 0
    bad = ~(np.isfinite(numbers) & ((numbers >= 0) if may_be_zero else (numbers > 0)))
    if not bad.any():
        return numbers
    where = int(np.flatnonzero(bad)[0])
    value, row = frame[column].iloc[where], int(frame["_row"].iloc[where])
    label = str(frame["_run"].iloc[where])
    place = f"row {row}" if label == f"row {row}" else f"row {row} ({label})"
    shown = "nan or empty" if pd.isna(value) or value == "" else f"{value!s}"
    kind = "a number of at least 0" if may_be_zero else "a positive number"
    more = f" ({int(bad.sum())} rows are like it)" if bad.sum() > 1 else ""
    raise UserError(
        f"{source}: {place} has {column} = {shown}, which is not {kind}{more}; "
        "mend it, remove the row, or add a status column that says diverged."
    )


def _complete(values: dict[str, Array], notes: list[str]) -> tuple[dict[str, Array], str]:
    """Fill in the missing one of n, d, c by C = 6 N D, and U = D / epochs."""
    have = values.keys() & set(SIZES)
    c_name = "given" if "c" in values else "6nd"
    if have == {"n", "c"}:
        values["d"] = values["c"] / (6 * values["n"])
        notes.append("D is computed as C / 6N")
    elif have == {"d", "c"}:
        values["n"] = values["c"] / (6 * values["d"])
        notes.append("N is computed as C / 6D")
    elif have == {"n", "d"}:
        values["c"] = 6 * values["n"] * values["d"]
    elif have == set(SIZES):
        ratio = float(np.median(values["c"] / (6 * values["n"] * values["d"])))
        if not 0.2 < ratio < 5:
            notes.append(f"C is {ratio:.3g} x 6ND in the median row: check the units of C, N and D")
    if "unique" not in values and {"d", "epochs"} <= values.keys():
        values["unique"] = values["d"] / values["epochs"]
        notes.append("unique tokens are computed as D / epochs")
    return values, c_name
