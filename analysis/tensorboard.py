"""TensorBoard event files as rows, without TensorFlow or TensorBoard.

An event file is a sequence of TFRecords (length, CRC of the length, data, CRC of the data), each an `Event`
protocol buffer. Of an event the step and the scalars are read: `simple_value` as PyTorch and most others
write it, or a tensor without dimensions as TensorFlow 2 does; and hyperparameters of the HParams plugin. A
file cut short, as a kill leaves it, gives what is before the cut, and a note.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

PATTERN = "*tfevents*"
_HPARAMS = "_hparams_/session_start_info"
_FLOAT, _DOUBLE, _INT32, _INT64 = 1, 2, 3, 9  # DataType of a tensor
# Fields by their numbers: tensorflow/core/framework/{summary,tensor}.proto, tensorflow/core/util/event.proto,
# tensorboard/plugins/hparams/plugin_data.proto.
_STEP, _SUMMARY, _VALUE, _TAG, _SIMPLE, _TENSOR, _METADATA = 2, 5, 1, 1, 2, 8, 9


def event_files(folder: Path) -> list[Path]:
    """Every event file under a folder, in the order of their names, which begin with the time."""
    return sorted(path for path in folder.rglob(PATTERN) if path.is_file())


def read_events(paths: Sequence[Path], root: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Rows (run, step and a column for each scalar tag), hyperparameters (run and a column for each), notes.

    A run is a folder, named by its path under `root`; a later event file of it, as a resume writes one,
    counts where both have a step. Hyperparameters written into a folder of their own below a run's are that
    run's.
    """
    notes: list[str] = []
    points: dict[tuple[str, int], dict[str, float]] = {}
    hyper: dict[str, dict[str, Any]] = {}
    for path in paths:
        run = path.parent.relative_to(root).as_posix()
        run = path.parent.resolve().name if run == "." else run
        for event in _events(path, notes):
            step, scalars, found = _event(event)
            if scalars:
                points.setdefault((run, step), {}).update(scalars)
            if found:
                hyper.setdefault(run, {}).update(found)
    _move_up(points, hyper)
    ordered = sorted(points.items(), key=lambda item: item[0])
    rows = pd.DataFrame([{"run": run, "step": step, **scalars} for (run, step), scalars in ordered])
    settings = pd.DataFrame([{"run": run, **values} for run, values in hyper.items()])
    return rows, settings, notes


def _move_up(points: dict[tuple[str, int], dict[str, float]], hyper: dict[str, dict[str, Any]]) -> None:
    """PyTorch's `add_hparams` opens a folder below the run's: its values go to the run above."""
    logged = {run for run, _ in points if run not in hyper}
    for run in list(hyper):
        above = run.rpartition("/")[0]
        if above not in logged:
            continue
        hyper[above] = hyper.pop(run) | hyper.get(above, {})
        last = max(step for name, step in points if name == above)
        for name, step in [key for key in points if key[0] == run]:
            final = points.pop((name, step))
            target = points[above, last]
            target.update({tag: value for tag, value in final.items() if tag not in target})


def _events(path: Path, notes: list[str]) -> Iterator[bytes]:
    data, at, count = memoryview(path.read_bytes()), 0, 0
    while at < len(data):
        if at + 12 > len(data):
            notes.append(f"{path} is cut short after {count:,} events; what is there counts")
            return
        (size,) = struct.unpack_from("<Q", data, at)
        if at + 12 + size + 4 > len(data):
            notes.append(f"{path} is cut short after {count:,} events; what is there counts")
            return
        yield bytes(data[at + 12 : at + 12 + size])
        at, count = at + 16 + size, count + 1
    if not count:
        notes.append(f"{path} holds no event; nothing is read from it")


def _event(text: bytes) -> tuple[int, dict[str, float], dict[str, Any]]:
    """Step, scalars by tag, hyperparameters."""
    step = 0
    scalars: dict[str, float] = {}
    hyper: dict[str, Any] = {}
    for number, value in _fields(text):
        if number == _STEP:
            step = _signed(value)
        elif number == _SUMMARY:
            for inner, entry in _fields(value):
                if inner != _VALUE:
                    continue
                tag, scalar, found = _value(entry)
                if scalar is not None:
                    scalars[tag] = scalar
                hyper |= found
    return step, scalars, hyper


def _value(text: bytes) -> tuple[str, float | None, dict[str, Any]]:
    tag, scalar, plugin = "", None, b""
    for number, value in _fields(text):
        if number == _TAG:
            tag = value.decode(errors="replace")
        elif number == _SIMPLE:
            scalar = _float(value)
        elif number == _TENSOR:
            scalar = _tensor(value)
        elif number == _METADATA:
            plugin = value
    if tag == _HPARAMS:
        return tag, None, _hyperparameters(plugin)
    return tag, scalar, {}


def _tensor(text: bytes) -> float | None:
    """The number of a tensor without dimensions; None for others."""
    kind, content, listed = 0, b"", None
    for number, value in _fields(text):
        if number == 1:
            kind = value
        elif number == 2 and any(inner == 2 for inner, _ in _fields(value)):
            return None
        elif number == 4:
            content = value
        elif number in (5, 6, 7, 10):  # float_val, double_val, int_val, int64_val, packed or not
            listed = _listed(number, value)
    formats = {_FLOAT: "<f", _DOUBLE: "<d", _INT32: "<i", _INT64: "<q"}
    if kind in formats and len(content) == struct.calcsize(formats[kind]):
        return float(struct.unpack(formats[kind], content)[0])
    return listed


def _listed(number: int, value: Any) -> float | None:
    if number in (7, 10):
        value = _varint(value, 0)[0] if isinstance(value, bytes) else value
        return float(_signed(value))
    if isinstance(value, bytes) and len(value) == (4 if number == 5 else 8):
        return _float(value)
    return None


def _hyperparameters(metadata: bytes) -> dict[str, Any]:
    """SummaryMetadata > plugin_data > content > session_start_info > hparams."""
    found: dict[str, Any] = {}
    for plugin in _each(metadata, 1):
        for content in _each(plugin, 2):
            for session in _each(content, 3):
                for entry in _each(session, 1):
                    parts = dict(_fields(entry))
                    inner = dict(_fields(parts.get(2, b"")))
                    name = parts.get(1, b"").decode(errors="replace")
                    if 2 in inner:
                        found[name] = _float(inner[2])
                    elif 3 in inner:
                        found[name] = inner[3].decode(errors="replace")
                    elif 4 in inner:
                        found[name] = bool(inner[4])
    return found


def _each(text: bytes, wanted: int) -> list[bytes]:
    return [value for number, value in _fields(text) if number == wanted and isinstance(value, bytes)]


def _fields(text: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: an int for a varint, bytes for the rest. A damaged message just ends."""
    at = 0
    while at < len(text):
        key, at = _varint(text, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(text, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            if wire != 2:
                return
            size, at = _varint(text, at)
        if at + size > len(text):
            return
        yield number, text[at : at + size]
        at += size


def _varint(text: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(text):
        byte = text[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _float(value: bytes) -> float:
    return float(struct.unpack("<f" if len(value) == 4 else "<d", value)[0])
