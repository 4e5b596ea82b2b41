"""Designs of hyperparameters: what varies varies as said, and everything else stays."""

from __future__ import annotations

import dataclasses
import math

import pytest

from scaling.accounting import counts
from scaling.config import DataConfig, RunConfig, to_dict
from scaling.errors import UserError
from scaling.recipes import RECIPES
from scaling.schedule import fraction_of_peak
from sweeps import tuning
from sweeps.bases import by_depth, by_multiple, by_width
from sweeps.designs import Limits, Setting
from sweeps.horizons import horizons, saving
from sweeps.plan import cells, report, totals
from sweeps.sweep import Sweep
from sweeps.trunks import branches

RECIPE = RECIPES["small"]
SETTING = Setting(RECIPE, DataConfig(name="text", fingerprint="f"), unique_tokens=20_000_000)
BASES = by_width(SETTING, [16, 32], 2e5)
ONE = by_width(SETTING, [16], 2e5)


def fields(run: RunConfig) -> dict[str, object]:
    """Dotted fields and their values."""
    flat: dict[str, object] = {}
    for name, value in to_dict(run).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def differing(runs: tuple[RunConfig, ...]) -> set[str]:
    every = [fields(run) for run in runs]
    return {name for name in every[0] if len({str(one[name]) for one in every}) > 1}


def of_base(sweep: Sweep, base: str) -> tuple[RunConfig, ...]:
    found = zip(sweep.runs, sweep.design["cells"], strict=True)
    return tuple(run for run, cell in found if cell["base"] == base)


def test_horizons_share_their_beginning_and_save_what_the_closed_form_says() -> None:
    sweep = horizons("h", "?", BASES, [1e5, 2e5, 4e5, 8e5])
    assert sweep.labels()[:2] == ("d16-1e5", "d16-2e5")
    assert len(branches(sweep.runs)) == 6
    assert totals(cells(sweep))["saved"] == pytest.approx(saving([1, 2, 4, 8], 0.1), abs=0.005)
    assert saving([1, 2, 4, 8], 0.1) == pytest.approx(0.42)
    assert differing(sweep.runs[:4]) == {"steps"}
    for run, horizon in zip(sweep.runs, [1e5, 2e5, 4e5, 8e5] * 2, strict=True):
        assert 0.99 < run.tokens / horizon <= 1
        rates = [fraction_of_peak(run.schedule, step, run.steps) for step in range(1, run.steps + 1)]
        assert rates[-1] == 0.0 and sum(rate == 1.0 for rate in rates) > 0.7 * run.steps


def test_both_cooldowns_leave_one_trunk_and_cosines_stand_alone() -> None:
    sweep = horizons("h", "?", ONE, [1e5, 4e5], cooldowns=("linear", "sqrt"), cosine=True)
    found = branches(sweep.runs)
    kinds = {
        run.run_id: cell["schedule"] for run, cell in zip(sweep.runs, sweep.design["cells"], strict=True)
    }
    assert sorted(kinds[run_id] for run_id in found) == ["linear", "sqrt", "sqrt"]
    assert {kinds[branch.trunk] for branch in found.values()} == {"linear"}
    assert sweep.labels()[:3] == ("d16-1e5-linear", "d16-1e5-sqrt", "d16-1e5-cosine")
    rated = horizons("h", "?", ONE, [1e5, 4e5], factors=(0.5, 1))
    assert len(branches(rated.runs)) == 2  # each rate has a trunk of its own


def test_horizons_that_cannot_be_had_are_refused_by_name() -> None:
    short = by_width(dataclasses.replace(SETTING, unique_tokens=200_000), [16], 1e5)
    sweep = horizons("h", "?", short, [1e3, 1e5, 4e5])
    assert sweep.labels() == ("d16-1e5",)
    assert {refusal.label: refusal.reason.split(",")[-1] for refusal in sweep.refused} == {
        "d16-1e3": " at least 50 wanted",
        "d16-4e5": " 1 allowed",
    }
    with pytest.raises(UserError, match="no cell of sweep 'h'"):
        horizons("h", "?", ONE, [1e3])
    with pytest.raises(UserError, match="decay is 1"):
        horizons("h", "?", ONE, [1e5], decay=1)


def test_rates_change_the_rate_alone() -> None:
    sweep = tuning.rates("r", "?", BASES, (0.5, 1, 2), seeds=(0, 1))
    assert len(sweep.runs) == 2 * 3 * 2
    for base, run in BASES.runs.items():
        mine = of_base(sweep, base)
        assert differing(mine) == {"optimizer.lr", "seed"}
        assert sorted({one.optimizer.lr / run.optimizer.lr for one in mine}) == pytest.approx(
            [0.5, 1, 2], rel=1e-3
        )
    assert sweep.labels()[0] == "d16-lr0.5-seed0"
    assert sweep.design["kind"] == "lr" and sweep.design["unique_tokens"] == 20_000_000


