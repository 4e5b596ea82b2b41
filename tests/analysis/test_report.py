"""The report of a study nobody trained: whole, self-contained, honest about what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_study as study
from typer.testing import CliRunner

from analysis.chinchilla import predict
from analysis.fit import fit, save
from analysis.forecast import register
from analysis.optimum import compute_optimal, cost_of, optimum, surface
from analysis.plots.style import human
from analysis.report import build, find_folder, fit_for, forecasts_of, render
from analysis.report_next import candidates
from analysis.report_study import read_study
from analysis.score import Forecast, load_forecasts, score
from analysis.table import load
from scaling.cli.main import app
from scaling.errors import UserError
from scaling.files import write_json

VOID = {"meta", "img", "br", "link", "hr", "input"}
FIGURES = ("forecast", "isoflop", "optimum", "regret", "surface", "loss_curves")


class Page(HTMLParser):
    """Tags in balance, text, addresses and images of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action") and v]
        if tag == "img":
            self.alts.append(found.get("alt") or "")
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def _page(
    folder: Path, fitted: dict[str, Any] | None, forecasts: list[Forecast], notes: Sequence[str] = ()
) -> str:
    """The page without its figures, which cost seconds and are not what is asked here."""
    return render(read_study(folder, fitted, forecasts, notes), [])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as `scaling quickstart` leaves it, its forecast registered before the target's run."""
    base = tmp_path_factory.mktemp("study")
    folder = study.write_study(base / "runs" / "quickstart", target=False)
    fitted = fit(load(str(folder)), resamples=100)
    save(fitted, base / "fits")
    target = study.target_run()
    for _ in range(2):  # the second asks for the same again and must not be a second forecast
        register(
            fitted,
            target,
            unique_tokens=10**8,
            sweep="quickstart",
            folder=base / "forecasts",
            runs=base / "runs",
        )
    score(base / "forecasts", study.write_run(folder, target, 0.001))
    return base


@pytest.fixture(scope="module")
def fitted(root: Path) -> dict[str, Any]:
    found, notes = fit_for(root / "runs" / "quickstart", root / "fits")
    assert found is not None and not notes  # the saved fit is of these rows
    return found


@pytest.fixture(scope="module")
def known(root: Path) -> list[Forecast]:
    found, notes = forecasts_of(root / "runs" / "quickstart", root / "forecasts")
    assert len(found) == 1 and not notes
    return found


@pytest.fixture(scope="module")
def report(root: Path, fitted: dict[str, Any], known: list[Forecast]) -> Path:
    return build(root / "runs" / "quickstart", fitted, known, root / "reports" / "quickstart")


def test_one_file_loads_nothing_from_outside(report: Path) -> None:
    source = report.read_text(encoding="utf-8")
    page = Page(source)
    assert len(source.encode()) < 4e6
    assert not [a for a in page.addresses if re.match(r"\w*:?//|https?:|file:", a)]
    assert not re.search(r"url\(|@import|<script|<link|<iframe", source)
    assert [a for a in page.addresses if a.startswith("#")] and all(
        a[1:] in page.ids for a in page.addresses if a.startswith("#")
    )
    for address in page.addresses:
        if not address.startswith(("#", "data:")):
            assert (report.parent / address).is_file(), address
    assert len(page.alts) == len(FIGURES) and all(len(alt) > 40 for alt in page.alts)


def test_answer_comes_first_with_its_numbers(
    report: Path, fitted: dict[str, Any], known: list[Forecast]
) -> None:
    text = Page(report.read_text(encoding="utf-8")).text
    forecast = known[0]
    best = compute_optimal(fitted, forecast.record["target"]["flops"])
    opening = text[: text.index("What it rests on Runs fitted")]
    assert human(best["n"]) in opening and human(best["d"]) in opening
    assert human(best["n_interval"][0]) in opening and human(best["n_interval"][1]) in opening
    measured = forecast.measured
    assert measured is not None
    verdict = "The forecast held" if measured["inside_90"] else "The forecast missed"
    for piece in (
        "How large a model, on how many tokens?",
        verdict,
        f"{best['loss']:.3f}",
        f"{forecast.loss:.4f}",
        f"{measured['loss']:.4f}",
        f"{100 * measured['relative_error']:+.2f}%",
        f"{100 * measured['straight_line']['relative_error']:+.2f}%",
    ):
        assert piece in opening, piece
    for name, value in fitted["laws"]["chinchilla"]["parameters"].items():
        assert f"{value:.6g}"[:5] in text, name
    assert fitted["fingerprint"] in text


