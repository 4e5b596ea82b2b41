"""Noise from seeds, and its fall with compute."""

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.forecast import spread
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


def test_runs_weigh_by_their_noise_and_a_large_run_scatters_less() -> None:
    """A forecast's scatter is that of the largest runs where seeds tell it, not that of all."""
    rng = np.random.default_rng(0)
    c, shape = np.meshgrid(np.geomspace(1e10, 1e12, 6), np.array([0.5, 0.8, 1.25, 2.0]), indexing="ij")
    c, shape = (np.repeat(values.ravel(), 2) for values in (c, shape))
    n = np.sqrt(c / 120) * shape
    d = c / (6 * n)
    noise = 0.01 * (c / 1e11) ** -0.5
    loss = (1.5 + 30 / n**0.4 + 60 / d**0.35) * np.exp(noise * rng.standard_normal(len(c)))
    rows = pd.DataFrame({"run": [str(i) for i in range(len(c))], "n": n, "d": d, "c": c, "loss": loss})
    runs = Runs("here", "here", rows.assign(seed=np.tile([0, 1], len(c) // 2)), "total", "matmul", own=True)
    weighed, even = (fit(runs, ["chinchilla"], resamples=40, seed_noise=used) for used in (None, False))
    assert weighed["noise"]["used"] and not even["noise"]["used"]
    assert weighed["objective"]["delta"] == 1.345
    assert weighed["noise"]["power"] == pytest.approx(0.5, abs=0.15)
    found = [spread(content, 4e5, 4e6, 1e13).parts["scatter"] for content in (weighed, even)]
    assert found[0] is not None and found[1] is not None
    sigma = 1.645 * 0.01 * 10**-0.5  # half of 90% of a run of the largest budget
    assert found[0] == pytest.approx(sigma, rel=0.4)
    assert found[1] > 2 * found[0]
