"""Laws ranked by what they say of runs they were not shown, against closed forms and refits made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.columns import Reading
from analysis.drift import RATES, Drift
from analysis.family import family
from analysis.fit import fit, save
from analysis.law import Values
from analysis.laws import LAWS
from analysis.newton import Objective
from analysis.plots.ranking import ranking_figure
from analysis.predictive import Predictive, of_fit, scatter
from analysis.ranking import rank
from analysis.ranking_source import open_source
from analysis.table import Runs, from_frame
from scaling.errors import UserError

LAWS_HERE = ("chinchilla", "chinchilla_tied", "saturating_c", "kaplan_c")


def study(seed: int = 0, noise: float = 0.002, law: str = "chinchilla") -> pd.DataFrame:
    """32 runs: eight budgets over 3.5 decades, four sizes each, of a law in closed form."""
    rng = np.random.default_rng(seed)
    c = np.repeat(np.geomspace(1e17, 3e20, 8), 4)
    n = np.sqrt(c / 120) * np.tile([0.3, 0.8, 1.2, 3.0], 8)
    d = c / (6 * n)
    if law == "chinchilla":
        loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    else:
        loss = ((6.4e13 / n) ** (0.076 / 0.103) + 1.8e13 / d) ** 0.103
    return pd.DataFrame({"n": n, "d": d, "loss": loss * np.exp(noise * rng.standard_normal(32))})


def runs(frame: pd.DataFrame) -> Runs:
    return from_frame(frame, Reading(), "study", "study")


def no_drift(edge: float = 1e20) -> Drift:
    return Drift(edge, RATES, np.eye(len(RATES))[0], ())


def test_scatter_is_the_maximum_of_students_likelihood() -> None:
    residual = stats.t.rvs(4, scale=0.01, size=4000, random_state=0)
    scale, degrees = scatter(residual, 0)
    best = stats.t.fit(residual, f0=4, floc=0)[2]
    assert degrees == 4.0
    assert scale == pytest.approx(best, rel=1e-3)
    few, spare = scatter(residual[:6], 4)
    assert few == pytest.approx(scatter(residual[:6], 0)[0] * np.sqrt(3), rel=1e-9)
    assert spare == 2.0


def test_a_law_without_spread_gives_students_t() -> None:
    law = LAWS["saturating_c"]
    best = np.array([1.7, 1e5, 0.3])
    said = Predictive(law, best, best[None], 0.01, 5.0, no_drift(), "c")
    x, along = Values(c=np.array([1e19, 1e22])), np.array([1e19, 1e22])
    centre = np.log(1.7 + 1e5 / np.array([1e19, 1e22]) ** 0.3)
    y = np.exp(centre + np.array([0.013, -0.02]))
    expected = stats.t(5, loc=centre, scale=0.01)
    np.testing.assert_allclose(said.log_density(x, along, y), expected.logpdf(np.log(y)), rtol=1e-12)
    np.testing.assert_allclose(said.cumulative(x, along, y), expected.cdf(np.log(y)), rtol=1e-12)
    np.testing.assert_allclose(
        said.quantiles(x, along, (0.05, 0.95)), np.exp([expected.ppf(0.05), expected.ppf(0.95)]), rtol=1e-6
    )


def test_drift_widens_beyond_the_rows_only() -> None:
    law, best = LAWS["saturating_c"], np.array([1.7, 1e5, 0.3])
    weight = np.zeros(len(RATES))
    weight[-1] = 1.0
    said = Predictive(law, best, best[None], 0.01, 30.0, Drift(1e20, RATES, weight, ()), "c")
    along = np.array([1e19, 1e22])
    low, high = said.quantiles(Values(c=along), along)
    scale = np.hypot(0.01, RATES[-1] * np.array([0.0, np.log(100)]))
    np.testing.assert_allclose(np.log(high / low), 2 * stats.t.ppf(0.95, 30) * scale, rtol=1e-5)


def test_the_density_integrates_to_the_distribution() -> None:
    content = fit(runs(study()), ["chinchilla"], resamples=60)
    said = of_fit(content, "chinchilla")
    assert said.along == "c" and said.drift.cuts
    x = Values(n=np.full(2001, 5e9), d=np.full(2001, 1e11))
    along = 6 * x.n * x.d
    log_y = np.linspace(-0.6, 0.6, 2001) + np.log(said.centre(x)[0])
    density = np.exp(said.log_density(x, along, np.exp(log_y)))
    share = said.cumulative(x, along, np.exp(log_y))
    mass = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(log_y))])
    np.testing.assert_allclose(mass, share - share[0], atol=2e-3)


@pytest.mark.parametrize(("law", "other"), [("chinchilla", "kaplan_nd"), ("kaplan_nd", "chinchilla")])
def test_the_law_that_made_the_runs_is_ranked_first(law: str, other: str) -> None:
    content = rank(runs(study(law=law)), [law, other], resamples=20, examine=False)
    assert content["ranking"][0] == law
    assert content["margin"]["log_score"] > 2 * content["margin"]["error"] > 0
    assert content["laws"][law]["all"]["rms"] < content["laws"][other]["all"]["rms"]
    assert content["laws"][law]["all"]["coverage_90"] >= 0.75


def test_the_content_is_strict_json_and_adds_up(tmp_path: Path) -> None:
    frame = study()
    content = rank(runs(frame), LAWS_HERE, resamples=40)
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again["hold_out"]["held"] == len(again["forecasts"]) == 12
    assert again["hold_out"]["fitted"] + again["hold_out"]["held"] == 32
    assert again["laws"]["kaplan_c"]["all"] is None  # of the frontier alone
    assert set(again["ranking_frontier"]) == set(LAWS_HERE)
    law = again["laws"]["chinchilla"]
    error = [np.log(each["measured"] / each["laws"]["chinchilla"]["loss"]) for each in again["forecasts"]]
    assert law["all"]["rms"] == pytest.approx(np.sqrt(np.mean(np.square(error))))
    inside = [each["laws"]["chinchilla"]["low"] <= each["measured"] <= each["laws"]["chinchilla"]["high"]
              for each in again["forecasts"]]  # fmt: skip
    assert law["all"]["coverage_90"] == pytest.approx(np.mean(inside))
    files = ranking_figure(content, tmp_path / "figure")
    assert [file.suffix for file in files] == [".png", ".pdf", ".csv"]
    numbers = pd.read_csv(files[-1])
    assert len(numbers[numbers.series == "forecast"]) == 12 * len(content["ranking"])


def test_the_hidden_runs_are_not_seen() -> None:
    """Whatever is measured there, the fit and its forecasts are the same."""
    frame = study()
    changed = frame.assign(loss=np.where(6 * frame.n * frame.d > 3e19, frame.loss * 1.07, frame.loss))
    first, second = (rank(runs(f), ["chinchilla"], resamples=30, examine=False) for f in (frame, changed))
    for a, b in zip(first["forecasts"], second["forecasts"], strict=True):
        assert b["measured"] == pytest.approx(1.07 * a["measured"])
        assert {k: a["laws"]["chinchilla"][k] for k in ("loss", "low", "high")} == {
            k: b["laws"]["chinchilla"][k] for k in ("loss", "low", "high")
        }
    assert second["laws"]["chinchilla"]["all"]["log_score"] < first["laws"]["chinchilla"]["all"]["log_score"]


def test_drift_is_found_where_the_law_is_wrong() -> None:
    """A power law without a floor leaves runs that have one; the law that made them does not."""
    c = np.geomspace(1e17, 1e21, 30)
    noise = np.exp(5e-4 * np.random.default_rng(0).standard_normal(30))
    frame = pd.DataFrame({"n": np.sqrt(c / 120), "c": c, "loss": (1.69 + 2600 / c**0.19) * noise})
    content = rank(runs(frame), ["kaplan_c", "saturating_c"], resamples=30, examine=False)
    rate = {name: law["drift"]["rate"] for name, law in content["laws"].items()}
    assert rate["kaplan_c"] > 3 * rate["saturating_c"]
    assert content["ranking_frontier"][0] == "saturating_c"


def test_influence_is_the_fit_without_the_run() -> None:
    frame = study()
    content = rank(runs(frame), ["chinchilla_tied"], resamples=30)
    largest = content["influence"]["shifts"][0]
    row = int(largest["run"].removeprefix("row ")) - 1
    kept = frame.drop(index=row)
    kept = kept[6 * kept.n * kept.d < 3e19]
    law = LAWS["chinchilla_tied"]
    best, _ = family(law).fit(
        Values(n=kept.n.to_numpy(), d=kept.d.to_numpy()), kept.loss.to_numpy(), Objective()
    )
    np.testing.assert_allclose(list(largest["constants"].values()), best, rtol=1e-3)
    sizes = [abs(each["forecast"]) for each in content["influence"]["shifts"]]
    assert sizes == sorted(sizes, reverse=True) and content["influence"]["left_out"] == 20


def test_an_outlier_is_named_with_and_without() -> None:
    frame = study()
    frame.loc[4, "loss"] *= 1.1
    clean = rank(runs(study().drop(index=4)), ["chinchilla"], resamples=40)
    content = rank(runs(frame), ["chinchilla"], resamples=40)
    found = content["outliers"]
    assert found["runs"][0]["run"] == "row 5"
    assert found["without"]["parameters"]["alpha"] == pytest.approx(
        clean["laws"]["chinchilla"]["parameters"]["alpha"], rel=1e-6
    )
    assert found["without"]["all"]["log_score"] > content["laws"]["chinchilla"]["all"]["log_score"]


@pytest.mark.parametrize(("by", "held"), [("n", "n"), ("d", "d")])
def test_largest_n_or_d_held_out(by: str, held: str) -> None:
    content = rank(runs(study()), ["chinchilla"], by, 4.0, resamples=30, examine=False)
    frame = study()
    hidden = frame[held] > frame[held].max() / 4
    assert content["hold_out"]["held"] == int(hidden.sum())
    assert sorted(each[held] for each in content["forecasts"]) == pytest.approx(sorted(frame[held][hidden]))


def test_laws_that_cannot_be_ranked_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {name: law for name, law in LAWS.items() if name not in ("broken_c", "kaplan_nd")}
    monkeypatch.setattr("analysis.ranking.LAWS", fast)
    content = rank(runs(study().iloc[:28]), None, factor=5.0, resamples=20, examine=False)
    assert {"chinchilla", "saturating_c"} <= content["laws"].keys()
    assert "whole curves" in content["skipped"]["tissue"]
    assert "alone" in content["skipped"]["kaplan_n"]
    assert "unique" in content["skipped"]["muennighoff"]


@pytest.mark.parametrize(
    ("laws", "by", "factor", "words"),
    [
        (["chinchilla"], "loss", 10.0, "--hold-out is 'loss'"),
        (["chinchilla"], "c", 1.0, "--factor is 1.0"),
        (["chinchilla"], "c", 1e6, "none is left to fit"),
        (["muennighoff"], "c", 10.0, "unique"),
        (["tissue"], "c", 10.0, "whole curves"),
        (["lr_c"], "c", 10.0, "law of lr"),
        (["chinchilla"], "c", 2900.0, "4 rows fitted: chinchilla needs"),
    ],
)
def test_refused_in_a_sentence(laws: list[str], by: str, factor: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rank(runs(study()), laws, by, factor, resamples=20)


def test_a_fit_file_is_ranked_as_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = runs(study())
    direct = rank(table, ["chinchilla_tied"], resamples=30, examine=False)
    save(fit(table, ["chinchilla_tied"], resamples=20), tmp_path / "fits")
    monkeypatch.chdir(tmp_path)
    content = rank(open_source("study", {}), ["chinchilla_tied"], resamples=30, examine=False)
    assert content["laws"]["chinchilla_tied"]["all"] == direct["laws"]["chinchilla_tied"]["all"]
    with pytest.raises(UserError, match="leave out --n"):
        open_source("study", {"n": "params"})


def test_columns_that_some_laws_read_are_taken_where_they_are(tmp_path: Path) -> None:
    frame = study().assign(unique_tokens=study().d / 2)
    frame.to_csv(tmp_path / "repeats.csv", index=False)
    assert open_source(str(tmp_path / "repeats.csv"), {}).has("unique")


@pytest.mark.slow
def test_ninety_percent_means_nine_in_ten() -> None:
    """Sixty studies of the law itself: hidden runs, an order of magnitude beyond, inside the interval."""
    inside = [
        rank(runs(study(seed, 0.004)), ["chinchilla_tied"], resamples=40, examine=False)["laws"][
            "chinchilla_tied"
        ]["all"]["coverage_90"]
        for seed in range(60)
    ]
    assert 0.87 <= np.mean(inside) <= 1.0


def test_more_rows_than_are_left_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many runs only those are left out that move a linearised fit most, the most influential too."""
    whole = rank(runs(study()), ["chinchilla_tied"], resamples=20)["influence"]
    monkeypatch.setattr("analysis.influence._MOST", 10)
    some = rank(replace(runs(study())), ["chinchilla_tied"], resamples=20)["influence"]
    assert some["left_out"] == 10 and some["shifts"][0]["run"] == whole["shifts"][0]["run"]
