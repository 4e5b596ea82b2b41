"""Where a prior puts the optimum, and the sizes chosen around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scaling.accounting import counts
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.prior import Family, Prior, at_edge, centre_n, centred_widths, family, optimal, read_prior

RECIPE = next(iter(RECIPES.values()))
PRIOR = Prior(A=16.0, B=60.0, E=1.0, alpha=0.32, beta=0.34, source="test")


def test_the_optimum_is_chinchilla_s_where_c_is_6nd() -> None:
    """Hoffmann et al. 2022, eq. 4, in a family whose FLOPs per token are 6 N."""
    n = np.geomspace(1e6, 1e12, 200)
    models = Family(tuple(range(200)), n, 6 * n)
    law = Prior(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28, source="Hoffmann et al. 2022, eq. 10")
    for budget in (1e19, 5.76e23):
        g = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
        n_star = g * (budget / 6) ** (law.beta / (law.alpha + law.beta))
        found_n, found_loss = optimal(law.parameters[None], budget, models)
        assert found_n[0] == pytest.approx(n_star, rel=0.01)
        assert found_loss[0] == pytest.approx(law.loss(n_star, budget / 6 / n_star), rel=1e-5)


@pytest.mark.parametrize("budget", [5e10, 2e11, 1e12, 1e15, 1e19])
@pytest.mark.parametrize("centre", [PRIOR, 20.0])
def test_centred_sizes_hold_the_optimum_inside(budget: float, centre: Prior | float) -> None:
    widths = centred_widths(budget, RECIPE, centre, count=7, spread=12.0)
    assert widths == sorted(set(widths)) and len(widths) == 7
    n = [counts(RECIPE.model(width), RECIPE.seq_len).n["total"] for width in widths]
    assert 6 < n[-1] / n[0] < 24
    # The optimum by trying every model of the family, with the exact FLOPs of each.
    models = family(RECIPE)
    tokens = budget / models.flops_per_token_W
    if isinstance(centre, Prior):
        best = models.n_W[centre.loss(models.n_W, tokens).argmin()]
    else:
        best = models.n_W[np.abs(np.log(tokens / models.n_W / centre)).argmin()]
    assert n[0] < best < n[-1]
    assert not at_edge(budget, RECIPE, centre, widths)


def test_sizes_start_with_the_family_where_the_optimum_is_below_it() -> None:
    widths = centred_widths(1e8, RECIPE, PRIOR, count=6)
    assert widths[0] == RECIPE.widths()[0] and len(widths) == 6
    assert at_edge(1e8, RECIPE, PRIOR, widths)


def test_twenty_tokens_per_parameter_is_what_it_says() -> None:
    n = centre_n(1e15, RECIPE, 20.0)
    per_token = np.interp(n, family(RECIPE).n_W, family(RECIPE).flops_per_token_W)
    assert 1e15 / per_token / n == pytest.approx(20.0, rel=0.05)


def test_a_fit_becomes_the_prior_of_the_next_sweep(tmp_path: Path) -> None:
    parameters = {"A": 1.5, "B": 2.5, "E": 0.5, "alpha": 0.3, "beta": 0.4}
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({"laws": {"chinchilla": {"parameters": parameters}}}))
    prior = read_prior(path)
    assert {name: getattr(prior, name) for name in parameters} == parameters
    assert str(path) in prior.source


@pytest.mark.parametrize(
    "text", ["{}", "[]", "not json", '{"laws": {"chinchilla": {"parameters": {"A": 1}}}}']
)
def test_a_file_that_is_no_fit_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(UserError, match=r"no laws\.chinchilla\.parameters"):
        read_prior(tmp_path / "fit.json")
    with pytest.raises(UserError, match="does not exist"):
        read_prior(tmp_path / "absent.json")


def test_a_law_without_slopes_is_no_prior() -> None:
    with pytest.raises(UserError, match="prior beta is 0"):
        Prior(A=1.0, B=1.0, E=1.0, alpha=0.3, beta=0.0, source="test")
