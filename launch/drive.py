"""Drives a set of jobs to their end on any executor.

Finished runs are left out by name. A run held by another live process (another launcher, or a
worker that outlived its launcher and is still saving) or by a cluster that it was submitted to is waited
for: when it finishes it counts as finished, when it is let go unfinished it is run here. So launching twice
does nothing twice, and the second launch still ends with every run accounted for.

A run that starts from a checkpoint of another, its trunk, is held until that is there. When the trunk failed
first it is reported as failed and not started; when the trunk ended without that checkpoint (an earlier
launch did not ask for it) it trains from its beginning; when the trunk diverged in steps that both share,
training finds that out by itself and ends the run `diverged` without a step.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.executor import Event, Executor, Job
from launch.selection import live
from scaling.runs import EXIT_RESTART, Status

OnEvent = Callable[[Event], None]
POLL_SECONDS = 0.25
EXIT_INTERRUPTED = 130  # by Ctrl-C, as shells count it
CANCELLED = "cancelled"  # in a sweep's folder: a mark for each run that is to be let be (`launch/control.py`)


@dataclass
class Outcome:
    """What became of every run, by run_id, and what it took.

    `cpu_seconds` is user plus system time of the worker processes; compare with `wall_seconds`.
    """

    done: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)  # run -> error, where
    skipped: list[str] = field(default_factory=list)  # finished earlier, or by another launcher
    stopped: list[str] = field(default_factory=list)  # unfinished, resumable
    interrupted: str | None = None  # the signal that ended the launch early
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 all finished · 1 some failed · 130 after Ctrl-C · 42 after SIGTERM ("start me again")."""
        if self.interrupted:
            return EXIT_INTERRUPTED if self.interrupted == "SIGINT" else EXIT_RESTART
        return 1 if self.failed else 0

    def take(self, event: Event) -> None:
        """Note an ending."""
        match event.kind:
            case "done":
                self.done.append(event.run_id)
            case "diverged":
                self.diverged.append(event.run_id)
            case "finished":
                self.skipped.append(event.run_id)
            case "stopped":
                self.stopped.append(event.run_id)
            case "failed":
                self.failed[event.run_id] = {k: str(v) for k, v in event.data.items()}

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "exit_code": self.exit_code}


def drive(executor: Executor, jobs: list[Job], on_event: OnEvent, submission: str = "") -> Outcome:
    """Run every job that is not finished; returns when each has ended or a signal asked to stop.

    The first SIGINT, SIGTERM or SIGHUP asks every run to save and stop; the second kills them. `submission`:
    that which this very process trains for, on a cluster.
    """
    started, cpu_before = time.monotonic(), _children_cpu_seconds()
    outcome = Outcome()
    with _signals() as signals:
        try:
            _loop(executor, {job.run_id: job for job in jobs}, on_event, outcome, signals, submission)
        finally:
            executor.close()
    outcome.interrupted = signals[0] if signals else None
    outcome.wall_seconds = time.monotonic() - started
    outcome.cpu_seconds = _children_cpu_seconds() - cpu_before
    return outcome


def _loop(
    executor: Executor,
    jobs: dict[str, Job],
    on_event: OnEvent,
    outcome: Outcome,
    signals: list[str],
    submission: str,
) -> None:
    submitted: set[str] = set()
    held = dict(jobs)  # to be looked at: finished, live elsewhere, or ours to run
    folders = {job.folder.path.parent / CANCELLED for job in jobs.values()}
    _marked(folders, jobs)  # before this launch: not meant for it
    waiting: set[str] = set()
    cancelled = False

    def tell(event: Event) -> None:
        outcome.take(event)
        on_event(event)

    while held or submitted:
        if signals and not cancelled:
            cancelled = True
            outcome.stopped += held
            held = {}
            for run_id in sorted(submitted):
                tell(Event(run_id, "stopping"))
            executor.cancel(submitted)
        for run_id in _marked(folders, jobs):
            if held.pop(run_id, None):
                tell(Event(run_id, "stopped"))
            elif run_id in submitted:
                tell(Event(run_id, "stopping"))
                executor.cancel([run_id])
        if len(signals) > 1:
            outcome.stopped += sorted(submitted)
            return
        for run_id, job in list(held.items()):
            status = job.folder.status()
            ended = status in ("done", "diverged")
            awaited = None if ended else _on_cluster(job, submission) or _awaited(job, status)
            if awaited and job.trunk and job.trunk.run_id in outcome.failed and status != "running":
                del held[run_id]
                tell(Event(run_id, "failed", _orphaned(job)))
                continue
            if awaited:
                if run_id not in waiting:
                    waiting.add(run_id)
                    tell(Event(run_id, "waiting", {"remark": awaited, "routine": status != "running"}))
                continue
            del held[run_id]
            if ended:
                tell(Event(run_id, "finished", job.folder.summary()))
            else:
                if job.trunk and job.trunk.status() == "done" and not _can_start(job):
                    remark = f"run {job.trunk.run_id} kept no checkpoint of step {job.first_step}"
                    tell(Event(run_id, "waiting", {"remark": f"{remark}: it trains from its beginning"}))
                submitted.add(run_id)
                executor.submit(job)
        for event in executor.poll(POLL_SECONDS):
            if event.kind in ("done", "diverged", "finished", "failed", "stopped"):
                submitted.discard(event.run_id)
            elif event.kind == "busy":
                submitted.discard(event.run_id)
                held[event.run_id] = jobs[event.run_id]
            tell(event)


def _marked(folders: set[Path], jobs: dict[str, Job]) -> list[str]:
    """Runs that `scaling cancel` has marked since the last call; the marks are taken away."""
    marked = []
    for folder in folders:
        for mark in list(folder.iterdir()) if folder.is_dir() else []:
            if mark.name in jobs:
                mark.unlink(missing_ok=True)
                marked.append(mark.name)
    return marked


def _on_cluster(job: Job, submission: str) -> str | None:
    """Where else a run waits or trains, as an engine that keeps jobs says."""
    found = live(job.folder.path.parent)[0].get(job.run_id)
    if found is None or found.submission == submission:
        return None
    return f"{found.state} on a cluster as {found.handle or found.remark}, waiting for it"


def _awaited(job: Job, status: Status) -> str | None:
    """Why a job cannot be submitted yet; None when it can."""
    if status == "running":
        return "held by another process, waiting for it"
    if job.trunk is None or _can_start(job) or job.trunk.finished():
        return None
    return f"waits for step {job.first_step} of run {job.trunk.run_id}"


def _can_start(job: Job) -> bool:
    """Whether the checkpoint is there that the job is to start from, or one of its own."""
    assert job.trunk is not None
    if (job.trunk.checkpoints / str(job.first_step)).is_dir():
        return True
    with contextlib.suppress(OSError):
        return any(path.name.isdigit() for path in job.folder.checkpoints.iterdir())
    return False


def _orphaned(job: Job) -> dict[str, Any]:
    assert job.trunk is not None
    return {
        "error": f"its trunk {job.trunk.run_id} failed before step {job.first_step}; mend that and launch "
        "again: the trunk goes first",
        "where": str(job.trunk.path),
    }


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect the names of signals instead of dying of them. In the main thread only, as Python has it."""
    caught: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(number: int, _: object) -> None:
        caught.append(signal.Signals(number).name)

    before = {s: signal.signal(s, catch) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children_cpu_seconds() -> float:
    """User plus system seconds of ended child processes and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
