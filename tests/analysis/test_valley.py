"""Lowest points of valleys: exact ones, how often their intervals hold, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.valley import Noise, Rows, noise_of, valley


def rows(u, y, seed=None):
    u = np.asarray(u, float)
    return Rows(u.reshape(len(y), -1), np.asarray(y, float), np.zeros(len(y), int) if seed is None else seed)


def slope_sides(u, low, high, size=0.03):
    """Falls as exp(-low u), rises as exp(high u), lowest at 0, second derivative `size`."""
    return 2 + size * (high * np.exp(-low * u) + low * np.exp(high * u)) / (low + high) / (low * high)


def test_three_exact_points_give_the_parabola_through_them():
    u = np.array([-1.0, 0.2, 1.1])
    y = 2.5 + 0.04 * (u - 0.15) ** 2
    found = valley(rows(u, y), Noise(1e-6, np.inf, "given"))
    assert found.at_K[0] == pytest.approx(0.15, abs=1e-6)
    assert found.loss == pytest.approx(2.5, abs=1e-9)
    assert found.curvature_KK[0, 0] == pytest.approx(0.08, rel=1e-4)


def test_with_noise_alone_the_interval_is_fiellers():
    # Many rows close together: nothing but the quadratic matters, and numpy gives its covariance.
    rng = np.random.default_rng(1)
    u = np.tile(np.linspace(-0.4, 0.4, 9), 40)
    y = 2 + 0.5 * (u - 0.05) ** 2 + 0.01 * rng.normal(size=len(u))
    found = valley(rows(u, y), Noise(0.01, np.inf, "given"))
    (c, b, _), cov = np.polyfit(u, y, 2, cov="unscaled")
    cov *= 0.01**2
    # |b + 2 c x| = t se(b + 2 c x), a quadratic equation in x.
    t = 1.6448536269514722
    ends = np.roots(
        [4 * (c * c - t * t * cov[0, 0]), 4 * (b * c - t * t * cov[0, 1]), b * b - t * t * cov[1, 1]]
    )
    assert found.at_K[0] == pytest.approx(-b / (2 * c), abs=0.003)
    assert [found.low_K[0], found.high_K[0]] == pytest.approx(sorted(ends), abs=0.01)


def test_a_lopsided_valley_of_many_exact_rows_is_not_biased_as_its_parabola_is():
    u = np.linspace(-2, 2, 21) + 0.3
    y = slope_sides(u, 0.4, 1.2)
    found = valley(rows(u, y), Noise(1e-5, np.inf, "given"))
    c, b, _ = np.polyfit(u, y, 2)
    assert abs(-b / (2 * c)) > 0.15
    assert abs(found.at_K[0]) < 0.01


def test_two_coordinates():
    u = np.stack(np.meshgrid(np.linspace(-1.5, 1.5, 6), np.linspace(-1.5, 1.5, 6)), -1).reshape(-1, 2)
    v, truth, held = u - [0.3, -0.2], (0.3, -0.2), 0
    for seed in range(10):
        noise = 0.001 * np.random.default_rng(seed).normal(size=36)
        y = 2 + 0.05 * (v[:, 0] ** 2 - 0.8 * v[:, 0] * v[:, 1] + 0.6 * v[:, 1] ** 2) + noise
        found = valley(rows(u, y), noise_of([rows(u, y)]))
        assert found.inside
        assert found.at_K == pytest.approx(truth, abs=0.06)
        held += sum(found.low_K[k] < truth[k] < found.high_K[k] for k in range(2))
        assert (found.high_K - found.low_K < 0.6).all()
    assert held >= 15  # of 20 at 90%


def test_rows_that_only_fall_have_no_lowest_point_inside():
    u = np.linspace(-1.5, 1.5, 5)
    found = valley(rows(u, 2 - 0.1 * u), Noise(0.001, np.inf, "given"))
    assert not found.inside


def test_noise_from_seeds_is_the_pooled_deviation():
    rng = np.random.default_rng(2)
    cells = []
    for shift in (-0.2, 0.0, 0.3, 0.1):
        u = np.tile(np.linspace(-1, 1, 4), 12)
        cells.append(rows(u, slope_sides(u - shift, 0.4, 1.0) + 0.004 * rng.normal(size=len(u))))
    found = noise_of(cells)
    assert found.sigma == pytest.approx(0.004, rel=0.15)
    assert found.df > 100
    assert noise_of([rows(np.array([-1.0, 0, 1]), [2.1, 2.0, 2.1])]) is None


def coverage(sweeps, levels, seeds, sigma, low, high, rng):
    """Share of 90% intervals that hold the truth over sweeps of five cells, and of open or missing ones."""
    held = total = without = 0
    for _ in range(sweeps):
        cells = []
        for _ in range(5):
            places = (np.arange(levels) - (levels - 1) / 2) * np.log(2) + rng.uniform(-0.35, 0.35)
            u = np.tile(places, seeds)
            own = 0.003 * rng.normal(size=seeds).repeat(levels)  # a seed moves all its rates alike
            y = slope_sides(u, low, high) + own + sigma * rng.normal(size=len(u))
            seed = np.arange(seeds).repeat(levels) if seeds > 1 else np.zeros(len(u), int)
            cells.append(rows(u, y, seed))
        noise = noise_of(cells)
        for cell in cells:
            found = valley(cell, noise)
            if not found.inside:
                without += 1
                continue
            total += 1
            held += bool(found.low_K[0] <= 0 <= found.high_K[0])
    return held / total, without / (total + without)


def test_intervals_hold_about_as_often_as_they_say():
    held, without = coverage(14, 5, 3, 0.004, 0.4, 1.0, np.random.default_rng(5))
    assert 0.8 <= held <= 0.985  # 70 intervals: two standard errors are .07
    assert without < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(0.5, 0.5), (0.4, 1.0), (0.5, 1.5)])
@pytest.mark.parametrize(("levels", "seeds"), [(5, 1), (5, 3), (7, 3)])
@pytest.mark.parametrize("sigma", [0.002, 0.008])
def test_coverage_over_shapes_designs_and_noises(sides, levels, seeds, sigma):
    held, _ = coverage(80, levels, seeds, sigma, *sides, np.random.default_rng(7))
    assert held >= 0.82  # 400 intervals of 90%, in fives that share a noise
