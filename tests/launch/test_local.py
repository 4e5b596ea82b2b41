"""The local pool with real processes and real training: killed, interrupted, doubled, diverged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaling.config import ModelConfig, OptimizerConfig, RunConfig
from scaling.data.text import embedded_info
from scaling.runs import RunFolder, run_folders
from sweeps.sweep import Sweep

# Checkpoints far oftener than by default, so that a kill lands between two of them.
LAUNCH = """
import json, sys
from launch.local import run_sweep
from scaling.config import Placement
from sweeps.sweep import read_sweep
outcome = run_sweep(read_sweep(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]),
                    placement=Placement(device="cpu", checkpoint_seconds=float(sys.argv[4])),
                    **json.loads(sys.argv[5]))
print(json.dumps(outcome.to_json()))
sys.exit(outcome.exit_code)
"""


def tiny(steps: int, seed: int = 0, lr: float = 1e-2) -> RunConfig:
    return RunConfig(
        model=ModelConfig(n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=embedded_info().config(val_tokens=1024),
        optimizer=OptimizerConfig(lr=lr),
        seq_len=32,
        batch_size=4,
        steps=steps,
        seed=seed,
    )


LONG, MIDDLE, SHORT = tiny(1000), tiny(200, seed=1), tiny(20)
DIVERGING = tiny(30, lr=1e30)
SWEEP = Sweep("tiny", "does it survive?", {}, (SHORT, DIVERGING, LONG, MIDDLE))


class Launcher:
    """A launch in a process (group) of its own."""

    def __init__(
        self,
        root: Path,
        sweep: Sweep = SWEEP,
        workers: int = 1,
        checkpoint_seconds: float = 0.5,
        **pool: float | str,
    ) -> None:
        self.folder = root / sweep.name
        file = root / f"{sweep.name}.json"
        sweep.write(file)
        command = [sys.executable, "-c", LAUNCH, str(file), str(root), str(workers), str(checkpoint_seconds)]
        command.append(json.dumps(pool))
        # What the tests' own environment says of threads and devices must come from the launcher instead.
        environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "JAX_PLATFORMS")}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def finish(self) -> dict[str, Any]:
        """The outcome, once it ends."""
        out, self.said = self.process.communicate(timeout=120)
        assert out, self.said
        return json.loads(out)

    def run(self, config: RunConfig) -> RunFolder:
        return RunFolder(self.folder / config.run_id)

    def wait_for_steps(self, config: RunConfig, count: int) -> None:
        wait_for(lambda: len(raw_steps(self.run(config))) > count or bool(self.process.poll()))
        assert self.process.poll() is None, f"ended early: {self.process.communicate()[1]}"


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def raw_steps(run: RunFolder) -> list[int]:
    """Steps in the order of the file's whole lines, with no mercy for doubled ones."""
    if not run.metrics_path.exists():
        return []
    lines = run.metrics_path.read_text().split("\n")[:-1]
    return [json.loads(line)["step"] for line in lines]


def numbers(run: RunFolder) -> tuple[Any, ...]:
    """What must be equal bit for bit: the final losses and every step's."""
    summary = run.summary()
    rows = [
        (row["step"], row["tokens"], row["loss"], row["lr"], row["grad_norm"]) for row in run.metrics()[0]
    ]
    return summary["loss"], summary["train_loss"], summary["status"], rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("undisturbed"), workers=2)
    launcher.outcome = launcher.finish()  # type: ignore[attr-defined]
    yield launcher


def assert_same(launcher: Launcher, undisturbed: Launcher) -> None:
    for config in SWEEP.runs:
        run = launcher.run(config)
        if config != DIVERGING:
            assert raw_steps(run) == list(range(1, config.steps + 1))
        assert numbers(run) == numbers(undisturbed.run(config))


def test_a_sweep_ends_with_every_run_accounted_for_and_goes_on_past_a_diverged_one(
    undisturbed: Launcher,
) -> None:
    outcome = undisturbed.outcome  # type: ignore[attr-defined]
    assert sorted(outcome["done"]) == sorted(run.run_id for run in (SHORT, MIDDLE, LONG))
    assert outcome["diverged"] == [DIVERGING.run_id]
    assert outcome["exit_code"] == 0 and not outcome["failed"] and not outcome["stopped"]
    assert undisturbed.run(DIVERGING).status() == "diverged"
    for config in (SHORT, MIDDLE, LONG):
        assert raw_steps(undisturbed.run(config)) == list(range(1, config.steps + 1))
    assert json.loads((undisturbed.folder / "sweep.json").read_text()) == SWEEP.to_json()


def test_launching_again_trains_nothing(undisturbed: Launcher) -> None:
    before = {run.run_id: (run.path / "DONE").stat().st_mtime_ns for run in run_folders(undisturbed.folder)}
    again = Launcher(undisturbed.folder.parent)
    outcome = again.finish()
    assert sorted(outcome["skipped"]) == sorted(SWEEP.run_ids)
    assert not outcome["done"] and outcome["cpu_seconds"] == 0
    assert before == {run.run_id: (run.path / "DONE").stat().st_mtime_ns for run in run_folders(again.folder)}


