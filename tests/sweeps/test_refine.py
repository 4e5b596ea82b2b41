"""Coarse to fine: from wherever a sweep starts, few runs bracket the optimum of each of its cells."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from scaling.cli.main import app
from scaling.config import DataConfig, Placement, RunConfig
from scaling.errors import UserError
from scaling.recipes import RECIPES
from scaling.runs import RunFolder
from sweeps.bases import by_width
from sweeps.designs import Setting
from sweeps.refine import refine
from sweeps.sweep import Sweep
from sweeps.tuning import rates, rates_by_batch

SETTING = Setting(RECIPES["small"], DataConfig(name="text", fingerprint="f"), unique_tokens=20_000_000)
NOISE = 1e-3


def loss_of(run: RunConfig, best: dict[int, float]) -> float | None:
    """A valley around best[width] in log lr, steeper above; past ten times the best it diverges."""
    off = math.log(run.optimizer.lr / best[run.model.d_model])
    if off > math.log(10):
        return None
    jitter = NOISE * math.sin(1e4 * run.optimizer.lr + 7 * run.seed)
    return 2.0 + 0.03 * off**2 + 0.005 * off**3 * (off > 0) + jitter


def train(sweep: Sweep, folder: Path, best: dict[int, float]) -> int:
    """Pretend; returns how many runs were new."""
    new = 0
    for run in sweep.runs:
        place = RunFolder(folder / run.run_id)
        if place.finished():
            continue
        new += 1
        place.create(run, Placement())
        loss = loss_of(run, best)
        outcome = {"loss": loss, "loss_se": 1e-3} if loss else {"loss": None, "diverged_step": 3}
        place.finish("done" if loss else "diverged", outcome)
    sweep.write(folder / "sweep.json")
    return new


@pytest.mark.parametrize("off", [1 / 12, 1.3, 8.0])
def test_few_runs_bracket_optima_wherever_the_sweep_began(tmp_path: Path, off: float) -> None:
    bases = by_width(SETTING, [16, 32], 2e5)
    best = {run.model.d_model: run.optimizer.lr * off for run in bases.runs.values()}
    sweep = rates("s", "?", bases, (0.5, 1, 2))
    count = train(sweep, tmp_path, best)
    for _ in range(9):
        wider, steps = refine(sweep, tmp_path)
        assert wider.name == sweep.name and wider.runs[: len(sweep.runs)] == sweep.runs
        assert len(wider.labels()) == len(wider.runs) and len(set(wider.labels())) == len(wider.runs)
        if wider == sweep:
            break
        assert sum(len(step.runs) for step in steps) == len(wider.runs) - len(sweep.runs)
        sweep = wider
        count += train(sweep, tmp_path, best)
    for width, rate in best.items():
        mine = sorted(run.optimizer.lr for run in sweep.runs if run.model.d_model == width)
        assert mine[0] < rate < mine[-1]
        assert min(abs(math.log2(lr / rate)) for lr in mine) < 1  # one within a factor of 2
    assert count <= 2 * 14
    assert all("narrow" in step.reason or "noise" in step.reason for step in steps)


def test_what_is_added_differs_in_what_was_asked_for_alone(tmp_path: Path) -> None:
    bases = by_width(SETTING, [16], 1e6)
    (base,) = bases.runs.values()
    sweep = rates_by_batch("s", "?", bases, batches=(0.5, 1, 2), factors=(0.5, 1, 2))
    train(sweep, tmp_path, {16: base.optimizer.lr * 6})
    wider, _ = refine(sweep, tmp_path)
    added = wider.runs[len(sweep.runs) :]
    assert added
    for run in added:
        assert 0.97 < run.tokens / base.tokens <= 1
        assert (run.model, run.data, run.schedule, run.seq_len) == (
            base.model, base.data, base.schedule, base.seq_len,
        )  # fmt: skip
    assert Sweep.from_json(wider.to_json()) == wider


def test_the_command_writes_a_sweep_to_launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bases = by_width(SETTING, [16], 2e5)
    (base,) = bases.runs.values()
    sweep = rates("mine", "?", bases, (0.5, 1, 2))
    train(sweep, tmp_path / "mine", {16: base.optimizer.lr * 8})
    app(["refine", "mine", "--runs", str(tmp_path), "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["added"] == 1 and "largest rate tried" in said["cells"][0]["reason"]
    stored = json.loads(Path(said["file"]).read_text())
    assert stored["run_ids"][-1] == said["cells"][0]["run_ids"][0] and stored["name"] == "mine"
    app(["refine", "mine", "--runs", str(tmp_path)], standalone_mode=False)
    assert f"rate {8 * base.optimizer.lr:.3g}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has no sweep\.json"):
        app(["refine", "nonesuch", "--runs", str(tmp_path)], standalone_mode=False)


def test_a_batch_of_one_sequence_is_the_least_and_none_below_it_is_asked_for(tmp_path: Path) -> None:
    bases = by_width(SETTING, [16], 2e5)
    (base,) = bases.runs.values()
    sweep = rates_by_batch("s", "?", bases, [b / base.batch_size for b in (1, 2, 8)], factors=(0.5, 1, 2))
    for run in sweep.runs:
        place = RunFolder(tmp_path / run.run_id)
        place.create(run, Placement())
        off = math.log(run.optimizer.lr / base.optimizer.lr / math.sqrt(run.batch_size / base.batch_size))
        place.finish("done", {"loss": 2 + 0.03 * off**2 + 0.05 * math.log(run.batch_size), "loss_se": 1e-3})
    sweep.write(tmp_path / "sweep.json")
    wider, (step,) = refine(sweep, tmp_path)
    assert wider == sweep and not step.runs
    assert "smallest batch tried, 128, and none smaller can be run" in step.reason
