"""Noise from seeds, and its fall with compute."""

import numpy as np
import pandas as pd
import pytest

from analysis.repeats import ENOUGH, seed_noise, with_noise
from analysis.table import Runs


def table(power: float, seeds: int, sizes: int = 30, sigma: float = 0.01, start: int = 0) -> pd.DataFrame:
    """Losses about a power law whose noise falls as C^-power, over two decades about 1e11 FLOPs."""
    c = np.repeat(np.geomspace(1e10, 1e12, sizes), seeds)
    noise = sigma * (c / 1e11) ** -power * np.random.default_rng(start).standard_normal(len(c))
    return pd.DataFrame(
        {
            "run": [str(i) for i in range(len(c))],
            "c": c,
            "n": np.sqrt(c / 120),
            "d": np.sqrt(c * 20 / 6),
            "seed": np.tile(np.arange(seeds), sizes),
            "loss": 30 * c**-0.1 * np.exp(noise),
        }
    )


def test_the_fall_of_the_noise_is_found_again() -> None:
    found = [seed_noise(table(0.3, seeds=2, start=start), "loss") for start in range(40)]
    powers = [noise.power for noise in found if noise]
    assert np.mean(powers) == pytest.approx(0.3, abs=0.04)  # 40 grids, each known to about .1
    sigmas = [float(noise.of(np.array([1e11]))[0]) for noise in found if noise]
    assert np.mean(sigmas) == pytest.approx(0.01, rel=0.05)
    at = found[0]
    assert at and at.of(np.array([1e12]))[0] < at.of(np.array([1e10]))[0]


def test_even_noise_is_the_pooled_standard_deviation() -> None:
    rows = table(0.0, seeds=4)
    noise = seed_noise(rows, "loss")
    pooled = np.log(rows["loss"]).groupby(rows["c"]).var(ddof=1).mean() ** 0.5
    assert noise and (noise.power, noise.at) == (0.0, None)
    assert noise.sigma == pytest.approx(pooled)
    assert (noise.degrees, noise.settings, noise.rows) == (90, 30, 120)


@pytest.mark.parametrize("sizes", [ENOUGH - 1, ENOUGH])
def test_few_repetitions_show_no_power(sizes: int) -> None:
    noise = seed_noise(table(0.5, seeds=2, sizes=sizes, start=3), "loss")
    assert noise and (noise.at is None) == (sizes < ENOUGH)


def test_the_column_of_noise_is_in_the_unit_of_the_loss() -> None:
    rows = table(0.4, seeds=2)
    noise = seed_noise(rows, "loss")
    assert noise is not None
    runs = with_noise(Runs("here", "here", rows, "total", "matmul", own=True), noise, "loss")
    share = runs.column("noise") / runs.column("loss")
    np.testing.assert_allclose(share, noise.sigma * (rows["c"] / noise.at) ** -noise.power)
    assert seed_noise(rows.assign(run="one"), "loss") is None
    assert seed_noise(rows[rows["seed"] == 0], "loss") is None
