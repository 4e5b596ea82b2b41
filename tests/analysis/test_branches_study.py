"""What branches saved and how schedules compare, from folders of runs whose losses are known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from analysis.branches import read_study
from analysis.columns import Reading
from analysis.plots.branches import branches_figure
from analysis.table import from_folder
from scaling.accounting import counts, run_flops
from scaling.cli.main import app
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig, ScheduleConfig
from scaling.errors import UserError
from scaling.runs import RunFolder

STEPS = (100, 200, 400, 800)
DECAY = 0.1


def config(steps: int, schedule: str = "linear", lr: float = 1e-2, seed: int = 0) -> RunConfig:
    kind: dict[str, Any] = (
        {"name": "cosine"} if schedule == "cosine" else {"name": "wsd", "cooldown": schedule}
    )
    return RunConfig(
        model=ModelConfig(n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=DataConfig(name="text", fingerprint="f"),
        optimizer=OptimizerConfig(lr=lr),
        schedule=ScheduleConfig(**kind, warmup_steps=5, decay=DECAY, final=0.0),
        seq_len=32,
        batch_size=4,
        steps=steps,
        seed=seed,
    )


def write(store: Path, run: RunConfig, loss: float, trunk: RunConfig | None = None) -> None:
    folder = RunFolder(store / run.run_id)
    folder.create(run, Placement())
    rows = [
        {"step": s, "tokens": 128 * s, "lr": 0.0, "seconds": float(s), "loss": 5 * s**-0.1}
        for s in range(1, run.steps + 1)
    ]
    folder.write_metrics(rows)
    first = round((1 - DECAY) * run.steps) if trunk else 0
    per_step = counts(run.model, 32).flops_per_token["matmul"] * 128
    summary: dict[str, Any] = {"loss": loss, "flops_trained": per_step * (run.steps - first)}
    if trunk:
        summary["started_from"] = {"run_id": trunk.run_id, "step": first}
    folder.finish("done", summary)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Horizons at one rate and two seeds; cosines 2% worse at their better rate, 5% at the other."""
    generator = np.random.default_rng(0)
    for seed in (0, 1):
        trunk = config(STEPS[-1], seed=seed)
        for steps in STEPS:
            loss = 3 + steps**-0.3
            noisy = [loss * math.exp(0.001 * generator.standard_normal()) for _ in range(4)]
            write(tmp_path, config(steps, seed=seed), noisy[0], None if steps == STEPS[-1] else trunk)
            write(tmp_path, config(steps, "sqrt", seed=seed), 0.99 * noisy[1], trunk)
            write(tmp_path, config(steps, "cosine", seed=seed), 1.02 * noisy[2])
            write(tmp_path, config(steps, "cosine", lr=2e-2, seed=seed), 1.05 * noisy[3])
    return tmp_path


def test_flops_are_counted_once(tmp_path: Path) -> None:
    trunk = config(STEPS[-1])
    for steps in STEPS:
        write(tmp_path, config(steps), 3.0, None if steps == STEPS[-1] else trunk)
    study = read_study(tmp_path)
    assert study.saved == pytest.approx((1 - DECAY) * 7 / 15) and f"{study.saved:.0%}" == "42%"
    assert study.flops == pytest.approx(sum(run_flops(config(steps)) for steps in STEPS))
    assert study.noise is None and all(line.difference is None for line in study.lines)


def test_schedules_are_compared_at_their_best_rates_with_the_noise_of_seeds(store: Path) -> None:
    study = read_study(store)
    assert study.freedom == 4 * 4 and study.noise == pytest.approx(0.001, rel=0.6)
    cosines = [line for line in study.lines if line.schedule == "cosine"]
    assert {line.lr for line in cosines} == {1e-2} and all(line.edge for line in cosines)
    linear = [line for line in study.lines if line.schedule == "wsd linear 10%"]
    assert [line.tokens for line in linear] == [128 * steps for steps in STEPS]
    for line in linear:
        assert line.difference == pytest.approx(1 / 1.02 - 1, abs=0.004)
        assert line.interval and line.interval[0] < line.difference < line.interval[1]
        half = (line.interval[1] - line.interval[0]) / 2
        assert half == pytest.approx(stats.t.ppf(0.95, 16) * study.noise)  # of two means of two
        assert not line.edge
    better = next(line for line in study.lines if line.schedule == "wsd sqrt 10%")
    assert better.difference is not None and better.difference < -0.02


def test_the_figure_has_the_trunk_its_branches_and_the_cosines(store: Path, tmp_path: Path) -> None:
    paths = branches_figure(read_study(store), tmp_path / "figure")
    assert {path.suffix for path in paths} == {".png", ".pdf", ".csv"}
    assert imread(paths[0]).std() > 0.01
    numbers = paths[-1].read_text()
    for name in ("training loss, trunk", "training loss, wsd sqrt 10%", "difference to the cosine"):
        assert name in numbers


def test_a_run_that_did_not_cool_down_is_dropped_by_name_beside_runs_that_did(tmp_path: Path) -> None:
    """As an end of a trunk; alone among its like it is what there is."""
    hot = [dataclasses.replace(config(steps), schedule=ScheduleConfig(name="constant")) for steps in STEPS]
    for run in hot:
        write(tmp_path, run, 3.5)
    assert len(from_folder(tmp_path, Reading()).runs) == 4
    write(tmp_path, config(100), 3.0)
    found = from_folder(tmp_path, Reading())
    assert found.runs == [config(100).run_id] and found.table["warmup_steps"].tolist() == [5]
    assert {one["run"] for one in found.dropped} == {run.run_id for run in hot}
    assert "did not cool down" in found.dropped[0]["reason"]


def test_a_folder_without_branches_or_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no finished run"):
        read_study(tmp_path)
    write(tmp_path, config(100), 3.0)
    with pytest.raises(UserError, match="has no branch"):
        branches_figure(read_study(tmp_path), tmp_path / "figure")


def test_the_command_prints_a_table_or_one_json_object(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = RunFolder(store / ("0" * 12))
    running.create(config(50, seed=9), Placement())
    app(["branches", str(store), "--out", str(tmp_path)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "14 of them branches" in said and "saved" in said
    assert f"left out: {running.run_id}: pending" in said
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= 100
    app(["branches", str(store), "--out", str(tmp_path), "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["branches"] == 14 and len(found["schedules"]) == 12 and len(found["files"]) == 3
