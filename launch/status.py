"""Where every run of a sweep stands, read from its run folders; works while it runs, and without JAX.

What the folders cannot say, that a run waits in a cluster's queue or trains on another machine, comes from
the engine that has it (`launch.selection.live`), asked only where something was submitted.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.index import Ended, Index, Planned, key, plan_of
from launch.status_sums import Sums, sums
from scaling.config import NUMERICS_VERSION
from scaling.runs import RunFolder, run_folders
from sweeps.sweep import Sweep, find_sweep, read_sweep

# As `scaling.runs.Status`, and: queued, an engine has it waiting; stale, of other numerics than this code's.
State = Literal["done", "diverged", "failed", "running", "queued", "stopped", "pending", "stale"]
STATES: tuple[State, ...] = (
    "done", "diverged", "failed", "running", "queued", "stopped", "pending", "stale",
)  # fmt: skip
TAIL_BYTES = 16_384  # of metrics.jsonl: the last rows, for the loss and the rate of a run now
QUIET_SECONDS = 300.0  # without a row, after which a running run has no rate and is said to be quiet
NOT_RUNS = {"logs", "claims", "submissions"}  # folders that launching keeps beside the runs'


@dataclass(frozen=True)
class RunStatus:
    """One run. `loss`: validation loss when ended, else the last training loss; nats/token."""

    run_id: str
    label: str
    status: State
    loss: float | None
    n_total: int
    tokens: int  # seen so far
    tokens_planned: int
    flops: float  # to be trained after `start_tokens`, `matmul` convention
    start_tokens: int  # taken over from the trunk that it branches off; 0: none
    seconds: float | None  # of training so far, those of its trunk among them
    error: str | None
    budget: float | None = None  # FLOPs that its cell was cut for
    tokens_per_second: float | None = None  # now, of a running one
    seconds_left: float | None = None  # of a running one at that rate
    cpu_seconds: float | None = None  # of an ended one
    devices: int = 0
    device: str = ""
    trained: float = 1.0  # share of `tokens` that it trained itself
    logged_at: float | None = None  # Unix time at which the log of a running one last grew
    where: str = ""  # nodes or pods that an engine names
    remark: str = ""  # an engine's reason for its waiting

    @property
    def share(self) -> float:
        """Of the FLOPs that it is to train, by tokens seen; a run that ended counts whole."""
        if self.status in ("done", "diverged"):
            return 1.0
        planned = self.tokens_planned - self.start_tokens
        return min(1.0, max(0, self.tokens - self.start_tokens) / planned) if planned else 0.0


@dataclass(frozen=True)
class SweepStatus:
    name: str
    folder: Path
    runs: list[RunStatus]
    others: int  # run folders beside them that are not of the sweep
    stale: int = 0  # of those, of an older numerics_version
    notes: tuple[str, ...] = ()

    def totals(self) -> dict[str, int]:
        """Runs by status, every status present."""
        totals = dict.fromkeys(map(str, STATES), 0)
        for run in self.runs:
            totals[run.status] += 1
        return totals

    @property
    def fraction(self) -> float:
        """Of the FLOPs that the sweep trains, by tokens seen; a run that ended counts whole."""
        total = sum(run.flops for run in self.runs)
        return sum(run.flops * run.share for run in self.runs) / total if total else 0.0

    def sums(self) -> Sums:
        """Rate now, cost so far, time left."""
        return sums(self.runs, self.folder)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": str(self.folder),
            "totals": self.totals(),
            "fraction": self.fraction,
            **vars(self.sums()),
            "others": self.others,
            "stale": self.stale,
            "notes": list(self.notes),
            "runs": [dict(vars(run)) for run in self.runs],
        }


def sweep_status(name_or_path: str, root: str | Path = "runs") -> SweepStatus:
    """Status of a sweep by its name, its JSON file, or a folder of runs.

    As launched where it was launched, else as it would be. Raises UserError when there is no such sweep.
    """
    return Reader(name_or_path, root).read()


class Reader:
    """Looks at a sweep again and again: a run that ended is read once, and the index in its folder is used.

    Raises UserError when there is no such sweep.
    """

    def __init__(self, name_or_path: str, root: str | Path = "runs") -> None:
        self._sweep: Sweep | None = None
        self.folder = _folder(name_or_path, root)
        if not (self.folder / "sweep.json").is_file() and not (
            self.folder.is_dir() and run_folders(self.folder)
        ):
            self._sweep = find_sweep(name_or_path, root)
            self.folder = Path(root) / self._sweep.name
        self._index = Index(self.folder)
        self._unlaunched: list[Planned] | None = None

    @property
    def name(self) -> str:
        return self._sweep.name if self._sweep else self.folder.resolve().name

    def read(self) -> SweepStatus:
        """Where every run stands now."""
        entries = _entries(self.folder)
        planned, others = self._planned(entries)
        live, notes = _live(self.folder)
        runs = [self._run(one, entries.get(one.run_id), live) for one in planned]
        self._index.save()
        versions = [_version(RunFolder(self.folder / name)) for name in others]
        stale = sum(version is not None and version < NUMERICS_VERSION for version in versions)
        return SweepStatus(self.name, self.folder, runs, len(others), stale, tuple(notes))

    def _planned(self, entries: dict[str, os.DirEntry[str]]) -> tuple[list[Planned], list[str]]:
        """The runs to show, and names of run folders beside them that are not of the sweep."""
        stored = self.folder / "sweep.json"
        if found := key(stored):
            planned = self._index.planned(self.folder) or self._index.plan(
                self.folder, read_sweep(stored), found
            )
        elif self._sweep:
            from launch.index import planned as plan

            self._unlaunched = planned = self._unlaunched or plan(self._sweep)
        else:
            return [plan_of(run.config()) for run in run_folders(self.folder)], []
        mine = {one.run_id for one in planned}
        beside = [name for name in entries if name not in mine and name not in NOT_RUNS]
        return planned, [name for name in beside if (self.folder / name / "config.json").is_file()]

    def _run(self, plan: Planned, entry: os.DirEntry[str] | None, live: dict[str, Any]) -> RunStatus:
        if entry is None:
            return _shown(plan, _unstarted(plan), live.get(plan.run_id))
        try:
            at = entry.stat().st_mtime_ns
        except OSError:  # removed since
            return _shown(plan, _unstarted(plan), live.get(plan.run_id))
        ended = self._index.ended(plan.run_id, at)
        if ended is None:
            values = _look(RunFolder(Path(entry.path)), plan)
            if not isinstance(values, Ended):
                return _shown(plan, values, live.get(plan.run_id))
            ended = values
            self._index.learn(plan.run_id, at, ended)
        return _shown(plan, {**vars(ended), "tokens": plan.tokens})


def _folder(name_or_path: str, root: str | Path) -> Path:
    folder = Path(name_or_path)
    return folder if folder.is_dir() else Path(root) / name_or_path


def _entries(folder: Path) -> dict[str, os.DirEntry[str]]:
    """The folders in a folder by name; their kind comes with the listing."""
    try:
        with os.scandir(folder) as found:
            return {entry.name: entry for entry in found if entry.is_dir()}
    except OSError:
        return {}


def _live(folder: Path) -> tuple[dict[str, Any], list[str]]:
    if not (folder / "claims").is_dir():
        return {}, []
    from launch.selection import live

    return live(folder)


def _shown(plan: Planned, values: dict[str, Any], live: Any = None) -> RunStatus:
    if live is not None and values["status"] in ("pending", "stopped", "failed", "running"):
        state = "running" if "running" in (values["status"], live.state) else "queued"
        values = values | {"status": state, "where": live.where, "remark": live.remark, "error": None}
    return RunStatus(
        run_id=plan.run_id, label=plan.label, n_total=plan.n_total, tokens_planned=plan.tokens,
        flops=plan.flops, start_tokens=plan.start_tokens, budget=plan.budget,
        **{"loss": None, "tokens": 0, "seconds": None, "error": None, **values},
    )  # fmt: skip


def _unstarted(plan: Planned) -> dict[str, Any]:
    return {"status": "pending" if plan.numerics_version == NUMERICS_VERSION else "stale"}


def _look(run: RunFolder, plan: Planned) -> Ended | dict[str, Any]:
    """What a run folder says: of a run that ended everything, of another what changes."""
    summary = run.summary()
    ended = summary.get("status") in ("done", "diverged") and (run.path / "DONE").exists()
    status = str(summary["status"]) if ended else run.status()
    if status in ("done", "diverged"):
        return _ended(run, plan, status, summary if ended else run.summary())
    if plan.numerics_version != NUMERICS_VERSION:
        return {"status": "stale"}
    rows, at = _last_rows(run.metrics_path)
    row = rows[-1] if rows else {}
    values: dict[str, Any] = {
        "status": status,
        "loss": _number(row.get("loss")),
        "tokens": int(row.get("tokens", 0)),
        "seconds": _number(row.get("seconds")),
        "error": str(summary.get("error", "")) or None if status == "failed" else None,
        **_machine(run),
    }
    values["trained"] = max(0.0, 1 - plan.start_tokens / values["tokens"]) if values["tokens"] else 1.0
    if status == "running" and at is not None and row:
        quiet = time.time() - at > QUIET_SECONDS
        values |= {"tokens_per_second": None if quiet else _rate(rows), "logged_at": at}
        if values["tokens_per_second"]:
            values["seconds_left"] = (plan.tokens - values["tokens"]) / values["tokens_per_second"]
    return values


def _ended(run: RunFolder, plan: Planned, status: str, summary: dict[str, Any]) -> Ended:
    stale = _version(run) not in (None, NUMERICS_VERSION) or plan.numerics_version != NUMERICS_VERSION
    steps, trained = summary.get("steps"), summary.get("steps_trained")
    return Ended(
        status="stale" if stale else status,
        loss=_number(summary.get("loss")),
        seconds=_number(summary.get("seconds")),
        cpu_seconds=_number(summary.get("cpu_seconds")),
        **_machine(run),
        trained=min(1.0, trained / steps) if steps and trained is not None else 1.0,
    )


def _version(run: RunFolder) -> int | None:
    from launch.selection import folder_version

    return folder_version(run)


def _machine(run: RunFolder) -> dict[str, Any]:
    """How many devices, and of what kind; 0 where nobody wrote it down."""
    try:
        placement = json.loads((run.path / "placement.json").read_bytes())
        return {"devices": int(placement.get("devices", 0)), "device": str(placement.get("device_kind", ""))}
    except (OSError, ValueError, TypeError, AttributeError):
        return {"devices": 0, "device": ""}


def _number(value: Any) -> float | None:
    """A finite number, or None: of JSON that others may have written."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
        return value
    return None


def _rate(rows: list[dict[str, Any]]) -> float | None:
    """Tokens a second between the first and the last of the last rows."""
    first, last = rows[0], rows[-1]
    took = (_number(last.get("seconds")) or 0.0) - (_number(first.get("seconds")) or 0.0)
    return (last.get("tokens", 0) - first.get("tokens", 0)) / took if took > 0 else None


def _last_rows(metrics: Path) -> tuple[list[dict[str, Any]], float | None]:
    """The last whole rows, from the end of the file: logs are long. And when it was last written."""
    try:
        with metrics.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")
            at = os.fstat(file.fileno()).st_mtime
    except OSError:
        return [], None
    found = []
    for line in lines[1 if start else 0 : -1]:  # the last piece is empty, or a line still being written
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found, at
