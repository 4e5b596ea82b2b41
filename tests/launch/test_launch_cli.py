"""`scaling launch` and `scaling status` as commands, without training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.devices import Slot, slots
from launch.local import LocalPool
from scaling.accounting import run_flops
from scaling.cli.main import app
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.errors import UserError
from scaling.runs import MetricsLog, RunFolder
from sweeps.sweep import Sweep


def config(steps: int, d_model: int = 16) -> RunConfig:
    return RunConfig(
        model=ModelConfig(n_layers=1, d_model=d_model, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=DataConfig(name="none", fingerprint="0"),
        optimizer=OptimizerConfig(lr=1e-2),
        seq_len=32,
        batch_size=4,
        steps=steps,
    )


# The run of most steps is not the run of most FLOPs.
DONE, DIVERGED, FAILED, LIVE = config(10), config(60), config(40, d_model=64), config(50)
SWEEP = Sweep("states", "one of each", {}, (DONE, DIVERGED, FAILED, LIVE))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    SWEEP.write("states.json")
    return tmp_path


def call(*arguments: str) -> dict:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fill(folder: Path) -> None:
    done, diverged = RunFolder(folder / DONE.run_id), RunFolder(folder / DIVERGED.run_id)
    done.create(DONE, Placement())
    done.finish("done", {"loss": 2.5, "tokens": DONE.tokens})
    diverged.create(DIVERGED, Placement())
    diverged.finish("diverged", {"loss": None, "tokens": DIVERGED.tokens})
    failed = RunFolder(folder / FAILED.run_id)
    failed.create(FAILED, Placement())
    failed.fail("OSError: [Errno 28] No space left on device")
    live = RunFolder(folder / LIVE.run_id)
    live.create(LIVE, Placement())
    log = MetricsLog(live)
    for step in range(1, 26):
        log.append({"step": step, "tokens": step * 128, "loss": 5 - step / 100, "seconds": step / 10})
    log.close()
    with live.metrics_path.open("a") as file:
        file.write('{"step": 26, "tok')  # a row being written
    SWEEP.write(folder / "sweep.json")


def test_status_of_a_sweep_never_launched_is_all_pending_and_writes_nothing(here: Path) -> None:
    said = call("status", "states.json")
    assert said["totals"]["pending"] == 4 and said["fraction"] == 0
    assert not (here / "runs").exists()


def test_status_tells_every_state_apart(here: Path) -> None:
    folder = here / "runs" / "states"
    fill(folder)
    with RunFolder(folder / LIVE.run_id).claim():
        by_file, by_name = call("status", "states.json"), call("status", "states")
        by_folder = call("status", str(folder))
    assert by_file["runs"] == by_name["runs"] == by_folder["runs"]
    rows = {row["run_id"]: row for row in by_name["runs"]}
    assert {run_id: row["status"] for run_id, row in rows.items()} == {
        DONE.run_id: "done",
        DIVERGED.run_id: "diverged",
        FAILED.run_id: "failed",
        LIVE.run_id: "running",
    }
    live = rows[LIVE.run_id]
    assert (live["tokens"], live["loss"]) == (25 * 128, 4.75)
    assert rows[DONE.run_id]["loss"] == 2.5
    assert "No space left" in rows[FAILED.run_id]["error"]
    ended = run_flops(DONE) + run_flops(DIVERGED) + run_flops(LIVE) / 2
    assert by_name["fraction"] == pytest.approx(ended / sum(map(run_flops, SWEEP.runs)))
    assert {row["status"] for row in call("status", "states")["runs"]} >= {"stopped"}


def test_status_imports_no_jax(here: Path) -> None:
    fill(here / "runs" / "states")
    code = (
        "import sys; from typer.testing import CliRunner; from scaling.cli.main import app\n"
        "r = CliRunner().invoke(app, ['status', 'states']); assert r.exit_code == 0, r.output\n"
        "print(r.stdout); sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 done, 1 diverged, 1 failed, 1 stopped of 4 runs" in done.stdout


def test_dry_run_lists_the_longest_first_and_writes_nothing(here: Path) -> None:
    rows = call("launch", "states.json", "--dry-run")["runs"]
    flops = [row["flops"] for row in rows]
    assert rows[0]["run_id"] == FAILED.run_id and flops == sorted(flops, reverse=True)
    assert not (here / "runs").exists()


def test_bad_arguments_are_one_sentence_and_leave_nothing(here: Path) -> None:
    for arguments in (
        ["launch", "nowhere"],
        ["status", "nowhere"],
        ["launch", "states.json", "--workers", "0"],
    ):
        with pytest.raises(UserError):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (here / "runs").exists()


def test_a_worker_for_each_core_each_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.delenv("NPROC", raising=False)
    environments = [slot.environment for slot in slots(Placement(device="cpu"))]
    assert len(environments) == 3 and len(slots(Placement(device="cpu"), 5)) == 5
    assert [slot.device for slot in slots(Placement(device="cpu"), 2)] == ["core slot 0", "core slot 1"]
    assert {environment["NPROC"] for environment in environments} == {"1"}
    assert {environment["JAX_PLATFORMS"] for environment in environments} == {"cpu"}


def test_a_worker_computes_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPROC", raising=False)
    code = """
