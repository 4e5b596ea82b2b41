"""What a pod of `launch/gke_manifest.py` runs: it starts the training, passes TERM on, counts what is lost.

    python -m launch.gke_pod --folder SWEEP --submission ID --retry-minutes M -- scaling train ...
    python -m launch.gke_pod --folder SWEEP --submission ID --retry-minutes M --packed NAME

The runs are in $SCALING_RUNS. It is the pod's first process, so that TERM is heard from the start (a first
process without a handler ignores it), and ends as the training did: 128 + n for signal n.

Every attempt is a new pod on whatever host, with any time in the queue before it. So the first pod of the
run keeps `attempts.json` in the run's folder: the minutes trained since the last new checkpoint. When they
are over the profile's, the run ends for good with 1; before, attempts that got nowhere are spaced out. Every
pod notes how its training died in `failures.jsonl`, from which hosts that keep dying first are named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.claims import holder, newest
from scaling.config import Placement, RunConfig, dump_run_config, from_dict
from scaling.files import write_json, write_whole
from scaling.runs import EXIT_DONE, EXIT_RESTART, RunBusy, RunFolder

NOTED_SECONDS = 30.0  # so often the time trained is written down
# Seconds; together below the 300 that the other hosts wait for the first.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 120.0
LOCK_SECONDS = 150.0  # a dead host's lock on a file server lasts its lease, 90 s by default
NAMED_AFTER = 3  # attempts in which one host died first


@dataclass
class Attempts:
    """Of a submission since the newest checkpoint: attempts begun, and seconds that they trained."""

    submission: str
    checkpoint: int = 0  # its step
    attempts: int = 0
    seconds: float = 0.0

    @staticmethod
    def read(path: Path, submission: str) -> Attempts:
        """The count in a file, or a new one: whoever submits again has mended something."""
        try:
            found = Attempts(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return Attempts(submission)
        return found if found.submission == submission else Attempts(submission)

    def at(self, checkpoint: int) -> Attempts:
        """The count as it stands at this checkpoint: a new one starts it anew."""
        return self if checkpoint == self.checkpoint else Attempts(self.submission, checkpoint)

    def pause(self) -> float:
        """Seconds before the next attempt; none before the first, nor after one that got further."""
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.attempts - 1)) if self.attempts else 0.0

    def exhausted(self, minutes: float) -> bool:
        """Whether the time without a checkpoint is spent; at least two attempts are made."""
        return self.attempts > 1 and self.seconds >= 60 * minutes


class Account:
    """The attempts at one run, or at one pack, kept in a file. `measure` tells how far training has got."""

    def __init__(self, path: Path, submission: str, measure: Callable[[], int]) -> None:
        self._path, self._measure = path, measure
        self.attempts = Attempts.read(path, submission).at(measure())

    def begin(self) -> None:
        """An attempt starts now."""
        self.attempts.attempts += 1
        self._began, self._before, self._noted = time.monotonic(), self.attempts.seconds, 0.0
        self.note()

    def note(self, often: bool = False) -> None:
        """Write down how long it has trained; `often`: asked at every turn, so not each time."""
        now = time.monotonic()
        if often and now - self._noted < NOTED_SECONDS:
            return
        known = self.attempts.at(self._measure())
        if known is not self.attempts:  # it got further: the count starts here
            self.attempts, self._began, self._before = known, now, 0.0
        self.attempts.seconds, self._noted = round(self._before + now - self._began, 1), now
        with contextlib.suppress(OSError):  # the disk may be full; the training itself will say so
            write_json(self._path, asdict(self.attempts))


class Pod:
    """The training as a child process, and TERM."""

    def __init__(self) -> None:
        self.terminated = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_term)

    def train(self, command: list[str], every: Callable[[], None]) -> int:
        """Exit code of `command`; `every` is called about every half minute until it ends."""
        self._child = subprocess.Popen(command)
        if self.terminated.is_set():
            self._child.terminate()
        while True:
            try:
                code = self._child.wait(NOTED_SECONDS)
            except subprocess.TimeoutExpired:
                every()
                continue
            return 128 - code if code < 0 else code

    def _on_term(self, *_: object) -> None:
        self.terminated.set()
        if self._child is not None:
            self._child.terminate()


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    pod = Pod()
    pod.listen()
    given = [_Run(**run) for run in json.loads(os.environ["SCALING_RUNS"])]
    # One run's JobSet has its name, of which the cluster keeps one; a pack's has not.
    runs = [run for run in given if not options.pack or _is_ours(run.run_id, options)]
    if all(run.folder(options.folder).finished() for run in runs):
        _say("nothing to do: finished, or another submission's by now")
        return EXIT_DONE
    if options.pack:
        return pack(runs, options, pod)
    (run,) = runs
    write_whole(_config_path(options.command), dump_run_config(from_dict(RunConfig, run.config)))
    return attempt(run.folder(options.folder), options, pod)


@dataclass(frozen=True)
class _Run:
    """An entry of $SCALING_RUNS."""

    run_id: str
    config: dict[str, Any]
    placement: dict[str, Any]

    def folder(self, sweep: Path) -> RunFolder:
        return RunFolder(sweep / self.run_id)


def attempt(run: RunFolder, options: argparse.Namespace, pod: Pod) -> int:
    """One attempt at a run by this pod, one of its hosts; the exit code."""
    account = None
    if _process() == 0:  # the others wait for it, in `jax.distributed.initialize`
        account = Account(run.path / "attempts.json", options.submission, lambda: last_checkpoint(run))
        if account.attempts.exhausted(options.retry_minutes):
            return _give_up([run], account.attempts)
        if pod.terminated.wait(account.attempts.pause()):
            return EXIT_RESTART
    if not _wait_for_lock(run if account else run.of_process(_process()), pod):
        return EXIT_RESTART
    if account:
        account.begin()
    code = pod.train(options.command, account.note if account else _nothing)
    if account:
        account.note()
    _say(f"{run.run_id} ended with {code}" + (", terminated" if pod.terminated.is_set() else ""))
    if code not in (EXIT_DONE, EXIT_RESTART) and not pod.terminated.is_set():
        _note_failure(run, code)
    return code


def pack(runs: list[_Run], options: argparse.Namespace, pod: Pod) -> int:
    """Train several small runs side by side, each on a chip of this host; the exit code.

    The pool (`launch/local.py`) retries and gives up one run at a time; counted here is the host itself
    being lost under all of them. TERM saves every run.
    """
    from launch.drive import drive
    from launch.jobs import make_job
    from launch.local import LocalPool

    folder: Path = options.folder
    jobs = [
        make_job(from_dict(RunConfig, run.config), folder, from_dict(Placement, run.placement))
        for run in runs
    ]
    folders = [job.folder for job in jobs]

    def reached() -> int:
        return sum(last_checkpoint(one) + one.finished() for one in folders)

    account = Account(folder / "logs" / f"{options.pack}.json", options.submission, reached)
    if account.attempts.exhausted(options.retry_minutes):
        return _give_up(folders, account.attempts)
    if pod.terminated.wait(account.attempts.pause()):
        return EXIT_RESTART
    for job in jobs:
        if not (job.folder.path / "config.json").exists():
            write_whole(job.folder.path / "config.json", dump_run_config(job.config))
    account.begin()

    def hear(event: Any) -> None:
        account.note(often=True)
        if event.kind != "progress":
            _say(f"{event.run_id} {event.kind} {event.data.get('error', '')}".rstrip())

    code = drive(LocalPool(jobs[0].placement, folder / "logs"), jobs, hear).exit_code
    account.note()
    return code


def last_checkpoint(run: RunFolder) -> int:
    """Step of the newest checkpoint; 0 without one."""
    try:
        names = [path.name for path in run.checkpoints.iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def first_to_die(run: RunFolder) -> Counter[str]:
    """In how many attempts each host was the first whose training died: the others die of losing it."""
    first: dict[str, tuple[float, str]] = {}
    with contextlib.suppress(OSError):
        for line in (run.path / "failures.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut short
                failure = json.loads(line)
                entry = (float(failure["time"]), str(failure["node"]))
                first[failure["attempt"]] = min(first.get(failure["attempt"], entry), entry)
    return Counter(node for _, node in first.values())


def _give_up(runs: list[RunFolder], attempts: Attempts) -> int:
    error = f"{attempts.attempts} attempts in {attempts.seconds / 60:.0f} minutes of training got no further"
    for run in runs:
        said = f"{error} than step {last_checkpoint(run)}"
        hosts = [f"{node} ({n})" for node, n in first_to_die(run).most_common() if n >= NAMED_AFTER]
        said += f"; first to die were {', '.join(hosts)}: cordon them" if hosts else ""
        if not run.finished():
            with contextlib.suppress(RunBusy, OSError), run.claim():
                run.fail(said)
            _say(f"{run.run_id}: {said}")
    return 1


def _note_failure(run: RunFolder, code: int) -> None:
    failure = {
        "time": time.time(),
        "node": os.environ.get("NODE_NAME", ""),
        "attempt": os.environ.get("RESTART_ATTEMPT", ""),
        "code": code,
    }
    with contextlib.suppress(OSError), (run.path / "failures.jsonl").open("a") as file:
        file.write(json.dumps(failure) + "\n")
    worst = [(node, count) for node, count in first_to_die(run).items() if count >= NAMED_AFTER]
    for node, count in worst:
        _say(f"host {node} was the first to die in {count} attempts: cordon it")


def _wait_for_lock(run: RunFolder, pod: Pod) -> bool:
    """Whether the folder is free: what a host that died has locked, its file server frees after a while."""
    deadline = time.monotonic() + LOCK_SECONDS
    while run.is_live():
        if time.monotonic() > deadline or pod.terminated.wait(1.0):
            _say(f"{run.path} is held by another process")
            return False
    return not pod.terminated.is_set()


def _is_ours(run_id: str, options: argparse.Namespace) -> bool:
    """False where a later submission has claimed the run; without any claim it was launched from afar."""
    number = newest(options.folder).get(run_id, 0)
    return number == 0 or holder(options.folder, run_id, number) == options.submission


def _process() -> int:
    """This pod's place among those of its run."""
    hosts, index = (int(os.environ.get(name, "0")) for name in ("SLICE_HOSTS", "JOB_COMPLETION_INDEX"))
    return int(os.environ.get("MEGASCALE_SLICE_ID") or 0) * hosts + index


def _nothing() -> None: ...


def _config_path(command: list[str]) -> Path:
    return Path(command[command.index("train") + 1])


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch.gke_pod", description="Train the runs of $SCALING_RUNS.")
    parser.add_argument("--folder", type=Path, required=True, help="the sweep's, on shared storage")
    parser.add_argument("--submission", required=True)
    parser.add_argument("--retry-minutes", type=float, required=True)
    parser.add_argument("--packed", metavar="NAME", dest="pack", help="several runs, a chip for each")
    parser.add_argument("command", nargs="*")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
