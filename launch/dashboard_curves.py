"""Loss curves for a page, read from logs that are being written: each byte once."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PER_DECADE = 24  # points that a curve has in a decade of tokens; each the mean of the rows between two
MOST_BYTES = 8 << 20  # read of one log at a time: the rest comes with the next question


@dataclass
class Curve:
    """One log. `points`: [tokens, mean loss, seconds] of each 24th of a decade of tokens, in its last row."""

    path: Path
    points: list[list[float]] = field(default_factory=list)
    broken: int | None = None  # tokens at which the loss was first not a number
    version: int = 0
    _inode: int = 0
    _offset: int = 0
    _bin: int | None = None
    _count: int = 0

    def read(self) -> bool:
        """Take in what the log has that is new; whether anything was. A log that was cut is read anew."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                cut = found.st_ino != self._inode or found.st_size < self._offset
                if cut:
                    self._restart(found.st_ino)
                file.seek(self._offset)
                chunk = file.read(MOST_BYTES)
        except OSError:
            changed = bool(self.points)
            self._restart(0)
            return changed
        whole = chunk.rfind(b"\n") + 1  # the last line may still be being written
        self._offset += whole
        for line in chunk[:whole].split(b"\n"):
            self._take(line)
        return bool(whole) or cut

    def _restart(self, inode: int) -> None:
        self.points, self.broken, self._bin, self._count = [], None, None, 0
        self._inode, self._offset = inode, 0

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            tokens, loss = float(row["tokens"]), row["loss"]
            seconds = float(row.get("seconds") or 0.0)
        except (ValueError, KeyError, TypeError, OverflowError):
            return
        if not 0 < tokens < math.inf or not math.isfinite(seconds):
            return
        if not isinstance(loss, int | float) or not 0 < loss < math.inf:
            self.broken = self.broken or int(tokens)
            return
        place = math.floor(PER_DECADE * math.log10(tokens))
        if place == self._bin:
            mean, self._count = self.points[-1][1], self._count + 1
            self.points[-1] = [tokens, mean + (loss - mean) / self._count, seconds]
        else:
            self._bin, self._count = place, 1
            self.points.append([tokens, float(loss), seconds])


class Curves:
    """The curves of a sweep's folder that somebody has asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._version = folder, 0
        self._curves: dict[str, Curve] = {}
        self._lock = threading.Lock()

    def read(self, run_ids: list[str], since: int) -> dict[str, Any]:
        """Curves of these runs that changed after version `since` (-1: all)."""
        with self._lock:
            self._version += 1
            found = {}
            for run_id in run_ids:
                path = self._folder / run_id / "metrics.jsonl"
                curve = self._curves.setdefault(run_id, Curve(path))
                if curve.read():
                    curve.version = self._version
                if curve.points and (since < 0 or curve.version > since):
                    points = [[x, round(y, 5), round(s, 2)] for x, y, s in curve.points]
                    found[run_id] = {"points": points, "broken": curve.broken}
            return {"version": self._version, "curves": found}
