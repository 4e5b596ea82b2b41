"""The best N and D against closed forms, published answers and scipy's search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from analysis.allocate import Demand, Laws, best, cheapest
from analysis.forms.repeated import _decaying
from analysis.law import Values
from analysis.optimum import Cost
from analysis.regret import regret
from analysis.surfaces import Surface, spread

CONSTANTS = [(406.4, 410.7, 1.69, 0.34, 0.28), (406.4, 410.7, 1.69, 0.336, 0.283), (45, 150, 1.3, 0.44, 0.45)]
OWN = Cost(25.0, 0.45)  # a token of small models costs more than 6N


def laws(*constants):
    return Laws(*(np.array([value], np.float64) for value in constants))


def per_token(n, cost):
    return 6 * n * (1 + cost.excess * n**-cost.power)


@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("flops", [1e12, 1e17, 5.76e23, 1e27])
def test_a_budget_by_hoffmanns_closed_form(constants, flops):
    A, B, E, alpha, beta = constants
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    found = best(laws(*constants), Demand(), flops)
    n, d = G * (flops / 6) ** (beta / (alpha + beta)), (flops / 6) ** (alpha / (alpha + beta)) / G
    assert found.n[0] == pytest.approx(n, rel=1e-12) and found.d[0] == pytest.approx(d, rel=1e-12)
    assert found.loss[0] == pytest.approx(E + A * n**-alpha + B * d**-beta, rel=1e-14)


@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("above", [0.01, 0.3, 1.0])
def test_a_loss_by_its_closed_form(constants, above):
    A, B, E, alpha, beta = constants
    found = cheapest(laws(*constants), Demand(), E + above)
    n = (A * (alpha + beta) / (above * beta)) ** (1 / alpha)
    d = (B * (alpha + beta) / (above * alpha)) ** (1 / beta)
    assert found.n[0] == pytest.approx(n, rel=1e-11) and found.d[0] == pytest.approx(d, rel=1e-11)
    assert found.cost[0] == pytest.approx(6 * n * d, rel=1e-11)


@pytest.mark.parametrize(
    "demand", [Demand(OWN), Demand(OWN, 2e-18, 3e-8, 1e-6), Demand(Cost(), 1e-18, 0.0, 1e-5)]
)
def test_the_cheapest_way_to_the_best_loss_is_the_budget(demand):
    """Lowest loss for a cost and lowest cost for a loss are one point."""
    law, budget = laws(*CONSTANTS[1]), 1e22 * demand.flop
    there = best(law, demand, budget)
    back = cheapest(law, demand, there.loss)
    assert back.cost[0] == pytest.approx(budget, rel=1e-12)
    # a minimum's place is only as good as the root of the loss that was handed back
    assert back.n[0] == pytest.approx(there.n[0], rel=1e-9)
    assert demand.of(there.u, there.v)[0] == pytest.approx(budget, rel=1e-12)


@pytest.mark.parametrize("token", [0.0, 1e9, 1e11])
@pytest.mark.parametrize("served", [0.0, 2e12])
@pytest.mark.parametrize("cost", [Cost(), OWN])
def test_serving_and_tokens_at_a_price_by_scipy(token, served, cost):
    """The root of the total's derivative along the curve of equal loss, by its own slopes."""
    A, B, E, alpha, beta = CONSTANTS[1]
    loss = 2.05

    def tokens(u):
        return (B / (loss - E - A * np.exp(-alpha * u))) ** (1 / beta)

    def slope(u):
        n, d = np.exp(u), tokens(u)
        excess = cost.excess * n**-cost.power
        c, rise = per_token(n, cost), 1 - cost.power * excess / (1 + excess)
        fall = -(alpha * A * n**-alpha) / (beta * B * d**-beta)  # dlog D / dlog N
        return c * rise * (d + served / 3) + (c + token) * d * fall

    low = np.log(A / (loss - E)) / alpha
    n = np.exp(brentq(slope, low + 1e-3, low + 8, xtol=1e-14, rtol=1e-15))
    found = cheapest(laws(*CONSTANTS[1]), Demand(cost, 1.0, token, served), loss)
    assert found.n[0] == pytest.approx(n, rel=1e-9)
    assert found.d[0] == pytest.approx(tokens(np.log(n)), rel=1e-9)


def test_sardanas_thirteen_billion():
    law, served = laws(*CONSTANTS[1]), Demand(served=2e12)
    u = np.log([13e9])
    v = law.optimal_tokens(u, Cost())
    found = cheapest(law, served, law.loss(u, v))
    was = served.of(u, v)[0]
    assert was == pytest.approx(6 * 13e9 * np.exp(v[0]) + 2 * 13e9 * 2e12)
    assert found.n[0] == pytest.approx(7e9, rel=0.01) and found.d[0] == pytest.approx(1.25e12, rel=0.01)
    assert was - found.cost[0] == pytest.approx(1.69e22, rel=2e-3)


