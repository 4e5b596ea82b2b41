"""Whether to pack: declined on a CPU and where nothing is alike, else by what was measured on the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launch import packing
from launch.devices import Slot
from launch.executor import Job
from launch.jobs import make_job
from launch.packing import Packing, plan_packing
from scaling.config import Placement, RunConfig
from scaling.errors import UserError
from scaling.packed_rate import Gain, measure
from tests.tiny import CPU, tiny

GPU = Slot("gpu 0", {})
CORE = Slot("core slot 0", {"JAX_PLATFORMS": "cpu"})

SMALL = [tiny(seed=seed) for seed in range(12)]
LARGE = [tiny(seed=seed, model__d_model=256) for seed in range(3)]
LONE = tiny(batch_size=8)


def jobs(configs: list[RunConfig], placement: Placement = CPU) -> list[Job]:
    return [make_job(config, Path("runs"), placement) for config in configs]


def test_a_cpu_declines_by_itself_in_one_sentence() -> None:
    plan = plan_packing(jobs(SMALL), "auto", CORE)
    assert plan.members == {} and plan.reason.startswith("no packing: a CPU core is busy with one run")
    assert "\n" not in plan.reason and plan.of(SMALL[0]) == 1


def test_on_a_device_the_measurement_of_the_nearest_shape_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def gain(group: list[RunConfig], slot: Slot) -> Gain | str:
        asked.append(len(group))
        slow = group[0].model.d_model > 100
        return Gain(min(8, len(group)), 1.0, 7.5 if slow else 2.0, "H100")

    monkeypatch.setattr(packing, "_gain", gain)
    plan = plan_packing(jobs([*SMALL, *LARGE, LONE]), "auto", GPU)
    assert sorted(asked) == [3, 12]
    assert [plan.of(one) for one in (SMALL[0], LARGE[0], LONE)] == [8, 1, 1]  # 4 times; 0.4 times; alone
    assert plan.reason.startswith("packing 1 of 2 shapes: measured on gpu 0, ") and "4.0 times" in plan.reason
    monkeypatch.setattr(packing, "_gain", lambda group, slot: "could not be timed (out of memory)")
    plan = plan_packing(jobs(SMALL), "auto", GPU)
    assert plan.members == {} and "out of memory" in plan.reason


def test_a_measurement_is_kept_for_the_next_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packing, "cache_folder", lambda: tmp_path)
    kept = Gain(8, 1.0, 2.0, "H100")
    path = packing._kept(SMALL[0], 8, GPU)
    packing.write_json(path, dataclasses.asdict(kept))
    monkeypatch.setattr(packing.subprocess, "run", None)  # nothing is timed
    assert plan_packing(jobs(SMALL), "auto", GPU).of(SMALL[0]) == 8


def test_what_is_asked_for_is_done_where_it_can_be(tmp_path: Path) -> None:
    assert plan_packing(jobs(SMALL), "off", GPU) == Packing()
    assert plan_packing(jobs(SMALL), "4", CORE).of(SMALL[0]) == 4
    for apart in ([LONE, SMALL[0]], [LONE]):
        assert plan_packing(jobs(apart), "4", GPU).members == {}
    mirrored = Placement(device="cpu", wandb="offline")
    assert "no two runs" in plan_packing(jobs(SMALL, mirrored), "4", GPU).reason
    for word in ("1", "many", "-3"):
        with pytest.raises(UserError, match=f"--pack is '{word}'"):
            plan_packing(jobs(SMALL), word, GPU)


def test_gains_are_measured_on_the_compiled_steps() -> None:
    gain = measure(tiny(), CPU, 2, seconds=0.01)
    assert gain.members == 2 and gain.alone > 0 and gain.packed > 0
    assert gain.ratio == 2 * gain.alone / gain.packed
