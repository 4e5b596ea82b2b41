"""What a pod runs: the very command and variables of a manifest, on this machine instead of a TPU's host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import CPU, tiny

from launch.engines import find_engine
from launch.executor import Submission
from launch.gke_manifest import manifests
from launch.gke_pod import Attempts, first_to_die, last_checkpoint
from launch.gke_profile import GkeProfile, Volume
from launch.jobs import make_job
from launch.profiles import load_profile, shipped
from scaling.config import RunConfig
from scaling.files import write_json
from scaling.runs import RunFolder


class Pods:
    """The pods of a manifest, whose paths lie below a folder here."""

    def __init__(self, root: Path, *configs: RunConfig, packed: bool = False, minutes: float = 60.0) -> None:
        kind = find_engine("gke").profile_type()
        profile, _ = load_profile("gke", kind, str(shipped("gke")))
        assert isinstance(profile, GkeProfile)
        placement = replace(CPU, checkpoint_seconds=0.5)
        profile = replace(
            profile, packed=packed, runs=str(root), volumes=(Volume(mount=str(root), claim="c"),),
            placement=placement, retry_minutes=minutes,
        )  # fmt: skip
        folder = root / "sweep"
        jobs = tuple(make_job(config, folder, placement) for config in configs)
        (manifest,) = manifests(Submission("s1", folder, jobs), profile, "me")
        job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        self.command: list[str] = container["command"]
        self.environment = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        self.runs = [RunFolder(folder / config.run_id) for config in configs]

    def start(self, command: list[str] | None = None, **variables: str) -> subprocess.Popen[str]:
        """The container's process; `command` in place of the training's."""
        wrapper = list(self.command)
        if command is not None:
            # Its config is written where `scaling train` would read it.
            wrapper = [
                *wrapper[: wrapper.index("--") + 1],
                *command,
                "train",
                str(self.runs[0].path) + ".json",
            ]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            wrapper,
            env={**os.environ, **self.environment, "PATH": path, "NODE_NAME": "node-a", **variables},
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: list[str] | None = None, **variables: str) -> tuple[int, str]:
        pod = self.start(command, **variables)
        said, _ = pod.communicate(timeout=600)
        return pod.returncode, said


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(what: Callable[[], Any], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_a_pod_trains_is_terminated_and_goes_on(tmp_path: Path) -> None:
    """The command of the manifest: TERM, a checkpoint, 42, another pod, done, nothing more to do."""
    pods = Pods(tmp_path, tiny(steps=1500))
    (run,) = pods.runs
    pod = pods.start()
    until(lambda: last_checkpoint(run))
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(300) == 42 and not run.finished()
    assert 0 < last_checkpoint(run) < 1500
    assert pods.run()[0] == 0 and run.summary()["steps"] == 1500
    assert [row["step"] for row in run.metrics()[0]] == list(range(1, 1501))
    code, said = pods.run()
    assert code == 0 and "nothing to do" in said


def test_exit_codes_are_those_of_the_training(tmp_path: Path) -> None:
    pods = Pods(tmp_path, tiny())
    assert pods.run(python("raise SystemExit(3)"))[0] == 3
    (pods.runs[0].path / "attempts.json").unlink()
    assert pods.run(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))[0] == 137


def test_term_before_training_begins_is_heard(tmp_path: Path) -> None:
    """In a container the first process ignores signals that it has no handler for."""
    pods = Pods(tmp_path, tiny())
    write_json(pods.runs[0].path / "attempts.json", vars(Attempts("s1", 0, 5, 1.0)))  # so it pauses first
    pod = pods.start()
    until(lambda: signal.SIGTERM in _caught(pod.pid))
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(30) == 42


def _caught(pid: int) -> set[int]:
    """Signals that a process has a handler for."""
    (line,) = [
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("SigCgt")
    ]
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_minutes_without_a_checkpoint_end_a_run_and_the_host_is_named(tmp_path: Path) -> None:
    pods = Pods(tmp_path, tiny(), minutes=0.0)
    (run,) = pods.runs
    died = python("raise SystemExit(134)")
    assert pods.run(died, RESTART_ATTEMPT="0")[0] == 134
    for attempt in ("1", "2"):  # its peers die later, of losing it
        lines = [{"time": 1.0, "node": "node-a"}, {"time": 2.0, "node": "node-b"}]
        with (run.path / "failures.jsonl").open("a") as file:
            for line in lines:
                file.write(json.dumps(line | {"attempt": attempt, "code": 134}) + "\n")
    write_json(run.path / "attempts.json", vars(Attempts("s1", 0, 2, 1.0)))
    code, said = pods.run(died, RESTART_ATTEMPT="3")
    assert code == 1 and "2 attempts" in said
    assert first_to_die(run) == {"node-a": 3}
    assert run.status() == "failed" and "node-a (3): cordon" in run.summary()["error"]


@pytest.mark.parametrize(
    ("before", "exhausted"),
    [
        (Attempts("s1", 0, 9, 3600.0), True),
        (Attempts("s1", 0, 9, 3599.0), False),  # an hour is not over
        (Attempts("s1", 0, 1, 7200.0), False),  # it is tried twice
        (Attempts("s1", 7, 9, 3600.0), False),  # a checkpoint has come since
        (Attempts("s0", 0, 9, 3600.0), False),  # somebody has launched again
    ],
)
def test_the_count_is_of_one_submission_and_one_checkpoint(
    before: Attempts, exhausted: bool, tmp_path: Path
) -> None:
    path = tmp_path / "attempts.json"
    write_json(path, vars(before))
    assert Attempts.read(path, "s1").at(0).exhausted(60.0) is exhausted


def test_pauses_grow_and_stay_below_what_peers_wait() -> None:
    pauses = [Attempts("s", 0, attempts).pause() for attempts in range(8)]
    assert pauses[0] == 0 and pauses == sorted(pauses)
    assert pauses[-1] + 150 < 300  # jax.distributed.initialize, default initialization_timeout


def test_a_run_that_a_later_submission_has_claimed_is_left_alone(tmp_path: Path) -> None:
    pods = Pods(tmp_path, tiny(), packed=True)
    (run,) = pods.runs
    claims = run.path.parent / "claims"
    claims.mkdir(parents=True)
    (claims / f"{run.run_id}.1").write_text("s1")
    (claims / f"{run.run_id}.2").write_text("s2")
    code, said = pods.run()
    assert code == 0 and "another submission" in said and not run.path.exists()


def test_a_dead_hosts_lock_is_waited_for(tmp_path: Path) -> None:
    pods = Pods(tmp_path, tiny())
    (run,) = pods.runs
    with run.claim():
        pod = pods.start(python("print('trained')"))
        time.sleep(1.5)
        assert pod.poll() is None
    said, _ = pod.communicate(timeout=60)
    assert pod.returncode == 0 and "trained" in said


@pytest.mark.slow
def test_small_runs_train_side_by_side_on_a_host(tmp_path: Path) -> None:
    configs = [tiny(steps=10, seed=seed) for seed in range(3)]
    pods = Pods(tmp_path, *configs, packed=True)
    code, said = pods.run()
    assert code == 0, said
    assert [run.summary()["status"] for run in pods.runs] == ["done"] * 3
