"""What one job of a cluster trains, as it travels to the node: a line of `tasks.jsonl` for each job.

A job of one run starts `scaling train`; one of several packs them on its allocation with the local pool:

    python -m launch.tasks SUBMISSION_FOLDER N [WORKERS]

Ends 0 when every run is done or diverged, 42 when it was terminated and all is saved, 1 when a run failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.claims import is_holder
from launch.executor import Job
from scaling.config import Placement, from_dict, to_dict
from scaling.files import write_whole
from scaling.runs import RunFolder


@dataclass(frozen=True)
class TaskRun:
    """A run of a task. `folder` is absolute; `argv` trains it in a process of its own."""

    run_id: str
    label: str
    folder: str
    argv: tuple[str, ...]
    placement: dict[str, Any]
    trunk: str | None  # folder
    first_step: int

    @staticmethod
    def of(job: Job) -> TaskRun:
        return TaskRun(
            job.run_id,
            job.label,
            str(job.folder.path),
            job.argv,
            to_dict(job.placement),
            str(job.trunk.path) if job.trunk else None,
            job.first_step,
        )

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(Path(self.folder))

    def job(self) -> Job:
        folder = self.run_folder
        return Job(
            config=folder.config(),
            placement=from_dict(Placement, self.placement),
            folder=folder,
            label=self.label,
            argv=self.argv,
            trunk=RunFolder(Path(self.trunk)) if self.trunk else None,
            first_step=self.first_step,
        )


@dataclass(frozen=True)
class Task:
    runs: tuple[TaskRun, ...]

    @staticmethod
    def of(jobs: Iterable[Job]) -> Task:
        return Task(tuple(TaskRun.of(job) for job in jobs))


def write_tasks(submission: Path, tasks: list[Task]) -> None:
    """One line a task, in order."""
    lines = [json.dumps([vars(run) for run in task.runs]) for task in tasks]
    write_whole(submission / "tasks.jsonl", "".join(line + "\n" for line in lines))


def read_tasks(submission: Path) -> list[Task]:
    return [_task(line) for line in _lines(submission)]


def read_task(submission: Path, number: int) -> Task:
    return _task(_lines(submission)[number])


def left(submission: Path, number: int) -> Task:
    """A task without runs that ended, and without those that a later submission has claimed."""
    folder = submission.parent.parent
    runs = (run for run in read_task(submission, number).runs if not run.run_folder.finished())
    return Task(tuple(run for run in runs if is_holder(folder, run.run_id, submission.name)))


def task_of(submission: Path, run_id: str) -> int | None:
    """Which task of a submission trains a run; None when none does."""
    mark = f'"run_id": "{run_id}"'
    return next((number for number, line in enumerate(_lines(submission)) if mark in line), None)


def _lines(submission: Path) -> list[str]:
    return (submission / "tasks.jsonl").read_text().splitlines()


def _task(line: str) -> Task:
    return Task(tuple(TaskRun(**{**values, "argv": tuple(values["argv"])}) for values in json.loads(line)))


def main(arguments: list[str]) -> int:
    """Train the runs of one task side by side, on this allocation."""
    from launch.drive import drive
    from launch.local import LocalPool

    submission, number = Path(arguments[0]), int(arguments[1])
    workers = int(arguments[2]) if len(arguments) > 2 else None
    jobs = [run.job() for run in left(submission, number).runs]
    if not jobs:
        return 0
    pool = LocalPool(jobs[0].placement, submission / f"task-{number}", workers)

    def say(event: Any) -> None:
        if event.kind != "progress":
            print(f"{event.run_id} {event.kind} {event.data.get('error', '')}".rstrip(), flush=True)

    return drive(pool, jobs, say, submission.name).exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