import time, jax, jax.numpy as jnp
multiply = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: jnp.tanh(y @ y), x))
x = jnp.full((600, 600), 1e-3)
multiply(x).block_until_ready()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(3):
    multiply(x).block_until_ready()
print((time.process_time() - cpu) / (time.perf_counter() - wall))
"""
    [slot] = slots(Placement(device="cpu"), 1)
    done = subprocess.run(
        [sys.executable, "-c", code], env=slot.environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) <= 1.1


def test_a_device_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="gpu"):
        LocalPool(Placement(device="gpu"), tmp_path)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.devices.find_spec", lambda name: "cuda" in name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))


def devices(found: list[Slot]) -> list[str]:
    assert all(slot.device == f"gpu {slot.environment['CUDA_VISIBLE_DEVICES']}" for slot in found)
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]


def test_workers_are_dealt_out_over_gpus_and_share_memory_and_cores(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Placement(device="gpu")
    assert devices(slots(gpu)) == ["2", "5"]
    for shared in (slots(gpu, 4), slots(gpu, per_device=2)):
        assert devices(shared) == ["2", "5", "2", "5"]
        assert {slot.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in shared} == {"0.45"}
        assert {slot.environment["NPROC"] for slot in shared} == {"4"}  # 16 cores among 4
    assert devices(slots(gpu, 3)) == ["2", "5", "2"]
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")  # the user's word counts
    assert slots(gpu, 4)[0].environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2"
    with pytest.raises(UserError, match="--per-gpu is for GPUs"):
        slots(Placement(device="cpu"), per_device=2)


def test_a_mesh_takes_its_gpus_together(two_gpus: None) -> None:
    assert devices(slots(Placement(device="gpu", mesh={"fsdp": 2}))) == ["2,5"]
    with pytest.raises(UserError, match=r"placement\.mesh takes 4 devices and 2"):
        slots(Placement(device="gpu", mesh={"fsdp": 4}))


def test_a_worker_for_each_tpu_chip_as_a_slice_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.devices._tpus", lambda: ["0", "1", "2", "3"])
    found = slots(Placement(device="tpu"))
    chips = [slot.environment["TPU_VISIBLE_CHIPS"] for slot in found]
    assert chips == ["0", "1", "2", "3"] and found[2].device == "tpu chip 2"
    assert len({slot.environment["TPU_PROCESS_PORT"] for slot in found}) == 4
    assert {slot.environment["TPU_PROCESS_BOUNDS"] for slot in found} == {"1,1,1"}
    [whole] = slots(Placement(device="tpu", mesh={"fsdp": 4}))
    assert whole.device == "tpu chips 0,1,2,3" and "TPU_VISIBLE_CHIPS" not in whole.environment
    with pytest.raises(UserError, match="a chip takes one process, give 4"):
        slots(Placement(device="tpu"), 8)
