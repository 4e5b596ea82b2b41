"""Runs that begin alike: the same prefix means the same state, and a branch is a run, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import CPU, tiny

from scaling.accounting import run_flops
from scaling.config import Placement, RunConfig
from scaling.errors import UserError
from scaling.prefix import beginnings, prefix, shared_steps
from scaling.runs import RunFolder
from scaling.schedule import fraction_of_peak
from scaling.train import Interrupted, train

HORIZONS = (10, 20, 40, 80)
DECAY = 0.1


def horizon(steps: int, **changes: Any) -> RunConfig:
    schedule = {"schedule__warmup_steps": 5, "schedule__decay": DECAY, "schedule__final": 0.0}
    return tiny(steps=steps, **(schedule | changes))


RUNS = tuple(horizon(steps) for steps in HORIZONS)
TRUNK = RUNS[-1]


def leaves(run: RunConfig) -> int:
    """The last step at a constant rate."""
    return run.steps - round(DECAY * run.steps)


def numbers(folder: RunFolder) -> tuple[Any, ...]:
    summary = folder.summary()
    lines = folder.metrics_path.read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return summary["loss"], summary["loss_se"], summary["train_loss"], rows


def trained(config: RunConfig, store: Path, placement: Placement = CPU) -> RunFolder:
    folder = RunFolder(store / config.run_id)
    train(config, placement, folder)
    return folder


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunFolder]:
    """Every horizon as a run of its own, alone in its store."""
    return {run.steps: trained(run, tmp_path_factory.mktemp("apart")) for run in RUNS}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trunk with a checkpoint where each branch leaves, then the branches."""
    path = tmp_path_factory.mktemp("together")
    trained(TRUNK, path, dataclasses.replace(CPU, keep_steps=tuple(leaves(run) for run in RUNS[:-1])))
    for run in RUNS[:-1]:
        trained(run, path)
    return path


def test_a_branch_equals_the_run_of_its_own_bit_for_bit(store: Path, apart: dict[int, RunFolder]) -> None:
    for run in RUNS:
        assert numbers(RunFolder(store / run.run_id)) == numbers(apart[run.steps])


def test_a_branch_s_folder_is_whole_and_says_whose_steps_it_took_over(store: Path) -> None:
    run = RUNS[1]
    summary = RunFolder(store / run.run_id).summary()
    start = summary["started_from"]
    assert (start["run_id"], start["step"]) == (TRUNK.run_id, 18)
    assert start["prefix"] == prefix(run, 18) == prefix(TRUNK, 18)
    assert summary["notes"] == []
    assert summary["seconds"] >= start["seconds"] > 0
    assert summary["steps_trained"] == 2
    assert "started_from" not in RunFolder(store / TRUNK.run_id).summary()
    rows = RunFolder(store / run.run_id).metrics()[0]
    assert [row["step"] for row in rows] == list(range(1, 21))
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_flops_counted_from_the_logs_save_what_the_closed_form_says(store: Path) -> None:
    """Horizons 1, 2, 4, 8 and 10% of cooldown: 42%."""
    summaries = [RunFolder(store / run.run_id).summary() for run in RUNS]
    spent = sum(summary["flops_trained"] for summary in summaries)
    separate = sum(run_flops(run) for run in RUNS)
    assert 1 - spent / separate == pytest.approx((1 - DECAY) * (1 + 2 + 4) / (1 + 2 + 4 + 8))
    assert round(1 - spent / separate, 2) == 0.42


def test_a_branch_that_is_stopped_goes_on_as_a_branch(store: Path, apart: dict[int, RunFolder]) -> None:
    run = RUNS[2]
    folder = RunFolder(store / run.run_id)
    shutil.rmtree(folder.path)
    left = iter((False, True))
    with pytest.raises(Interrupted, match="saved at step 38 of 40"):
        train(run, CPU, folder, should_stop=lambda: next(left))
    assert train(run, CPU, folder)["started_from"]["step"] == 36
    assert numbers(folder) == numbers(apart[40])


def test_a_damaged_trunk_is_passed_over_by_name(store: Path, tmp_path: Path) -> None:
    """The next best beginning is taken, here that of a shorter branch's branching."""
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    run = RUNS[2]
    shutil.rmtree(copy / run.run_id)
    damaged = copy / TRUNK.run_id / "checkpoints" / "36" / "state"
    shutil.rmtree(damaged)
    summary = train(run, CPU, RunFolder(copy / run.run_id))
    assert summary["started_from"]["step"] == 18
    assert len(summary["notes"]) == 1 and "checkpoint 36 of run" in summary["notes"][0]
    assert damaged.parent.exists()  # another run's folder is not ours to mend


