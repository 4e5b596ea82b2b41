"""The run folder: the truth about one run. Everything else mirrors or reads it.

    config.json      RunConfig, every field
    placement.json   how it was run (Placement, device, versions, threads)
    metrics.jsonl    one row a step, append only; cut back to the checkpoint on resume; of a run that
                     started from another, its rows too
    checkpoints/     Orbax
    summary.json     the outcome: status, final loss and its standard error, counts, times; what was trained
                     here (steps_trained, flops_trained), and `started_from` where that is not all
    DONE             the word `done` or `diverged`, written last; such a run never runs again

No JAX here: the launcher and the analysis read run folders without a device.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scaling.config import Placement, RunConfig, dump_run_config, load_run_config, to_dict
from scaling.errors import RunError, UserError
from scaling.files import write_json, write_whole

Status = Literal["done", "diverged", "failed", "running", "stopped", "pending"]

# How the process of a run ends, for every engine; also docs/launching.md. Killed by a signal, it has no code
# of its own: the machine was taken away, and the run is started again like after 42.
EXIT_DONE = 0  # done, or diverged: never to be started again
EXIT_RESTART = 42  # start me again: it was asked to stop and has saved, or it hung and has not
# Any other code: not to be started again before somebody has mended something (2: the input; 1: the rest).

FLUSH_SECONDS = 1.0  # those who watch a run see its rows no later than this


class RunBusy(RunError):
    """Another live process holds this run."""


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    def of_process(self, index: int) -> RunFolder:
        """What process `index` > 0 of a run of several keeps: its log and its outcome."""
        return RunFolder(self.path / "processes" / str(index))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def create(self, config: RunConfig, placement: Placement) -> None:
        """Start an attempt: what it is and how it is run; the failure of an earlier attempt is forgotten."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "summary.json").unlink(missing_ok=True)
        write_whole(self.path / "config.json", dump_run_config(config))
        write_json(self.path / "placement.json", to_dict(placement))

    def config(self) -> RunConfig:
        path = self.path / "config.json"
        try:
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            raise UserError(f"{self.path} has no config.json; it is not a run folder.") from None
        return load_run_config(text, str(path))

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the run for this process; the operating system lets go when the process dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as handle:
            for attempt in range(5):  # a reader asking `is_live` holds the lock for microseconds
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == 4:
                        raise RunBusy(f"run {self.run_id} is held by another process") from None
                    time.sleep(0.02)
            yield

    def is_live(self) -> bool:
        """Whether a process holds the run. A shared lock: readers must not take each other for a holder."""
        try:
            handle = (self.path / ".lock").open()
        except FileNotFoundError:
            return False
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def finished(self) -> bool:
        """Whether the run ended for good: the marker, and beside it a whole summary."""
        return (self.path / "DONE").exists() and self.summary().get("status") in ("done", "diverged")

    def status(self) -> Status:
        """done / diverged: ended for good. failed / stopped: resumable. running: held by a live process."""
        if self.finished():
            return self.summary()["status"]
        if self.is_live():
            return "running"
        if self.summary().get("status") == "failed":
            return "failed"
        return "stopped" if self.metrics_path.exists() else "pending"

    def summary(self) -> dict[str, Any]:
        """The outcome; empty where there is none that can be read."""
        try:
            summary = json.loads((self.path / "summary.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return summary if isinstance(summary, dict) else {}

    def finish(self, status: Literal["done", "diverged"], summary: dict[str, Any]) -> None:
        """Write the outcome, then the marker: DONE exists only beside a whole summary."""
        write_json(self.path / "summary.json", {"status": status, **summary})
        write_whole(self.path / "DONE", status + "\n")

    def fail(self, error: str) -> None:
        write_json(self.path / "summary.json", {"status": "failed", "error": error})

    def metrics(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Rows in step order, last row of a step winning, and notes on what was dropped."""
        try:
            text = self.metrics_path.read_text(errors="replace")
        except FileNotFoundError:
            return [], []
        rows: dict[int, dict[str, Any]] = {}
        notes = []
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows[int(row["step"])] = row
            except (ValueError, KeyError, TypeError, OverflowError):
                where = "cut off mid-line" if number == len(lines) else "unreadable"
                notes.append(f"{self.metrics_path}: line {number} is {where}; dropped")
        return [rows[step] for step in sorted(rows)], notes

    def cut_metrics(self, last_step: int) -> None:
        """Drop rows after `last_step`, so that a resumed run appends with no step doubled."""
        if not self.metrics_path.exists():
            return
        self.write_metrics([row for row in self.metrics()[0] if row["step"] <= last_step])

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """The log anew: what is kept of its own, or taken over from the run that it starts from."""
        write_whole(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))


class MetricsLog:
    """Appends rows to metrics.jsonl; buffered, so that a kill may cut the last line off."""

    def __init__(self, folder: RunFolder) -> None:
        self._file = folder.metrics_path.open("a")
        self._flushed = time.monotonic()

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def flush(self) -> None:
        """To disk, before a checkpoint that relies on these rows is called complete."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def run_folders(root: str | Path) -> list[RunFolder]:
    """Every run folder directly under `root`, by name."""
    return [RunFolder(p.parent) for p in sorted(Path(root).glob("*/config.json"))]
