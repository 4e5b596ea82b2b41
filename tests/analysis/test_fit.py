"""The fit file: what it holds, what it says when the data are too few, and that it reads back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import synthetic_study as study
from scipy import stats

from analysis.columns import Reading
from analysis.fit import fit, load_fit, resamples, save
from analysis.laws import LAWS
from analysis.newton import Objective
from analysis.table import from_frame, load
from scaling.errors import UserError


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """30 runs with half a percent of noise about a known law."""
    return load(str(study.write_study(tmp_path_factory.mktemp("runs") / "quickstart", noise=0.005)))


@pytest.fixture(scope="module")
def content(own):
    return fit(own, resamples=300)


def stranger(rows):
    return from_frame(pd.DataFrame(rows), Reading(), "t.csv", "t")


def test_the_law_is_found_within_its_intervals(content):
    law = content["laws"]["chinchilla"]
    assert law["n_count"] == "total" and law["rms"] == pytest.approx(0.005, rel=0.5)
    for name, true in study.TRUTH.items():
        low, high = law["intervals"][name]
        assert low * 0.8 < true < high * 1.25
    assert law["parameters"]["alpha"] == pytest.approx(study.TRUTH["alpha"], abs=0.05)
    assert law["certificate"]["converged"] and law["certificate"]["agree"] > 0.5
    low, high = law["derived_intervals"]["a"]
    assert low < 0.45 / 0.89 < high


def test_kaplan_laws_name_their_n_and_their_rows(content):
    law = content["laws"]["kaplan_n"]
    assert law["n_count"] == "non_embedding" and law["rows"] == "frontier"
    assert set(law["rows_used"]) < {row["run"] for row in content["rows"]}
    assert content["laws"]["kaplan_c"]["n_count"] is None


def test_what_was_left_out_and_counted(content):
    assert content["rows_used"] == 30
    assert sorted(drop["reason"].split()[0] for drop in content["rows_dropped"]) == ["diverged", "failed"]
    assert content["conventions"] == {"n": "total", "d": "tokens", "c": "matmul"}
    objective = content["objective"]
    assert (objective["name"], objective["space"]) == ("huber", "log")
    assert 1e-3 < objective["delta"] < 0.02  # as wide as the runs scatter: tests/analysis/test_scatter.py
    assert content["setting"]["data"]["name"] == "synthetic"


def test_objective_value_is_the_sum_over_the_rows(content):
    p = content["laws"]["chinchilla"]["parameters"]
    residual = np.array([
        abs(np.log((p["E"] + p["A"] / row["n"] ** p["alpha"] + p["B"] / row["d"] ** p["beta"]) / row["loss"]))
        for row in content["rows"]
    ])  # fmt: skip
    delta = content["objective"]["delta"]
    huber = np.where(residual <= delta, residual**2 / 2, delta * (residual - delta / 2)).sum()
    assert content["laws"]["chinchilla"]["objective"] == pytest.approx(huber, rel=1e-12)


def test_the_file_reads_back_whole_and_is_strict_json(content, tmp_path):
    path = save(content, tmp_path / "fits")
    assert path == tmp_path / "fits" / "quickstart.json"
    assert load_fit(path) == content
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the file"))
    draws = resamples(load_fit(path), "chinchilla")
    assert draws.shape == (300, 5) and np.isfinite(draws).all()


def test_a_fit_is_found_by_its_name(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(content)
    assert load_fit("quickstart")["fingerprint"] == content["fingerprint"]


def test_the_same_rows_give_the_same_file(own, content):
    assert fit(own, resamples=300) == content


def test_the_fingerprint_is_of_the_rows_and_the_objective(own, content):
    other = fit(own, ["kaplan_c"], Objective("lsq", 0.0), resamples=20)
    assert other["fingerprint"] != content["fingerprint"]
    assert fit(own, ["kaplan_c"], resamples=20)["fingerprint"] == content["fingerprint"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "not a fit file"),
        ("[1, 2]", "not a fit file"),
        ('{"kind": "fit"}', "not a fit file"),
        (None, "does not exist"),
    ],
)
def test_junk_is_not_a_fit(tmp_path, text, words):
    path = tmp_path / "f.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_fit(path)


def test_a_fit_of_another_version_is_refused(content, tmp_path):
    path = save(content | {"version": 99}, tmp_path)
    with pytest.raises(UserError, match="version 99"):
        load_fit(path)


def test_laws_with_too_few_rows_are_skipped_by_name():
    n = np.geomspace(1e6, 1e8, 5)
    five = stranger({"n": n, "d": 20 * n, "loss": 10 * n**-0.08})
    found = fit(five, resamples=50)
    assert found["skipped"] == {"chinchilla": "needs 6 rows, has 5"}
    assert found["laws"]["kaplan_n"]["parameters"]["alpha_N"] == pytest.approx(0.08, rel=1e-6)
    assert found["optimum"] is None and "skipped" in found["approaches"]["parametric"]
    with pytest.raises(UserError, match="too few points for any law: kaplan_n needs 3 frontier rows, has 2"):
        fit(stranger({"n": n[:2], "d": n[:2], "loss": [3.0, 2.9]}), resamples=20)
    with pytest.raises(UserError, match="'mystery'"):
        fit(five, ["mystery"])


def test_one_size_carries_no_law_of_size():
    d = np.geomspace(1e8, 1e10, 12)
    found = fit(stranger({"n": np.full(12, 1e7), "d": d, "loss": 1 + 100 / d**0.3}), resamples=20)
    assert found["skipped"]["chinchilla"] == "needs 3 different N, has 1"
    assert "kaplan_n" in found["skipped"] and "kaplan_d" in found["laws"]


def test_constants_that_the_rows_do_not_determine_are_named():
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e6), np.log(3e6), 9))
    d = np.exp(rng.uniform(np.log(1e8), np.log(3e8), 9))
    loss = (1.7 + 400 / n**0.34 + 600 / d**0.3) * np.exp(0.03 * rng.standard_normal(9))
    law = fit(stranger({"n": n, "d": d, "loss": loss}), resamples=200)["laws"]["chinchilla"]
    assert {"A", "B", "E"} & set(law["not_determined"])
    assert all(np.isfinite(value) for value in law["parameters"].values())


def test_well_determined_constants_are_not_named(content):
    assert content["laws"]["chinchilla"]["not_determined"] == {}


def test_the_optimum_table_spends_its_budget(content):
    cost = content["cost"]
    for row in content["optimum"]:
        per_token = 6 * row["n"] * (1 + cost["excess"] * row["n"] ** -cost["power"])
        assert per_token * row["d"] == pytest.approx(row["flops"], rel=1e-9)
        low, high = row["loss_interval"]
        assert low <= row["loss"] <= high


def rates(seeds=1, noise=0.01):
    """Best learning rates by a known law of N and D, `seeds` runs of each setting."""
    n, d = (np.repeat(axis.ravel(), seeds) for axis in np.meshgrid([1e7, 1e8, 1e9], [1e9, 1e10, 1e11]))
    scatter = np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    rows = pd.DataFrame({"n": n, "d": d, "lr": 1.79 * n**-0.713 * d**0.307 * scatter})
    return from_frame(rows, Reading(), "t.csv", "t", {"n": "lr_nd", "d": "lr_nd", "lr": "lr_nd"})


def test_a_law_of_something_else_than_the_loss_needs_no_loss(tmp_path):
    found = fit(rates(), ["lr_nd"], resamples=60)
    law = found["laws"]["lr_nd"]
    assert law["output"] == "lr" and law["parameters"]["u"] == pytest.approx(-0.713, abs=0.01)
    assert found["rows"][0].keys() == {"run", "n", "d", "c", "lr"}
    assert "loss" in found["approaches"]["parametric"]["skipped"] and found["optimum"] is None
    assert load_fit(save(found, tmp_path)) == found


def test_noise_is_that_of_runs_which_differ_in_their_seed_alone():
    found = fit(rates(seeds=4, noise=0.02), ["lr_nd"], resamples=40)
    noise = found["noise"]
    assert (noise["degrees"], noise["settings"], noise["rows"], noise["used"]) == (27, 9, 36, False)
    low, high = noise["interval"]
    scatter = 0.02 * np.random.default_rng(0).standard_normal((9, 4))
    sigma = np.sqrt(scatter.var(1, ddof=1).mean())
    assert noise["sigma"] == pytest.approx(sigma)
    assert (low, high) == pytest.approx(sigma * np.sqrt(27 / stats.chi2.ppf([0.95, 0.05], 27)))
    known = fit(rates(seeds=4, noise=0.02), ["lr_nd"], Objective("lsq", 0.0), resamples=40, seed_noise=True)
    plain = fit(rates(seeds=4, noise=0.02), ["lr_nd"], Objective("lsq", 0.0), resamples=40)
    values = [content["laws"]["lr_nd"]["objective"] for content in (known, plain)]
    assert values[0] == pytest.approx(values[1] / noise["sigma"] ** 2, rel=1e-6)
    assert known["fingerprint"] != plain["fingerprint"]
    assert fit(rates(), ["lr_nd"], resamples=40)["noise"] is None
    with pytest.raises(UserError, match="differ in their seed alone"):
        fit(rates(), ["lr_nd"], resamples=40, seed_noise=True)


def test_constants_can_be_held(own):
    law = fit(own, ["chinchilla"], resamples=60, fixed={"E": study.TRUTH["E"]})["laws"]["chinchilla"]
    assert law["parameters"]["E"] == study.TRUTH["E"] and law["fixed"] == ["E"]
    assert law["intervals"]["E"] == [study.TRUTH["E"]] * 2 and "E" not in law["profile"]
    low, high = law["intervals"]["alpha"]
    assert high - low < 0.1
    with pytest.raises(UserError, match="'epsilon' is held at a value"):
        fit(own, ["chinchilla"], fixed={"epsilon": 1.0})


def test_a_law_of_ones_own_is_fitted_like_any(own):
    mine = dataclasses.replace(LAWS["chinchilla"], name="mine", analytic=None)
    ours = fit(own, ["chinchilla", mine], resamples=40)["laws"]
    assert ours["mine"]["objective"] == pytest.approx(ours["chinchilla"]["objective"], rel=1e-9)
    assert ours["mine"]["intervals"]["alpha"] == pytest.approx(ours["chinchilla"]["intervals"]["alpha"], 1e-3)


def test_pairs_resample_the_rows_themselves(own):
    wild, pairs = (fit(own, ["chinchilla"], resamples=200, resampling=how) for how in ("wild", "pairs"))
    assert wild["laws"]["chinchilla"]["resampling"] == "wild"
    assert pairs["laws"]["chinchilla"]["resampling"] == "pairs"
    assert wild["laws"]["chinchilla"]["parameters"] == pairs["laws"]["chinchilla"]["parameters"]
    widths = [np.ptp(content["laws"]["chinchilla"]["derived_intervals"]["a"]) for content in (wild, pairs)]
    assert widths[0] != widths[1] and widths[0] == pytest.approx(widths[1], rel=0.5)


def test_what_is_not_determined_has_words_and_an_open_interval():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log(1e6), np.log(3e6), 9)), np.exp(rng.uniform(np.log(1e8), np.log(3e8), 9))
    loss = (1.7 + 400 / n**0.34 + 600 / d**0.3) * np.exp(0.03 * rng.standard_normal(9))
    law = fit(stranger({"n": n, "d": d, "loss": loss}), ["chinchilla"], resamples=200)["laws"]["chinchilla"]
    for name, words in law["not_determined"].items():
        low, high = law["intervals"][name]
        if "<=" in words:
            assert low is None
        elif ">=" in words:
            assert high is None
        assert words.startswith("not determined (")
