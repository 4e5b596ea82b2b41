"""What need not be read twice of a sweep's folder, kept beside its runs in `index.json`.

Two things: what the sweep says of each run, good as long as `sweep.json` has the same size and time, and what
became of each run that ended for good, as long as its folder has the same time: making, removing or replacing
a file in a folder changes that. A look at a sweep of 10,000 runs then lists one folder and reads one file.

The index is never the truth. It may be deleted at any time, is written whole, and is made anew by the next
look where it is missing, damaged or of another version of this code.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.accounting import counts
from scaling.config import NUMERICS_VERSION, RunConfig
from scaling.files import write_whole
from sweeps.sweep import Sweep
from sweeps.trunks import Branch, branches

FILE = "index.json"
LAYOUT = 1  # raised when the lists below change
# A folder whose time is this young may still change within the resolution of its file system's clock.
SETTLED_SECONDS = 3.0


@dataclass(frozen=True)
class Planned:
    """What a sweep says of a run."""

    run_id: str
    label: str
    n_total: int
    tokens: int
    flops: float  # to be trained after `start_tokens`, `matmul` convention
    start_tokens: int  # taken over from the trunk that it branches off; 0: none
    budget: float | None  # FLOPs that its cell was cut for
    numerics_version: int


@dataclass(frozen=True)
class Ended:
    """What became of a run that will not run again. Loss in nats/token, None where it diverged."""

    status: str  # done, diverged, or stale
    loss: float | None
    seconds: float | None  # of training, by the clock
    cpu_seconds: float | None
    devices: int
    device: str
    trained: float  # share of its tokens that it trained itself, the rest taken over from its trunk


class Index:
    """The index of one folder, in memory; `save` writes it where something was learned."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._sweep: list[int] = []  # size and time of the sweep.json that `planned` is of
        self._planned: list[Planned] = []
        self._ended: dict[str, tuple[int, Ended]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            self._load(json.loads(self._path.read_bytes()))

    def planned(self, folder: Path) -> list[Planned] | None:
        """Of the sweep.json there, if it is the one known."""
        return self._planned if self._planned and self._sweep == key(folder / "sweep.json") else None

    def plan(self, folder: Path, sweep: Sweep, of: list[int]) -> list[Planned]:
        """Learn what a sweep says; `of`: key of its sweep.json from before it was read."""
        self._planned, self._sweep, self._changed = planned(sweep), of, True
        return self._planned

    def ended(self, run_id: str, folder_time: int) -> Ended | None:
        """What became of a run whose folder still has this time."""
        known = self._ended.get(run_id)
        return known[1] if known and known[0] == folder_time else None

    def learn(self, run_id: str, folder_time: int, ended: Ended) -> None:
        """`folder_time`, in ns, from before the run was read."""
        if time.time() - folder_time / 1e9 > SETTLED_SECONDS:
            self._ended[run_id] = (folder_time, ended)
            self._changed = True

    def save(self) -> None:
        if not self._changed:
            return
        ended = {run_id: [at, *vars(one).values()] for run_id, (at, one) in self._ended.items()}
        values = {"layout": LAYOUT, "numerics": NUMERICS_VERSION, "sweep": self._sweep}
        values |= {"planned": [list(vars(one).values()) for one in self._planned], "ended": ended}
        with contextlib.suppress(OSError):  # a folder that is only to be read, or a full disk
            write_whole(self._path, json.dumps(values, separators=(",", ":")))
        self._changed = False

    def _load(self, values: Mapping[str, Any]) -> None:
        if (values["layout"], values["numerics"]) != (LAYOUT, NUMERICS_VERSION):
            return
        planned = [Planned(*row) for row in values["planned"]]
        ended = {run_id: (row[0], Ended(*row[1:])) for run_id, row in values["ended"].items()}
        self._sweep, self._planned, self._ended = values["sweep"], planned, ended


def key(path: Path) -> list[int]:
    """Size and time of a file, by which a change of it is seen; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def planned(sweep: Sweep) -> list[Planned]:
    """Every run of a sweep in its order."""
    found = branches(sweep.runs)
    cells = zip(sweep.runs, sweep.labels(), sweep.budgets(), strict=True)
    return [plan_of(run, label, budget, found.get(run.run_id)) for run, label, budget in cells]


def plan_of(
    run: RunConfig, label: str = "", budget: float | None = None, branch: Branch | None = None
) -> Planned:
    """What a config says of its run."""
    start = branch.step if branch else 0
    counted = counts(run.model, run.seq_len)
    return Planned(
        run_id=run.run_id,
        label=label,
        n_total=counted.n["total"],
        tokens=run.tokens,
        flops=counted.flops_per_token["matmul"] * run.tokens * (1 - start / run.steps),
        start_tokens=start * run.batch_size * run.seq_len,
        budget=budget,
        numerics_version=run.numerics_version,
    )
