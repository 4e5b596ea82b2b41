"""Where a step's time goes: a clock that is told, and a real run; MFU from the published peaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pytest
from tiny import CONFIG, CPU

from scaling.accounting import counts
from scaling.errors import UserError
from scaling.meter import Meter, memory_peak, peak_flops
from scaling.runs import RunFolder
from scaling.tracing import Profile
from scaling.train import train


def device(kind: str, platform: str = "gpu", peak: int | None = None) -> Any:
    stats = None if peak is None else {"peak_bytes_in_use": peak}
    return SimpleNamespace(
        device_kind=kind, platform=platform, process_index=0, memory_stats=lambda: stats
    )  # fmt: skip


# Peaks from the vendors' pages, dense: nvidia.com/h100 (989.4 TFLOP/s), cloud.google.com/tpu/docs (per chip).
@pytest.mark.parametrize(
    ("kind", "platform", "dtype", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "gpu", jnp.bfloat16, 989e12),
        ("NVIDIA H100 80GB HBM3", "gpu", jnp.float32, 494.5e12),  # TensorFloat-32
        ("NVIDIA A100-SXM4-40GB", "gpu", jnp.bfloat16, 312e12),
        ("TPU v5 lite", "tpu", jnp.bfloat16, 197e12),
        ("TPU v5", "tpu", jnp.bfloat16, 459e12),
        ("TPU v3", "tpu", jnp.bfloat16, 123e12 / 2),  # JAX sees the two cores of a chip
        ("NVIDIA H100 PCIe", "gpu", jnp.bfloat16, None),  # slower than the card of the table
        ("Some New Thing", "tpu", jnp.bfloat16, None),
        ("cpu", "cpu", jnp.float32, None),
    ],
)
def test_peak_of_a_device(kind: str, platform: str, dtype: Any, expected: float | None) -> None:
    found = peak_flops(device(kind, platform), dtype)
    assert found == (None if expected is None else pytest.approx(expected, rel=2e-3))


def test_a_device_of_the_users_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hardware.toml"
    file.write_text(
        '["NVIDIA H100 PCIe"]\nflops_per_second = { bf16 = 7.56e14 }\nmemory_gb = 80\nbandwidth_gb_s = 2000\n'
    )
    monkeypatch.setenv("SCALING_HARDWARE", str(file))
    assert peak_flops(device("NVIDIA H100 PCIe"), jnp.bfloat16) == 7.56e14


def test_memory_peak_is_the_fullest_devices() -> None:
    assert memory_peak([device("a", peak=5), device("b", peak=7)]) == 7
    assert memory_peak([device("cpu")]) is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    told = SimpleNamespace(now=100.0)
    monkeypatch.setattr("scaling.meter.time.perf_counter", lambda: told.now)
    return told


def test_a_told_timeline(clock: SimpleNamespace) -> None:
    """The device takes 10 s a step, the host 1 s for data, 2 s for dispatch, .5 s for the log."""
    meter = Meter(CONFIG, [device("NVIDIA H200")] * 4, jnp.bfloat16)
    free = clock.now  # when the device is done with all that it was given
    pending = None
    for step in range(1, 7):
        clock.now += 0.25
        meter.lap("other")
        clock.now += 1
        meter.dispatch()
        free = max(free, clock.now) + (50 if step == 1 else 10)  # the first one compiles
        clock.now += 2
        meter.lap("dispatch")
        if pending is not None:
            clock.now = max(clock.now, pending)
            meter.done()
            clock.now += 0.5
            meter.lap("log")
        pending = free
        report = meter.report(step, 3.0)
        assert (report["tokens_per_second"] is None) == (step < 3)
    summary = meter.summary()
    parts = summary["step_seconds"]
    assert parts["step"] == pytest.approx(10) and parts["device"] == pytest.approx(10)
    spent = [parts[name] for name in ("data", "dispatch", "log", "other")]
    assert spent == pytest.approx([1, 2, 0.5, 0.25])
    assert parts["wait"] == pytest.approx(10 - 3.75)
    tokens = CONFIG.batch_size * CONFIG.seq_len
    per_token = counts(CONFIG.model, CONFIG.seq_len).flops_per_token["matmul"]
    assert report["tokens_per_second"] == pytest.approx(tokens / 10)
    assert summary["mfu"] == report["mfu"] == pytest.approx(per_token * tokens / 10 / (4 * 989e12), rel=2e-3)
    assert report["seconds_left"] == pytest.approx((CONFIG.steps - 6) * 10)


def test_a_slow_host_shows_as_no_waiting(clock: SimpleNamespace) -> None:
    """Data of 30 s for steps of 10 s: the device is done when the host comes, and sets no pace."""
    meter = Meter(CONFIG, [device("cpu", "cpu")], jnp.float32)
    for step in range(4):
        clock.now += 30
        meter.dispatch()
        if step:
            meter.done()
    parts = meter.summary()["step_seconds"]
    assert (parts["step"], parts["data"], parts["wait"]) == pytest.approx((30, 30, 0))
    assert meter.summary()["mfu"] is None


def test_a_run_says_where_its_time_went_and_leaves_a_trace(tmp_path: Path) -> None:
    plain = train(CONFIG, CPU, RunFolder(tmp_path / "a" / CONFIG.run_id))
    folder = tmp_path / "trace"
    traced = train(CONFIG, CPU, RunFolder(tmp_path / "b" / CONFIG.run_id), profile=Profile(folder, 2, 3))
    assert (traced["loss"], traced["notes"]) == (plain["loss"], [])
    assert [path.stat().st_size > 0 for path in folder.rglob("*.xplane.pb")] == [True]
    for summary in (plain, traced):
        parts = summary["step_seconds"]
        host = sum(parts[name] for name in ("data", "dispatch", "log", "wait", "other"))
        assert host == pytest.approx(parts["step"], rel=1e-6)
        assert 0 < parts["device"] <= parts["step"]
        assert summary["mfu"] is None and summary["memory_peak_bytes"] is None
        rate = counts(CONFIG.model, 32).flops_per_token["matmul"] * 4 * 32 / parts["step"]
        assert summary["model_flops_per_second"] == pytest.approx(rate)


def test_a_trace_that_cannot_be_taken(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / CONFIG.run_id)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--profile .*file/trace"):
        train(CONFIG, CPU, run, profile=Profile(tmp_path / "file" / "trace"))
    assert not run.path.exists()
    with pytest.raises(UserError, match="--profile-steps is 3:2"):
        Profile(tmp_path, 3, 2)
    summary = train(CONFIG, CPU, run, profile=Profile(tmp_path / "trace", 99, 100))
    assert summary["status"] == "done"
    assert [note for note in summary["notes"] if "40 steps" in note and "begins at 99" in note]
