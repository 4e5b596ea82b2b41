"""What every engine does with a run: render -> submit -> poll -> cancel. One small file per engine.

There are two kinds. An `Executor` trains while its launcher lives and tells it of every event: the local
pool. A `Cluster` takes jobs and keeps them when the launcher is gone: Slurm, GKE. Neither decides anything
about a sweep: what is finished, what is live elsewhere, what it costs and who may submit it is the same for
every engine (`launch/selection.py`, `launch/drive.py`); what a run has reached is in its run folder, which is
the truth whatever an engine says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
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
    priority: int = 0  # higher first; among equals `compiles`, then the largest `flops` first
    compiles: bool = False  # the first of its shape: the others find its program in the cache
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
    """An engine whose launcher stays. After `submit`, each job ends in one event, its kind in `ENDINGS`."""

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


@dataclass(frozen=True)
class Submission:
    """Runs handed to a cluster in one go, the most urgent first.

    Its folder, `<sweep folder>/submissions/<id>/`, is there before `submit` is called (`launch/claims.py`)
    and is the engine's to keep what it needs in: scripts, maps from its own job names to runs.
    """

    id: str  # letters, digits and "-": fit for an engine's label or comment
    folder: Path  # of the sweep, absolute
    jobs: tuple[Job, ...]  # `argv` and the paths in it absolute; of another machine where the profile says so
    after: dict[str, str] = field(default_factory=dict)  # run_id -> handle of its trunk's job, live elsewhere

    @property
    def sweep(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        return self.folder / "submissions" / self.id


@dataclass(frozen=True)
class Live:
    """A run in an engine's own list: it waits there or trains there."""

    state: Literal["queued", "running"]
    handle: str  # what the engine calls the job: 123_4, a JobSet's name
    submission: str = ""  # id of the Submission that it came by
    where: str = ""  # nodes or pods, once it runs
    remark: str = ""  # the engine's reason for its waiting


class Cluster(Protocol):
    """An engine that keeps jobs by itself. Made by `launch.engines` from a profile and a sweep's folder.

    A job ends 0 when its run is done or diverged, 42 when it is saved and wants to be started again
    (`scaling.runs.EXIT_RESTART`); 128 and above, a signal, is started again as well; anything else is
    permanent. The engine's part is to start it again by these rules, with pauses, and for no longer than the
    profile's `retry_minutes` without a new checkpoint.
    """

    chains: bool  # whether `submit` holds a job back until its trunk has trained (`Job.trunk`)

    def check(self) -> None:
        """Raises UserError, one sentence, where the engine's program or credential is missing here."""
        ...

    def render(self, submission: Submission) -> str:
        """Exactly what `submit` hands over, as text. Needs nothing installed and writes nothing."""
        ...

    def submit(self, submission: Submission) -> None:
        """Hand all of it over. Raises UserError with what the engine said; then nothing of it is queued."""
        ...

    def poll(self) -> dict[str, Live]:
        """Runs of this sweep that the engine queues or trains now, by run_id, asked of the engine itself."""
        ...

    def cancel(self, live: dict[str, Live]) -> None:
        """Let these save and end, and not come back; returns once the engine has been told."""
        ...

    def log(self, run_id: str, lines: int) -> str:
        """The last lines of what a run's job printed; empty where there is nothing."""
        ...
