"""Rates: interpolation in log-log, what is kept, and one real measurement."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.accounting import run_flops
from scaling.config import DataConfig, Placement, RunConfig
from scaling.rate import (
    Rates,
    flops_per_step,
    measure_all,
    rates_of_runs,
    rates_path,
    read_rates,
    shapes_to_measure,
    write_rates,
)
from scaling.recipes import RECIPES
from scaling.runs import MetricsLog, RunFolder

RECIPE = next(iter(RECIPES.values()))
DATA = DataConfig(name="text", fingerprint="f")


def run(width: int = 16, batch: int = 2) -> RunConfig:
    return dataclasses.replace(RECIPE.run(RECIPE.model(width), DATA, 1e5), batch_size=batch)


def test_step_seconds_pass_through_the_points_and_are_straight_in_log_log() -> None:
    rates = Rates(((1e7, 1e-2), (1e9, 1e-1)), 2.0, "by hand")
    assert rates.step_seconds(1e7) == pytest.approx(1e-2)
    assert rates.step_seconds(1e9) == pytest.approx(1e-1)
    assert rates.step_seconds(1e8) == pytest.approx(10**-1.5)
    assert rates.step_seconds(1e6) == pytest.approx(1e-3)  # beyond the ends the FLOP/s hold
    assert rates.step_seconds(1e12) == pytest.approx(1e2)


def test_flops_per_step_times_steps_is_the_run() -> None:
    assert flops_per_step(run()) * run().steps == pytest.approx(run_flops(run()))


def test_kept_rates_come_back_and_serve_only_shapes_near_what_was_measured(tmp_path: Path) -> None:
    path = rates_path(tmp_path, Placement(), 2)
    assert path != rates_path(tmp_path, Placement(threads=0), 2) != rates_path(tmp_path, Placement(), 4)
    assert read_rates(path) is None
    size = flops_per_step(run())
    rates = Rates(((size, 1e-2), (3 * size, 2e-2)), 2.0, "by hand")
    write_rates(path, rates)
    assert read_rates(path) == rates
    assert rates.covers([run(), run(batch=6)])
    assert not rates.covers([run(), run(batch=20)])
    path.write_text('{"points": ')
    assert read_rates(path) is None


def test_shapes_to_measure_are_the_ends_and_the_middle() -> None:
    runs = [run(batch=batch) for batch in (1, 2, 4, 8, 16, 32, 64)]
    assert [shape.batch_size for shape in shapes_to_measure(runs)] == [1, 8, 64]
    assert shapes_to_measure(runs[:1]) == runs[:1]


def test_finished_runs_give_rates_without_their_first_step(tmp_path: Path) -> None:
    assert rates_of_runs(tmp_path) is None
    folder = RunFolder(tmp_path / "sweep" / run().run_id)
    folder.create(run(), Placement())
    log = MetricsLog(folder)
    for step in range(1, 12):
        log.append({"step": step, "tokens": step, "loss": 3.0, "seconds": 60.0 + 0.5 * step})
    log.close()
    assert rates_of_runs(tmp_path) is None  # not finished
    folder.finish("done", {"loss": 3.0})
    rates = rates_of_runs(tmp_path)
    assert rates and rates.step_seconds(flops_per_step(run())) == pytest.approx(0.5)


def test_a_measurement_is_of_this_machine() -> None:
    shapes = [run(16, 1), run(32, 16)]
    rates = measure_all(shapes, Placement(device="cpu"), [dict(os.environ)])
    (small, quick), (large, slow) = rates.points
    assert (small, large) == tuple(map(flops_per_step, shapes))
    assert 1e-5 < quick < slow < 10  # 35 times the arithmetic
    assert rates.compile_seconds > 0.05
    json.dumps(rates.to_json(), allow_nan=False)


def test_a_measurement_on_a_crowded_machine_says_so() -> None:
    burn = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(burn) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        rates = measure_all([run(32, 16)], Placement(device="cpu"), [dict(os.environ)])
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert rates.crowded


def test_a_measurement_that_cannot_be_made_says_why() -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with pytest.raises(RuntimeError, match="tpu"):
        measure_all([run()], Placement(device="tpu"), [environment])
