"""AdamW from Optax, its hyperparameters passed as arrays so that they never trigger a compile."""

from __future__ import annotations

from typing import Any

import jax
import optax

from scaling.config import OptimizerConfig
from scaling.model.params import is_param

Hyper = dict[str, Any]  # lr, b1, b2, eps, weight_decay, clip: float scalars


def hyper(config: OptimizerConfig, lr: float) -> Hyper:
    return {
        "lr": lr,
        "b1": config.b1,
        "b2": config.b2,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
        "clip": config.clip if config.clip > 0 else float("inf"),
    }


def decayed(params: Any) -> Any:
    """True for matrices and tables, False for norm gains, which are no scale to shrink."""
    return jax.tree.map(_is_matrix, params, is_leaf=is_param)


def _is_matrix(leaf: Any) -> bool:
    return len([axis for axis in leaf.get_metadata()["axes"] if axis != "layer"]) > 1


def transform(h: Hyper) -> optax.GradientTransformation:
    """Clip by global norm, Adam, decoupled decay, scale by -lr (Loshchilov & Hutter 2019, alg. 2)."""
    return optax.chain(
        optax.clip_by_global_norm(h["clip"]),
        optax.scale_by_adam(b1=h["b1"], b2=h["b2"], eps=h["eps"]),
        optax.add_decayed_weights(h["weight_decay"], mask=decayed),
        optax.scale(-h["lr"]),
    )
