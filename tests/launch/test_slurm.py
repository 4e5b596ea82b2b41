"""Sweeps on a real Slurm of two nodes: arrays, preemption, kills, cancelling, several nodes for one run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm_cluster import call, profile, running, slurm, until
from tiny import CPU, tiny
from typer.testing import CliRunner

from launch.claims import newest
from scaling.cli.main import app
from scaling.config import RunConfig
from scaling.runs import RunFolder
from scaling.train import train
from sweeps.sweep import Sweep

SCALING = str(Path(sys.executable).with_name("scaling"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running(tmp_path_factory.mktemp("slurm")) as configuration:
        yield configuration


@pytest.fixture
def here(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SLURM_CONF", str(cluster))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    slurm("scancel", "--user=root")
    until("the queue to be empty", lambda: not slurm("squeue", "--noheader"))


def stored(name: str, *configs: RunConfig) -> str:
    Sweep(name, "does it survive?", {}, configs).write(f"{name}.json")
    return f"{name}.json"


def alone(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The summary of a run that nothing disturbs, trained here."""
    return train(config, CPU, RunFolder(folder / "alone" / config.run_id))


def losses(summary: dict[str, Any]) -> tuple[float, float]:
    return summary["loss"], summary["train_loss"]


def done(folder: RunFolder) -> bool:
    return folder.status() == "done"


def rows(folder: RunFolder) -> list[tuple[int, float]]:
    """As written, so that a step logged twice shows."""
    lines = [json.loads(line) for line in folder.metrics_path.read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in lines]


@pytest.mark.parametrize("runs_per_job", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_array_of_twelve_runs_launched_twice_at_once(here: Path, runs_per_job: int) -> None:
    configs = [tiny(steps=12 + 2 * seed, seed=seed) for seed in range(12)]
    file = stored("twelve", *configs)
    named = profile(here, runs_per_job=runs_per_job, workers=1)
    command = [SCALING, "launch", file, "--on", "slurm", "--profile", named, "--yes", "--json"]
    launchers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(launcher.communicate(timeout=120)[0]) for launcher in launchers]
    submitted = Counter(run_id for one in said for run_id in one["submitted"])
    assert submitted == Counter(config.run_id for config in configs)  # each by one of the two, and once
    assert set(newest(here / "runs" / "twelve").values()) == {1}
    again = call("launch", file, "--on", "slurm", "--profile", named, "--yes")
    assert not again["submitted"] and len(again["live"]) + len(again["done"]) == 12
    folders = [RunFolder(here / "runs" / "twelve" / config.run_id) for config in configs]
    until("twelve runs", lambda: all(done(folder) for folder in folders))
    for config, folder in list(zip(configs, folders, strict=True))[::4]:
        assert losses(folder.summary()) == losses(alone(config, here))
        assert [step for step, _ in rows(folder)] == list(range(1, config.steps + 1))
    assert not call("launch", file, "--on", "slurm", "--profile", named)["submitted"]


def test_preempted_killed_and_cancelled_runs_end_as_if_nothing_had_happened(here: Path) -> None:
    # Four cores a node and two a run, in this order: the last one is alone on its node.
    names = ("killed", "cancelled", "preempted")
    configs = {name: tiny(steps=150 + 2 * place, seed=place) for place, name in enumerate(names)}
    file = stored("hurt", *configs.values())
    call("launch", file, "--on", "slurm", "--profile", profile(here, cpus_per_process=2), "--yes")
    folders = {name: RunFolder(here / "runs" / "hurt" / one.run_id) for name, one in configs.items()}
    held = hold_at_a_checkpoint(folders)
    kill_mid_checkpoint(folders["killed"], held["killed"])
    cancel(folders["cancelled"])
    at = rows(folders["cancelled"])[-1][0]
    assert folders["cancelled"].status() == "stopped" and at < configs["cancelled"].steps
    preempt(folders["preempted"])
    until("both to end", lambda: done(folders["preempted"]) and done(folders["killed"]))
    assert rows(folders["cancelled"])[-1][0] == at  # it did not come back by itself
    assert call("resume", "hurt", "--yes")["submitted"] == [configs["cancelled"].run_id]
    until("the resumed run", lambda: done(folders["cancelled"]))
    for name, config in configs.items():
        assert losses(folders[name].summary()) == losses(alone(config, here)), name
        assert rows(folders[name]) == rows(RunFolder(here / "alone" / config.run_id)), name
    logged = call("logs", "hurt", configs["killed"].run_id)["logs"][configs["killed"].run_id]
    assert "ended with 137" in logged


def test_one_run_on_two_nodes(here: Path) -> None:
    config = tiny(steps=12, seed=5)
    file = stored("wide", config)
    call("launch", file, "--on", "slurm", "--profile", profile(here, nodes=2), "--yes")
    folder = RunFolder(here / "runs" / "wide" / config.run_id)
    until("a run of two processes", lambda: done(folder))
    placement = json.loads((folder.path / "placement.json").read_text())
    assert placement["devices"] == 2 and folder.of_process(1).metrics_path.exists()
    assert folder.summary()["loss"] == pytest.approx(alone(config, here)["loss"], rel=1e-5)


def broken(folder: Path, nodes: str) -> list[str]:
    """Shell lines that make every training on `nodes`, a pattern, die by SIGKILL as it starts."""
    (folder / "broken").mkdir()
    text = "import os, sys\nif 'train' in sys.orig_argv: os.kill(os.getpid(), 9)\n"
    (folder / "broken" / "sitecustomize.py").write_text(text)
    return [f'case "$SLURMD_NODENAME" in {nodes}) export PYTHONPATH={folder / "broken"} ;; esac']