def test_without_its_trunk_it_trains_from_the_beginning(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    run = RUNS[0]
    for one in (run, TRUNK):
        shutil.rmtree(copy / one.run_id)
    folder = trained(run, copy)
    assert folder.summary()["steps_trained"] == 10
    assert numbers(folder) == numbers(RunFolder(store / run.run_id))


def test_another_placement_may_go_on_and_says_so(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    shutil.rmtree(copy / RUNS[0].run_id)
    folder = trained(RUNS[0], copy, dataclasses.replace(CPU, microbatches=2))
    (note,) = folder.summary()["notes"]
    assert "another microbatches" in note and TRUNK.run_id in note


def test_only_a_store_of_runs_shares_beginnings(store: Path) -> None:
    """Under a name of one's own, or as a repetition of the same run, training begins at the beginning."""
    run = RUNS[0]
    assert beginnings(run, RunFolder(store / run.run_id))
    assert beginnings(run, RunFolder(store / "again")) == []
    assert {start.folder.run_id for start in beginnings(TRUNK, RunFolder(store / TRUNK.run_id))} == {
        one.run_id for one in RUNS[:-1] if _kept_before_cooldown(store, one)
    }


def _kept_before_cooldown(store: Path, run: RunConfig) -> bool:
    kept = (int(path.name) for path in (store / run.run_id / "checkpoints").iterdir())
    return any(step <= leaves(run) for step in kept)


def test_a_diverged_trunk_takes_the_branches_past_its_end_with_it(tmp_path: Path) -> None:
    hot = {"optimizer__lr": 1e30, "schedule__warmup_steps": 1}
    trunk, late = horizon(40, **hot), horizon(20, **hot)
    folder = trained(trunk, tmp_path)
    assert folder.status() == "diverged"
    step = folder.summary()["diverged_step"]
    assert step < leaves(late)
    branch = trained(late, tmp_path)
    summary = branch.summary()
    assert (summary["status"], summary["diverged_step"], summary["loss"]) == ("diverged", step, None)
    assert summary["steps_trained"] == 0 and summary["flops_trained"] == 0
    assert trunk.run_id in summary["notes"][0] and "diverged at" in summary["notes"][0]
    alone = trained(late, tmp_path / "alone").summary()
    assert (alone["status"], alone["diverged_step"]) == ("diverged", step)


def test_a_prefix_is_all_that_fixes_the_first_steps() -> None:
    assert shared_steps(RUNS[0], TRUNK) == leaves(RUNS[0]) == 9
    assert prefix(RUNS[0], 9) == prefix(TRUNK, 9)
    assert prefix(RUNS[0], 10) != prefix(TRUNK, 10)
    assert prefix(TRUNK, 8) != prefix(TRUNK, 9)
    same = {"data__val_tokens": 4096, "data__epochs": 3, "schedule__cooldown": "sqrt", "schedule__final": 0.1}
    for name, value in same.items():
        assert prefix(horizon(40, **{name: value}), 36) == prefix(TRUNK, 36), name
    other = {
        "seed": 1, "optimizer__lr": 2e-2, "optimizer__b2": 0.9, "optimizer__weight_decay": 0.0,
        "batch_size": 8, "model__d_ff": 32, "data__unique_tokens": 3200, "z_loss": 1e-4,
        "schedule__warmup_steps": 6, "seq_len": 16, "data__fingerprint": "0" * 16, "parametrisation": "mup",
    }  # fmt: skip
    for name, value in other.items():
        assert prefix(horizon(80, **{name: value}), 36) != prefix(TRUNK, 36), name
        assert shared_steps(horizon(80, **{name: value}), TRUNK) <= 4, name
    with pytest.raises(UserError, match="steps 0 to 10"):
        prefix(RUNS[0], 11)


def test_shared_steps_are_those_whose_rates_agree() -> None:
    """Counted by hand: cosines of two horizons agree while they warm up, and nowhere else."""
    one, other = (horizon(steps, schedule__name="cosine") for steps in (30, 60))
    rates = [[fraction_of_peak(run.schedule, s, run.steps) for s in range(1, 31)] for run in (one, other)]
    agree = [a == b for a, b in zip(*rates, strict=True)]
    assert shared_steps(one, other) == agree.index(False) == 5
    assert math.isclose(fraction_of_peak(one.schedule, 5, 30), 1.0)
