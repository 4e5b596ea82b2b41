"""A norm with its gain: statistics in float32 whatever the compute type."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.arch.norms import NORMS
from scaling.config import ModelConfig
from scaling.model.execution import Execution
from scaling.model.params import param


class Norm(nnx.Module):
    """Over the last axis, whose size and logical name are given; in a block, or after the last."""

    def __init__(
        self, config: ModelConfig, size: int, axis: str, place: Literal["block", "final"] = "block"
    ) -> None:
        self.config = config
        self.gain_D = param((size,), (axis,), None, f"{place}_gain")
        if NORMS[config.norm].bias:
            self.bias_D = param((size,), (axis,), 0.0, f"{place}_bias")

    def __call__(self, x_TD: jax.Array, how: Execution) -> jax.Array:
        form = NORMS[self.config.norm]
        normed_TD = form.of(jax, x_TD.astype(jnp.float32), self.config.norm_eps)
        scaled_TD = normed_TD * how.weight(self.gain_D, jnp.float32)
        if form.bias:
            scaled_TD = scaled_TD + how.weight(self.bias_D, jnp.float32)
        return scaled_TD.astype(x_TD.dtype)
