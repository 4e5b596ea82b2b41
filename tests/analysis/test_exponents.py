"""Exponents after each step: the published ones to their digits, and known ones from folders of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from published_folder import published
from typer.testing import CliRunner

from analysis.exponents import PUBLISHED, of_runs
from experiments.kaplan_vs_chinchilla import CPU, STEPS, sweep
from scaling.accounting import counts
from scaling.cli.main import app
from scaling.config import Placement
from scaling.errors import UserError
from scaling.runs import RunFolder

RUN = CliRunner()
TRUE = dict(zip(STEPS, (0.80, 0.70, 0.62, 0.55, 0.50), strict=True))


def test_the_five_printed_exponents_and_their_intervals_to_three_digits(tmp_path, monkeypatch):
    folder = published("porian_refinedweb_isoflops.csv").parent
    monkeypatch.chdir(tmp_path)
    done = RUN.invoke(app, ["exponents", "--published", "--data", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    steps = json.loads(done.stdout)["steps"]
    for step, printed in zip(steps, PUBLISHED, strict=True):
        found = [round(value, 3) for value in (step["a"], *step["interval"])]
        assert found == [printed.a, *printed.interval]
    assert (tmp_path / "reports/exponents/published.png").stat().st_size > 10_000


def finished(folder: Path, shift: float = 0.0, noise: float = 0.0, steps: tuple[str, ...] = STEPS) -> Path:
    """The study's runs, each step with a parabola in log N about N* = k C^a, lowest in the middle sizes."""
    rng = np.random.default_rng(0)
    study = sweep()
    losses = {}
    for step in steps:
        budgets = CPU.kaplan_budgets if step == "kaplan" else CPU.budgets
        middle = np.exp(np.log(list(budgets)).mean())
        for run, cell in zip(study.runs, study.design["cells"], strict=True):
            for record in (cell, *cell.get("also", ())):
                if record["step"] != step:
                    continue
                size = counts(run.model, run.seq_len).n["kaplan" if step == "kaplan" else "total"]
                star = np.log(1.2e4) + TRUE[step] * np.log(record["budget"] / middle) + shift
                losses[run.run_id] = 2 + 0.05 * (np.log(size) - star) ** 2 + noise * rng.normal()
    for run in (run for run in study.runs if run.run_id in losses):
        at = RunFolder(folder / run.run_id)
        at.create(run, Placement())
        at.finish("done", {"loss": float(losses[run.run_id]), "loss_se": 0.01})
    study.write(folder / "sweep.json")
    return folder


def test_known_exponents_are_found_in_a_folder_of_runs(tmp_path):
    content = of_runs(finished(tmp_path / "study", noise=0.001), resamples=200)
    assert [step["step"] for step in content["steps"]] == list(STEPS)
    for step in content["steps"]:
        low, high = step["interval"]
        assert low <= TRUE[step["step"]] <= high
        assert step["why"] is None
        assert step["a"] == pytest.approx(TRUE[step["step"]], abs=0.03)
        assert step["akima"]["a"] == pytest.approx(TRUE[step["step"]], abs=0.15)
    json.dumps(content, allow_nan=False)


def test_minima_at_the_edge_leave_no_exponent_and_say_so(tmp_path):
    found = of_runs(finished(tmp_path / "study", shift=-4.0, steps=("head",)), resamples=50)["steps"]
    kaplan, head = found[:2]
    assert kaplan["why"] == "no run has finished"
    assert head["a"] is None and "smallest size" in head["why"]
    assert all(budget["refused"] for budget in head["budgets"])


def test_a_folder_of_other_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no launched study of steps"):
        of_runs(tmp_path)
    with pytest.raises(UserError, match="one of the two"):
        RUN.invoke(app, ["exponents"], catch_exceptions=False)
