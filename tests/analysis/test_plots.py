"""Every figure is written as PNG, PDF and CSV, and its CSV holds the law's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_study as study

from analysis.columns import Reading
from analysis.fit import fit
from analysis.plots import fit_figure, style, views
from analysis.plots.forecast import Reach, Scene, Target, forecast_figure
from analysis.plots.isoflop import isoflop_figure
from analysis.plots.loss_curves import (
    Curve,
    envelope,
    loss_curves_figure,
    read_curve,
    segment_starts,
    smooth,
)
from analysis.plots.optimum import optimum_figure
from analysis.plots.surface import surface_figure
from analysis.table import from_frame
from scaling.config import Placement
from scaling.files import write_whole
from scaling.runs import RunFolder


def _table(rows: list[dict[str, float]]) -> dict[str, Any]:
    return fit(
        from_frame(pd.DataFrame(rows), Reading(n="n", d="d", loss="loss"), "table", "table"), resamples=60
    )


@pytest.fixture(scope="module")
def exact() -> dict[str, Any]:
    """A fit of isoFLOP rows that lie on the law: what is drawn must be the law itself."""
    rows = []
    for flops in np.geomspace(6e9, 2.2e11, 5):
        middle = 0.3 * math.sqrt(flops / 6)
        for n in middle * np.geomspace(0.25, 4, 6):
            tokens = flops / 6 / n
            rows.append({"n": n, "d": tokens, "loss": study.true_loss(n, tokens)})
    return _table(rows)


def _closed_form(flops: float) -> tuple[float, float, float]:
    """Hoffmann et al. 2022, eq. 4: N*, D* and the loss there for C = 6ND."""
    t = study.TRUTH
    total = t["alpha"] + t["beta"]
    g = (t["alpha"] * t["A"] / (t["beta"] * t["B"])) ** (1 / total)
    n = g * (flops / 6) ** (t["beta"] / total)
    return n, flops / 6 / n, study.true_loss(n, flops / 6 / n)


def _written(paths: list[Path]) -> pd.DataFrame:
    """The CSV, after a look at the other files' first bytes."""
    found = {path.suffix: path for path in paths}
    assert found[".png"].read_bytes().startswith(b"\x89PNG\r\n")
    assert found[".pdf"].read_bytes().startswith(b"%PDF-")
    assert found[".png"].stat().st_size > 10_000
    return pd.read_csv(found[".csv"])


def test_loss_curves_end_at_the_validation_losses(tmp_path: Path) -> None:
    root = study.write_study(tmp_path / "runs")
    target = study.target_run()
    curves = [read_curve(RunFolder(path.parent))[0] for path in sorted(root.glob("*/config.json"))]
    table = _written(loss_curves_figure(curves, tmp_path / "curves", target=target.run_id))
    finals = table[table["series"] == "final validation loss"]
    assert len(finals) == 30
    run = study.grid()[7]
    row = finals[finals["run"] == run.run_id].iloc[0]
    assert row["c_flops"] == pytest.approx(study.flops_of(run))
    assert row["loss"] == pytest.approx(study.true_loss(study.n_of(run), run.tokens), rel=0.03)
    assert (table["series"] == "target, final validation loss").sum() == 1
    assert table.loc[table["series"] == "training loss", "loss"].between(1.5, 10).all()


def test_isoflop_minima_lie_at_the_optimum(exact: dict[str, Any], tmp_path: Path) -> None:
    table = _written(isoflop_figure(views.profiles_of(exact), tmp_path / "isoflop"))
    minima = table[table["series"] == "minimum"]
    assert len(minima) == 5 and minima["note"].isna().all()
    for row in minima.itertuples():
        n, _, loss = _closed_form(row.c_flops)
        assert row.n_params == pytest.approx(n, rel=0.06)  # alpha and beta differ: a parabola is biased
        assert row.loss == pytest.approx(loss, rel=0.01)
        assert row.lower <= row.n_params <= row.upper
        profile = table[(table["series"] == "profile") & (table["c_flops"] == row.c_flops)]
        lowest = profile.loc[profile["loss"].idxmin()]
        assert lowest["loss"] == pytest.approx(row.loss, rel=1e-3)
        assert lowest["n_params"] == pytest.approx(row.n_params, rel=0.05)


def test_a_minimum_at_the_edge_is_named_and_not_used(tmp_path: Path) -> None:
    rows = []
    for flops in (6e9, 3e10, 1.5e11):
        middle = 0.3 * math.sqrt(flops / 6)
        for n in middle * np.geomspace(2, 12, 5):  # every size too large for its budget
            rows.append({"n": n, "d": flops / 6 / n, "loss": study.true_loss(n, flops / 6 / n)})
    profiles = views.profiles_of(_table(rows))
    assert len(profiles) == 3 and all("smaller" in p.refused for p in profiles)
    table = _written(isoflop_figure(profiles, tmp_path / "edge"))
    assert table.loc[table["series"] == "minimum", "note"].str.contains("smaller").all()


