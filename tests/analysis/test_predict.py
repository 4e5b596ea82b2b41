"""Answers for budgets: the best run, one that can be built, and points of a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic_study as study

from analysis.answer import answer
from analysis.columns import Reading
from analysis.fit import fit, save
from analysis.points import at_points
from analysis.predict import buildable, describe_run, open_fit
from analysis.question import Question, Terms
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
