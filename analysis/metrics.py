"""JSON-lines logs of many runs as one table, read by pyarrow in batches: millions of rows a second, not a
Python object for each.

A line that was cut off, as a kill leaves it, is dropped and named; so is a line that is no JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as pajson

_BATCH = 64 * 2**20  # bytes parsed at a time: thousands of small logs in one go
_BLOCK = 8 * 2**20
_ENDED = 0.97  # share of a run's steps after which its last loss is that of its end
_NAMED = 20  # damaged lines named one by one


def read_logs(paths: Sequence[Path], runs: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Every row of the logs, in order: column `run` (categorical) and what the lines hold, nested names
    joined by dots. Notes name what was dropped. A file that does not exist holds nothing."""
    tables: list[pa.Table] = []
    codes: list[np.ndarray[Any, Any]] = []
    notes: list[str] = []
    batch: list[tuple[int, bytes, int]] = []

    def parse() -> None:
        for table, code in _parse(batch, paths, notes):
            tables.append(table)
            codes.append(code)
        batch.clear()

    held = 0
    for index, path in enumerate(paths):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            continue
        text, lines = _whole_lines(text, path, notes)
        if lines:
            batch.append((index, text, lines))
            held += len(text)
        if held > _BATCH:
            parse()
            held = 0
    parse()
    if len(notes) > _NAMED:
        notes[_NAMED:] = [f"and {len(notes) - _NAMED} more damaged lines, all dropped"]
    names = pd.CategoricalDtype(list(dict.fromkeys(runs)))
    if not tables:
        return pd.DataFrame({"run": pd.Categorical([], dtype=names)}), notes
    table = _flat(pa.concat_tables(tables, promote_options="permissive"))
    of = names.categories.get_indexer(pd.Index(runs)).astype(np.int32)
    frame = table.to_pandas(self_destruct=True, split_blocks=True)
    run = pd.Categorical.from_codes(of[np.concatenate(codes)], dtype=names)
    if "run" in frame:
        frame = frame.rename(columns={"run": "run_logged"})
    return pd.concat([pd.Series(run, name="run"), frame], axis=1), notes


def _whole_lines(text: bytes, path: Path, notes: list[str]) -> tuple[bytes, int]:
    """The text with a newline at its end and no blank lines, and how many lines that is."""
    if not text.endswith(b"\n"):
        start = text.rfind(b"\n") + 1
        try:
            json.loads(text[start:])
            text += b"\n"
        except ValueError:
            if text[start:].strip():
                number = text[:start].count(b"\n") + 1
                notes.append(f"{path}: line {number} is cut off mid-line; dropped")
            text = text[:start]
    if b"\n\n" in text or text.startswith(b"\n") or b"\r" in text:
        text = b"".join(line + b"\n" for line in text.split(b"\n") if line.strip())
    return text, text.count(b"\n")


def _parse(
    batch: list[tuple[int, bytes, int]], paths: Sequence[Path], notes: list[str]
) -> list[tuple[pa.Table, np.ndarray[Any, Any]]]:
    """Tables and the file of each of their rows; where a batch cannot be read at once, file by file."""
    if not batch:
        return []
    expected = sum(lines for _, _, lines in batch)
    table = _arrow(b"".join(text for _, text, _ in batch), expected)
    if table is not None:
        return [(table, np.repeat([index for index, _, _ in batch], [lines for _, _, lines in batch]))]
    if len(batch) > 1:
        half = len(batch) // 2
        return _parse(batch[:half], paths, notes) + _parse(batch[half:], paths, notes)
    index, text, _ = batch[0]
    rows = _slow(text, paths[index], notes)
    return [(pa.Table.from_pylist(rows), np.full(len(rows), index))] if rows else []


def _arrow(text: bytes, rows: int) -> pa.Table | None:
    """None where pyarrow does not read it: NaN, which JSON does not have, a damaged line, mixed types."""
    try:
        table = pajson.read_json(pa.BufferReader(text), read_options=pajson.ReadOptions(block_size=_BLOCK))
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == rows else None


def _slow(text: bytes, path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Line by line. A column of numbers and text keeps its numbers."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError
            rows.append(scalars(row))
        except ValueError:
            notes.append(f"{path}: line {number} is unreadable; dropped")
    numbers = {key for row in rows for key, value in row.items() if isinstance(value, int | float)}
    return [{key: _number(value) if key in numbers else value for key, value in row.items()} for row in rows]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def scalars(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Words and numbers of a JSON object, nested names joined by dots; lists left out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= scalars(value, f"{prefix}{key}.")
        elif isinstance(value, str | bool | int | float):
            flat[prefix + str(key)] = value
    return flat


def _flat(table: pa.Table) -> pa.Table:
    """Nested objects as dotted columns; lists left out."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table.select([i for i, field in enumerate(table.schema) if not pa.types.is_list(field.type)])


def last_values(rows: pd.DataFrame, step: str | None) -> pd.DataFrame:
    """One row per run: the last value of every column that has one, by `step` where given (of a step that
    comes twice the later row counts), else in the order of the log."""
    if step is not None:
        rank = pd.to_numeric(rows[step], errors="coerce").fillna(-np.inf)
        code = rows["run"].cat.codes.to_numpy()
        rows = rows.iloc[np.lexsort((np.arange(len(rows)), rank.to_numpy(), code))]
    return rows.groupby("run", observed=True, sort=False).last().reset_index().astype({"run": str})


def early_losses(rows: pd.DataFrame, step: str | None) -> list[str]:
    """Notes on runs whose last value of a loss was logged well before their last step: it belongs to fewer
    tokens than the run's row says."""
    notes: list[str] = []
    if step is None:
        return notes
    steps = pd.to_numeric(rows[step], errors="coerce")
    end = steps.groupby(rows["run"], observed=True).max()
    for column in [c for c in rows.columns if "loss" in str(c).lower() and rows[c].dtype.kind in "fiu"]:
        has = rows[column].notna()
        last = steps[has].groupby(rows["run"][has], observed=True).max()
        early = last[last < _ENDED * end[last.index]]
        if len(early):
            named = ", ".join(f"{run} ({last[run]:g} of {end[run]:g})" for run in early.index[:4])
            more = f" and {len(early) - 4} more" if len(early) > 4 else ""
            notes.append(f"the last {column} stands before the last {step} in {named}{more}")
    return notes
