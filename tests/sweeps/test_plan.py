"""The plan: cells counted, priced, and told through the command."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scaling.config import DataConfig, RunConfig
from scaling.rate import Rates, flops_per_step
from scaling.recipes import RECIPES
from sweeps.designs import Setting, isoflop, n_by_d
from sweeps.plan import cells, price, report, run_seconds, target_run
from sweeps.prior import Prior
from sweeps.show import show
from sweeps.sweep import Sweep, read_sweep

RECIPE = next(iter(RECIPES.values()))
PRIOR = Prior(A=16.0, B=60.0, E=1.0, alpha=0.32, beta=0.34, source="a test's prior")
SETTING = Setting(RECIPE, DataConfig(name="text", fingerprint="f"), unique_tokens=20_000_000)
RATES = Rates(((1e7, 1e-2), (1e9, 1e-1)), compile_seconds=2.0, source="by hand")  # 1 and 10 GFLOP/s


def small() -> Sweep:
    return isoflop("s", "Which size?", SETTING, [3e10, 1e11], PRIOR, count=4)


def test_cells_count_each_run() -> None:
    for cell, run in zip(cells(small()), small().runs, strict=True):
        assert cell.run_id == run.run_id
        assert cell.tokens == cell.batch_tokens * cell.steps == run.tokens
        assert cell.tokens_per_parameter == pytest.approx(cell.tokens / cell.n)
        assert cell.epochs == pytest.approx(cell.tokens / 20_000_000)
        assert cell.flops == pytest.approx(cell.budget, rel=0.01)
        assert cell.seconds is None


def with_step(batch: int, steps: int, val_tokens: int) -> RunConfig:
    run = small().runs[0]
    data = dataclasses.replace(run.data, val_tokens=val_tokens)
    return dataclasses.replace(run, batch_size=batch, steps=steps, data=data)


def test_a_run_costs_its_steps_and_a_third_of_a_step_for_each_batch_of_validation() -> None:
    run = with_step(batch=4, steps=100, val_tokens=30 * 4 * RECIPE.seq_len)
    assert run_seconds(run, lambda flops: 2.0 * flops / flops_per_step(run)) == pytest.approx(
        2.0 * (100 + 10)
    )


def test_the_price_packs_the_longest_runs_first_and_compiles_each_shape_once() -> None:
    def seconds(steps: int) -> RunConfig:
        return with_step(batch=4, steps=steps, val_tokens=0)

    one_second_steps = Rates(
        ((1.0, 1.0 / flops_per_step(seconds(1))), (2.0, 2.0 / flops_per_step(seconds(1)))), 6.0, ""
    )
    runs = [dataclasses.replace(seconds(steps), seed=steps) for steps in (2, 3, 4, 9)]  # no branches
    total = price(runs, one_second_steps, workers=2)
    assert total.compile_seconds == pytest.approx(6.0)  # four runs of one shape
    assert total.worker_seconds == pytest.approx(2 + 3 + 4 + 9 + 6)
    assert total.wall_seconds == pytest.approx(9 + 6 / 2)  # 9 beside 4 + 3 + 2


def test_the_report_is_strict_json_and_shows_whole_columns() -> None:
    plan = report(small(), 2e12, PRIOR, noise=0.005, rates=RATES, workers=2)
    plan = json.loads(json.dumps(plan, allow_nan=False))
    assert plan["target"]["flops"] == pytest.approx(2e12, rel=0.01)
    assert plan["totals"]["flops"] == pytest.approx(sum(cell["flops"] for cell in plan["cells"]))
    assert set(plan["intervals"]["intervals"]) == {"a", "n_star", "loss"}
    assert plan["price"]["workers"] == 2 and plan["cells"][0]["seconds"] > 0
    for width in (70, 200):
        console = Console(record=True, width=width, force_terminal=True, soft_wrap=True, file=io.StringIO())
        show(plan, console)
        text = console.export_text()
        assert "…" not in text
        assert all(cell["label"] in text for cell in plan["cells"])
        assert (plan["cells"][0]["run_id"] in text) is (width == 200)
        assert "a test's prior" in text and "Which size?" in text


def test_a_plan_says_what_it_cannot_know() -> None:
    grid = n_by_d("g", "?", SETTING, [16, 32], [1e5])
    plan = report(grid)
    assert plan["price"] is None and plan["target"] is None and plan["intervals"] is None
    few = report(grid, 1e12, PRIOR)
    assert few["target"] and few["intervals"] is None  # two runs carry no law


def test_a_target_beyond_the_text_says_how_many_epochs_it_needs() -> None:
    plan = report(small(), 1e15, PRIOR)
    run = target_run(small(), PRIOR, RECIPE, 1e15)
    assert plan["target"]["epochs"] == pytest.approx(run.tokens / SETTING.unique_tokens)
    assert plan["target"]["epochs"] > 1


def scaling(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scaling.cli.main", *arguments],
        cwd=cwd,
        env={**os.environ, "SCALING_CACHE": str(cwd / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_prints_one_json_object_and_measures_nothing_when_told(tmp_path: Path) -> None:
    small().write(tmp_path / "mine.json")
    done = scaling(
        "plan", "mine.json", "--no-measure", "--target", "2e12", "--json", "--out", "again.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    assert [cell["run_id"] for cell in plan["cells"]] == list(small().run_ids)
    assert plan["price"] is None and "no rate is known here" in done.stderr
    assert plan["intervals"]["target"] == 2e12
    assert read_sweep(tmp_path / "again.json") == small()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "mine.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonesuch"], "no sweep 'nonesuch'; known are "),
        (["quickstart", "--target", "1e12"], "less than 10 times the grid's largest budget"),
        (["quickstart", "--data", "nowhere"], "nowhere"),
        (["tiny.py"], "no cell can meet a budget of 1e+06 FLOPs"),
        (["grid", "--target", "-1"], "--target is -1.0"),
        (["grid", "--prior", "nofit.json"], "nofit.json"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "tiny.py").write_text(
        "from experiments import grid\n"
        "from scaling.data.text import text_info\n"
        "from scaling.recipes import RECIPES\n"
        "from sweeps.designs import Setting, isoflop\n"
        "def sweep():\n"
        "    text = text_info(None)\n"
        "    setting = Setting(RECIPES[grid.RECIPE], text.config(), text.train_tokens)\n"
        "    return isoflop('tiny', '?', setting, [1e6])\n"
    )
    done = scaling("plan", *arguments, "--no-measure", "--out", "out.json", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line and not done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.py"]