def test_files_beside_it(report: Path) -> None:
    figures = report.parent / "figures"
    for name in FIGURES:
        for suffix in ("png", "pdf", "svg", "csv"):
            assert (figures / f"{name}.{suffix}").stat().st_size > 200, (name, suffix)
    runs = pd.read_csv(report.parent / "runs.csv")
    assert len(runs) == 33
    assert set(runs["status"]) == {"done", "diverged", "failed"}
    assert runs["role"].value_counts().to_dict() == {"fitted": 30, "left out": 2, "target": 1}
    run = study.grid()[3]
    row = runs.set_index("run_id").loc[run.run_id]
    assert row["n_total"] == study.n_of(run) and row["c_matmul"] == pytest.approx(study.flops_of(run))


def test_bad_runs_are_marked_and_their_words_escaped(report: Path) -> None:
    source = report.read_text(encoding="utf-8")
    assert "diverged at step" in source
    assert "worker was killed &lt;twice&gt;" in source and "<twice>" not in source


def test_names_cannot_write_html(fitted: dict[str, Any], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "evil"
    run = study.write_run(folder, study.grid()[0], 0.0)
    write_json(
        folder / "sweep.json",
        {"name": evil, "question": f"\"'{evil}", "runs": [], "refused": [{"label": evil}]},
    )
    bad = {**fitted, "rows_dropped": [{"run": evil, "reason": evil}], "source": evil}
    source = _page(folder, bad, [], [evil])
    Page(source)
    assert "<script" not in source and source.count("&lt;script&gt;") >= 5
    assert run.run_id in source


def test_before_the_target_has_run(root: Path, fitted: dict[str, Any], known: list[Forecast]) -> None:
    waiting = Forecast(known[0].path, {**known[0].record, "measured": None})
    text = Page(_page(root / "runs" / "quickstart", fitted, [waiting])).text
    assert "Forecast not yet tested" in text and "scaling verify" in text


def test_a_miss_is_called_a_miss(root: Path, fitted: dict[str, Any], known: list[Forecast]) -> None:
    measured = {**(known[0].measured or {}), "inside_90": False}
    missed = Forecast(known[0].path, {**known[0].record, "measured": measured})
    text = Page(_page(root / "runs" / "quickstart", fitted, [missed])).text
    assert "The forecast missed: outside its 90% interval" in text and "The forecast held" not in text
    diverged = Forecast(
        known[0].path, {**known[0].record, "measured": {"status": "diverged", "diverged_step": 9}}
    )
    text = Page(_page(root / "runs" / "quickstart", fitted, [diverged])).text
    assert "The target run diverged" in text


def test_every_forecast_is_listed_and_the_first_counts(
    root: Path, fitted: dict[str, Any], known: list[Forecast]
) -> None:
    first = known[0]
    later = {**first.record, "registered_at": "2999-01-01T00:00:00+00:00"}
    later["forecast"] = {**later["forecast"], "loss": 1.2345}
    second = Forecast(Path("later.json"), later)
    source = _page(root / "runs" / "quickstart", fitted, [second, first])
    text = Page(source).text
    listed = text[text.index("Forecasts (2)") :]
    assert re.search(r"yes .*" + re.escape(first.path.name), listed)
    assert re.search(r"1\.2345.* CHANGED after registration later\.json", listed)
    opening = text[: text.index("What it rests on Runs fitted")]
    assert f"{first.loss:.4f}" in opening and "1.2345" not in opening


def test_without_forecast_the_budget_is_ten_times_the_largest(root: Path, fitted: dict[str, Any]) -> None:
    text = Page(_page(root / "runs" / "quickstart", fitted, [])).text
    assert "No forecast is registered" in text and "ten times the largest budget fitted" in text
    best = compute_optimal(fitted, 10 * max(row["c"] for row in fitted["rows"]))
    assert human(best["n"]) in text


def test_residuals_over_the_noise_of_each_run_are_said_to_be_so(root: Path, tmp_path: Path) -> None:
    """Two seeds a cell: the fit weighs runs by what they scatter, and the page says by how much."""
    folder, rng = tmp_path / "runs" / "seeds", np.random.default_rng(3)
    for run in study.grid():
        for seed in (0, 1):
            study.write_run(folder, replace(run, seed=seed), rng.normal(0, 0.006), rows=5)
    weighed = fit(load(str(folder)), resamples=60)
    noise = weighed["noise"]
    assert noise["used"] and noise["settings"] == 30
    texts = [Page(_page(folder, fitted, [])).text for fitted in (weighed, {**weighed, "noise": None})]
    for text in texts:
        assert "of (log(law) - log(measured)) / noise of the run" in text
    assert f"{100 * noise['sigma']:.2f}% of the loss" in texts[0] and "60 runs of 30 settings" in texts[0]
    assert "Noise of one run" not in texts[1]
    plain, _ = fit_for(root / "runs" / "quickstart", root / "fits")  # one seed a cell
    text = Page(_page(root / "runs" / "quickstart", plain, [])).text
    assert "of the residual in log(law) - log(measured)" in text and "noise of the run" not in text
    squares = {"name": "lsq", "delta": None, "space": "raw", "residual": "law - measured"}
    told = {**weighed, "objective": squares, "noise": {**noise, "used": False, "power": 0.3, "at": 5e10}}
    text = Page(_page(folder, told, [])).text
    assert "sum over runs of square of (law - measured) / noise" in text
    assert "at 5×10 10 FLOPs, falling as C -0.3 , from" in text and "the fit does not use it" in text


def test_too_few_runs_for_a_law(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "young"
    for run in study.grid()[:2]:
        study.write_run(folder, run, 0.0)
    found, why = fit_for(folder, tmp_path / "fits")
    assert found is None and "too few" in why[0]
    source = build(folder, found, [], tmp_path / "out", why).read_text(encoding="utf-8")
    text = Page(source).text
    assert "No answer yet" in text and "too few" in text
    assert sorted(p.name for p in (tmp_path / "out" / "figures").glob("*.csv")) == ["loss_curves.csv"]


def test_nothing_finished_yet(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "broken"
    study.write_run(folder, study.grid()[0], 0.0, "failed")
    found, why = fit_for(folder, tmp_path / "fits")
    text = Page(build(folder, found, [], tmp_path / "out", why).read_text(encoding="utf-8")).text
    assert "No answer yet" in text and "no finished run" in text


def test_a_stale_fit_is_not_used(root: Path, tmp_path: Path) -> None:
    folder = study.write_study(tmp_path / "runs" / "quickstart", target=False, seed=2)
    found, notes = fit_for(folder, root / "fits")  # the fits folder holds the fit of other losses
    assert found is not None and "not of these runs" in notes[0]
    assert {row["run"] for row in found["rows"]} == {run.run_id for run in study.grid()}


class Cells(HTMLParser):
    """Texts of the cards, the verdict, the facts, what would sharpen, and all tables but that of runs.csv."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""
        self.section = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self.section = given.get("id") or ""
        kind = given.get("class") or ""
        if self.section in ("runs", "reproduce"):
            return
        said = tag == "p" and (kind.startswith("verdict") or self.section == "sharpen")
        if said or tag in ("td", "dd") or (tag == "div" and kind in ("value", "interval")):
            self.inside = tag
            self.found.append("")
        elif tag == "sup" and self.inside:
            self.found[-1] += "^"
        elif tag == "code" and self.inside:
            self.found[-1] += "`"

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""
        elif tag == "code" and self.inside:
            self.found[-1] += "`"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "%": 0.01}
NUMBER = re.compile(
    r"(?<![\w.^])(?P<digits>[+-]?\d[\d,]*\.?\d*)(?P<e>e[+-]\d+)?(?P<ten>\u00d710\^-?\d+|\^-?\d+)?(?P<unit>[kMBT%])?"
)


def _shown(cell: str) -> list[tuple[float, float]]:
    """(value, half of the last digit shown) of every number in a cell."""
    # What is code (formulas, hashes), a source, a moment, a file's name or an interval's level is no number.
    cell = re.sub(
        r"`[^`]*`|\(\w.*arXiv.*\)|\d{4}-\d\d-\d\d[ T][\d:]+|\S+\.json|\b90%|6ND"
        r"|\b[0-9a-f]{12}\b",
        "",
        cell,
    )
    found = []
    for match in NUMBER.finditer(cell):
        digits = match["digits"].replace(",", "")
        ten = match["ten"] or ""
        power = int(match["e"][1:]) if match["e"] else int(ten.split("^")[1]) if ten else 0
        scale = SCALE[match["unit"] or ""] * 10.0**power
        value = 1.0 if ten.startswith("^") else float(digits)
        # Four digits are written of a long integer: the zeros that end it are no digits.
        decimals = len(digits.split(".")[1]) if "." in digits else 0
        if "." not in digits and "," not in match["digits"] and len(digits) > 4:
            decimals = len(digits.rstrip("0")) - len(digits)
        found.append((value * scale, 0.51 * 10.0**-decimals * scale))
    return found


def test_every_number_is_in_a_csv_beside_it(report: Path) -> None:
    values = pd.read_csv(report.parent / "numbers.csv")["value"].abs().to_numpy()
    cells = Cells(report.read_text(encoding="utf-8")).found
    checked = [(cell, *each) for cell in cells for each in _shown(cell)]
    assert len(checked) > 150
    absent = [(cell, v) for cell, v, half in checked if abs(values - abs(v)).min() > half + 1e-12 * abs(v)]
    assert not absent
    runs = pd.read_csv(report.parent / "runs.csv").set_index("run_id")
    assert {"n_total", "tokens", "c_matmul", "loss", "loss_se", "lr", "batch_tokens", "steps"} <= set(runs)


def test_next_runs_are_those_that_move_the_answer(fitted: dict[str, Any]) -> None:
    """Against resamples weighted by the further run's likelihood, which takes no covariance."""
    budget = 10 * max(row["c"] for row in fitted["rows"])
    found = candidates(fitted, budget)
    assert [each.n_left for each in found] == sorted(each.n_left for each in found)
    assert all(0 < each.n_left <= 1 and 0 < each.loss_left <= 1 for each in found)
    best_K, draws_RK = surface(fitted)
    log_n = np.log(optimum(draws_RK, budget, cost_of(fitted)).n_R)
    widths = []
    for run in (found[0], found[-1]):  # the resamples weighted by how likely the law's own loss is under each
        both = [np.log(predict(k, np.array([run.n]), np.array([run.d]))[:, 0]) for k in (draws_RK, best_K)]
        weight = np.exp(-0.5 * ((both[0] - both[1]) / fitted["laws"]["chinchilla"]["rms"]) ** 2)
        centre = np.average(log_n, weights=weight)
        widths.append(np.sqrt(np.average((log_n - centre) ** 2, weights=weight)))
    assert widths[0] < widths[1]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_unknown_sweep_or_empty_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=name):
        find_folder(name, tmp_path / "runs")
    with pytest.raises(UserError):
        build(tmp_path / "runs" / name, None, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["report", "quickstart", "--out", str(tmp_path / "page"), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert Path(answer["report"]) == tmp_path / "page" / "index.html" and Path(answer["report"]).is_file()
    assert len(answer["files"]) == 4 * len(FIGURES) + 2
    assert answer["forecasts"] == [str(f.path) for f in load_forecasts("forecasts")]


def test_a_table_has_a_report_of_its_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CSV of losses has no folder of runs: no forecast to wait for, odd rows named before figures."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [{"n": study.n_of(run), "d": run.tokens} for run in study.grid()]
    losses = [study.true_loss(row["n"], row["d"]) * np.exp(rng.normal(0, 0.004)) for row in rows]
    losses[3] *= 1.5
    pd.DataFrame(rows).assign(loss=losses).to_csv("losses.csv", index=False)
    with pytest.raises(UserError, match=r"`scaling fit losses\.csv` first"):
        find_folder("losses.csv")
    reading = ["--n", "n", "--d", "d", "--loss", "loss", "--bootstrap", "60", "--law", "chinchilla"]
    assert CliRunner().invoke(app, ["fit", "losses.csv", *reading]).exit_code == 0
    with pytest.raises(UserError, match="`scaling report losses`"):
        find_folder("losses.csv")
    result = CliRunner().invoke(app, ["report", "losses"])
    assert result.exit_code == 0, result.output
    text = Page(Path("reports/losses/index.html").read_text(encoding="utf-8")).text
    opening = text[: text.index("Figures Forecast")]
    assert "Not tested." in opening and "scaling score" in opening and "scaling forecast" not in text
    assert "C 6ND; ten times the largest budget fitted" in opening
    assert "row 4: if they diverged" in opening
    table = pd.read_csv("reports/losses/runs.csv")
    assert len(table) == 30 and (table["loss"] / table["loss_of_law"]).max() == pytest.approx(1.5, abs=0.05)


def test_a_fit_of_something_else_has_no_report() -> None:
    with pytest.raises(UserError, match="not of a loss over N, D and C"):
        build(None, {"name": "odd", "rows": [{"run": "a", "lr": 1.0}], "cost": None})
