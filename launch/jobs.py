"""From a sweep to jobs, for any engine; and the sweep as launched, on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from launch.executor import Job
from scaling.accounting import run_flops
from scaling.config import Placement, RunConfig, to_dict
from scaling.errors import UserError
from scaling.runs import RunFolder
from sweeps.sweep import Sweep
from sweeps.trunks import branches, flops_to_train, kept_steps


def make_job(
    config: RunConfig, folder: Path, placement: Placement, label: str = "", priority: int = 0
) -> Job:
    """The job of one run, in `folder/<run_id>/`."""
    run = RunFolder(folder / config.run_id)
    return Job(
        config=config,
        placement=placement,
        folder=run,
        label=label or f"d{config.model.d_model}-L{config.model.n_layers}",
        argv=train_command(run.path / "config.json", folder, placement),
        priority=priority,
        flops=run_flops(config),
    )


def sweep_jobs(sweep: Sweep, folder: Path, placement: Placement) -> list[Job]:
    """A job for each run of the sweep, in the order in which they start (`start_order`).

    A run that begins as a longer one does starts from a checkpoint of it, which the longer one is told to
    keep; `launch/drive.py` holds it until that is there.
    """
    found = branches(sweep.runs)
    kept = kept_steps(found)
    jobs = []
    for config, label in zip(sweep.runs, sweep.labels(), strict=True):
        keeping = tuple(sorted({*placement.keep_steps, *kept.get(config.run_id, ())}))
        job = make_job(config, folder, replace(placement, keep_steps=keeping), label)
        if branch := found.get(config.run_id):
            job = replace(
                job,
                trunk=RunFolder(folder / branch.trunk),
                first_step=branch.step,
                flops=flops_to_train(config, found),
            )
        jobs.append(job)
    return sorted(_compile_once(sorted(jobs, key=start_order)), key=start_order)


def _compile_once(jobs: list[Job]) -> list[Job]:
    """Mark the first unfinished job of each shape: two that began together would compile it twice."""
    seen = set[tuple[Any, ...]]()
    marked = []
    for job in jobs:
        shape = (job.config.model, job.config.batch_size, job.config.seq_len)
        first = shape not in seen and not job.folder.finished()
        marked.append(replace(job, compiles=first))
        if first:
            seen.add(shape)
    return marked


def train_command(config: PurePath, out: PurePath, placement: Placement) -> tuple[str, ...]:
    """The command that trains one run in a process of its own, run as `placement` says."""
    command = ["scaling", "train", str(config), "--out", str(out)]
    default = to_dict(Placement())
    for name, value in to_dict(placement).items():
        if value == default[name]:
            continue
        parts = (
            {f"{name}.{key}": part for key, part in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        for field, part in parts.items():
            command += ["--place", f"{field}={json.dumps(part, separators=(',', ':'))}"]
    return tuple(command)


def start_order(job: Job) -> tuple[float, bool, float]:
    """Sort key: priority, descending; the first job of each shape before the others; FLOPs, descending.

    With few workers, longest first ends soonest (Graham 1969: within 4/3 - 1/(3m) of the best
    makespan on m workers); priority goes before it where small informative runs are worth more, and
    compiling a shape once instead of on every worker is worth more than the order.
    """
    return (-job.priority, not job.compiles, -job.flops)


def store_sweep(sweep: Sweep, folder: Path) -> None:
    """Write `folder/sweep.json`, whole. It says which run folders beside it are the sweep's.

    Raises UserError when the folder cannot be written.
    """
    try:
        sweep.write(folder / "sweep.json")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another with --runs.") from None
