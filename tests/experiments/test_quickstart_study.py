"""The quickstart study: what it promises, and a golden table of its cells.

The golden table is written by code and read by people: a change of the recipe or of the study shows
in review as changed cells. When the change is meant, write it anew:

    SCALING_GOLDEN=write .venv/bin/python -m pytest tests/experiments
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import pytest

from experiments import grid, quickstart
from scaling.config import RunConfig
from scaling.data.text import embedded_info
from scaling.errors import UserError
from sweeps.plan import cells
from sweeps.sweep import Sweep, known_experiments

GOLDEN = Path(__file__).parent / "golden"


def n_by_hand(run: RunConfig) -> int:
    """Parameters of the tied SwiGLU decoder with normalised queries and keys, written out once more."""
    m = run.model
    heads, kv = m.n_heads * m.d_head, m.n_kv_heads * m.d_head
    block = m.d_model * (2 * heads + 2 * kv) + 3 * m.d_model * m.d_ff + 2 * m.d_model + 2 * m.d_head
    return m.vocab_size * m.d_model + m.n_layers * block + m.d_model


def table(sweep: Sweep) -> str:
    rows = [
        f"{'cell':12} {'run':12} {'N':>9} {'D':>10} {'C':>11} {'D/N':>7} {'batch':>6} {'steps':>5} {'lr':>9}"
    ]
    for cell in cells(sweep):
        rows.append(
            f"{cell.label:12} {cell.run_id} {cell.n:9d} {cell.tokens:10d} {cell.flops:11.5g} "
            f"{cell.tokens_per_parameter:7.3g} {cell.batch_tokens:6d} {cell.steps:5d} {cell.lr:9.4g}"
        )
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", ["quickstart", "grid"])
def test_the_cells_are_those_of_the_golden_table(name: str) -> None:
    study = {"quickstart": quickstart, "grid": grid}[name]
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(table(study.sweep()))
    assert table(study.sweep()) == path.read_text(), f"cells changed; if meant: {__doc__}"


def test_every_study_has_a_golden_table() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(known_experiments())


@pytest.mark.parametrize("study", [quickstart, grid])
def test_n_d_and_c_of_each_cell_follow_from_its_config(study: object) -> None:
    sweep = study.sweep()  # type: ignore[attr-defined]
    for cell, run in zip(cells(sweep), sweep.runs, strict=True):
        assert cell.n == n_by_hand(run)
        assert cell.tokens == run.batch_size * run.seq_len * run.steps
        assert cell.tokens_per_parameter == pytest.approx(cell.tokens / cell.n)
        windows = run.model.windows or (0,)
        seen = sum(
            min(place, windows[layer % len(windows)] or run.seq_len)
            for layer in range(run.model.n_layers)
            for place in range(1, run.seq_len + 1)
        )  # keys, over the layers and queries of a sequence
        attention = 12 * run.model.n_heads * run.model.d_head * seen / run.seq_len
        norms = (2 * run.model.n_layers + 1) * run.model.d_model + 2 * run.model.n_layers * run.model.d_head
        assert cell.flops == pytest.approx(cell.tokens * (6 * (cell.n - norms) + attention))


def test_the_quickstart_grid_is_wide_enough() -> None:
    sweep = quickstart.sweep()
    cells_of = Counter((run.model, run.steps, run.batch_size) for run in sweep.runs)
    assert len(cells_of) >= 24 and set(cells_of.values()) == {2}  # each with two seeds
    assert len(quickstart.WIDTHS) >= 4
    assert math.log10(max(quickstart.WIDTHS) / min(quickstart.WIDTHS)) >= 1.5
    assert max(quickstart.WIDTHS) >= 2e11
    planned = cells(sweep)
    for budget in quickstart.WIDTHS:
        own = [cell for cell in planned if cell.budget == budget]
        assert len(own) >= 4
        assert all(cell.flops == pytest.approx(budget, rel=0.01) for cell in own)
    assert 10 * max(cell.flops for cell in planned) <= quickstart.TARGET


def test_the_expected_optimum_lies_inside_enough_profiles_for_an_exponent() -> None:
    profiles = quickstart.sweep().design["profiles"]
    assert sum(not profile["at_edge"] for profile in profiles) >= 3
    assert not profiles[-1]["at_edge"]


def test_a_target_nearer_than_ten_times_is_refused() -> None:
    least = 10 * max(quickstart.WIDTHS)
    assert quickstart.target_check(least) == least
    assert quickstart.target_check(None) == quickstart.TARGET
    for target in (0.99 * least, 0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="give at least"):
            quickstart.sweep(target=target)
    assert quickstart.sweep(target=5 * least).design["target"] == 5 * least
    assert quickstart.sweep(target=5 * least).run_ids == quickstart.sweep().run_ids


def test_seed_and_text_go_into_every_run(tmp_path: Path) -> None:
    from scaling.data.prepare import prepare

    seeds = [{run.seed for run in quickstart.sweep(seed=seed).runs} for seed in range(3)]
    assert all(len(own) == len(quickstart.sweep().runs) for own in seeds)  # each run has its own
    assert not set.intersection(*seeds) and 0 in seeds[0]
    embedded = embedded_info()
    for run in quickstart.sweep().runs:
        assert (run.data.name, run.data.fingerprint) == (embedded.name, embedded.fingerprint)
    source = tmp_path / "mine"
    source.mkdir()
    for number in range(20):
        (source / f"{number}.txt").write_text(f"Page {number} of a short book.\n" * 2000)
    prepared, _ = prepare(source, tmp_path / "prepared")
    sweep = quickstart.sweep(data=tmp_path / "prepared")
    assert {run.data.fingerprint for run in sweep.runs} == {prepared.fingerprint}
    assert sweep.design["unique_tokens"] == prepared.train_tokens
    refused = [refusal for refusal in sweep.refused if "epochs of the text" in refusal.reason]
    assert refused and all(run.tokens <= prepared.train_tokens for run in sweep.runs)
