"""What a job of Slurm does on its node: train, pass TERM on, come back.

    python -m launch.slurm_task SUBMISSION_FOLDER N

It is the batch script's own process, so that Slurm signals it. On TERM (the time limit near, a preemption, a
cancel) the training saves and ends with 42; the job is requeued when it was the time limit, Slurm itself
requeues one that was preempted, and one that was cancelled stays ended. A training that died (a signal, 42
by itself) is started again here after a pause, or on another node when this one has failed several runs, for
as long as the profile's `retry_minutes` without a new checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.tasks import Task, left
from scaling.runs import EXIT_DONE, EXIT_RESTART, RunBusy, RunFolder

NODE_FAILURES = 3  # of a node, on more than one job's account where there is more than one: left out
LONGEST_PAUSE = 300.0  # seconds


@dataclass(frozen=True)
class Failure:
    """An attempt that died: when (Unix time), where, how, and the newest checkpoint by then."""

    time: float
    node: str
    code: int
    step: int


class Training:
    """The child that trains, under TERM."""

    def __init__(self) -> None:
        self.terminated = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._step = False  # whether srun stands between

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self, command: list[str]) -> int:
        """Exit code as a shell counts it: 128 + n for signal n."""
        self._step = command[0] == "srun"
        self._child = subprocess.Popen(command)
        if self.terminated.is_set():
            self._pass_on()
        code = self._child.wait()
        self._child = None
        return 128 - code if code < 0 else code

    def _on_term(self, *_: object) -> None:
        self.terminated.set()
        self._pass_on()

    def _pass_on(self) -> None:
        if self._child is None:
            return
        if self._step:  # srun itself would kill its tasks
            subprocess.Popen(["scancel", "--signal=TERM", _job()])
        else:
            self._child.send_signal(signal.SIGTERM)


def main(arguments: list[str]) -> int:
    submission, number = Path(arguments[0]), int(arguments[1])
    profile = json.loads((submission / "submission.json").read_text())["profile"]
    task = left(submission, number)
    if not task.runs:
        print("nothing to do: finished, or another submission's by now", flush=True)
        return EXIT_DONE
    names = task.runs[0].run_id + (f"+{len(task.runs) - 1}" if len(task.runs) > 1 else "")
    _scontrol("update", f"JobId={_job()}", f"JobName={names}")
    training = Training()
    training.listen()
    pauses = 0
    while True:
        began = _steps(task)
        print(f"{_now()} on {_node()}: {names} from step {min(began)}", flush=True)
        code = training.run(command(submission, number, task, profile))
        print(f"{_now()} ended with {code}", flush=True)
        if training.terminated.is_set():
            return _terminated(code)
        if code != EXIT_RESTART and code < 128:
            return code
        failures = _note(submission, number, Failure(time.time(), _node(), code, min(_steps(task))))
        pauses = 0 if _steps(task) != began else pauses + 1
        if error := exhausted(failures, profile["retry_minutes"]):
            _give_up(task, error)
            return 1
        if _leave(submission, task):
            return EXIT_RESTART
        if training.terminated.wait(min(LONGEST_PAUSE, profile["pause_seconds"] * 2**pauses)):
            return _terminated(EXIT_RESTART)


def command(submission: Path, number: int, task: Task, profile: dict[str, Any]) -> list[str]:
    """What trains a task: one process, one for each of several under srun, or the pool for several runs."""
    if len(task.runs) > 1 or profile["runs_per_job"] > 1:
        workers = [str(profile["workers"])] if profile["workers"] else []
        return [sys.executable, "-m", "launch.tasks", str(submission), str(number), *workers]
    train = [str(Path(sys.executable).with_name("scaling")), *task.runs[0].argv[1:]]
    processes = profile["nodes"] * profile["processes_per_node"]
    if processes == 1:
        return train
    step = [f"--nodes={profile['nodes']}", f"--ntasks={processes}", "--kill-on-bad-exit=1"]
    step += [f"--cpus-per-task={profile['cpus_per_process']}"]
    return ["srun", *step, *train, "--cluster"]


def exhausted(failures: list[Failure], minutes: float) -> str | None:
    """Why a run is not started again: it has died for so long without a new checkpoint."""
    stuck = [one for one in failures if one.step == failures[-1].step]
    lasted = (stuck[-1].time - stuck[0].time) / 60
    if len(stuck) < 2 or lasted < minutes:
        return None
    nodes = ", ".join(f"{node} ({count})" for node, count in Counter(one.node for one in stuck).most_common())
    return (
        f"died {len(stuck)} times in {lasted:.0f} minutes after step {stuck[-1].step}, last with exit code "
        f"{stuck[-1].code}, on {nodes}"
    )


def bad_nodes(submission: Path) -> dict[str, int]:
    """Nodes where attempts keep dying: `NODE_FAILURES` and more, of several jobs where others have none.

    A run that dies wherever it goes is its own fault: its failures on a node count once.
    """
    by_node: dict[str, Counter[str]] = {}
    for path in submission.glob("failures-*.jsonl"):
        for failure in _failures(path):
            by_node.setdefault(failure.node, Counter())[path.name] += 1
    return {
        node: sum(jobs.values())
        for node, jobs in by_node.items()
        if sum(jobs.values()) >= NODE_FAILURES and len(jobs) > 1
    }


def _terminated(code: int) -> int:
    """Come back after the time limit; a preempted job Slurm requeues, a cancelled one is to stay away."""
    if code == EXIT_DONE:
        return EXIT_DONE
    if "JobState=RUNNING" in _scontrol("show", "job", "--oneliner", _job()):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # requeueing ends this process as well
        _scontrol("requeue", _job())
    return EXIT_RESTART


def _leave(submission: Path, task: Task) -> bool:
    """Have the job requeued on other nodes when this one fails job after job."""
    node = _node()
    found = bad_nodes(submission)
    if node not in found:
        return False
    print(f"node {node} has failed {found[node]} times and is left out from here on", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _scontrol("requeue", _job())
    _scontrol("update", f"JobId={_job()}", f"ExcNodeList={','.join(sorted(found))}")
    return True


def _give_up(task: Task, error: str) -> None:
    for run in task.runs:
        if not run.run_folder.finished():
            with contextlib.suppress(RunBusy, OSError), run.run_folder.claim():
                run.run_folder.fail(error)
    print(error, flush=True)


def _note(submission: Path, number: int, failure: Failure) -> list[Failure]:
    path = submission / f"failures-{number}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(vars(failure)) + "\n")
    return _failures(path)


def _failures(path: Path) -> list[Failure]:
    return [Failure(**json.loads(line)) for line in path.read_text().splitlines()]


def _steps(task: Task) -> list[int]:
    return [_last_checkpoint(run.run_folder) for run in task.runs]


def _last_checkpoint(folder: RunFolder) -> int:
    """Step of the newest checkpoint; 0 without one."""
    try:
        names = [path.name for path in folder.checkpoints.iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def _job() -> str:
    """This task alone: the plain id of an array's last task stands for the whole array."""
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def _node() -> str:
    """The node, or the nodes of a run of several."""
    return os.environ.get("SLURM_JOB_NODELIST", "")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _scontrol(*arguments: str) -> str:
    """What it said; a controller that does not answer is no reason to end a training."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"scontrol {' '.join(arguments)}: {error}", flush=True)
        return ""
    if done.returncode:
        print(f"scontrol {' '.join(arguments)}: {done.stderr.strip()}", flush=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
