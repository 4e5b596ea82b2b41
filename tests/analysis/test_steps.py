"""Steps to a target from run folders whose losses fall by a known rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import config
from typer.testing import CliRunner

from analysis.steps import smoothed, steps_of_runs, steps_to
from scaling.cli.main import app
from scaling.config import Placement, ScheduleConfig
from scaling.errors import UserError
from scaling.runs import RunFolder

S_MIN, E_MIN = 100.0, 100.0 * 16 * 128  # at the loss of 3: a critical batch of 16 sequences
FLAT = ScheduleConfig(name="constant", warmup_steps=1)


def loss_at(step: np.ndarray, batch_tokens: float, slower: float = 1.0) -> np.ndarray:
    """3 nats after S_min + E_min / B steps (times `slower`), as step^-.3."""
    return 3.0 * (step / (slower * (S_MIN + E_MIN / batch_tokens))) ** -0.3


def study(folder: Path, batches: tuple[int, ...] = (2, 4, 8, 16, 32, 64), noise: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    for batch in batches:
        for factor, slower in ((0.5, 1.4), (1.0, 1.0), (2.0, 1.9)):
            run = replace(config(32, 1e6), batch_size=batch, steps=2000, schedule=FLAT)
            run = replace(run, optimizer=replace(run.optimizer, lr=0.01 * factor))
            store = RunFolder(folder / run.run_id)
            store.create(run, Placement())
            step = np.arange(1, 2001)
            loss = loss_at(step, batch * 128, slower) * (1 + noise * rng.standard_normal(len(step)))
            rows = zip(step.tolist(), loss.tolist(), strict=True)
            store.write_metrics([{"step": s, "loss": value} for s, value in rows])
            store.finish("done", {"status": "done", "loss": float(loss[-1]), "tokens": run.tokens})
    return folder


def test_the_smoothed_loss_stands_where_it_is_said_to() -> None:
    step = np.arange(1.0, 5001)
    at, loss = smoothed(step, loss_at(step, 2048))
    np.testing.assert_allclose(loss, loss_at(at, 2048), rtol=0.006)
    assert steps_to(step, loss_at(step, 2048), 3.0) == pytest.approx(200, rel=0.02)
    assert steps_to(step, loss_at(step, 2048), 0.1) is None


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_batch_where_steps_and_tokens_trade_is_found_again(tmp_path: Path, noise: float) -> None:
    study(tmp_path, noise=noise)
    done = CliRunner().invoke(
        app, ["critical-batch", str(tmp_path), "--loss", "3", "--json", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    (cell,) = content["cells"]
    assert cell["batches"] == 6
    assert cell["b_crit"] == pytest.approx(16 * 128, rel=0.06 if noise == 0 else 0.3)
    assert content["notes"] == []  # the best rate of every batch is the middle one


def test_without_a_target_all_batches_reach_the_three_chosen(tmp_path: Path) -> None:
    table, _ = steps_of_runs(str(study(tmp_path, noise=0.05)))
    assert table.groupby("target")["batch"].nunique().tolist() == [6, 6, 6]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs at a constant rate"):
        steps_of_runs(str(tmp_path))
    study(tmp_path)
    with pytest.raises(UserError, match=r"no run of .* reaches a loss of 0\.5"):
        steps_of_runs(str(tmp_path), [0.5])
    with pytest.raises(UserError, match="--loss is -1"):
        steps_of_runs(str(tmp_path), [-1.0])
    done = CliRunner().invoke(app, ["critical-batch", str(tmp_path), "--loss", "low"])
    assert isinstance(done.exception, UserError) and "give losses in nats" in str(done.exception)
