"""wandb runs as they lie on a disk: the transaction logs (`run-ID.wandb`) of offline and synced runs.

A log is a file of records in LevelDB's log format (32 KiB blocks; a record is cut into fragments of type
full, first, middle, last, each behind a CRC, a length and its type), each record a protocol buffer that wandb
itself declares (`wandb.proto`). What `wandb sync` would make of them is made here without a server: the
config, the summary, the state.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.wandb_source import row_of
from scaling.errors import UserError

_MAGIC = b":W&B"
_HEADER, _BLOCK, _FRAGMENT = 7, 32 * 1024, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class _Run:
    """What the records say of one run so far."""

    run_id: str = ""
    name: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    explicit: set[str] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)  # metrics that leave no summary, as patterns
    exit_code: int | None = None


def find_logs(folder: Path) -> list[Path]:
    """Every transaction log under a folder, oldest run first (their folders begin with the time)."""
    return sorted(folder.rglob("*.wandb"), key=lambda path: (path.parent.name.split("run-")[-1], path.name))


def read_logs(paths: list[Path], curves: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """One row per run, as `analysis.wandb_source.load_project` gives; `curves`: one per logged step, the
    run's config beside it. Notes name logs that end early. A run that was started several times (a resume)
    is one run, its later values counting.

    Raises UserError where a file is no transaction log and where no run is in any.
    """
    notes: list[str] = []
    runs: dict[str, _Run] = {}
    for path in paths:
        _read(path, runs, notes)
    if not runs:
        raise UserError(f"{paths[0].parent} holds no wandb run; give a folder with run-*.wandb files.")
    table: list[dict[str, Any]] = []
    for run in runs.values():
        state = {None: "crashed", 0: "finished"}.get(run.exit_code, "failed")
        row = row_of(run.run_id, run.name or run.run_id, run.group, state, run.config, run.summary, notes)
        table += [row | logged for logged in run.rows] if curves else [row]
    return pd.DataFrame(table), notes


def _read(path: Path, runs: dict[str, _Run], notes: list[str]) -> None:
    try:
        from wandb.proto import wandb_internal_pb2 as records
    except ImportError:
        raise UserError("wandb is not installed; `pip install wandb`, or give the runs as CSV.") from None
    run = _Run()
    count = 0
    for text in _records(path, notes):
        record = records.Record()  # type: ignore[attr-defined]  # made when the module is imported
        try:
            record.ParseFromString(text)
        except Exception:  # protobuf's DecodeError, whose place differs between its versions
            notes.append(f"{path}: record {count + 1} is damaged; the records before it count")
            break
        count += 1
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = runs.setdefault(record.run.run_id or path.stem.removeprefix("run-"), run)
            run.run_id = record.run.run_id or path.stem.removeprefix("run-")
            run.name = record.run.display_name or run.name
            run.group = record.run.run_group or run.group
            run.exit_code = None
            run.config |= _nested(record.run.config.update)
        elif kind is not None:
            _take(run, kind, record)
    if not count:
        notes.append(f"{path} holds no record; nothing is read from it")


def _take(run: _Run, kind: str, record: Any) -> None:
    if kind == "config":
        run.config |= _nested(record.config.update)
    elif kind == "summary":
        found = _nested(record.summary.update)
        run.summary |= found
        run.explicit |= found.keys()
    elif kind == "history":
        row = _nested(record.history.item)
        run.rows.append({"_step": record.history.step.num, **_scalars(row)})
        run.summary |= {key: value for key, value in row.items() if not _silent(run, key)}
    elif kind == "metric" and record.metric.summary.none:
        run.silent.append(record.metric.name or record.metric.glob_name)
    elif kind == "exit":
        run.exit_code = record.exit.exit_code


def _silent(run: _Run, key: str) -> bool:
    return any(key == name or fnmatch.fnmatchcase(key, name) for name in run.silent)


def _nested(items: Any) -> dict[str, Any]:
    """`key` or `nested_key` with a JSON value, as wandb writes config, summary and history."""
    out: dict[str, Any] = {}
    for item in items:
        name = ".".join(item.nested_key) if len(item.nested_key) else item.key
        try:
            out[name] = json.loads(item.value_json)
        except ValueError:
            continue
    return out


def _scalars(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if isinstance(v, str | bool | int | float) and not k.startswith("_")}


def _records(path: Path, notes: list[str]) -> Iterator[bytes]:
    """The records of a log. A log that ends in the middle of one is said so; what is before it is given."""
    data = path.read_bytes()
    if len(data) < _HEADER:
        notes.append(f"{path} is cut short before its first record")
        return
    if not data.startswith(_MAGIC):
        raise UserError(
            f"{path} is not a wandb log (it does not begin with ':W&B'); remove it, or copy it anew."
        )
    at, parts = _HEADER, bytearray()
    while at < len(data):
        left = _BLOCK - at % _BLOCK
        if left < _FRAGMENT:
            at += left  # the end of a block too small for a fragment is padding
            continue
        size, kind = (
            int.from_bytes(data[at + 4 : at + 6], "little"),
            data[at + 6] if at + 6 < len(data) else 0,
        )
        text = data[at + _FRAGMENT : at + _FRAGMENT + size]
        if len(text) < size or at + _FRAGMENT > len(data) or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            notes.append(f"{path} is cut short: the run was killed or is still running; what is there counts")
            return
        at += _FRAGMENT + size
        if kind in (_FULL, _FIRST):
            parts.clear()
        parts += text
        if kind in (_FULL, _LAST):
            yield bytes(parts)
            parts.clear()
    if parts:
        notes.append(f"{path} is cut short: the run was killed or is still running; what is there counts")