def test_kill_9_of_a_worker_then_of_the_launcher_changes_no_number(
    undisturbed: Launcher, tmp_path: Path
) -> None:
    first = Launcher(tmp_path)
    first.wait_for_steps(LONG, 100)
    for worker in first.workers():
        worker.send_signal(signal.SIGKILL)
    killed_at = len(raw_steps(first.run(LONG)))
    first.wait_for_steps(LONG, killed_at + 50)
    orphans = first.workers()
    first.process.kill()
    first.process.communicate()
    finished = [run for run in run_folders(first.folder) if (run.path / "DONE").exists()]
    assert not any(run.run_id == LONG.run_id for run in finished)
    second = Launcher(tmp_path)
    outcome = second.finish()
    assert outcome["exit_code"] == 0
    assert sorted(outcome["skipped"]) == sorted(run.run_id for run in finished)
    assert not any(orphan.is_running() for orphan in orphans)
    assert_same(second, undisturbed)


def test_ctrl_c_leaves_everything_resumable(undisturbed: Launcher, tmp_path: Path) -> None:
    first = Launcher(tmp_path)
    first.wait_for_steps(LONG, 100)
    os.killpg(first.process.pid, signal.SIGINT)  # as a terminal does it
    outcome = first.finish()
    assert first.process.returncode == outcome["exit_code"] == 130
    assert LONG.run_id in outcome["stopped"] and outcome["interrupted"] == "SIGINT"
    assert first.run(LONG).status() == "stopped"
    steps = raw_steps(first.run(LONG))
    assert steps == list(range(1, len(steps) + 1)) and len(steps) < LONG.steps
    second = Launcher(tmp_path)
    assert LONG.run_id in second.finish()["done"]
    assert_same(second, undisturbed)


def test_two_launchers_at_once_run_nothing_twice(tmp_path: Path) -> None:
    sweep = Sweep("both", "who runs what?", {}, tuple(tiny(150, seed=seed) for seed in range(6)))
    launchers = [Launcher(tmp_path, sweep), Launcher(tmp_path, sweep)]
    outcomes = [launcher.finish() for launcher in launchers]
    trained = [run_id for outcome in outcomes for run_id in (*outcome["done"], *outcome["diverged"])]
    assert sorted(trained) == sorted(sweep.run_ids)
    for outcome in outcomes:
        accounted = (*outcome["done"], *outcome["diverged"], *outcome["skipped"])
        assert sorted(accounted) == sorted(sweep.run_ids)
    for run in sweep.runs:
        assert raw_steps(launchers[0].run(run)) == list(range(1, run.steps + 1))


def test_a_run_that_fails_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    crashing, unwritable = tiny(20_000, seed=2), tiny(40, seed=3)
    sweep = Sweep("failing", "who fails?", {}, (crashing, unwritable, SHORT))
    blocked = RunFolder(tmp_path / sweep.name / unwritable.run_id)
    blocked.path.mkdir(parents=True)
    blocked.checkpoints.write_text("a file where a folder must be")
    launcher = Launcher(tmp_path, sweep, checkpoint_seconds=1e9, retry_minutes=0)
    for _ in range(2):  # with no checkpoint in between: tried once more, and given up
        launcher.wait_for_steps(crashing, 20)
        [worker] = launcher.workers()
        worker.kill()
        wait_for(lambda: not worker.is_running())  # noqa: B023
        launcher.run(crashing).metrics_path.unlink()
    outcome = launcher.finish()
    assert outcome["exit_code"] == launcher.process.returncode == 1
    assert set(outcome["failed"]) == {crashing.run_id, unwritable.run_id}
    error = outcome["failed"][crashing.run_id]["error"]
    assert "SIGKILL" in error and "2 times in" in error and "without getting past step 0" in error
    problem = outcome["failed"][unwritable.run_id]
    assert Path(problem["where"]).parent == blocked.path and "Traceback" in Path(problem["where"]).read_text()
    assert unwritable.run_id in launcher.said and problem["where"] in launcher.said
    assert outcome["done"] == [SHORT.run_id]
    blocked.checkpoints.unlink()
    assert blocked.status() == "failed"


def test_a_stopped_worker_is_killed_and_its_run_goes_on(tmp_path: Path) -> None:
    """SIGSTOP: no thread of it can notice, and nothing ever comes of it."""
    config = tiny(400, seed=4)
    launcher = Launcher(tmp_path, Sweep("stopped", "is it missed?", {}, (config,)), silent_seconds=10)
    launcher.wait_for_steps(config, 100)
    [worker] = launcher.workers()
    worker.suspend()
    outcome = launcher.finish()
    assert outcome["done"] == [config.run_id] and not worker.is_running()
    assert "killed after 10 s without a sign of life" in launcher.said
    assert raw_steps(launcher.run(config)) == list(range(1, config.steps + 1))


def test_runs_of_one_shape_are_trained_in_one_program(tmp_path: Path) -> None:
    """Each with its own ending, folder and log; the one that cannot be packed with them goes alone."""
    runs = (*(tiny(60, seed=seed) for seed in range(2)), tiny(60, lr=1e30), tiny(80))
    launcher = Launcher(tmp_path, Sweep("packed", "together?", {}, runs), pack="8")
    outcome = launcher.finish()
    assert sorted(outcome["done"]) == sorted(run.run_id for run in runs if run != runs[2])
    assert outcome["diverged"] == [runs[2].run_id]
    packs = [launcher.run(run).summary().get("packed") for run in runs]
    assert packs == [3, 3, 3, None]
    for run in (*runs[:2], runs[3]):
        assert raw_steps(launcher.run(run)) == list(range(1, run.steps + 1))
