"""The studies of schedules and batches: what they promise, for the CPU and for a pod, and their cells."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
from test_quickstart_study import GOLDEN, table

from experiments import batch_size, critical_batch, schedules
from scaling.errors import UserError
from scaling.recipes import RULES
from sweeps.horizons import saving
from sweeps.plan import cells, totals
from sweeps.trunks import branches

STUDIES = {study.__name__.rpartition(".")[2]: study for study in (batch_size, critical_batch, schedules)}
PRICED_SECONDS_PER_FLOP = 1e-10  # of one core, slow for the small steps of these studies


@pytest.mark.parametrize("name", STUDIES)
def test_the_cells_are_those_of_the_golden_table(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.write_text(table(STUDIES[name].sweep()))
    assert table(STUDIES[name].sweep()) == path.read_text()


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_each_has_a_setting_of_minutes_and_one_for_a_pod(study: ModuleType) -> None:
    small, large = study.sweep(), study.sweep(size="pod")
    assert not small.refused and not large.refused
    assert small.name + "-pod" == large.name
    assert totals(cells(small))["flops_trained"] * PRICED_SECONDS_PER_FLOP < 10 * 60
    for run in large.runs:
        assert run.model.n_layers >= 12 and run.batch_size % 32 == 0 and run.seq_len == 2048
    others = {run.seed for run in study.sweep(seed=3).runs}
    assert others and not others & {run.seed for run in small.runs}
    with pytest.raises(UserError, match="size is 'phone'; choose from cpu, pod"):
        study.sweep(size="phone")


def test_schedules_are_compared_at_equal_horizons_and_rates() -> None:
    for size in ("cpu", "pod"):
        sweep = schedules.sweep(size=size)
        met = {
            (cell["schedule"], cell["horizon"], cell["lr"], cell["seed"]) for cell in sweep.design["cells"]
        }
        assert len(met) == len(sweep.runs) == 3 * 4 * 3 * 2
        assert len({(run.batch_size, run.schedule.warmup_steps, run.model) for run in sweep.runs}) == 1
        assert len({(run.tokens, run.steps) for run in sweep.runs}) == 4
        assert len(branches(sweep.runs)) == 3 * 2 * (
            3 + 4
        )  # at each rate and seed: but the longest linear one
        linear = [
            run for run in sweep.runs if run.schedule.cooldown == "linear" and run.schedule.name == "wsd"
        ]
        found = branches(linear)
        spent = sum(
            run.tokens * (1 - (found[run.run_id].step / run.steps if run.run_id in found else 0))
            for run in linear
        )
        closed = saving([1, 2, 4, 8], schedules.DECAY)
        assert 1 - spent / sum(run.tokens for run in linear) == pytest.approx(closed, abs=2e-3)


def test_a_pod_s_rate_is_its_rule_s() -> None:
    (run,) = schedules.pod_base(425, 2e10, 0, None).runs.values()
    per_layer = 4 * 1280 * 10 * 128 + 2 * 1280 * 5120  # heads of 128, ungated MLP: by hand
    asked = RULES["steplaw"].at(18 * per_layer, 2e10)
    assert run.optimizer.lr == pytest.approx(asked["lr"], rel=0.01)
    assert 2**-0.5 <= run.batch_size * 2048 / asked["batch"] <= 2**0.5
