"""Forecasts of a grid's own larger runs: what they measure, and that intervals built on them cover."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.backtest import Backtest, backtest
from analysis.columns import Reading
from analysis.fit import fit
from analysis.forecast import spread
from analysis.newton import Objective
from analysis.table import from_frame

LAW = {"A": 45.0, "B": 150.0, "E": 1.3, "alpha": 0.44, "beta": 0.45}
BUDGETS = (6e9, 1.5e10, 3.6e10, 9e10, 2.2e11)


def surface(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / d ** LAW["beta"]


def optimal_n(c: np.ndarray) -> np.ndarray:
    """Hoffmann et al. 2022, eq. 4."""
    total = LAW["alpha"] + LAW["beta"]
    g = (LAW["alpha"] * LAW["A"] / (LAW["beta"] * LAW["B"])) ** (1 / total)
    return g * (c / 6) ** (LAW["beta"] / total)


def grid(budgets: tuple[float, ...] = BUDGETS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six sizes within a factor 3 of the optimum of each budget: n, d, c."""
    c = np.repeat(np.array(budgets), 6)
    n = optimal_n(c) * np.tile(np.geomspace(1 / 3, 3, 6), len(budgets))
    return n, c / 6 / n, c


def run(n: np.ndarray, d: np.ndarray, c: np.ndarray, loss: np.ndarray) -> Backtest:
    return backtest(n, d, c, loss, Objective())


def test_every_cut_forecasts_every_larger_budget() -> None:
    n, d, c = grid()
    found = run(n, d, c, surface(n, d)).trials
    ratios = [[high / BUDGETS[kept] for high in BUDGETS[kept + 1 :]] for kept in (3, 2, 1)]
    assert sorted(t.ratio for t in found) == pytest.approx(sorted(r for part in ratios for r in part))
    assert sorted({t.rows for t in found}) == [12, 18, 24]


def test_runs_on_the_law_leave_no_error() -> None:
    n, d, c = grid()
    found = run(n, d, c, surface(n, d))
    assert max(abs(t.error) for t in found.trials) < 1e-6
    assert found.rate is not None and found.rate < 1e-6


def test_error_is_log_of_measured_over_forecast() -> None:
    n, d, c = grid()
    loss = surface(n, d) * np.where(c == max(BUDGETS), np.exp(0.05), 1.0)
    errors = [t.error for t in run(n, d, c, loss).trials if t.rows == 24]
    assert errors == pytest.approx([0.05], abs=1e-6)


def test_rate_is_error_per_e_fold_of_compute() -> None:
    """Losses that leave the law at .02 per e-fold above a cut are seen to do so from that cut."""
    n, d, c = grid()
    top = BUDGETS[1]
    loss = surface(n, d) * np.exp(-0.02 * np.log(np.maximum(c / top, 1.0)))
    found = [t for t in run(n, d, c, loss).trials if t.rows == 12]
    assert [t.error / np.log(t.ratio) for t in found] == pytest.approx([-0.02] * 3, abs=1e-6)
    assert Backtest(tuple(found)).rate == pytest.approx(0.02, abs=1e-6)


def test_a_small_grid_has_no_trial() -> None:
    n, d, c = grid(BUDGETS[:2])
    assert run(n, d, c, surface(n, d)).rate is None


