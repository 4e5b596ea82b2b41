"""Optima of sweeps, what is refused and proposed, laws of the optima, and the command."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.columns import Reading
from analysis.tuning import tune
from analysis.tuning_laws import Optima, at, power_law
from analysis.tuning_next import Level, bracket, refine
from analysis.tuning_rows import from_rows, load_sweep
from analysis.tuning_rules import hyperparameters
from analysis.tuning_show import tuning_text
from experiments import batch_size
from scaling.accounting import counts
from scaling.cli.main import app
from scaling.config import Placement
from scaling.errors import UserError
from scaling.runs import RunFolder

RUN = CliRunner()


def excess(u):
    """How far above the lowest loss a rate lies that is off by exp(u)."""
    return 0.03 * ((1.0 * np.exp(-0.4 * u) + 0.4 * np.exp(1.0 * u)) / 1.4 / 0.4 - 1 / 0.4)


def best_lr(n, d):
    return 3.0 * n**-0.5 * d**0.2


STEPS = np.arange(-3, 4)


def sweep(sizes, rates=STEPS, seeds=(0, 1, 2), noise=0.002, blows_up=math.inf):
    """Rates at factors 2 about a guess, a run a row; those above `blows_up` times the best diverge."""
    rng = np.random.default_rng(0)
    rows = []
    for n, d in sizes:
        guess = best_lr(n, d) * rng.uniform(0.7, 1.4)
        for lr in guess * 2.0**rates:
            u = math.log(lr / best_lr(n, d))
            for seed in seeds:
                loss = 1.7 + 50 * n**-0.3 + 200 * d**-0.3 + excess(u) + noise * rng.normal()
                lost = u > math.log(blows_up)
                rows.append(
                    {"n": n, "d": d, "lr": lr, "seed": seed, "loss": math.nan if lost else loss,
                     "status": "diverged" if lost else "done"}
                )  # fmt: skip
    return pd.DataFrame(rows)


def tuned(frame, **options):
    reading = Reading(n="n", d="d", lr="lr", loss="loss", batch="batch" if "batch" in frame else None)
    return tune(from_rows(frame, reading, "sweep.csv", "sweep"), **options)


GRID = [(n, d) for n in (1e6, 4e6, 1.6e7) for d in (2e7, 1e8, 5e8)]


def test_optima_and_their_law_are_recovered_with_intervals_that_hold():
    content = tuned(sweep(GRID))
    held = 0
    for cell, (n, d) in zip(content["cells"], GRID, strict=True):
        low, high = cell["optimum"]["lr_interval"]
        held += low < best_lr(n, d) < high
        assert cell["optimum"]["lr"] == pytest.approx(best_lr(n, d), rel=0.2)
    assert held >= 7  # of 9 at 90%
    law = content["laws"]["lr"]
    assert law["inputs"] == ["n", "d"]
    for name, truth in (("u", -0.5), ("v", 0.2)):
        low, high = law["intervals"][name]
        assert low < truth < high and high - low < 0.15
    assert content["noise"]["sigma"] == pytest.approx(0.002, rel=0.25)
    asked = hyperparameters(content, 1e8, 2e9)
    assert asked["lr_interval"][0] < best_lr(1e8, 2e9) < asked["lr_interval"][1]
    assert asked["extrapolation"] == pytest.approx(1e8 / 1.6e7)
    json.dumps(content, allow_nan=False)


def test_a_diverged_run_is_a_bad_side_and_no_number():
    content = tuned(sweep([(1e6, 1e8)], rates=np.arange(-3, 4), blows_up=2.5))
    (cell,) = content["cells"]
    assert cell["diverged"] >= 3
    assert all(math.isfinite(p["loss"]) for p in cell["points"] if p["loss"] is not None)
    assert any(p["loss"] is None and not p["used"] for p in cell["points"])
    low, high = cell["optimum"]["lr_interval"]
    assert low < best_lr(1e6, 1e8) < high


def test_survivors_of_a_rate_at_which_a_seed_diverged_are_left_out():
    frame = sweep([(1e6, 1e8)])
    worst = frame["lr"].max()
    frame.loc[frame.index[frame["lr"] == worst][0], ["loss", "status"]] = [math.nan, "diverged"]
    (cell,) = tuned(frame)["cells"]
    assert [p["loss"] for p in cell["points"] if p["lr"] == pytest.approx(worst)] == [None]


@pytest.mark.parametrize(
    ("rates", "word", "factor"), [(range(3), "smallest", 0.25), (range(-4, -1), "largest", 4)]
)
def test_an_optimum_at_an_edge_is_refused_with_what_to_run_next(rates, word, factor):
    frame = sweep([(1e6, 1e8)], rates=np.array(list(rates)) + (1.0 if word == "smallest" else -1.0))
    (cell,) = tuned(frame)["cells"]
    assert cell["optimum"] is None and f"{word} rate" in cell["refused"]
    edge = frame["lr"].min() if word == "smallest" else frame["lr"].max()
    assert [row["lr"] for row in cell["next"]] == [pytest.approx(edge * factor, rel=1e-3)]


def test_a_rate_beside_divergence_asks_for_the_middle():
    levels = [Level(1e-3, 2.2), Level(4e-3, 2.0), Level(1.6e-2, None)]
    found = bracket(levels)
    assert "diverged" in found.reason
    assert found.next == (pytest.approx(8e-3),)


@pytest.mark.parametrize("off", [1 / 64, 1 / 16, 1 / 4, 3.0, 40.0])
def test_few_runs_bracket_an_optimum_from_a_far_start(off):
    tried: dict[float, float | None] = {}

    def run(lr):
        u = math.log(lr / 1e-3)
        tried[lr] = None if u > 2.3 else 2 + float(excess(u))

    run(off * 1e-3)
    for _ in range(20):
        levels = [Level(lr, tried[lr]) for lr in sorted(tried)]
        if all(level.loss is None for level in levels):
            run(levels[0].at / 4)
            continue
        found = bracket(levels)
        found = found if found.reason else refine(levels, found.best, None)
        if found.seeds or not found.next:
            break
        for lr in found.next:
            run(lr)
    levels = [Level(lr, tried[lr]) for lr in sorted(tried)]
    best = bracket(levels).best
    assert levels[best - 1].at < 1e-3 < levels[best + 1].at
    assert levels[best + 1].at / levels[best - 1].at <= 4.5
    assert len(tried) <= abs(math.log(off, 4)) + 7


def test_noise_alone_gives_no_optimum():
    frame = sweep([(1e6, 1e8)], noise=0.5)
    (cell,) = tuned(frame)["cells"]
    assert cell["optimum"] is None and cell["refused"]
    assert cell["next"]


def test_three_rates_and_no_seed_to_spare_give_an_optimum_without_an_interval():
    content = tuned(sweep([(1e6, 1e8)], rates=np.array([-1.5, 0, 1.5]), seeds=(0,), noise=1e-6))
    (cell,) = content["cells"]
    assert cell["optimum"]["lr_interval"] is None
    assert any("no run is to spare" in note for note in content["notes"])
    known = tuned(sweep([(1e6, 1e8)], rates=np.array([-1.5, 0, 1.5]), seeds=(0,), noise=1e-6), noise=0.001)
    assert known["cells"][0]["optimum"]["lr_interval"]


def crossed():
    rng = np.random.default_rng(3)
    rows = []
    for d in (1e8, 1e9, 1e10):
        for lr in 2e-3 * 2.0 ** np.arange(-2, 3):
            for batch in 3.0 * d**0.5 * 2.0 ** np.arange(-2, 3):
                u, v = math.log(lr / 2e-3), math.log(batch / (3.0 * d**0.5))
                loss = 2 + 0.02 * (u * u - 0.9 * u * v + 0.6 * v * v) + 0.001 * rng.normal()
                rows.append({"n": 1e6, "d": d, "lr": lr, "batch": batch, "loss": loss + 1e9 / d * 0.1})
    return pd.DataFrame(rows)


def test_a_crossed_sweep_is_one_surface_and_can_be_read_at_each_batch():
    content = tuned(crossed())
    assert [cell["swept"] for cell in content["cells"]] == [["lr", "batch"]] * 3
    for cell in content["cells"]:
        assert cell["optimum"]["lr"] == pytest.approx(2e-3, rel=0.1)
        assert cell["optimum"]["batch"] == pytest.approx(3 * cell["d"] ** 0.5, rel=0.15)
    low, high = content["laws"]["batch"]["intervals"]["v"]
    assert low < 0.5 < high and "moves to its own optimum" in content["laws"]["batch"]["fixed"]
    held = tuned(crossed(), hold="batch")
    law = held["laws"]["lr"]
    # At a fixed batch the best rate is exp(.45 v) of the joint one, v the log of the batch over its best.
    assert "batch" in law["inputs"]
    assert law["constants"]["s"] == pytest.approx(0.45, abs=0.1)


def test_the_law_is_weighted_least_squares():
    rng = np.random.default_rng(4)
    x = np.log(np.geomspace(1e6, 1e9, 7))
    error = np.array([0.05, 0.3, 0.05, 0.2, 0.1, 0.05, 0.4])
    y = 1.0 - 0.4 * x + error * rng.normal(size=7) * 0.5
    law = power_law(Optima(y, error, {"n": x}), "lr", ["n"], "")
    slope, intercept = np.polyfit(x, y, 1, w=1 / error)
    assert law["scatter"] == 1.0  # the residuals are smaller than the errors say
    assert law["constants"]["u"] == pytest.approx(slope)
    assert math.log(law["constants"]["k"]) == pytest.approx(intercept)
    assert at(law, n=1e7)["value"] == pytest.approx(math.exp(intercept + slope * math.log(1e7)))
    assert at(law, n=1e11)["extrapolation"] == pytest.approx(100)


def test_scatter_beyond_the_errors_widens_the_law():
    x = np.log(np.geomspace(1e6, 1e9, 8))
    y = -0.5 * x + np.array([0.3, -0.3, 0.3, -0.3, 0.3, -0.3, 0.3, -0.3])
    law = power_law(Optima(y, np.full(8, 0.01), {"n": x}), "lr", ["n"], "")
    assert math.log(law["scatter"]) == pytest.approx(0.3 * math.sqrt(8 / 6), rel=0.1)
    low, high = law["intervals"]["u"]
    assert low < -0.5 < high


def test_where_n_and_d_move_together_the_law_is_in_c():
    content = tuned(sweep([(n, 20 * n) for n in (1e6, 4e6, 1.6e7, 6.4e7)]))
    law = content["laws"]["lr"]
    assert law["inputs"] == ["c"]
    # N ~ C^(1/2), D ~ C^(1/2): the exponent is half the sum.
    low, high = law["intervals"]["w"]
    assert low < (-0.5 + 0.2) / 2 < high
    assert "N moves along" in law["fixed"] and "D moves along" in law["fixed"]


def test_a_table_without_a_rate_or_with_too_few_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="which column is the learning rate"):
        from_rows(sweep(GRID).drop(columns="lr"), Reading(), "t.csv", "t")
    with pytest.raises(UserError, match="no size and horizon has three"):
        tuned(sweep(GRID, rates=np.array([0, 1])))


def test_the_command_writes_json_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = sweep(GRID[:4], blows_up=5).rename(columns={"n": "params", "loss": "val_loss"})
    frame.to_csv("rates.csv", index=False)
    done = RUN.invoke(app, ["tune", "rates.csv", "--n", "params", "--loss", "val_loss", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert len(content["cells"]) == 4
    assert all((tmp_path / name).stat().st_size > 500 for name in content["files"])
    with pytest.raises(UserError, match="--hold is 'x'"):
        RUN.invoke(app, ["tune", "rates.csv", "--hold", "x"], catch_exceptions=False)


def test_the_text_names_what_is_refused_and_what_to_run():
    frame = pd.concat([sweep(GRID[:3]), sweep([(1e8, 1e8)], rates=np.arange(0, 4))])
    console = Console(width=100, record=True)
    console.print(tuning_text(tuned(frame)))
    text = console.export_text()
    assert "the lowest loss is at the smallest rate tried" in text
    assert "run next" in text and "lr = k" in text and "steplaw" in text


def test_published_rules_are_listed_without_a_table():
    done = RUN.invoke(app, ["tune", "--rules", "--json"])
    rules = {rule["name"]: rule for rule in json.loads(done.stdout)["rules"]}
    assert rules["steplaw"]["n_count"] == "non_embedding"
    assert "AdamH" in rules["delphi"]["secondary"]


def test_a_folder_of_our_runs_is_read_with_its_diverged_ones(tmp_path):
    study = batch_size.sweep()
    for number, run in enumerate(study.runs):
        at_ = RunFolder(tmp_path / "batch_size" / run.run_id)
        at_.create(run, Placement())
        batch, n = run.batch_size * run.seq_len, counts(run.model, run.seq_len).n["total"]
        v = math.log(batch / (2.0 * run.tokens**0.4))
        u = math.log(run.optimizer.lr / (3 * n**-0.6)) - 0.5 * v
        lost = u > 1.6
        loss = 2 + 0.03 * u * u + 0.02 * v * v + 1e-4 * (number % 3)
        at_.finish("diverged" if lost else "done", {} if lost else {"loss": loss, "loss_se": 0.01})
    study.write(tmp_path / "batch_size" / "sweep.json")
    content = tune(load_sweep(str(tmp_path / "batch_size"), Reading()))
    assert content["conventions"] == {"n": "total", "c": "matmul"}
    assert len(content["cells"]) == 4 and {tuple(c["swept"]) for c in content["cells"]} == {("lr", "batch")}
    assert sum(cell["rows"] for cell in content["cells"]) == len(study.runs)
    assert all(cell["optimum"] or cell["next"] or cell["refused"] for cell in content["cells"])
    assert content["held"]["schedule.name"] == study.runs[0].schedule.name
    json.dumps(content, allow_nan=False)


def plain_table(frame, **options):
    return tune(from_rows(frame, Reading(), "sweep.csv", "sweep"), **options)


ONE_SIZE = sweep([(1e6, 2e7), (4e6, 2e7)])


def test_columns_named_with_spaces_and_sizes_with_suffixes_are_read():
    strange = ONE_SIZE.assign(n=[f"{n / 1e6:g}M" for n in ONE_SIZE["n"]], d="0.02B").rename(
        columns={"n": "N Params", "d": "Train Tokens", "lr": "Learning Rate", "loss": "Val Loss"}
    )
    assert plain_table(strange)["cells"] == plain_table(ONE_SIZE)["cells"]


def test_a_logarithm_of_the_rate_is_named_as_one():
    with pytest.raises(UserError, match=r"lr is negative in every row .* as a logarithm is"):
        plain_table(ONE_SIZE.assign(lr=np.log10(ONE_SIZE["lr"])))
    with pytest.raises(UserError, match=r"row 3 has lr = .* not a positive number"):
        plain_table(ONE_SIZE.assign(lr=ONE_SIZE["lr"].where(ONE_SIZE.index != 2, -1.0)))


def test_runs_that_ended_without_a_loss_did_not_diverge():
    frame = ONE_SIZE.copy()
    worst = frame["lr"] == frame.groupby("n")["lr"].transform("max")
    frame.loc[worst, ["loss", "status"]] = [math.nan, "error"]
    content = plain_table(frame)
    assert [cell["diverged"] for cell in content["cells"]] == [0, 0]
    assert "rows left out: 6 with status error" in content["notes"]


def test_batches_that_look_like_sequences_are_remarked_on_and_can_be_turned_into_tokens():
    rates = [1e-3 * 2.0**i for i in range(5)]
    frame = pd.DataFrame(
        {"n": 1e6, "d": 2e7, "lr": lr, "batch_size": 32, "seed": seed,
         "loss": 3 + excess(math.log(lr / 4e-3)) + 1e-3 * seed}
        for lr in rates for seed in range(2)
    )  # fmt: skip
    assert any("batches of 32 to 32 are read as tokens" in text for text in plain_table(frame)["notes"])
    read = Reading(units={"batch": "1024"})
    content = tune(from_rows(frame, read, "sweep.csv", "sweep"))
    assert content["cells"][0]["batch"] == 32 * 1024
    assert not any("read as tokens" in text for text in content["notes"])


def test_a_size_beyond_a_rule_that_ends_leaves_that_rule_out():
    """Kaplan's rate is below 0 from N 1.2e10 on."""
    rules = {rule["rule"] for rule in plain_table(sweep([(2e10, 4e11)]))["rules"]}
    assert "steplaw" in rules and "kaplan" not in rules