def test_optimum_line_is_the_closed_form(exact: dict[str, Any], tmp_path: Path) -> None:
    frontier = views.frontier_of(exact, 4e9, 3e12)
    assert frontier is not None
    lines = views.lines_of(exact, frontier, frontier.c)
    table = _written(optimum_figure(lines, views.optima_of(exact), tmp_path / "optimum", target=2e12))
    parametric = table[(table["series"] == "line") & (table["approach"] == "parametric")]
    for row in parametric.iloc[::6].itertuples():
        n, tokens, _ = _closed_form(row.c_flops)
        assert row.n_params == pytest.approx(n, rel=1e-3)
        assert row.d_tokens == pytest.approx(tokens, rel=1e-3)
    assert set(table["approach"]) == {"parametric", "isoflop", "envelope"}


def test_surface_residuals_of_exact_rows_vanish(exact: dict[str, Any], tmp_path: Path) -> None:
    frontier = views.frontier_of(exact, 4e9, 3e12)
    assert frontier is not None
    line = views.lines_of(exact, frontier, frontier.c)[0]
    rows = views.rows_of(exact)
    table = _written(
        surface_figure(rows, lambda n, d: views.loss_at(exact, n, d), line, tmp_path / "surface")
    )
    assert len(table) == 30
    assert table["residual_percent"].abs().max() < 1e-3
    expected = [study.true_loss(n, d) for n, d in zip(table["n"], table["d"], strict=True)]
    np.testing.assert_allclose(table["predicted"], expected, rtol=1e-5)


def test_forecast_law_line_and_target(exact: dict[str, Any], tmp_path: Path) -> None:
    frontier = views.frontier_of(exact, 4e9, 3e12)
    assert frontier is not None
    law = Reach(frontier.c, frontier.loss, frontier.loss_band)
    target = Target(2.2e12, 1.75, (1.72, 1.78), 1.60, (1.55, 1.66), 1.76)
    straight = views.straight_reach(exact, frontier.c)
    scene = Scene(views.rows_of(exact), views.envelope_of(exact), law, straight, target)
    table = _written(forecast_figure(scene, tmp_path / "forecast"))
    for row in table[table["series"] == "law"].iloc[::6].itertuples():
        assert row.loss == pytest.approx(_closed_form(row.c_flops)[2], rel=1e-4)
    line = table[table["series"] == "straight line"]
    slope = np.diff(np.log(line["loss"])) / np.diff(np.log(line["c_flops"]))
    np.testing.assert_allclose(slope, slope[0], rtol=1e-6)
    assert table.loc[table["series"] == "measured", "loss"].tolist() == [1.76]
    assert table.loc[table["series"] == "registered forecast", ["lower", "upper"]].to_numpy().tolist() == [
        [1.72, 1.78]
    ]


def test_forecast_band_widens_beyond_the_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"n": n, "d": c / 6 / n, "loss": study.true_loss(n, c / 6 / n) * np.exp(rng.normal(0, 0.004))}
        for c in np.geomspace(6e9, 2.2e11, 5)
        for n in 0.3 * math.sqrt(c / 6) * np.geomspace(0.25, 4, 6)
    ]
    fitted = _table(rows)
    frontier = views.frontier_of(fitted, 2e11, 2e13, places=3)
    assert frontier is not None
    reach = views.forecast_reach(fitted, frontier)
    assert reach.band is not None
    width = np.log(reach.band[1] / reach.band[0])
    assert width[0] < width[1] < width[2]
    assert (reach.band[0] < reach.loss).all() and (reach.loss < reach.band[1]).all()


def _grid() -> list[dict[str, float]]:
    sizes, tokens = np.geomspace(1e4, 1e6, 5), (1e6, 3.1e6, 1e7, 3.1e7)
    return [{"n": n, "d": d, "loss": study.true_loss(n, d)} for n in sizes for d in tokens]


def _cloud() -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    pairs = zip(10 ** rng.uniform(4, 6, 25), 10 ** rng.uniform(6, 8, 25), strict=True)
    return [{"n": n, "d": d, "loss": study.true_loss(n, d)} for n, d in pairs]


def test_fit_figure_of_budgets_grid_and_cloud(exact: dict[str, Any], tmp_path: Path) -> None:
    tables = {
        name: _written(fit_figure(fitted, tmp_path / name))
        for name, fitted in {"iso": exact, "grid": _table(_grid()), "cloud": _table(_cloud())}.items()
    }
    assert tables["iso"].loc[tables["iso"]["series"] == "law", "c_flops"].nunique() == 5
    law = tables["grid"][tables["grid"]["series"] == "law"]
    assert law["d_tokens"].nunique() == 4
    expected = [study.true_loss(n, d) for n, d in zip(law["n_params"], law["d_tokens"], strict=True)]
    np.testing.assert_allclose(law["loss"], expected, rtol=1e-4)
    cloud = tables["cloud"]
    frontier = cloud[cloud["series"] == "law, compute-optimal"]
    for row in frontier.iloc[::8].itertuples():
        assert row.n_params == pytest.approx(_closed_form(row.c_flops)[0], rel=1e-2)
    for table in tables.values():
        assert table.loc[table["series"] == "run", "residual_percent"].abs().max() < 1e-2


