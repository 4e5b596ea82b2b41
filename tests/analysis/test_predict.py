"""Answers for budgets: the best run, one that can be built, and points of a table."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_study as study

from analysis.allocate import Laws
from analysis.answer import answer, solve
from analysis.columns import Reading
from analysis.fit import fit, save
from analysis.optimum import cost_of
from analysis.plots.regret import regret_figure
from analysis.points import at_points
from analysis.predict import buildable, describe_run, open_fit
from analysis.question import Question, Terms
from analysis.settings import load_tuning
from analysis.table import from_frame, load
from scaling.accounting import counts, run_flops
from scaling.errors import UserError
from scaling.hardware import find
from scaling.recipes import RECIPES

H100 = Terms(hardware=find("h100"))


def asked(content, **what):
    return answer(content, Question(terms=H100, **what))[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    root = study.write_study(tmp_path_factory.mktemp("runs") / "quickstart", noise=0.003)
    return fit(load(str(root)), ["chinchilla"], resamples=100)


@pytest.fixture(scope="module")
def foreign():
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e7), np.log(1e9), 40))
    d = 20 * n * np.exp(rng.uniform(-1.5, 1.5, 40))
    loss = (1.7 + 400 / n**0.34 + 600 / d**0.3) * np.exp(0.003 * rng.standard_normal(40))
    frame = pd.DataFrame({"n": n, "d": d, "loss": loss})
    return fit(from_frame(frame, Reading(), "t.csv", "t"), ["chinchilla"], resamples=100)


def test_the_run_to_build_spends_the_budget_and_no_less(own):
    flops = 2.3e12
    run = buildable(own, flops)
    step = run_flops(run) / run.steps
    assert flops <= run_flops(run) < flops + step * 1.000001
    assert run.data.fingerprint == study.DATA.fingerprint and run.seed == 0
    assert buildable(own, flops, seed=3).seed == 3


def test_no_other_width_is_predicted_lower(own):
    recipe, law = next(iter(RECIPES.values())), own["laws"]["chinchilla"]["parameters"]
    run = buildable(own, 2.3e12)

    def predicted(width):
        size = counts(recipe.model(width), recipe.seq_len)
        n, tokens = size.n["total"], 2.3e12 / size.flops_per_token["matmul"]
        return law["E"] + law["A"] / n ** law["alpha"] + law["B"] / tokens ** law["beta"]

    best = min(recipe.widths(1024), key=predicted)
    assert run.model.d_model == best


def test_an_answer_for_our_own_runs(own):
    found = asked(own, flops=2.3e12)
    assert found["run"]["loss"] == pytest.approx(found["loss"], rel=0.01)
    assert found["run"]["run_id"] == buildable(own, 2.3e12).run_id
    low, high = found["interval"]
    assert low < found["loss"] < high
    law_low, law_high = found["optimum"]["loss_interval"]
    assert high - low > law_high - law_low  # a new run scatters about the law
    truth = study.true_loss(found["optimum"]["n"], found["optimum"]["d"])
    assert low < truth < high
    assert found["straight_line"]["loss"] > 0 and found["flops_over_largest_fitted"] > 10


def test_an_answer_for_a_table_has_no_run(foreign):
    found = asked(foreign, flops=1e22)
    assert found["run"] is None and found["optimum"]["n"] > 1e9
    with pytest.raises(UserError, match="no RunConfig"):
        buildable(foreign, 1e22)


@pytest.mark.parametrize("flops", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(foreign, flops):
    with pytest.raises(UserError, match="--flops"):
        asked(foreign, flops=flops)


def test_points_of_a_table(foreign, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("run,n,d\nsmall,1e8,2e9\nlarge,1e10,2e11\n")
    points = at_points(foreign, str(path))
    rows = points.rows
    assert [row["run"] for row in rows] == ["small", "large"]
    for row in rows:
        truth = 1.7 + 400 / row["n"] ** 0.34 + 600 / row["d"] ** 0.3
        assert row["interval"][0] < truth < row["interval"][1]
        assert row["loss"] == pytest.approx(truth, rel=0.02)
    assert "n as n" in points.notes[0]
    path.write_text("n,d\n1e8,-2\n")
    with pytest.raises(UserError, match="row 1 has d"):
        at_points(foreign, str(path))


def test_describing_a_run_counts_it_as_the_fit_does(own):
    run = study.target_run()
    found = describe_run(own, run)
    assert found["n"] == study.n_of(run) and found["flops"] == pytest.approx(study.flops_of(run))


def test_a_fit_is_opened_or_made(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(own)
    for source in ("quickstart", "fits/quickstart.json"):
        found, said = open_fit(source)
        assert found["fingerprint"] == own["fingerprint"] and said == []
    n = np.geomspace(1e6, 1e9, 12)
    rows = pd.DataFrame({"n": n, "d": 20 * n * np.tile([0.5, 1, 2], 4), "loss": 2 + 100 / n**0.3})
    rows.to_csv("t.csv", index=False)
    found, said = open_fit("t.csv")
    assert found["source"] == "t.csv" and "for this answer only" in said[0]


def test_without_a_surface_there_is_no_answer():
    n = np.geomspace(1e6, 1e8, 5)
    frame = pd.DataFrame({"n": n, "d": 20 * n, "loss": 10 * n**-0.08})
    with pytest.raises(UserError, match="chinchilla needs 6 rows"):
        asked(fit(from_frame(frame, Reading(), "t.csv", "t"), resamples=20), flops=1e20)


def test_serving_at_its_own_price_moves_the_optimum(foreign):
    """Dollars of decode at a tenth of the utilisation are ten times those of prefill."""
    dear = replace(H100, decode_utilisation=0.04, dollars_per_hour=2.0)
    even = asked(foreign, loss=2.2, infer_tokens=1e13)
    found = answer(foreign, Question(terms=dear, loss=2.2, infer_tokens=1e13, decode_share=0.5))[0]
    serving = found["serving"]
    assert serving["decode"]["dollars"] == pytest.approx(10 * serving["prefill"]["dollars"])
    n = found["optimum"]["n"]
    hour = 3600 * 9.89e14 * 0.4
    assert serving["prefill"]["dollars"] == pytest.approx(2 * n * 5e12 * 2.0 / hour)
    assert n < even["optimum"]["n"] and found["instead"]["saved_share"] > even["instead"]["saved_share"] > 0
    paid = serving["dollars"] + found["price"]["dollars"]
    assert found["total"]["currency"] == "dollars" and found["total"]["cost"] == pytest.approx(paid)


def test_a_price_per_token_is_part_of_the_budget(foreign):
    found = asked(foreign, dollars=1e6, token_price=1e-6)
    plain = asked(foreign, dollars=1e6)
    assert found["optimum"]["d"] < plain["optimum"]["d"] and found["loss"] > plain["loss"]
    spent = found["price"]["dollars"] + 1e-6 * found["optimum"]["d"]
    assert spent == pytest.approx(1e6) and found["total"]["tokens_dollars"] < 1e6


def test_a_loss_and_a_budget_are_inverse(foreign):
    there = asked(foreign, flops=3e21)
    back = asked(foreign, loss=there["loss"])
    assert back["flops"] == pytest.approx(3e21, rel=1e-9)
    assert back["optimum"]["n"] == pytest.approx(there["optimum"]["n"], rel=1e-9)
    low, high = back["optimum"]["flops_interval"]
    assert low < 3e21 < high and back["price"]["dollars_interval"][0] < back["price"]["dollars"]


def test_scarce_text_widens_the_interval_by_what_is_not_known_of_repetition(foreign):
    found, plain = asked(foreign, flops=1e22, unique_tokens=1e9), asked(foreign, flops=1e22)
    text = found["text"]
    assert text["epochs"] == pytest.approx(found["optimum"]["d"] / 1e9) and text["epochs"] > 10
    assert text["worth_tokens"] < found["optimum"]["d"] and text["cost_over_unlimited"] > 1
    assert (text["R_D"], text["R_N"]) == pytest.approx((15.39, 5.31), rel=1e-3) and "R_D" in text[
        "not_determined"
    ]
    width, before = (np.ptp(each["optimum"]["loss_interval"]) for each in (found, plain))
    assert width > before and found["loss"] > plain["loss"]


def test_warnings_name_the_world_and_the_factor(foreign):
    far = asked(foreign, flops=1e29)
    kinds = {warning["kind"]: warning for warning in far["warnings"]}
    assert "Villalobos" in kinds["text"]["sentence"] and kinds["text"]["date"] == "2024-06"
    assert kinds["text"]["factor"] == pytest.approx(far["optimum"]["d"] / 3e14)
    megawatts = far["price"]["devices"] * 700 * 1.1 / 1e6
    assert kinds["power"]["factor"] == pytest.approx(megawatts / 1092)
    largest = max(row["c"] for row in foreign["rows"])
    beyond = next(w for w in far["warnings"] if w.get("what") == "c")
    assert beyond["factor"] == pytest.approx(1e29 / largest)
    assert asked(foreign, flops=largest / 2)["warnings"] == []
    below = asked(foreign, flops=min(row["c"] for row in foreign["rows"]) / 50)["warnings"]
    assert {w["what"]: w["factor"] for w in below}["c"] == pytest.approx(1 / 50)


def test_points_from_two_of_three_by_what_a_token_costs(own, foreign, tmp_path):
    size = counts(study.target_run().model, study.SEQ)
    n, d = float(size.n["total"]), 1e7
    cost = float(np.exp(cost_of(own).per_token(np.log(n))))
    for content, c in ((own, cost * d), (foreign, 6 * n * d)):
        for columns, values in (("n,d", (n, d)), ("n,c", (n, c)), ("d,c", (d, c))):
            path = tmp_path / "points.csv"
            path.write_text(f"{columns}\n{values[0]!r},{values[1]!r}\n")
            point = at_points(content, str(path)).rows[0]
            assert (point["n"], point["d"], point["c"]) == pytest.approx((n, d, c), rel=1e-9)


def test_measured_losses_are_compared(foreign, tmp_path):
    rows = foreign["rows"][:20]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in ("n", "d", "loss")})
    frame.loc[3, "loss"] = np.nan
    frame.to_csv(tmp_path / "p.csv", index=False)
    points = at_points(foreign, str(tmp_path / "p.csv"))
    assert points.score["rows"] == 19 and points.score["rms_error"] < 0.006
    assert points.score["inside_90"] > 0.7 and points.rows[3]["measured"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n,x\n1e8,2\n", "column is d"),
        ("n,d\n", "no rows"),
        ("n,d\n1e8,x\n", "row 1"),
        ("a,b\n1,2\n", "n and d"),
    ],
)
def test_points_that_cannot_be_read(foreign, tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        at_points(foreign, str(tmp_path / "p.csv"))


def test_a_law_with_one_exponent_answers_too(tmp_path):
    n = np.geomspace(1e7, 1e9, 5)
    d = np.array([2e8, 1e10, 3e9, 3e11, 2e10])
    loss = (1.8366 + 166.21 * n**-0.2729 + 287.17 * d**-0.2729) * np.exp([0.001, -0.002, 0.001, 0.0, -0.001])
    table = from_frame(pd.DataFrame({"n": n, "d": d, "loss": loss}), Reading(), "t.csv", "t")
    content = fit(table, ["chinchilla_tied"], resamples=40)
    found = asked(content, flops=1e21)
    ratio = content["laws"]["chinchilla_tied"]["derived"]["tokens_per_parameter"]
    assert found["optimum"]["tokens_per_parameter"] == pytest.approx(ratio, rel=1e-9)
    assert found["interval"][0] < found["loss"] < found["interval"][1]
    (tmp_path / "p.csv").write_text("n,d\n1e9,1e12\n")
    point = at_points(content, str(tmp_path / "p.csv")).rows[0]
    assert point["interval"][0] < point["loss"] < point["interval"][1]


def test_hyperparameters_say_how_far_they_reach(own, foreign):
    found, run = answer(own, Question(terms=H100, flops=2.3e12))
    first, *others = found["hyperparameters"]
    assert first["used"] and (first["lr"], first["batch"]) == (
        run.optimizer.lr, run.batch_size * run.seq_len,
    )  # fmt: skip
    largest = max(max(row["n_total"] for row in own["rows"]) / 1, 1)
    assert first["extrapolation"] >= max(found["run"]["n"] / largest, 1)
    assert {rule["rule"] for rule in others} >= {"steplaw", "deepseek"} and not any(r["used"] for r in others)
    table = asked(foreign, flops=1e22)
    step = next(rule for rule in table["hyperparameters"] if rule["rule"] == "steplaw")
    n, d = table["optimum"]["n"], table["optimum"]["d"]
    assert step["lr"] == pytest.approx(1.79 * n**-0.713 * d**0.307)
    assert step["batch"] == pytest.approx(0.58 * d**0.571) and step["lr_over_sizes"][0] < step["lr"]


def test_laws_of_a_sweep_set_the_rate_and_the_batch(own):
    def law(output, exponents, k):
        return {
            "output": output, "inputs": list(exponents), "constants": {}, "intervals": {},
            "centre": dict.fromkeys(exponents, 0.0), "at_centre": [np.log(k), *exponents.values()],
            "cov": np.zeros((1 + len(exponents),) * 2).tolist(), "df": 6, "scatter": 1.1, "cells": 9,
            "range": {name: [1.0, 1e12] for name in exponents}, "fixed": "",
        }  # fmt: skip

    tuning = {
        "kind": "tuning", "name": "sweep", "source": "sweep.csv", "cells": [],
        "conventions": {"n": "total", "c": "matmul"},
        "laws": {"lr": law("lr", {"n": -0.3, "batch": 0.5}, 1e-2), "batch": law("batch", {"d": 0.5}, 2.0)},
    }  # fmt: skip
    _, plain = answer(own, Question(terms=H100, flops=2.3e12))
    found, run = answer(own, Question(terms=H100, flops=2.3e12), tuning=tuning)
    n = counts(run.model, run.seq_len).n["total"]
    batch = run.batch_size * run.seq_len
    assert 2**-0.5 <= batch / (2 * plain.tokens**0.5) <= 2**0.5
    assert run.optimizer.lr == pytest.approx(1e-2 * n**-0.3 * batch**0.5, rel=1e-3)
    assert plain.tokens <= run.tokens < plain.tokens + batch and run.model == plain.model
    assert found["hyperparameters"][0]["used"] and found["hyperparameters"][0]["lr_interval"] is not None
    assert found["run"]["run_id"] == run.run_id
    recipe = found["hyperparameters"][1]  # as the recipe would have it, not as the laws changed it
    assert recipe["rule"].startswith("the recipe") and not recipe["used"]
    assert (recipe["lr"], recipe["batch"]) == (plain.optimizer.lr, plain.batch_size * plain.seq_len)
    table = tuning | {"conventions": {"n": "given", "c": "6nd"}}
    table["laws"] = tuning["laws"] | {"batch": law("batch", {"d": 0.5}, 1e-3)}
    with pytest.raises(UserError, match="tune again with --batch-unit"):
        answer(own, Question(terms=H100, flops=2.3e12), tuning=table)


def test_a_file_that_is_no_whole_tuning_is_refused(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('{"kind": "tuning"}')
    with pytest.raises(UserError, match="which `scaling tune` did not write"):
        load_tuning(path)


def test_resamples_that_ran_away_give_no_warning():
    one = np.ones(1)
    surface = Laws(np.array([np.inf]), one, one, one, one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(surface.loss(np.array([1e3]), one)).all()
        assert np.isinf(surface.tokens_for(np.array([1e3]), 2.0)).all()


def test_the_figure_of_regret(foreign, tmp_path):
    question = Question(terms=H100, flops=1e22)
    solved, found = solve(foreign, question), asked(foreign, flops=1e22)
    interval = found["optimum"]["n_interval"]
    parts = (solved.surface, solved.demand, solved.plan)
    paths = regret_figure(*parts, tmp_path / "regret", interval=interval)
    assert [path.suffix for path in paths] == [".png", ".pdf", ".csv"] and paths[0].stat().st_size > 10_000
    drawn = pd.read_csv(paths[2])
    law, best = foreign["laws"]["chinchilla"]["parameters"], found["optimum"]
    for _, row in drawn.iloc[::20].iterrows():
        n, d = row["n_params"], 1e22 / (6 * row["n_params"])
        loss = law["E"] + law["A"] / n ** law["alpha"] + law["B"] / d ** law["beta"]
        assert row["loss_regret"] == pytest.approx(loss - best["loss"], abs=1e-9)
        assert row["loss_regret_low"] <= row["loss_regret_high"]
    assert drawn["loss_regret"].idxmin() == drawn["n_over_optimum"].sub(1).abs().idxmin()
