"""Branches: which runs start from which, and what that saves, against the closed form."""

from __future__ import annotations

import pytest

from scaling.accounting import run_flops
from scaling.config import DataConfig, RunConfig, override
from scaling.rate import Rates, flops_per_step
from scaling.recipes import RECIPES
from sweeps.designs import Setting
from sweeps.plan import cells, price, totals
from sweeps.sweep import Sweep
from sweeps.trunks import branches, flops_to_train, kept_steps

RECIPE = RECIPES["small"]
SETTING = Setting(RECIPE, DataConfig(name="text", fingerprint="f"), unique_tokens=20_000_000)


def horizon(steps: int, decay: float = 0.1, **changes: object) -> RunConfig:
    run = RECIPE.run(RECIPE.model(16), DataConfig(name="text", fingerprint="f", val_tokens=0), 1e5)
    schedule = {"schedule.warmup_steps": 10, "schedule.decay": decay, "schedule.final": 0.0}
    return override(run, {"steps": steps, **schedule, **changes})


HORIZONS = tuple(horizon(steps) for steps in (100, 800, 200, 400))


@pytest.mark.parametrize("decay", [0.1, 0.2, 0.5])
def test_the_longest_run_is_the_trunk_and_the_saving_is_that_of_the_closed_form(decay: float) -> None:
    runs = [horizon(steps, decay) for steps in (100, 800, 200, 400)]
    found = branches(runs)
    trunk = runs[1].run_id
    assert {(b.trunk, b.step) for b in found.values()} == {
        (trunk, round((1 - decay) * run.steps)) for run in runs if run.run_id != trunk
    }
    spent = sum(flops_to_train(run, found) for run in runs)
    saved = (1 - decay) * (1 + 2 + 4) / (1 + 2 + 4 + 8)
    assert 1 - spent / sum(map(run_flops, runs)) == pytest.approx(saved)
    planned = totals(cells(Sweep("s", "?", {}, tuple(runs))))
    assert planned["saved"] == pytest.approx(saved)
    assert planned["flops"] - planned["flops_trained"] == pytest.approx(saved * planned["flops"])
    if decay == 0.1:
        assert f"{saved:.0%}" == "42%"
    assert kept_steps(found) == {trunk: tuple(sorted(branch.step for branch in found.values()))}


def test_the_order_of_the_runs_does_not_matter() -> None:
    expected = branches(HORIZONS)
    for runs in (HORIZONS[::-1], HORIZONS[1:] + HORIZONS[:1]):
        assert branches(runs) == expected


def test_other_runs_have_no_trunk() -> None:
    """Another seed, rate or batch; a cosine, which shares its warmup alone; another warmup."""
    changes = {"seed": 1, "optimizer.lr": 0.5, "batch_size": 3, "schedule.warmup_steps": 0}
    others = [horizon(300, **{name: value}) for name, value in changes.items()]
    others.append(horizon(300, **{"schedule.name": "cosine"}))
    assert branches([horizon(800), *others]) == {}
    assert branches([horizon(800), *others, horizon(100)]).keys() == {horizon(100).run_id}


def test_two_cooldowns_of_one_horizon_share_all_before_them() -> None:
    runs = [horizon(400), horizon(400, **{"schedule.cooldown": "sqrt"}), horizon(400, 0.2)]
    found = branches(runs)
    assert {branch.step for branch in found.values()} == {360, 320}


def test_a_branch_is_priced_from_where_it_starts_and_waits_for_its_trunk() -> None:
    per_step = flops_per_step(HORIZONS[0])
    one_second = Rates(((per_step, 1.0), (2 * per_step, 2.0)), 0.0, "")
    alone = price(HORIZONS, one_second, workers=1)
    assert alone.worker_seconds == alone.wall_seconds == pytest.approx(800 + 10 + 20 + 40)
    assert price(HORIZONS, one_second, workers=2).wall_seconds == pytest.approx(800)
    two = [horizon(800), horizon(799)]  # which leaves at 719 and has 80 more steps
    assert price(two, one_second, workers=2).wall_seconds == pytest.approx(800)
    assert [cell.first_step for cell in cells(Sweep("s", "?", {}, HORIZONS))] == [90, 0, 180, 360]