def test_repeated_seeds_do_not_hide_each_other_on_the_surface(exact: dict[str, Any], tmp_path: Path) -> None:
    """Runs of one N and D are one mark among the contours, and each its own among the residuals."""
    rows = views.rows_of(exact)
    frontier = views.frontier_of(exact, 6e9, 2.2e11)
    line = views.lines_of(exact, frontier, frontier.c)[0] if frontier else pytest.fail("no surface")
    marks = []
    for copies in (1, 2):
        several = pd.concat([rows.assign(loss=rows["loss"] * 1.01**seed) for seed in range(copies)])
        stem = tmp_path / f"surface{copies}"
        paths = surface_figure(several, lambda n, d: views.loss_at(exact, n, d), line, stem, svg=True)
        contours = paths[2].read_text().split('id="axes_1"')[1].split('id="axes_2"')[0]
        marks.append(contours.count("<use "))
        assert len(pd.read_csv(paths[3])) == copies * len(rows)
    assert marks[0] == marks[1] > len(rows)


def test_fit_figure_without_a_surface_draws_the_power_law(tmp_path: Path) -> None:
    fitted = _table([{"n": n, "d": 1e9, "loss": (8.8e13 / n) ** 0.076} for n in (1e6, 1e7, 1e8, 1e9)])
    assert "chinchilla" not in fitted["laws"]
    table = _written(fit_figure(fitted, tmp_path / "line"))
    law = table[table["series"] == "law"]
    np.testing.assert_allclose(law["predicted"], (8.8e13 / law["n"]) ** 0.076, rtol=1e-6)


def test_same_numbers_give_the_same_bytes(exact: dict[str, Any], tmp_path: Path) -> None:
    first = isoflop_figure(views.profiles_of(exact), tmp_path / "a" / "x", svg=True)
    second = isoflop_figure(views.profiles_of(exact), tmp_path / "b" / "x", svg=True)
    assert {p.suffix for p in first} == {".png", ".pdf", ".svg", ".csv"}
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.suffix


def test_smoothing_neither_lags_nor_crosses_a_restart() -> None:
    falling = np.linspace(5.0, 2.0, 200)
    np.testing.assert_allclose(smooth(falling), falling, rtol=1e-12)  # a lagging window would lie above
    steps = np.array([1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(
        segment_starts(steps, np.array([1.0, 2, 3, 1, 2, 3])), [3]
    )  # clock went back
    np.testing.assert_array_equal(
        segment_starts(np.array([1, 2, 3, 40, 41, 42]), np.arange(6.0)), [3]
    )  # a gap
    assert not len(segment_starts(steps, np.full(6, np.nan)))


def test_a_restart_breaks_the_line(tmp_path: Path) -> None:
    config = study.config(16, 1e5)
    folder = RunFolder(tmp_path / config.run_id)
    folder.create(config, Placement())
    lines = [
        f'{{"step": {i}, "tokens": {i * 100}, "loss": {5 if i < 20 else 3}, "seconds": {i % 20}}}\n'
        for i in range(1, 40)
    ]
    write_whole(folder.metrics_path, "".join(lines) + '{"step": 40, "tok')
    curve, notes = read_curve(folder)
    assert np.isnan(curve.loss).sum() == 1
    assert set(curve.loss[np.isfinite(curve.loss)]) == {5.0, 3.0}  # nothing in between: no window crossed
    assert len(notes) == 1 and "cut off" in notes[0]


def test_envelope_takes_one_point_of_a_budget() -> None:
    def ended(flops: float, loss: float) -> Curve:
        return Curve("r", 1e4, np.empty(0), np.empty(0), "done", flops, loss)

    flops, loss = envelope(
        [ended(0.995e10, 3.4), ended(1e10, 3.0), ended(1.004e10, 3.2), ended(1e11, 2.2), ended(1e11, 2.4)]
    )
    np.testing.assert_allclose(flops, [1e10, 1e11])
    np.testing.assert_allclose(loss, [3.0, 2.2])


@pytest.mark.parametrize(
    ("low", "high", "quantity", "expected"),
    [
        (1.75, 2.65, "loss", ["1.8", "2.0", "2.2", "2.4", "2.6"]),
        (2.1, 5.3, "loss", ["2.5", "3.0", "4.0", "5.0"]),
        (6e9, 3e12, "flops", ["10¹⁰", "10¹¹", "10¹²"]),
        (2.6e3, 2e5, "params", ["3k", "10k", "30k", "100k"]),
        (5e7, 2e10, "params", ["100M", "1B", "10B"]),
    ],
)
def test_log_axes_carry_few_readable_labels(
    low: float, high: float, quantity: Any, expected: list[str]
) -> None:
    assert (
        style.labels(style.log_ticks(low, high, fewest=5 if quantity == "loss" else 4), quantity) == expected
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (950, "950"),
        (999.7, "1k"),
        (12_345, "12.3k"),
        (1e6, "1M"),
        (6.738e9, "6.74B"),
        (1.4e12, "1.4T"),
        (166_000, "166k"),
    ],
)
def test_human_numbers(value: float, text: str) -> None:
    assert style.human(value) == text
