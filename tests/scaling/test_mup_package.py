"""Our mup against the `mup` package (PyPI), for a shared small decoder: benchmarks/mup_package.py."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import CPU, tiny

from scaling.config import ModelConfig
from scaling.model.params import is_param, role_of
from scaling.parametrisation import of_run, with_base
from scaling.sharding import make_shardings
from scaling.step import init_state

PACKAGE = json.loads((Path(__file__).parent / "mup_package.json").read_text())


def ours(shape: dict[str, int]) -> tuple[float, dict[str, dict[str, Any]]]:
    model = ModelConfig(n_layers=2, vocab_size=512, tied=False, **shape)
    base = dataclasses.replace(model, **PACKAGE["base"]["shape"])
    config = with_base(dataclasses.replace(tiny(), model=model), "mup", base)
    rules, found = of_run(config), {}
    params = init_state(config, make_shardings(CPU)).params
    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_param):
        names = [str(part.key) for part in path]
        rule = rules.rule(role_of(leaf))
        name = names[-2] if names[-1] == "gain_D" else names[-1]
        value = np.asarray(leaf.get_value())
        found[name] = {
            "role": role_of(leaf),
            "variance": float(value.var()),
            "rate": rule.rate,
            "weight_decay": rule.weight_decay,
            "eps": rule.eps,
        }
    return rules.rule("unembedding").forward, found


@pytest.mark.parametrize("which", ["base", "wide"])
def test_initial_variances_and_multipliers_are_those_of_the_package(which: str) -> None:
    theirs = PACKAGE[which]
    readout, found = ours(theirs["shape"])
    assert readout == theirs["readout"]
    assert set(found) == set(theirs["parameters"])
    m_n = theirs["shape"]["d_model"] / PACKAGE["base"]["shape"]["d_model"]
    for name, package in theirs["parameters"].items():
        mine = found[name]
        assert mine["rate"] == package["rate"], name
        # Two draws of at least `values` normal numbers: each variance is off by sqrt(2 / values) of itself.
        apart = 4 * math.sqrt(2 * 2 / package["values"])
        assert mine["variance"] == pytest.approx(package["variance"], rel=apart, abs=1e-9), name
        # By name: the package leaves it to its user to exclude gains from decay, and epsilon as it is,
        # which the papers scale (Dey et al. 2025, table 1). It has neither a factor for attention logits nor
        # for the embedding's output: ours is a constant sqrt(d_model) of the base.
        gain = mine["role"].endswith("gain")
        assert mine["weight_decay"] == (0 if gain else package["weight_decay"]), name
        assert mine["eps"] == 1 / m_n and package["eps"] == 1.0, name
