"""The study of Kaplan's and Chinchilla's exponents: its cells, and that each step changes one habit."""

from __future__ import annotations

import os

import pytest
from test_quickstart_study import GOLDEN, table

from experiments.kaplan_vs_chinchilla import STEPS, sweep
from scaling.accounting import counts
from scaling.errors import UserError
from sweeps.trunks import branches, flops_to_train

SECONDS_PER_FLOP = 1e-10  # of one core, slow for the small steps of this study


def test_the_cells_are_those_of_the_golden_table() -> None:
    path = GOLDEN / "kaplan_vs_chinchilla.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.write_text(table(sweep()))
    assert table(sweep()) == path.read_text()


def test_it_ends_in_minutes_because_trunks_are_shared() -> None:
    made = sweep()
    found = branches(made.runs)
    assert sum(flops_to_train(run, found) for run in made.runs) * SECONDS_PER_FLOP < 10 * 60
    assert not made.refused


@pytest.mark.parametrize("size", ["cpu", "pod"])
def test_runs_of_a_profile_spend_its_budget_by_the_count_of_its_step(size: str) -> None:
    made = sweep(size=size)
    profiles = set()
    for run, cell in zip(made.runs, made.design["cells"], strict=True):
        spent = counts(run.model, run.seq_len).flops_per_token[cell["count"]] * run.tokens
        assert 0.97 * cell["budget"] < spent <= cell["budget"] * (1 + 1e-9)
        profiles.add((cell["step"], cell["budget"]))
    assert {step for step, _ in profiles} == set(STEPS) and len(profiles) == 4 * len(STEPS)


def test_each_step_undoes_one_habit() -> None:
    runs = {}
    made = sweep()
    for run, cell in zip(made.runs, made.design["cells"], strict=True):
        for record in (cell, *cell.get("also", ())):
            runs[record["step"], record["budget"], run.model.d_model] = run
    head, warmup, decay, tuned = (runs[step, 6.7e10, 24] for step in STEPS[1:])
    assert head.schedule.name == warmup.schedule.name == "constant" and decay.schedule.name == "cosine"
    assert head.schedule.warmup_steps == 128
    size = counts(warmup.model, warmup.seq_len).n["total"]
    assert warmup.schedule.warmup_steps == decay.schedule.warmup_steps == round(size / 512)
    assert head.tokens == warmup.tokens == decay.tokens
    assert head.optimizer == warmup.optimizer == decay.optimizer != tuned.optimizer
    # The same trunk: Kaplan's profiles are other horizons of the runs that count everything.
    kaplan = runs["kaplan", 4e10, 24]
    assert kaplan.optimizer == head.optimizer and kaplan.schedule == head.schedule


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="size is 'phone'; choose from cpu, pod"):
        sweep(size="phone")
