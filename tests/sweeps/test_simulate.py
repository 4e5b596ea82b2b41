"""The interval that a grid would give: it holds the truth as often as it says, and noise widens it."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.config import DataConfig
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.designs import Setting, isoflop
from sweeps.prior import Prior
from sweeps.simulate import estimate, simulate

RECIPE = next(iter(RECIPES.values()))
PRIOR = Prior(A=16.0, B=60.0, E=1.0, alpha=0.32, beta=0.34, source="test")
SETTING = Setting(RECIPE, DataConfig(name="text", fingerprint="f"), unique_tokens=10**9)
RUNS = isoflop("s", "?", SETTING, [1e10, 4e10, 1.6e11, 6.4e11], PRIOR).runs
TARGET = 1e13


def test_intervals_hold_the_prior_s_truth_and_the_share_of_new_grids_they_claim() -> None:
    simulation = simulate(RUNS, PRIOR, RECIPE, TARGET, noise=0.005)
    assert simulation.intervals["a"].truth == pytest.approx(0.34 / (0.32 + 0.34))
    fresh = estimate(RUNS, PRIOR, RECIPE, TARGET, noise=0.005, seed=1)
    for name, interval in simulation.intervals.items():
        assert interval.low < interval.truth < interval.high
        inside = np.mean((fresh[name] >= interval.low) & (fresh[name] <= interval.high))
        assert 0.82 <= inside <= 0.97, name  # 90% of 200 draws, between ends that are estimates themselves


def test_an_interval_laid_around_one_grid_s_answer_covers_the_truth_nine_times_in_ten() -> None:
    """Turned around its truth, the simulated spread is the interval of a single experiment."""
    simulation = simulate(RUNS, PRIOR, RECIPE, TARGET, noise=0.005)
    for name, values in estimate(RUNS, PRIOR, RECIPE, TARGET, noise=0.005, seed=2).items():
        interval = simulation.intervals[name]
        below, above = interval.high - interval.truth, interval.truth - interval.low
        covered = np.mean((values - below <= interval.truth) & (interval.truth <= values + above))
        assert 0.82 <= covered <= 0.97, name


def test_less_noise_and_more_runs_give_narrower_intervals() -> None:
    def widths(**changes: float) -> dict[str, float]:
        intervals = simulate(RUNS, PRIOR, RECIPE, TARGET, **changes).intervals  # type: ignore[arg-type]
        return {name: interval.high - interval.low for name, interval in intervals.items()}

    noisy, quiet = widths(noise=0.01), widths(noise=0.002)
    assert all(quiet[name] < 0.4 * noisy[name] for name in noisy)
    few = simulate(RUNS[::2], PRIOR, RECIPE, TARGET, noise=0.002).intervals
    assert all(quiet[name] < few[name].high - few[name].low for name in quiet)


def test_without_noise_the_fit_returns_the_prior() -> None:
    for interval in simulate(RUNS, PRIOR, RECIPE, TARGET, noise=0.0, grids=2).intervals.values():
        assert interval.low == pytest.approx(interval.truth, rel=1e-4)
        assert interval.high == pytest.approx(interval.truth, rel=1e-4)


def test_the_same_call_gives_the_same_numbers() -> None:
    assert simulate(RUNS, PRIOR, RECIPE, TARGET, grids=20) == simulate(RUNS, PRIOR, RECIPE, TARGET, grids=20)


def test_five_runs_are_too_few_for_five_parameters() -> None:
    with pytest.raises(UserError, match="5 runs cannot fit"):
        simulate(RUNS[:5], PRIOR, RECIPE, TARGET)
