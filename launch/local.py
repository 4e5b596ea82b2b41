"""The local engine: a pool of warm worker processes on this machine.

Each worker (`launch/worker.py`) imports JAX once and trains one run after another; a fresh process
follows a crash. On a CPU there is a worker per core with one XLA thread each, because a resume is
bitwise only there; on a machine with accelerators there is a worker per accelerator.

Jobs start in the order of `launch.jobs.start_order`: the longest first.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from launch.devices import worker_environments
from launch.drive import OnEvent, Outcome, drive
from launch.executor import ENDINGS, Event, EventKind, Job
from launch.jobs import make_job, start_order, store_sweep, sweep_jobs
from launch.view import watch
from scaling.config import Placement, RunConfig, to_dict
from scaling.runs import RunBusy
from sweeps.sweep import Sweep

LEAVE_SECONDS = 20.0


class Worker:
    """One worker process, seen from the launcher."""

    def __init__(self, slot: int, environment: dict[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.slot, self.log = slot, log
        self.job: Job | None = None
        self._unread = b""
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is the launcher's to pass on
            )

    @property
    def pipe(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it died; its closed pipe is the next thing that is read
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[dict[str, Any]] | None:
        """Whole lines that have arrived; None once the process is gone."""
        chunk = os.read(self.pipe, 1 << 16)
        if not chunk:
            return None
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self, kill: bool = False) -> int:
        """Close its input, on which a worker with no run in hand leaves, and wait for it.

        One that cannot finish leaving is killed: it has nothing left to save.
        """
        if kill:
            self.process.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            code = self.process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code


class LocalPool:
    """Executor: `workers` warm processes on this machine (None: one for each core or accelerator)."""

    def __init__(self, placement: Placement, logs: Path, workers: int | None = None) -> None:
        self._environments = worker_environments(placement, workers)
        self._logs = logs
        self._queue: list[Job] = []
        self._workers: dict[int, Worker] = {}  # by slot
        self._selector = selectors.DefaultSelector()
        self._events: list[Event] = []
        self._crashes: dict[str, int] = {}  # run -> the checkpoint it crashed after
        self._stopping: set[str] = set()

    @property
    def size(self) -> int:
        return len(self._environments)

    def render(self, job: Job) -> str:
        return shlex.join(job.argv)

    def submit(self, job: Job) -> None:
        self._stopping.discard(job.run_id)
        self._queue.append(job)
        self._queue.sort(key=start_order)

    def poll(self, timeout: float) -> list[Event]:
        self._dispatch()
        if not self._events:
            if not self._workers:
                time.sleep(timeout)
            for key, _ in self._selector.select(timeout if self._workers else 0):
                self._hear(key.data)
        events, self._events = self._events, []
        return events

    def cancel(self, run_ids: Iterable[str]) -> None:
        unwanted = set(run_ids)
        self._stopping |= unwanted
        self._events += [Event(job.run_id, "stopped") for job in self._queue if job.run_id in unwanted]
        self._queue = [job for job in self._queue if job.run_id not in unwanted]
        for worker in self._workers.values():
            if worker.job and worker.job.run_id in unwanted:
                worker.send({"op": "stop", "run": worker.job.run_id})

    def close(self) -> None:
        for worker in list(self._workers.values()):
            self._remove(worker, kill=worker.job is not None)
        self._selector.close()

    def _dispatch(self) -> None:
        """Give queued jobs to idle workers, starting processes only as they are needed."""
        for slot in range(self.size):
            worker = self._workers.get(slot)
            if worker and worker.job:
                continue
            if not self._queue:
                if worker:
                    self._remove(worker)  # nothing is left for it: give the memory back
                continue
            job = self._queue.pop(0)
            worker = worker or self._start(slot)
            worker.job = job
            worker.send(
                {
                    "op": "train",
                    "run": job.run_id,
                    "folder": str(job.folder.path),
                    "config": to_dict(job.config),
                    "placement": to_dict(job.placement),
                }
            )

    def _start(self, slot: int) -> Worker:
        worker = Worker(slot, self._environments[slot], self._logs / f"worker-{slot}.log")
        self._workers[slot] = worker
        self._selector.register(worker.pipe, selectors.EVENT_READ, worker)
        return worker

    def _remove(self, worker: Worker, kill: bool = False) -> int:
        self._selector.unregister(worker.pipe)
        del self._workers[worker.slot]
        return worker.end(kill)

    def _hear(self, worker: Worker) -> None:
        messages = worker.read()
        if messages is None:
            self._gone(worker)
            return
        for message in messages:
            event = Event(message["run"], cast(EventKind, message["event"]), message["data"])
            job = worker.job
            if event.kind in ENDINGS:
                worker.job = None
            if event.kind == "failed":
                event.data.setdefault("where", str(worker.log))
            if message["leaving"]:
                self._remove(worker)  # the next run gets a fresh process
            if event.kind == "stopped" and job and job.run_id not in self._stopping:
                # Somebody sent SIGTERM to this process alone: its run is saved and goes on in another.
                self._queue.insert(0, job)
                event = Event(job.run_id, "crashed", {"error": "the worker was terminated"})
            self._events.append(event)

    def _gone(self, worker: Worker) -> None:
        """The process ended: by itself after a failure, or under a run, which is then tried once more."""
        code = self._remove(worker)
        job = worker.job
        if job is None:
            return
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        error = f"the worker process died ({how})"
        checkpoint = _last_checkpoint(job)
        if job.run_id in self._stopping:
            self._events.append(Event(job.run_id, "stopped"))
        elif self._crashes.get(job.run_id) == checkpoint:  # twice without getting any further
            self._give_up(job, f"{error}, twice after step {checkpoint}", worker.log)
        else:
            self._crashes[job.run_id] = checkpoint
            self._events.append(Event(job.run_id, "crashed", {"error": error, "where": str(worker.log)}))
            self._queue.insert(0, job)

    def _give_up(self, job: Job, error: str, log: Path) -> None:
        # Held again already, or a full disk: the event says it too.
        with contextlib.suppress(RunBusy, OSError), job.folder.claim():
            job.folder.fail(error)
        self._events.append(Event(job.run_id, "failed", {"error": error, "where": str(log)}))


def _last_checkpoint(job: Job) -> int:
    """Step of the newest checkpoint on disk; 0 without one."""
    try:
        names = [path.name for path in job.folder.checkpoints.iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def run_sweep(
    sweep: Sweep,
    root: str | Path = "runs",
    *,
    workers: int | None = None,
    placement: Placement | None = None,
    on_event: OnEvent | None = None,
) -> Outcome:
    """Train every unfinished run of `sweep` in `root/<name>/`, and store the sweep there.

    `workers` is the number of processes (None: one for each core or accelerator). `on_event` gets
    every event; None shows a live table on a terminal and plain lines elsewhere, on stderr.
    Raises UserError when the named device is not here.
    """
    folder = Path(root) / sweep.name
    pool = LocalPool(placement or Placement(), folder / "logs", workers)
    store_sweep(sweep, folder)
    return _run(pool, sweep_jobs(sweep, folder, placement or Placement()), on_event)


def run_configs(
    configs: Iterable[RunConfig],
    folder: str | Path,
    *,
    workers: int | None = None,
    placement: Placement | None = None,
    on_event: OnEvent | None = None,
) -> Outcome:
    """Train runs that belong to no sweep, such as the target of a forecast, in `folder/<run_id>/`."""
    pool = LocalPool(placement or Placement(), Path(folder) / "logs", workers)
    jobs = [make_job(config, Path(folder), placement or Placement()) for config in configs]
    return _run(pool, jobs, on_event)


def _run(pool: LocalPool, jobs: list[Job], on_event: OnEvent | None) -> Outcome:
    if on_event is not None:
        return drive(pool, jobs, on_event)
    with watch(jobs, pool.size) as show:
        return drive(pool, jobs, show)
