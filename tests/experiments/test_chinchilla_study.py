"""The Chinchilla study: its sizes and budgets are the published ones, and each of its settings can be had."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from test_quickstart_study import GOLDEN, table

from experiments.chinchilla import SIZES, sweep
from scaling.accounting import parts
from scaling.arch.presets import find
from scaling.cli.main import main
from scaling.data.text import FORMAT
from scaling.errors import UserError
from sweeps.plan import cells


def test_the_cells_are_those_of_the_golden_table() -> None:
    path = GOLDEN / "chinchilla.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.write_text(table(sweep()))
    assert table(sweep()) == path.read_text()


def test_budgets_and_shapes_are_those_printed() -> None:
    """Figure 3 of Hoffmann et al. 2022, and 1143M of table A9: 14 heads of 128, 26 layers."""
    assert list(SIZES) == [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21]
    runs = {label: run for label, run in zip(sweep().labels(), sweep().runs, strict=True)}
    model = runs["1e20-1143M"].model
    assert (model.d_model, model.d_ff, model.n_heads, model.d_head, model.n_layers) == (
        1792,
        7168,
        14,
        128,
        26,
    )
    # Ours has no biases and no relative positions: less than the printed count, and by little.
    assert 0.9 < parts(model).total / parts(find("chinchilla-1143m")).total < 1


def test_a_cell_spends_its_budget_and_no_more() -> None:
    planned = cells(sweep())
    for cell in planned:
        assert cell.budget and 0.999 < cell.flops / cell.budget <= 1
    for budget in SIZES:  # 20 tokens a parameter, the published optimum, lie inside each profile
        ratios = [cell.tokens_per_parameter for cell in planned if cell.budget == budget]
        assert min(ratios) < 10 and max(ratios) > 40


def test_a_small_setting_of_the_same_design() -> None:
    small = sweep(size="cpu")
    assert small.name != sweep().name  # their runs do not share a folder
    assert max(cell.flops for cell in cells(small)) < 1e12
    with pytest.raises(UserError, match="choose from pod, cpu"):
        sweep(size="huge")


def test_a_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    manifest = {
        "format": FORMAT, "name": "short", "fingerprint": "f", "tokenizer": "bytes", "vocab_size": 256,
        "train_tokens": 10**10, "val_tokens": 10**6, "train_documents": 1, "val_documents": 1,
        "train_bytes": 1, "val_bytes": 1, "source": "", "mixture": {},
    }  # fmt: skip
    (tmp_path / "prepared.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"no cell of 3e20 FLOPs.*epochs of the text"):
        sweep(data=tmp_path)


def test_it_is_planned_at_once_without_timing_a_step_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setattr("scaling.rate.measure_all", lambda *a: pytest.fail("a pod's step was timed here"))
    monkeypatch.setattr(sys, "argv", ["scaling", "plan", "chinchilla", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["totals"]["runs"] == len(sweep().runs)
