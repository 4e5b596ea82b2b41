"""Transfer of rates, from sweeps whose optima are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.columns import Reading
from analysis.plots.transfer import _title
from analysis.transfer import transfer, transfer_text
from analysis.tuning import tune
from analysis.tuning_rows import from_rows
from scaling.cli.main import app
from scaling.errors import UserError

SIZES = (1e4, 1e5, 1e6)
RATES = 2.0 ** np.arange(-10, -2)
NOISE = 0.003


def table(moves: dict[str, float], middle: float = 2.0**-6, seeds: int = 3) -> pd.DataFrame:
    """Losses 3, 2.8, 2.6 + .05 (log2 of rate over optimum)^2; the optimum moves by `moves` octaves in all."""
    generator = np.random.default_rng(0)
    rows = []
    for name, octaves in moves.items():
        for i, n in enumerate(SIZES):
            best = np.log2(middle) + octaves * i / 2
            for lr in RATES:
                for seed in range(seeds):
                    loss = (
                        3 - 0.2 * i + 0.05 * (np.log2(lr) - best) ** 2 + NOISE * generator.standard_normal()
                    )
                    rows.append(
                        {"n": n, "d": 1e6, "lr": lr, "seed": seed, "loss": loss, "parametrisation": name}
                    )
    return pd.DataFrame(rows)


def answer(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    content = transfer(tune(from_rows(rows, Reading(), "sweep.csv", "sweep", ["parametrisation"])))
    json.dumps(content, allow_nan=False)
    assert transfer_text(content)
    return {one["name"]: one for one in content["found"]}


def test_moves_are_those_put_in_and_their_intervals_cover_them() -> None:
    found = answer(table({"standard": -3.0, "mup": 0.1}))
    for name, moved in (("standard", -3.0), ("mup", 0.1)):
        low, high = found[name]["moved_interval"]
        assert found[name]["moved"] == pytest.approx(moved, abs=0.1)
        assert low < moved < high and high - low < 0.5
    assert found["mup"]["holds"] and not found["standard"]["holds"]


def test_what_the_tuned_rate_costs_is_counted_from_runs() -> None:
    found = answer(table({"standard": -3.0, "mup": 0.0}))
    excess = found["standard"]["excess"]
    # Tuned at 2^-6, best at 2^-9: .05 * 3^2 of a loss of 2.6.
    assert (excess["run_lr"], excess["best_lr"]) == (pytest.approx(2**-6), pytest.approx(2**-9))
    assert excess["share"] == pytest.approx(0.45 / 2.6, rel=0.05)
    assert excess["bar"] == pytest.approx(0.003 + 2 * NOISE / 3**0.5 / 2.6, rel=1)
    assert found["mup"]["excess"]["share"] <= found["mup"]["excess"]["bar"]


def test_an_optimum_at_the_edge_is_no_move() -> None:
    found = answer(table({"standard": -10.0}))["standard"]
    assert found["moved"] is None and found["holds"] is None and found["why"]


def test_one_size_is_one_sentence() -> None:
    rows = table({"mup": 0.0})
    with pytest.raises(UserError, match="all runs are of one size"):
        answer(rows[rows["n"] == SIZES[0]])


def test_the_command_reads_a_table_and_draws(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    table({"standard": -2.0, "mup": 0.0}).rename(columns={"parametrisation": "param"}).to_csv(
        path, index=False
    )
    command = ["transfer", str(path), "--by", "param", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [one["name"] for one in content["found"]] == ["mup", "standard"]
    assert all(Path(file).stat().st_size for file in content["files"])


def test_sizes_are_compared_at_one_horizon() -> None:
    """The optimum falls with the horizon alone: across horizons it would seem to move with the size."""
    short, long = table({"mup": 0.0}), table({"mup": 0.0}, middle=2.0**-7)
    found = answer(pd.concat([short, long.assign(d=1e8)]))
    assert set(found) == {"mup, D 1M", "mup, D 100M"}
    assert all(one["holds"] and abs(one["moved"]) < 0.1 for one in found.values())
    with pytest.raises(UserError, match="no two sizes were run at the same D"):
        answer(pd.concat([short[short["n"] == 1e4], long[long["n"] == 1e4].assign(d=1e8),
                          short[short["n"] == 1e5].assign(d=1e10)]))  # fmt: skip


def test_a_rate_that_was_not_run_says_nothing_of_the_tuned_one() -> None:
    rows = table({"standard": -3.0})
    found = answer(rows[(rows["n"] < 1e6) | (rows["lr"] < 2.0**-7.5)])["standard"]
    assert found["excess"] is None and found["excess_why"] == "the largest was not run near the tuned rate"
    assert found["holds"] is False  # the move says so
    rows = table({"mup": 0.0}, middle=2.0**-6)
    coarse = rows[(rows["n"] < 1e6) | ~rows["lr"].between(2.0**-7.5, 2.0**-4.5)]
    assert answer(coarse)["mup"]["excess"] is None


def test_a_table_whose_columns_are_named_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    names = {"n": "width", "lr": "eta", "loss": "ce"}
    table({"mup": 0.0}).rename(columns=names).to_csv(path, index=False)
    command = ["transfer", str(path), "--out", str(tmp_path), "--json"]
    assert "Give --n" in str(
        CliRunner().invoke(app, [*command, "--lr", "eta", "--loss", "ce", "--by", "width"]).exception
    )
    named = CliRunner().invoke(app, [*command, "--n", "width", "--lr", "eta", "--loss", "ce"])
    assert named.exit_code == 0, named.output
    assert json.loads(named.stdout)["found"][0]["holds"]


def test_titles_of_panels_stay_within_them() -> None:
    """Half a page holds about thirty letters; a name with its horizon takes a line of its own."""
    assert _title({"name": "mup", "moved": 0.0}) == "mup: optimum × 1"
    long = _title({"name": "completep, D 100M", "moved": None})
    assert long == "completep, D 100M:\nmove not known"