def fitted(n: np.ndarray, d: np.ndarray, c: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
    frame = pd.DataFrame({"n": n, "d": d, "c": c, "loss": loss})
    reading = Reading(n="n", d="d", c="c", loss="loss")
    return fit(from_frame(frame, reading, "grid", "grid"), ["chinchilla"], resamples=60)


def coverage(truth: Any, noise: float, grids: int) -> tuple[float, float]:
    """Share of 90% intervals that hold a new run at 10 times the top budget: with drift, without."""
    rng, target_c = np.random.default_rng(3), 10 * max(BUDGETS)
    n, d, c = grid()
    n_t = float(optimal_n(np.array(target_c)))
    d_t = target_c / 6 / n_t
    with_drift = without = 0
    for _ in range(grids):
        made = fitted(n, d, c, truth(n, d, c) * np.exp(noise * rng.standard_normal(len(n))))
        measured = float(truth(np.array([n_t]), np.array([d_t]), np.array([target_c]))[0])
        measured *= float(np.exp(noise * rng.standard_normal()))
        found = spread(made, n_t, d_t, target_c)
        with_drift += found.quantiles["0.05"] <= measured <= found.quantiles["0.95"]
        law, scatter = found.parts["law"], found.parts["scatter"]
        assert law is not None and scatter is not None
        without += abs(np.log(measured / found.quantiles["0.5"])) <= np.hypot(law, scatter)
    return with_drift / grids, without / grids


def test_interval_covers_where_the_law_is_true() -> None:
    assert coverage(lambda n, d, c: surface(n, d), 0.005, 12)[0] >= 0.85


def test_interval_covers_where_the_law_is_wrong_and_a_bootstrap_does_not() -> None:
    """Losses that keep falling where the law flattens: a surface times a weak power of compute."""

    def bent(n: np.ndarray, d: np.ndarray, c: np.ndarray) -> np.ndarray:
        return surface(n, d) * np.exp(-0.004 * np.log(c / BUDGETS[0]) ** 2)

    with_drift, without = coverage(bent, 0.002, 12)
    assert with_drift >= 0.85
    assert without <= 0.5


def published() -> Path:
    folder = os.environ.get("SCALING_PUBLISHED_DATA")
    if not folder:
        pytest.skip("SCALING_PUBLISHED_DATA is unset")
    return Path(folder)


def studies(folder: Path) -> dict[str, pd.DataFrame]:
    """Published grids: columns N, D, C, loss, and `budget`, C in tenths of a decade. Of each budget
    the sizes within a factor 5 of its best, as a planned grid would have them."""
    epoch = pd.read_csv(folder / "epoch_chinchilla.csv").query("used_in_paper_fit == 1")
    found = {
        "chinchilla, Epoch": epoch,
        "chinchilla, Apple": pd.read_csv(folder / "chinchilla_isoflops_apple.csv"),
    }
    porian = pd.read_csv(folder / "porian_refinedweb_isoflops.csv")
    names = ["hparams", "warmup", "decay", "param_count", "val"]
    found |= {f"Porian, {' '.join(map(str, key))}": part for key, part in porian.groupby(names)}
    for name, table in found.items():
        table = table.dropna(subset=["N", "D", "C", "loss"])
        table = table.assign(budget=(np.log10(table.C) * 10).round().astype(int))
        best = table.loc[table.groupby("budget").loss.idxmin()].set_index("budget").N
        near = np.abs(np.log(table.N / best.loc[table.budget].to_numpy())) < np.log(5)
        found[name] = table[near]
    return found


def forecasts_of(table: pd.DataFrame) -> list[dict[str, float]]:
    """A decade and a half fitted, from starts at least a factor 2 apart; the best run of every budget
    7 to 14 times above it forecast."""
    out: list[dict[str, float]] = []
    start = 0
    for low in sorted(table.budget.unique()):
        if low < start:
            continue
        start = low + 3
        part = table[(table.budget >= low) & (table.budget <= low + 15)]
        above = table[(table.C / part.C.max()).between(7, 14)]
        if part.budget.nunique() < 4 or part.budget.max() < low + 11 or above.empty:
            continue
        made = fitted(*(part[name].to_numpy(float) for name in ("N", "D", "C", "loss")))
        for _, row in above.loc[above.groupby("budget").loss.idxmin()].iterrows():
            found = spread(made, row.N, row.D, row.C)
            quantiles, error = found.quantiles, np.log(row.loss / found.quantiles["0.5"])
            half = np.hypot(found.parts["law"] or 0.0, found.parts["scatter"] or 0.0)
            out.append(
                {
                    "inside": quantiles["0.05"] <= row.loss <= quantiles["0.95"],
                    "inside_bootstrap": abs(error) <= half,
                    "half_width": np.log(quantiles["0.95"] / quantiles["0.05"]) / 2,
                    "error": abs(error),
                }
            )
    return out


def test_interval_covers_published_runs_ten_times_above_the_grid() -> None:
    """`pytest -s` prints the table of docs/forecasting.md."""
    rows = {name: forecasts_of(table) for name, table in studies(published()).items()}
    rows = {name: found for name, found in rows.items() if found}
    table = pd.DataFrame({name: pd.DataFrame(found).mean() for name, found in rows.items()}).T
    table.insert(0, "forecasts", [len(found) for found in rows.values()])
    print("\n" + table.to_string(float_format="{:.3f}".format))
    studies_mean = table.drop(columns="forecasts").mean()
    print(studies_mean.to_string(float_format="{:.3f}".format))
    assert studies_mean["inside"] >= 0.85
    assert studies_mean["inside_bootstrap"] <= 0.6  # what the drift is for