def test_a_run_that_keeps_dying_is_given_up_and_the_nodes_are_named(here: Path) -> None:
    config = tiny(steps=10)
    named = profile(here, setup=broken(here, "*"), retry_minutes=0)
    command = ["launch", stored("dying", config), "--on", "slurm", "--profile", named, "--yes", "--wait"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert re.search(r"died 2 times .* after step 0, last with exit code 137, on scaling-node", done.stdout)
    assert RunFolder(here / "runs" / "dying" / config.run_id).status() == "failed"


@pytest.mark.slow
def test_a_node_that_fails_run_after_run_is_left_out(here: Path) -> None:
    configs = [tiny(steps=10, seed=seed) for seed in range(2)]
    named = profile(here, setup=broken(here, "*node1"))
    call("launch", stored("unlucky", *configs), "--on", "slurm", "--profile", named, "--yes", "--wait")
    logs = call("logs", "unlucky")["logs"].values()
    assert any("node scaling-node1 has failed" in text for text in logs)
    assert all("on scaling-node2" in text for text in logs)


@pytest.mark.slow
def test_a_branch_waits_for_its_trunk(here: Path) -> None:
    schedule = {"schedule__warmup_steps": 2, "schedule__decay": 0.1, "schedule__final": 0.0}
    trunk, branch = (tiny(steps=steps, **schedule) for steps in (80, 40))
    call("launch", stored("trunks", branch, trunk), "--on", "slurm", "--profile", profile(here), "--yes")
    # Slurm looks at a new job's dependency a moment after it took it.
    until("the branch to be held", lambda: "Dependency" in slurm("squeue", "--noheader", "--format=%r"))
    folders = [RunFolder(here / "runs" / "trunks" / one.run_id) for one in (trunk, branch)]
    until("both", lambda: all(done(folder) for folder in folders))
    assert folders[1].summary()["started_from"]["run_id"] == trunk.run_id
    assert losses(folders[1].summary()) == losses(alone(branch, here))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{"runs_per_job": 2, "workers": 2}, {"nodes": 2}], ids=["a pack", "two nodes"]
)
def test_before_its_time_limit_a_job_saves_and_is_requeued(here: Path, how: dict[str, int]) -> None:
    """TERM to the batch script alone, as --signal=B:TERM has it; the limit itself is a minute at least."""
    # Long enough that none has ended when the last of them has a checkpoint, on a busy machine too.
    configs = [tiny(steps=1000, seed=seed) for seed in range(how.get("runs_per_job", 1))]
    call("launch", stored("limited", *configs), "--on", "slurm", "--profile", profile(here, **how), "--yes")
    folders = [RunFolder(here / "runs" / "limited" / one.run_id) for one in configs]
    until("checkpoints", lambda: all(steps(folder) for folder in folders))
    slurm("scancel", "--batch", "--signal=TERM", "--user=root")
    until("all to be saved", lambda: all(folder.status() == "stopped" for folder in folders))
    until("all to end", lambda: all(done(folder) for folder in folders))
    for config, folder in zip(configs, folders, strict=True):
        assert [step for step, _ in rows(folder)] == list(range(1, config.steps + 1))
        if "nodes" not in how:
            assert losses(folder.summary()) == losses(alone(config, here))


def steps(folder: RunFolder) -> list[int]:
    if not folder.checkpoints.is_dir():
        return []
    return [int(path.name) for path in folder.checkpoints.iterdir() if path.name.isdigit()]


def trainer(folder: RunFolder) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "train" in line and str(folder.path / "config.json") in line and process.name() != "srun":
            return process
    raise AssertionError(f"nobody trains {folder.run_id}")


def hold_at_a_checkpoint(folders: dict[str, RunFolder]) -> dict[str, psutil.Process]:
    """Stop each trainer once it has a checkpoint, so that what happens to it happens in mid-run."""
    held: dict[str, psutil.Process] = {}

    def all_held() -> bool:
        for name, folder in folders.items():
            if name not in held and steps(folder):
                held[name] = trainer(folder)
                held[name].suspend()
        return len(held) == len(folders)

    until("a checkpoint of each", all_held)
    return held


def kill_mid_checkpoint(folder: RunFolder, process: psutil.Process) -> None:
    """SIGKILL while a checkpoint is half written; it stands still meanwhile, so that it surely is."""

    def writing() -> bool:
        if any("tmp" in path.name for path in folder.checkpoints.iterdir()):
            return True
        process.resume()
        time.sleep(0.001)
        process.suspend()
        return False

    until("a checkpoint being written", writing)
    process.kill()


def cancel(folder: RunFolder) -> None:
    said = call("cancel", "hurt", folder.run_id[:8])["cancelled"]
    assert list(said) == [folder.run_id] and "slurm" in said[folder.run_id]
    until("the cancelled run to save", lambda: folder.status() == "stopped")


def preempt(folder: RunFolder) -> None:
    """By a job of the partition above, which takes the run's node for a moment."""
    listed = slurm("squeue", "--noheader", "--format=%j %N").splitlines()
    node = next(line.split()[1] for line in listed if line.startswith(folder.run_id))
    taking = ("--partition=reserved", f"--nodelist={node}", "--exclusive", "--output=/dev/null")
    slurm("sbatch", *taking, "--wrap=sleep 1")
    until("the preempted run to save", lambda: folder.status() == "stopped")
