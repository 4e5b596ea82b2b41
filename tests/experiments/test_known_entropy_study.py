"""The study of a known entropy: its cells, its refusals."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pandas as pd
import pytest
from test_quickstart_study import GOLDEN, table

from experiments import known_entropy
from scaling.accounting import counts
from scaling.config import Placement
from scaling.data.hierarchy import Hierarchy, write_hierarchy
from scaling.errors import UserError
from scaling.runs import RunFolder


def test_the_cells_are_those_of_the_golden_table(tmp_path: Path) -> None:
    write_hierarchy(known_entropy.SOURCE, tmp_path / "h", 6.5e6)
    found, path = table(known_entropy.sweep(data=tmp_path / "h")), GOLDEN / "known_entropy.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.write_text(found)
    assert found == path.read_text()


def test_another_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="known_entropy needs a text"):
        known_entropy.sweep()
    write_hierarchy(Hierarchy(levels=1), tmp_path / "h", 1e4, val_tokens=1e4)
    with pytest.raises(UserError, match=r"is not a text of 0\.95\d+ nats"):
        known_entropy.sweep(data=tmp_path / "h")


@pytest.mark.parametrize(("off", "code"), [(0.0, 0), (-0.05, 1)])
def test_the_fitted_e_is_held_against_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], off: float, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_hierarchy(known_entropy.SOURCE, tmp_path / "h", 6.5e6)
    runs = known_entropy.sweep(data=tmp_path / "h").runs
    truth = known_entropy.SOURCE.entropy
    for number, run in enumerate(runs):
        n = counts(run.model, run.seq_len).n["total"]
        loss = truth + off + 5e3 / n**1.5 + 130 / run.tokens**0.7
        place = RunFolder(tmp_path / "runs" / run.run_id)
        place.create(run, Placement())
        place.finish("done", {"loss": loss * (1 + 2e-4 * math.sin(7.0 * number)), "loss_se": 1e-4})
    assert known_entropy.compare("runs") == code
    said = capsys.readouterr().out
    assert f"true entropy rate  {truth:.4f}" in said and f"error              {off:+.2f}"[:-1] in said
    drawn = pd.read_csv("reports/known_entropy/runs.csv")
    (fitted,) = drawn[drawn["series"] == "fitted E"].to_dict("records")
    assert fitted["low"] < truth + off < fitted["high"] and (drawn["series"] == "run").sum() == len(runs)