def test_depths_change_the_depth_alone() -> None:
    bases = by_depth(SETTING, 16, [4, 2, 8], 1e5)
    runs = tuple(bases.runs.values())
    assert differing(runs) == {"model.n_layers"} and [run.model.n_layers for run in runs] == [2, 4, 8]


def test_batches_keep_the_tokens_and_move_the_rates_by_the_square_root() -> None:
    bases = by_width(SETTING, [16], 1e6)
    (base,) = bases.runs.values()
    sweep = tuning.rates_by_batch("b", "?", bases, batches=(0.5, 1, 4), factors=(0.5, 1))
    for run, cell in zip(sweep.runs, sweep.design["cells"], strict=True):
        assert 0.99 < run.tokens / base.tokens <= 1
        wanted = base.optimizer.lr * cell["lr"] * math.sqrt(run.batch_size / base.batch_size)
        assert run.optimizer.lr == pytest.approx(wanted, rel=1e-3)
    assert differing(sweep.runs) == {"batch_size", "steps", "optimizer.lr"}
    few = tuning.rates_by_batch("b", "?", bases, batches=(1, 1000))
    assert "at least 50 wanted" in few.refused[0].reason


def test_timescales_are_what_they_say() -> None:
    sweep = tuning.timescales("t", "?", BASES, decay=(0.1, 1), b2_tokens=(1e4, 1e5))
    assert differing(of_base(sweep, "d16")) == {"optimizer.weight_decay", "optimizer.b2"}
    for run, cell in zip(sweep.runs, sweep.design["cells"], strict=True):
        assert 1 / (run.optimizer.lr * run.optimizer.weight_decay) == pytest.approx(
            cell["t"] * run.steps, rel=1e-3
        )
        assert run.optimizer.b2 ** (cell["h"] / (run.batch_size * run.seq_len)) == pytest.approx(
            0.5, rel=1e-2
        )


def test_larger_batches_get_the_tokens_that_they_will_need() -> None:
    """At b times the critical batch, 1 + b times the fewest tokens (McCandlish et al. 2018, eq. 2.11)."""
    bases = by_width(SETTING, [16], 2e5)
    (base,) = bases.runs.values()
    critical = 4.0
    sweep = tuning.critical_batch("c", "?", bases, [1, 2, 4, 8, 16], critical, factors=(1,))
    fewest = base.tokens / (1 + base.batch_size / critical)
    for run in sweep.runs:
        assert run.schedule.name == "constant"
        needed = fewest * (1 + run.batch_size / critical)
        assert run.tokens >= min(needed, run.tokens) and run.tokens > 0.99 * max(needed, base.tokens)
    warm = {run.schedule.warmup_steps * run.batch_size for run in sweep.runs}
    assert max(warm) / min(warm) < 1.5  # the same tokens, as near as whole steps come


def test_seeds_and_ladders() -> None:
    sweep = tuning.seeds("s", "?", BASES, (3, 1, 2))
    assert differing(of_base(sweep, "d32")) == {"seed"} and len(sweep.runs) == 6
    with pytest.raises(UserError, match="at least two"):
        tuning.seeds("s", "?", BASES, (1, 1))
    rungs = tuning.ladder("l", "?", by_multiple(SETTING, [16, 32], [1, 4]))
    for run, cell in zip(rungs.runs, rungs.design["cells"], strict=True):
        multiple = float(cell["base"].rpartition("x")[2])
        n = counts(run.model, run.seq_len).n["total"]
        assert run.tokens / n == pytest.approx(20 * multiple, rel=0.01)


def test_a_design_can_be_planned_stored_and_is_refused_whole_only_when_empty() -> None:
    sweep = tuning.rates("r", "?", BASES)
    assert Sweep.from_json(sweep.to_json()) == sweep
    assert report(sweep)["totals"]["runs"] == 10
    with pytest.raises(UserError, match=r"no cell of sweep 'r' can be met \(d16: needs"):
        tuning.rates("r", "?", by_width(SETTING, [16], 1e12))
    none = dataclasses.replace(SETTING, limits=Limits(min_steps=10**9))
    with pytest.raises(UserError, match="at least 1000000000 wanted"):
        tuning.seeds("s", "?", by_width(none, [16], 1e5))
