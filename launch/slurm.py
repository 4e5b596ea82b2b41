"""Slurm: arrays of jobs, each a run, or several packed on one allocation.

The script of an array says what is wanted of Slurm and then becomes `launch.slurm_task`, which starts the
training, passes TERM on and has the job requeued. `tasks.jsonl` in the submission's folder says which runs
the array's tasks are. The job's comment says which submission it is of, so that what `squeue` lists can be
told apart for certain; a task that starts takes the name of its run, for people to read.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from launch.claims import records
from launch.executor import Job, Live, Submission
from launch.profiles import Profile
from launch.tasks import Task, read_tasks, task_of, write_tasks
from scaling.errors import UserError
from scaling.files import write_whole

SECONDS = 60.0  # that a Slurm program may take to answer
T = TypeVar("T")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


@dataclass(frozen=True, kw_only=True)
class SlurmProfile(Profile):
    """What this cluster wants to be told; an empty field is left to the cluster's own default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""  # of one node, as --gres: gpu:8
    time: str = ""  # limit of one job as --time: 04:00:00; what is not done by then is requeued
    mem: str = ""  # of one node, as --mem: 64G
    nodes: int = 1  # that one run is trained on
    processes_per_node: int = 1
    cpus_per_process: int = 1
    chips_per_node: float = 1.0  # that a price counts
    runs_per_job: int = 1  # trained on one allocation by a pool of warm workers
    workers: int = 0  # of that pool, at the same time; 0: one for each core or accelerator it finds
    at_once: int = 0  # jobs of one array that run at the same time; 0: as many as Slurm lets
    max_array: int = 1000  # tasks of one array; below the cluster's MaxArraySize
    term_seconds: int = 120  # before the time limit: save, end with 42, come back
    pause_seconds: float = 10.0  # before a run that died is started again; doubled each time
    exclude: str = ""  # nodes, as --exclude
    options: tuple[str, ...] = ()  # further ones of sbatch: ["--reservation=night"]
    setup: tuple[str, ...] = ()  # shell lines before Python starts: ["module load cuda"]
    python: str = ""  # the interpreter on the nodes; by default the launcher's own path

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("nodes", "processes_per_node", "cpus_per_process", "runs_per_job", "max_array"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.runs_per_job > 1 and self.nodes * self.processes_per_node > 1:
            raise UserError(
                f"runs_per_job is {self.runs_per_job} and a run has {self.nodes * self.processes_per_node} "
                "processes; runs of several processes have an allocation of their own."
            )

    @property
    def chips(self) -> float:
        return self.nodes * self.chips_per_node / (self.workers or self.runs_per_job)


@dataclass(frozen=True)
class Array:
    """Tasks `first` to `first + len(tasks) - 1` of a submission: one call of sbatch."""

    number: int
    first: int
    tasks: tuple[Task, ...]
    after: str  # handle of a job that must end well first; "#n" is task n of this submission, "" none


class Slurm:
    """Cluster: `sbatch`, `squeue` and `scancel` of the Slurm that these programs speak to."""

    chains = True

    def __init__(self, profile: SlurmProfile, folder: Path) -> None:
        self.profile, self.folder = profile, folder

    def check(self) -> None:
        for program in ("sbatch", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise UserError(f"{program} is not on PATH; launch from a machine of the Slurm cluster.")

    def render(self, submission: Submission) -> str:
        parts = []
        for array in self._arrays(submission):
            command = shlex.join(self._command(array, submission, {}))
            parts.append(f"# {command}\n{self._script(array, submission)}")
            for index, task in enumerate(array.tasks):
                parts.append("".join(f"# task {index}: {run.run_id}  {run.label}\n" for run in task.runs))
        return "".join(parts)

    def submit(self, submission: Submission) -> None:
        arrays = self._arrays(submission)
        write_tasks(submission.path, [task for array in arrays for task in array.tasks])
        sent: dict[int, str] = {}  # first task of an array -> its job id
        try:
            for array in arrays:
                write_whole(self._script_path(array, submission), self._script(array, submission))
                answer = _call(self._command(array, submission, sent))
                sent[array.first] = answer.strip().split(";")[0]
        except BaseException:
            if sent:
                _call(["scancel", *sent.values()])
            raise

    def poll(self) -> dict[str, Live]:
        users = sorted({record.user for record in records(self.folder).values()})
        if not users:
            return {}
        form = "%i|%T|%N|%r|%k"
        listed = _call(["squeue", "--array", "--noheader", f"--user={','.join(users)}", f"--format={form}"])
        plans: dict[str, list[Task]] = {}
        found = {}
        for line in listed.splitlines():
            handle, state, where, reason, comment = line.split("|", 4)
            match = re.fullmatch(r"scaling:([\w-]+):(\d+)", comment.strip())
            if not match or not (path := self.folder / "submissions" / match[1]).is_dir():
                continue  # of another folder's sweep
            if match[1] not in plans:
                plans[match[1]] = read_tasks(path)
            index = int(match[2]) + int(handle.rpartition("_")[2])
            waiting = state in WAITING
            for run in plans[match[1]][index].runs:
                remark = reason if waiting else ""
                found[run.run_id] = Live("queued" if waiting else "running", handle, match[1], where, remark)
        return found

    def cancel(self, live: dict[str, Live]) -> None:
        handles = sorted({one.handle for one in live.values()})
        for start in range(0, len(handles), 500):  # within the length of a command line
            _call(["scancel", *handles[start : start + 500]])

    def log(self, run_id: str, lines: int) -> str:
        for submission in sorted((self.folder / "submissions").glob("*/tasks.jsonl"), reverse=True):
            index = task_of(submission.parent, run_id)
            log = submission.parent / f"task-{index}.log"
            if index is not None and log.is_file():
                return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _arrays(self, submission: Submission) -> list[Array]:
        """Runs without a trunk to wait for, then for each trunk its branches, which wait for that task."""
        here = {job.run_id for job in submission.jobs}
        groups: dict[str, list[Job]] = {"": []}
        for job in submission.jobs:
            waits = job.trunk is not None and (job.trunk.run_id in here or job.run_id in submission.after)
            groups.setdefault(job.trunk.run_id if waits and job.trunk else "", []).append(job)
        arrays: list[Array] = []
        task_of: dict[str, int] = {}
        first = 0
        for trunk, jobs in groups.items():
            elsewhere = next((submission.after[j.run_id] for j in jobs if j.run_id in submission.after), "")
            after = f"#{task_of[trunk]}" if trunk in task_of else elsewhere
            tasks = [Task.of(some) for some in _chunks(jobs, self.profile.runs_per_job)]
            for some in _chunks(tasks, self.profile.max_array):
                arrays.append(Array(len(arrays), first, tuple(some), after))
                for index, task in enumerate(some):
                    task_of |= dict.fromkeys((run.run_id for run in task.runs), first + index)
                first += len(some)
        return arrays

    def _script_path(self, array: Array, submission: Submission) -> Path:
        return submission.path / f"array-{array.number}.sh"

    def _command(self, array: Array, submission: Submission, sent: dict[int, str]) -> list[str]:
        """The call of sbatch; the id of a job not yet submitted is shown as a word."""
        command = ["sbatch", "--parsable"]
        after = array.after
        if after.startswith("#"):
            task = int(after[1:])
            first = max((one for one in sent if one <= task), default=0)
            after = f"{sent.get(first, 'JOB')}_{task - first}"
        if after:
            command += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
        return [*command, str(self._script_path(array, submission))]

    def _script(self, array: Array, submission: Submission) -> str:
        profile = self.profile
        limit = f"%{profile.at_once}" if profile.at_once else ""
        options = {
            "job-name": submission.sweep,
            "comment": f"scaling:{submission.id}:{array.first}",
            "array": f"0-{len(array.tasks) - 1}{limit}",
            "output": "/dev/null",  # the task writes task-<n>.log by itself: its number is not Slurm's
            "open-mode": "append",
            "signal": f"B:TERM@{profile.term_seconds}",
            "partition": profile.partition,
            "account": profile.account,
            "qos": profile.qos,
            "constraint": profile.constraint,
            "gres": profile.gres,
            "time": profile.time,
            "mem": profile.mem,
            "exclude": profile.exclude,
            "nodes": str(profile.nodes),
            "ntasks-per-node": str(profile.processes_per_node),
            "cpus-per-task": str(profile.cpus_per_process),
        }
        lines = ["#!/bin/bash", "#SBATCH --requeue"]
        lines += [f"#SBATCH --{name}={_quoted(value)}" for name, value in options.items() if value]
        lines += [f"#SBATCH {option}" for option in profile.options]
        python = shlex.quote(profile.python or sys.executable)
        plan = shlex.quote(str(submission.path))
        lines += [f"n=$(({array.first} + SLURM_ARRAY_TASK_ID))", f"exec >>{plan}/task-$n.log 2>&1"]
        lines += [*profile.setup, f"exec {python} -m launch.slurm_task {plan} $n"]
        return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return shlex.quote(value) if " " in value else value


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _call(command: list[str]) -> str:
    """What a Slurm program printed. Raises UserError with what it said when it failed."""
    left = "; nothing more was submitted" if command[0] == "sbatch" else ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on PATH; launch from a machine of the Slurm cluster.") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer in {SECONDS:.0f} s{left}.") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise UserError(f"{command[0]} failed ({said}){left}.")
    return done.stdout
