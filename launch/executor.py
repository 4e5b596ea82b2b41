"""What every engine does with a run: render -> submit -> poll -> cancel. One small file per engine.

An executor starts jobs and reports what happened to them; it decides nothing about a sweep. What to
run, what is already finished and what is live elsewhere is `launch/drive.py`'s, the same for every
engine; what a run has reached is in its run folder, which is the truth whatever an engine says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from scaling.config import Placement, RunConfig
from scaling.runs import RunFolder

EventKind = Literal[
    "started",  # training began (or went on from a checkpoint)
    "progress",  # data: step, steps, loss, tokens_per_second, seconds_left
    "done",  # data: the summary
    "diverged",  # data: the summary
    "finished",  # somebody had finished it before this job's turn came; data: the summary
    "failed",  # data: error; resumable by launching again
    "stopped",  # saved and stopped because it was asked to; resumable
    "crashed",  # its process died; data: error; it goes on in a fresh one
    "busy",  # another live process holds the run
    "waiting",  # told by `drive`: held elsewhere, or for its trunk (routine); data: remark, routine
    "stopping",  # told by `drive`: asked to save and stop
]
ENDINGS: frozenset[EventKind] = frozenset({"done", "diverged", "finished", "failed", "stopped", "busy"})


@dataclass(frozen=True)
class Resources:
    """What one run needs of a machine."""

    cores: int = 1
    accelerators: int = 0


@dataclass(frozen=True)
class Job:
    """A run on an engine."""

    config: RunConfig
    placement: Placement
    folder: RunFolder
    label: str  # readable name within its sweep
    argv: tuple[str, ...]  # the same in a process of its own, once the folder holds its config.json
    resources: Resources = Resources()
    priority: int = 0  # higher first; among equals the largest `flops` first
    flops: float = 0.0  # `matmul` convention, of the steps after `first_step`
    trunk: RunFolder | None = None  # whose checkpoint after `first_step` steps it is to start from
    first_step: int = 0

    @property
    def run_id(self) -> str:
        return self.config.run_id


@dataclass(frozen=True)
class Event:
    """Something that happened to a job."""

    run_id: str
    kind: EventKind
    data: dict[str, Any] = field(default_factory=dict)


class Executor(Protocol):
    """An engine. After `submit`, each job ends in exactly one event whose kind is in `ENDINGS`."""

    def render(self, job: Job) -> str:
        """Exactly what would be submitted, as text."""
        ...

    def submit(self, job: Job) -> None: ...

    def poll(self, timeout: float) -> list[Event]:
        """What happened since the last call; waits at most `timeout` seconds for something to happen."""
        ...

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Ask these runs to save and stop; returns at once, `poll` reports each as it ends."""
        ...

    def close(self) -> None:
        """Let go of everything; what still runs is killed, which its run folder survives."""
        ...
