"""Handing runs to an engine that keeps them: claim, submit, and follow to the end where that is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch import claims
from launch.executor import Job, Live, Submission
from launch.jobs import store_sweep
from launch.selection import Selection, select
from scaling.accounting import run_flops
from scaling.config import dump_run_config, to_dict
from scaling.files import write_whole

if TYPE_CHECKING:
    from launch.prepare import Prepared

FOLLOW_SECONDS = 2.0
WRITERS = 32  # threads that wait for the file system, of which 10,000 configs take a while one by one


def cluster_order(jobs: list[Job]) -> list[Job]:
    """The most urgent first: by priority, then the smallest. A trunk stands before its branches.

    A cluster has room for many at once, so that what the small runs tell is known first.
    """
    ordered = sorted(jobs, key=lambda job: (-job.priority, run_flops(job.config)))
    known = {job.run_id: job for job in jobs}
    placed: dict[str, Job] = {}

    def place(job: Job) -> None:
        if job.trunk and job.trunk.run_id in known:
            place(known[job.trunk.run_id])
        placed.setdefault(job.run_id, job)

    for job in ordered:
        place(job)
    return list(placed.values())


def ready(selection: Selection, chains: bool) -> tuple[list[Job], dict[str, str]]:
    """Jobs that can be submitted now, and why the others cannot.

    A branch needs its trunk's checkpoint, or, on an engine that holds jobs back itself, the trunk in its
    queue or in this submission.
    """
    now: list[Job] = []
    held: dict[str, str] = {}
    going = set[str]()
    for job in cluster_order(selection.todo):
        trunk = job.trunk
        if trunk and not _has_checkpoint(job):
            queued = trunk.run_id in going or bool(
                selection.live.get(trunk.run_id, Live("queued", "")).handle
            )
            if not (chains and queued):
                held[job.run_id] = f"waits for step {job.first_step} of run {trunk.run_id}"
                continue
        going.add(job.run_id)
        now.append(job)
    return now, held


def _has_checkpoint(job: Job) -> bool:
    assert job.trunk is not None
    return job.trunk.finished() or (job.trunk.checkpoints / str(job.first_step)).is_dir()


def dry_submission(folder: Path, jobs: list[Job], selection: Selection) -> Submission:
    """What would be submitted; its id is made at submission."""
    return Submission("dry-run", folder, tuple(jobs), _after(jobs, selection))


def submit(prepared: Prepared, jobs: list[Job], selection: Selection) -> Submission | None:
    """Claim `jobs` and hand those that are ours to the engine; None when others had claimed them all.

    Raises UserError, with nothing submitted, when the engine is not to be reached or refuses.
    """
    prepared.cluster.check()
    folder, profile = prepared.folder, prepared.profile
    store_sweep(prepared.sweep, folder)
    with ThreadPoolExecutor(WRITERS) as pool:  # before the claims, whose lease it would use up
        list(pool.map(_write_config, jobs))
    ids = [job.run_id for job in jobs]
    claimed = claims.Claimed(folder, profile.engine, to_dict(profile), str(prepared.profile_path), ids)
    try:
        mine = _take(claimed, jobs, selection)
        if not mine:
            claimed.failed()
            return None
        claimed.check_lease()
        submission = Submission(claimed.id, folder, tuple(mine), _after(mine, selection))
        prepared.cluster.submit(submission)
    except BaseException:
        claimed.failed()
        raise
    claimed.submitted()
    return submission


def _write_config(job: Job) -> None:
    """What the job's command reads; every launcher writes the same."""
    path = job.folder.path / "config.json"
    if not path.exists():
        write_whole(path, dump_run_config(job.config))


def _take(claimed: claims.Claimed, jobs: list[Job], selection: Selection) -> list[Job]:
    """Claim in order, a branch only with its trunk: one whose trunk another launcher got is left to it."""
    mine: dict[str, Job] = {}
    wanted = {job.run_id for job in jobs}
    for job in jobs:
        lost = job.trunk is not None and job.trunk.run_id in wanted and job.trunk.run_id not in mine
        if not lost and claimed.take({job.run_id: selection.attempts[job.run_id]}):
            mine[job.run_id] = job
    return list(mine.values())


def _after(jobs: list[Job], selection: Selection) -> dict[str, str]:
    return {
        job.run_id: selection.live[job.trunk.run_id].handle
        for job in jobs
        if job.trunk and job.trunk.run_id in selection.live and not _has_checkpoint(job)
    }


@dataclass(frozen=True)
class Followed:
    """How a launch that was followed ended, by run_id; `unfinished` says of each what is known."""

    done: list[str]
    unfinished: dict[str, str]


def follow(prepared: Prepared, sent: set[str], tell: Callable[[str], None]) -> Followed:
    """Wait until no run is live, submitting what becomes ready; a run is submitted once.

    Raises UserError when the engine can no longer be asked. The runs go on whatever becomes of this process.
    """
    said = ""
    while True:
        selection = select(prepared.folder, prepared.jobs)
        running = sum(one.state == "running" for one in selection.live.values())
        queued = len(selection.live) - running
        line = f"{len(selection.done)} done, {running} running, {queued} queued"
        line += f", {len(selection.todo)} not in the queue" if selection.todo else ""
        if line != said:
            tell(line)
            said = line
        new = [job for job in ready(selection, prepared.cluster.chains)[0] if job.run_id not in sent]
        if new:
            made = submit(prepared, new, selection)
            sent |= {job.run_id for job in made.jobs} if made else set()
        elif not selection.live:
            return Followed(selection.done, {job.run_id: _why(job) for job in selection.todo})
        time.sleep(FOLLOW_SECONDS)


def _why(job: Job) -> str:
    status = job.folder.status()
    return str(job.folder.summary().get("error", f"{status}; see `scaling logs`"))
