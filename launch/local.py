"""The local engine: a pool of warm worker processes on this machine.

Each worker (`launch/worker.py`) imports JAX once and trains one run after another; a fresh process
follows a crash. On a CPU there is a worker per core with one XLA thread each, because a resume is
bitwise only there; on a machine with accelerators there is a worker per accelerator (`launch/devices.py`).

Jobs start in the order of `launch.jobs.start_order`: one of each shape, then the longest first. A run whose
process died, hung or was terminated goes on after a pause (`launch/retries.py`); a run that raised an error
does not.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import selectors
import shlex
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from launch.devices import slots
from launch.drive import OnEvent, Outcome, drive
from launch.executor import ENDINGS, Event, EventKind, Job
from launch.jobs import make_job, start_order, store_sweep, sweep_jobs
from launch.packing import Packing, plan_packing
from launch.process import Worker
from launch.retries import RETRY_MINUTES, Health, Retries
from launch.view import watch
from scaling.config import Placement, RunConfig
from scaling.device_lock import clear_stale_locks
from scaling.packing import pack_key
from scaling.runs import EXIT_RESTART, RunBusy
from sweeps.sweep import Sweep

# A worker says every 2 s that it lives (`launch/worker.py`); one that does not for so long is stopped, or
# stuck where its own watchdog cannot run, and is killed.
SILENT_SECONDS = 60.0


class LocalPool:
    """Executor: `workers` warm processes on this machine (None: one for each core or accelerator).

    `per_device`: that many on each GPU. `packing`: which queued runs of one shape are trained in one program
    (`launch/packing.py`). `retry_minutes`: how long a run that crashes is tried again without a new
    checkpoint.
    """

    def __init__(
        self,
        placement: Placement,
        logs: Path,
        workers: int | None = None,
        *,
        per_device: int | None = None,
        packing: Packing | None = None,
        retry_minutes: float = RETRY_MINUTES,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._slots = slots(placement, workers, per_device)
        self._logs, self._silent_seconds = logs, silent_seconds
        self._packing = packing or Packing()
        self._queue: list[Job] = []
        self._workers: dict[int, Worker] = {}  # by the number of their slot
        self._selector = selectors.DefaultSelector()
        self._events: list[Event] = []
        self._retries = Retries(retry_minutes)
        self._health = Health([slot.device for slot in self._slots])
        self._stopping: set[str] = set()
        self._alone: set[str] = set()  # their pack failed
        self._polled = time.monotonic()
        if any(slot.device.startswith("tpu") for slot in self._slots):
            for remark in clear_stale_locks():
                print(f"note: {remark}", file=sys.stderr)

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def left_out(self) -> list[str]:
        """Devices that failed again and again, and get no runs any more."""
        return list(self._health.left_out)

    def render(self, job: Job) -> str:
        return shlex.join(job.argv)

    def submit(self, job: Job) -> None:
        self._stopping.discard(job.run_id)
        self._retries.forget(job.run_id)
        self._enqueue(job)

    def poll(self, timeout: float) -> list[Event]:
        self._dispatch()
        if not self._events:
            if not self._workers:
                time.sleep(timeout)
            for key, _ in self._selector.select(timeout if self._workers else 0):
                self._hear(key.data)
        self._kill_the_silent()
        events, self._events = self._events, []
        return events

    def cancel(self, run_ids: Iterable[str]) -> None:
        unwanted = set(run_ids)
        self._stopping |= unwanted
        self._events += [Event(job.run_id, "stopped") for job in self._queue if job.run_id in unwanted]
        self._queue = [job for job in self._queue if job.run_id not in unwanted]
        for worker in self._workers.values():
            for run_id in unwanted & worker.jobs.keys():
                worker.stop(run_id)

    def close(self) -> None:
        for worker in list(self._workers.values()):
            self._remove(worker, kill=bool(worker.jobs))
        self._selector.close()

    def _enqueue(self, job: Job) -> None:
        bisect.insort(self._queue, job, key=start_order)

    def _dispatch(self) -> None:
        """Give queued jobs to idle workers, starting processes only as they are needed."""
        idle = [n for n in range(self.size) if n not in self._workers or not self._workers[n].jobs]
        for choosy in (True, False):  # a run goes where it has not just crashed, if that is free
            for number in list(idle):
                if not self._health.usable(number):
                    continue
                ready = [job for job in self._queue if self._retries.ready(job.run_id)]
                if choosy:
                    ready = [job for job in ready if self._health.suits(number, job.run_id)]
                if ready:
                    idle.remove(number)
                    self._start(number, self._together(ready))
        for number in idle:
            if number in self._workers and not (self._queue and self._health.usable(number)):
                self._remove(self._workers[number])  # nothing is left for it: give the memory back

    def _together(self, ready: list[Job]) -> list[Job]:
        """The first job, and those that can be trained with it in one program."""
        head = ready[0]
        members = self._packing.of(head.config)
        if members == 1 or head.run_id in self._alone:
            return [head]
        like = (job for job in ready[1:] if job.run_id not in self._alone and _alike(job, head))
        return [head, *itertools.islice(like, members - 1)]

    def _start(self, number: int, jobs: list[Job]) -> None:
        worker = self._workers.get(number)
        if worker is None:
            worker = Worker(number, self._slots[number], self._logs / f"worker-{number}.log")
            self._workers[number] = worker
            self._selector.register(worker.pipe, selectors.EVENT_READ, worker)
        chosen = {job.run_id for job in jobs}
        self._queue = [job for job in self._queue if job.run_id not in chosen]
        worker.train(jobs, {job.run_id: _last_checkpoint(job) for job in jobs})

    def _remove(self, worker: Worker, kill: bool = False) -> int:
        self._selector.unregister(worker.pipe)
        del self._workers[worker.number]
        return worker.end(kill)

    def _hear(self, worker: Worker) -> None:
        messages = worker.read()
        if messages is None:
            self._gone(worker)
            return
        for message in messages:
            if message["event"] != "alive":
                self._take(worker, message)
        if any(message["leaving"] for message in messages):
            self._remove(worker)  # the next run gets a fresh process

    def _take(self, worker: Worker, message: dict[str, Any]) -> None:
        event = Event(message["run"], cast(EventKind, message["event"]), message["data"])
        if event.kind not in ENDINGS:
            self._events.append(event)
            return
        job = worker.jobs.pop(event.run_id)
        if event.kind == "failed":
            event.data.setdefault("where", str(worker.log))
            if worker.packed:  # its memory, or a shape that does not pack: the run's own turn will tell
                self._alone.add(job.run_id)
                self._again(worker, job, f"the pack failed ({event.data['error']}); alone from here")
                return
        elif event.kind == "stopped" and job.run_id not in self._stopping:
            # Somebody sent SIGTERM to this process alone, or stopped another run of its pack.
            self._again(worker, job, "the worker was terminated")
            return
        elif event.kind in ("done", "diverged"):
            self._health.worked(worker.number)
        self._events.append(event)

    def _gone(self, worker: Worker) -> None:
        """The process ended: by itself after a failure, or under its runs, which are then tried again."""
        code = self._remove(worker)
        if worker.silent:
            how = f"killed after {self._silent_seconds:.0f} s without a sign of life"
        elif code == EXIT_RESTART:
            how = f"hung, and ended itself with exit code {code}"
        else:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        for job in list(worker.jobs.values()):
            self._again(worker, job, f"the worker process died ({how})", crashed=True)

    def _again(self, worker: Worker, job: Job, error: str, crashed: bool = False) -> None:
        """Let a run go on after a pause, or give it up once it has had its time without getting further."""
        run_id, checkpoint = job.run_id, _last_checkpoint(job)
        if run_id in self._stopping:
            self._events.append(Event(run_id, "stopped"))
            return
        if checkpoint > worker.checkpoints.get(run_id, 0):
            self._health.worked(worker.number)
        if crashed and (remark := self._health.crashed(worker.number, run_id)):
            error = f"{error}; {remark}"
        where = {"where": str(worker.log)}
        if self._retries.crashed(run_id, checkpoint) is None:
            self._give_up(job, f"{error}, {self._retries.trouble(run_id)}", where)
            return
        self._enqueue(job)
        self._events.append(Event(run_id, "crashed", {"error": error} | where))

    def _give_up(self, job: Job, error: str, where: dict[str, str]) -> None:
        # Held again already, or a full disk: the event says it too.
        with contextlib.suppress(RunBusy, OSError), job.folder.claim():
            job.folder.fail(error)
        self._events.append(Event(job.run_id, "failed", {"error": error} | where))

    def _kill_the_silent(self) -> None:
        now = time.monotonic()
        paused = now - self._polled  # this launcher itself may have been stopped: they could not be heard
        self._polled = now
        for worker in self._workers.values():
            if paused > self._silent_seconds / 2:
                worker.heard = now
            elif worker.jobs and now - worker.heard > self._silent_seconds:
                worker.silent = True
                worker.kill()


def _alike(job: Job, other: Job) -> bool:
    """Whether two jobs can be trained in one program, and stand at the same step."""
    return (
        pack_key(job.config) == pack_key(other.config)
        and job.placement == other.placement
        and (job.priority, job.trunk, job.first_step) == (other.priority, other.trunk, other.first_step)
        and _last_checkpoint(job) == _last_checkpoint(other)
    )


def _last_checkpoint(job: Job) -> int:
    """Step of the newest checkpoint on disk; 0 without one."""
    try:
        names = [path.name for path in job.folder.checkpoints.iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def run_sweep(
    sweep: Sweep,
    root: str | Path = "runs",
    *,
    workers: int | None = None,
    placement: Placement | None = None,
    on_event: OnEvent | None = None,
    pack: str = "off",
    **pool_options: Any,
) -> Outcome:
    """Train every unfinished run of `sweep` in `root/<name>/`, and store the sweep there.

    `workers` is the number of processes (None: one for each core or accelerator). `on_event` gets
    every event; None shows a live table on a terminal and plain lines elsewhere, on stderr. `pack`:
    `auto`, `off` or a number of runs of one shape to train in one program (`launch/packing.py`). Further
    options are `LocalPool`'s: `per_device`, `retry_minutes`.
    Raises UserError when the named device is not here, or for another word than those of `pack`.
    """
    folder, placement = Path(root) / sweep.name, placement or Placement()
    jobs = sweep_jobs(sweep, folder, placement)
    room = slots(placement, workers, pool_options.get("per_device"))
    left = [job for job in jobs if not job.folder.finished()] if pack != "off" else []
    packing = plan_packing(left, pack, room[0])
    if pack != "off" and left:
        print(f"note: {packing.reason}", file=sys.stderr)
    pool = LocalPool(placement, folder / "logs", workers, packing=packing, **pool_options)
    store_sweep(sweep, folder)
    return _run(pool, jobs, on_event)


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
