"""Grid helpers: lists of dotted overrides in, RunConfigs out."""

from __future__ import annotations

import itertools

import pytest

from scaling.config import DataConfig
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.grid import chain, configs, product, subsample, zip_

RECIPE = next(iter(RECIPES.values()))
BASE = RECIPE.run(RECIPE.model(32), DataConfig(name="text", fingerprint="f"), 1e5)


def test_product_is_every_combination_the_last_axis_fastest() -> None:
    points = product({"optimizer.lr": [1e-3, 3e-3], "seed": range(3)})
    expected = [{"optimizer.lr": lr, "seed": s} for lr, s in itertools.product([1e-3, 3e-3], range(3))]
    assert points == expected


def test_product_takes_points_of_other_helpers() -> None:
    together = zip_({"batch_size": [4, 8], "steps": [200, 100]})
    points = product(together, {"seed": [0, 1]})
    assert [(p["batch_size"], p["steps"], p["seed"]) for p in points] == [
        (4, 200, 0),
        (4, 200, 1),
        (8, 100, 0),
        (8, 100, 1),
    ]
    with pytest.raises(UserError, match="'steps'"):
        product(together, {"steps": [1]})


def test_zip_refuses_axes_of_unequal_length() -> None:
    with pytest.raises(UserError, match="steps has 1"):
        zip_({"batch_size": [4, 8], "steps": [100]})


def test_chain_keeps_order_and_drops_what_was_met() -> None:
    assert chain([{"seed": 0}, {"seed": 1}], [{"seed": 1}, {"seed": 2}]) == [{"seed": s} for s in range(3)]


def test_subsample_draws_in_order_and_the_same_each_time() -> None:
    points = product({"seed": range(50)})
    drawn = subsample(points, 10, seed=3)
    assert drawn == subsample(points, 10, seed=3) != subsample(points, 10, seed=4)
    assert len(drawn) == 10 and drawn == sorted(drawn, key=lambda point: point["seed"])
    assert subsample(points[:4], 10) == points[:4]


def test_configs_override_the_base_and_nothing_else() -> None:
    runs = configs(BASE, product({"optimizer.lr": [0.5], "model.n_layers": [1, 5]}))
    assert [(r.optimizer.lr, r.model.n_layers) for r in runs] == [(0.5, 1), (0.5, 5)]
    assert {r.model.d_model for r in runs} == {BASE.model.d_model}
    assert len({r.run_id for r in runs}) == 2


@pytest.mark.parametrize("point", [{"optimizer.rate": 1.0}, {"optimiser.lr": 1.0}, {"seed": "two"}])
def test_a_field_that_is_not_there_is_named(point: dict) -> None:
    with pytest.raises(UserError, match=next(iter(point)).split(".")[-1]):
        configs(BASE, [point])