@pytest.mark.parametrize("flops", [1e21, 1e22, 1e23, 1e24])
def test_scarce_text_by_a_search_of_muennighoffs_law(flops):
    """100B tokens: from less than one epoch to 38."""
    A, B, E, alpha, beta = CONSTANTS[1]
    scarce = replace(laws(*CONSTANTS[1]), unique=1e11, R_D=np.array([15.39]), R_N=np.array([5.31]))
    p = Values(A=A, B=B, E=E, alpha=alpha, beta=beta, R_D=15.39, R_N=5.31)

    def loss(u):
        return _decaying(p, Values(n=np.exp(u), d=flops / 6 / np.exp(u), unique=1e11))

    by_search = minimize_scalar(loss, bounds=(18, 32), method="bounded", options={"xatol": 1e-10})
    found = best(scarce, Demand(), flops)
    assert found.loss[0] == pytest.approx(by_search.fun, rel=1e-12)
    assert found.n[0] == pytest.approx(np.exp(by_search.x), rel=1e-5)
    back = cheapest(scarce, Demand(), found.loss)
    assert back.cost[0] == pytest.approx(flops, rel=1e-10)
    assert scarce.tokens_for(found.u, found.loss)[0] == pytest.approx(found.v[0], rel=1e-12)


def test_ample_text_is_as_text_without_end():
    law = laws(*CONSTANTS[1])
    ample = replace(law, unique=1e15, R_D=np.array([15.39]), R_N=np.array([5.31]))
    for demand in (Demand(), Demand(token=1e10), Demand(served=1e12)):
        assert best(ample, demand, 1e23).n[0] == pytest.approx(best(law, demand, 1e23).n[0], rel=1e-12)


@pytest.mark.parametrize("token", [1e8, 1e9, 1e10, 1e11, 1e12])
def test_each_new_token_is_paid_once(token):
    """No N of a fine grid does better, whether less than the whole text is bought or it is repeated."""
    scarce = replace(laws(*CONSTANTS[1]), unique=1e11, R_D=np.array([15.39]), R_N=np.array([5.31]))
    demand, budget = Demand(token=token), 2e22
    found = best(scarce, demand, budget)
    assert demand.of(found.u, found.v, 1e11)[0] == pytest.approx(budget, rel=1e-9)
    u = np.linspace(18, 28, 20_001)
    losses = scarce.loss(u, demand.tokens(u, budget, 1e11))
    assert found.loss[0] <= losses.min() + 1e-12 and found.loss[0] == pytest.approx(losses.min(), rel=1e-7)


def test_laws_under_which_a_loss_is_out_of_reach_leave_the_interval_open():
    A, B, _, alpha, beta = CONSTANTS[1]
    floors = np.linspace(1.5, 2.1, 101)
    many = Laws(np.full(101, A), np.full(101, B), floors, np.full(101, alpha), np.full(101, beta))
    found = cheapest(many, Demand(), 2.05)
    assert np.isinf(found.cost[floors >= 2.05]).all() and np.isfinite(found.cost[floors < 2.04]).all()
    low, high = spread(found.cost)
    assert low > 0 and high is None
    assert spread(np.full(5, np.inf)) is None and spread(np.empty(0)) is None
    assert spread(np.arange(101.0)) == pytest.approx([5.0, 95.0])


def test_regret_by_hand():
    """Twice N* at equal FLOPs is half D*; its loss by Hoffmann's law, and the FLOPs that make up for it."""
    A, B, E, alpha, beta = CONSTANTS[2]
    law = laws(*CONSTANTS[2])
    plan = best(law, Demand(), 1e20)
    found = regret(Surface("chinchilla", "given", law, law), Demand(), plan, (0.5, 1.0, 2.0))
    n, d, least = plan.n[0], plan.d[0], plan.loss[0]
    for m, k in enumerate((0.5, 1.0, 2.0)):
        lost = E + A / (k * n) ** alpha + B / (d / k) ** beta - least
        tokens = (B / (least - E - A / (k * n) ** alpha)) ** (1 / beta)
        assert found.loss_M[m] == pytest.approx(lost, abs=1e-12)
        assert found.cost_M[m] == pytest.approx(k * tokens / d - 1, abs=1e-9)
        assert found.loss_RM[0, m] == pytest.approx(lost, abs=1e-12)
