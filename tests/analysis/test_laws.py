"""Kaplan's lines, the frontier they are fitted on, and the certificate of a fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from analysis.certificate import certify
from analysis.laws import LAWS, frontier
from analysis.newton import Objective
from analysis.solver import Problem, bounds, fit_best


# Kaplan et al. 2020, table 5 (C in FLOPs: 1.6e7 PF-days of 8.64e19).
@pytest.mark.parametrize(
    ("name", "scale", "exponent", "span"),
    [
        ("kaplan_n", 8.8e13, 0.076, (1e3, 1e9)),
        ("kaplan_d", 5.4e13, 0.095, (2e7, 2e10)),
        ("kaplan_c", 1.6e7 * 8.64e19, 0.057, (1e15, 1e21)),
    ],
)
def test_a_line_gives_back_kaplans_constants(name, scale, exponent, span):
    x = np.geomspace(*span, 12)
    params, certificate = LAWS[name].family.fit(x[None], (scale / x) ** exponent, Objective())
    np.testing.assert_allclose(params, [scale, exponent], rtol=1e-8)
    assert certificate.converged
    np.testing.assert_allclose(
        LAWS[name].family.predict(params[None], x[None])[0], (scale / x) ** exponent, rtol=1e-10
    )


def test_a_line_through_noise_is_the_huber_optimum():
    rng = np.random.default_rng(0)
    x = np.geomspace(1e6, 1e9, 15)
    loss = (1e13 / x) ** 0.08 * np.exp(0.02 * rng.standard_normal(15))
    params, certificate = LAWS["kaplan_n"].family.fit(x[None], loss, Objective())

    def cost(z):
        residual = np.abs(z[0] - z[1] * np.log(x / 1e7) - np.log(loss))
        return np.where(residual <= 1e-3, residual**2 / 2, 1e-3 * (residual - 5e-4)).sum()

    tight = {"xatol": 1e-12, "fatol": 1e-16}
    tries = [minimize(cost, [1.0, s], method="Nelder-Mead", options=tight) for s in (0, 0.1)]
    other = min(tries, key=lambda result: result.fun)
    ours = [params[1] * np.log(params[0] / 1e7), params[1]]
    assert cost(ours) <= other.fun * (1 + 1e-9)
    np.testing.assert_allclose(ours, other.x, rtol=1e-4)
    assert certificate.second_solver == pytest.approx(0, abs=1e-9)


def test_the_frontier_is_what_no_cheaper_run_undercuts():
    rng = np.random.default_rng(1)
    x, loss = np.exp(rng.uniform(0, 8, 60)), rng.uniform(2, 4, 60)
    expected = [all(loss[i] <= loss[j] for j in range(60) if x[j] <= 1.06 * x[i]) for i in range(60)]
    np.testing.assert_array_equal(frontier(x, loss)[0] > 0, expected)


def test_cells_of_one_budget_put_one_run_on_the_frontier():
    c = np.array([1e10, 1.004e10, 0.998e10, 1e11, 1.003e11])
    loss = np.array([3.2, 3.0, 3.1, 2.5, 2.6])
    np.testing.assert_array_equal(frontier(c, loss)[0], [0, 1, 0, 1, 0])


def test_a_row_that_was_not_drawn_is_not_on_the_frontier():
    loss = np.array([[2.0, 1.9, np.inf], [np.inf, 1.9, 1.8]])
    np.testing.assert_array_equal(frontier(np.array([1.0, 2.0, 3.0]), loss), [[1, 1, 0], [0, 1, 1]])


def test_a_resample_is_fitted_on_its_own_frontier():
    rng = np.random.default_rng(3)
    x, family = np.geomspace(1e6, 1e9, 30), LAWS["kaplan_n"].family
    loss = (1e13 / x) ** 0.08 * np.exp(0.1 * rng.exponential(size=30))  # most rows lie above the line
    counts = np.stack([np.ones(30), np.arange(30) % 3 != 0]).astype(float)
    draws = family.refit(x[None], loss, counts, np.array([1e13, 0.08]), Objective())
    for count, drawn in zip(counts > 0, draws, strict=True):
        on = frontier(x[count], loss[count])[0] > 0
        alone, _ = family.fit(x[count][on][None], loss[count][on], Objective())
        np.testing.assert_allclose(drawn, alone, rtol=1e-6)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(2)
    n = np.exp(rng.uniform(np.log(1e4), np.log(1e6), 40))
    d = 20 * n * np.exp(rng.uniform(-2, 2, 40))
    loss = (1.2 + 50 / n**0.4 + 100 / d**0.35) * np.exp(0.01 * rng.standard_normal(40))
    problem = Problem(n, d)
    return problem, loss, fit_best(problem, loss, Objective())


def _certify(problem, loss, z, start):
    return certify(problem.surface, z, np.log(loss), Objective(), *bounds(loss), start=start)


def test_the_optimum_is_certified(fitted):
    problem, loss, best = fitted
    found = _certify(problem, loss, best.z_K, best.first_K)
    assert found.converged
    assert found.gradient < 1e-7
    assert min(found.hessian_eigenvalues) > 0
    assert abs(found.second_solver) < 1e-9


def test_a_point_beside_the_optimum_is_not_certified(fitted):
    problem, loss, best = fitted
    found = _certify(problem, loss, best.z_K * 1.002, best.first_K)
    assert not found.converged
    assert found.second_solver < -1e-6


def test_every_law_says_where_it_comes_from():
    for name, law in LAWS.items():
        assert name == law.name
        assert "arXiv" in law.source and law.formula.startswith("L(")
        assert law.minimum_rows > len(law.parameters)
