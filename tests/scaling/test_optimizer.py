"""AdamW against the algorithm written out in NumPy, and which parameters decay, by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import MODEL

from scaling.config import OptimizerConfig
from scaling.model.decoder import abstract
from scaling.model.params import is_param, param
from scaling.optimizer import Hyper, decayed, hyper, transform

SHAPES = {"matrix": (4, 6), "gain": (6,)}
RATES = [1e-2, 3e-3, 0.0]


def adamw_by_hand(
    values: dict[str, np.ndarray], grads: list[dict[str, np.ndarray]], c: OptimizerConfig
) -> list[dict[str, np.ndarray]]:
    """Loshchilov & Hutter 2019, algorithm 2, after clipping by global norm; float64. Gains do not decay."""
    m = {k: np.zeros(v.shape) for k, v in values.items()}
    v2 = {k: np.zeros(v.shape) for k, v in values.items()}
    path = []
    for t, (grad, lr) in enumerate(zip(grads, RATES, strict=True), 1):
        norm = math.sqrt(sum(float((g**2).sum()) for g in grad.values()))
        factor = min(1.0, c.clip / norm) if c.clip > 0 else 1.0
        new = {}
        for name, value in values.items():
            g = grad[name] * factor
            m[name] = c.b1 * m[name] + (1 - c.b1) * g
            v2[name] = c.b2 * v2[name] + (1 - c.b2) * g**2
            step = (m[name] / (1 - c.b1**t)) / (np.sqrt(v2[name] / (1 - c.b2**t)) + c.eps)
            decay = c.weight_decay * value if name == "matrix" else 0.0
            new[name] = value - lr * (step + decay)
        values = new
        path.append(values)
    return path


BASE = OptimizerConfig(lr=1.0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip=1.0)


@jax.jit
def update(h: Hyper, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    updates, state = transform(h).update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"clip": 0.0},
        {"clip": 1e6},
        {"clip": 0.01},
        {"weight_decay": 0.0},
        {"eps": 0.1},
        {"b1": 0.0, "b2": 0.5},
    ],
    ids=str,
)
def test_three_steps_are_those_of_the_algorithm(change: dict[str, float]) -> None:
    config = dataclasses.replace(BASE, **change)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    start = {name: generator.standard_normal(shape) for name, shape in SHAPES.items()}
    grads = [
        {n: generator.standard_normal(s) * scale for n, s in SHAPES.items()} for scale in (0.1, 3.0, 1e-3)
    ]
    expected = adamw_by_hand(start, grads, config)

    axes = {"matrix": ("embed", "mlp"), "gain": ("embed",)}
    roles = {"matrix": "hidden", "gain": "final_gain"}
    declared = {n: param(s, axes[n], 1.0, roles[n]) for n, s in SHAPES.items()}

    def arrays(values: dict[str, np.ndarray]) -> dict[str, Any]:
        return {n: declared[n].replace(jnp.asarray(v, jnp.float32)) for n, v in values.items()}

    params = arrays(start)
    state = transform(hyper(config, 0.0)).init(params)
    for grad, lr, want in zip(grads, RATES, expected, strict=True):
        params, state = update(hyper(config, lr), arrays(grad), state, params)
        for name in SHAPES:
            np.testing.assert_allclose(params[name][...], want[name], rtol=2e-5, atol=1e-7)


DECAYED = {
    "embed_VD": True,
    "head_DV": True,
    "blocks/attention/w_q_DHN": True,
    "blocks/attention/w_k_DKN": True,
    "blocks/attention/w_v_DKN": True,
    "blocks/attention/w_o_HND": True,
    "blocks/mlp/w_gate_DF": True,
    "blocks/mlp/w_up_DF": True,
    "blocks/mlp/w_down_FD": True,
    "blocks/norm_attention/gain_D": False,  # stacked over layers: two axes, and still a gain
    "blocks/norm_mlp/gain_D": False,
    "norm_final/gain_D": False,
}


def test_which_parameters_decay() -> None:
    _, shapes = abstract(MODEL)
    names = [
        "/".join(str(part.key) for part in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes, is_leaf=is_param)
    ]
    assert dict(zip(names, jax.tree.leaves(decayed(shapes)), strict=True)) == DECAYED