def test_a_law_too_steep_to_be_written_is_still_json():
    n = np.log([1e10, 1.25e10, 1.1e10])
    optima = Optima(np.log([1e-2, 1e-5, 1e-1]), np.full(3, 0.1), {"n": n, "c": 2 * n})
    law = power_law(optima, "lr", ["c"], "")
    json.dumps([law, at(law, c=1e40)], allow_nan=False)


def test_a_law_in_the_batch_says_what_it_holds():
    rng = np.random.default_rng(1)
    rows = [
        {"n": n, "d": 1e9, "batch": b, "lr": lr, "seed": seed,
         "loss": 3 + excess(math.log(lr / (n**-0.3 * b**0.5 * 1e-3))) + 1e-3 * rng.normal()}
        for n in (1e6, 4e6) for b in (2e4, 8e4, 3.2e5)
        for lr in n**-0.3 * b**0.5 * 1e-3 * 2.0 ** np.arange(-2, 3) for seed in range(2)
    ]  # fmt: skip
    law = plain_table(pd.DataFrame(rows), hold="batch")["laws"]["lr"]
    assert law["formula"] == "lr = k N^u B^s"
    assert law["fixed"] == "the batch is that of each cell; D is held at 1B"


def test_a_table_without_a_size_says_how_to_name_one():
    frame = ONE_SIZE.assign(width=np.where(ONE_SIZE["n"] == 1e6, 64, 128)).drop(columns=["n", "d"])
    content = tune(from_rows(frame, Reading(), "sweep.csv", "sweep", ["width"]))
    assert "name one by --n" in content["laws"]["skipped"]["lr"]
    text = written(content)
    assert all(len(line) <= 100 for line in text.splitlines())
    by_width = tune(from_rows(frame, Reading(n="width"), "sweep.csv", "sweep"))
    assert by_width["laws"]["lr"]["inputs"] == ["n"] and not any("--n-unit" in t for t in by_width["notes"])


def written(content):
    console = Console(width=100, file=io.StringIO())
    console.print(tuning_text(content))
    return console.file.getvalue()


def test_where_n_moves_with_d_there_is_no_token_horizon():
    content = plain_table(sweep([(1e6, 2e7), (4e6, 8e7), (1.6e7, 3.2e8)]))
    assert "lr_d" in content["laws"] and "token horizon" not in written(content)
    assert "token horizon" in written(plain_table(sweep([(1e6, 2e7), (1e6, 8e7), (1e6, 3.2e8)])))


def test_a_column_of_by_with_missing_cells_is_strict_json():
    frame = ONE_SIZE.assign(wd=np.where(ONE_SIZE["n"] == 1e6, 0.1, math.nan))
    json.dumps(tune(from_rows(frame, Reading(), "sweep.csv", "sweep", ["wd"])), allow_nan=False)


def test_one_rate_is_one_learning_rate():
    with pytest.raises(UserError, match="1 learning rate tried, three are the least"):
        plain_table(ONE_SIZE[ONE_SIZE["lr"] == ONE_SIZE["lr"].iloc[0]])
