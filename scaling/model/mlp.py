"""The feed-forward block. T tokens, D model, F hidden."""

from __future__ import annotations

import math

import jax
from flax import nnx

from scaling.arch.activations import ACTIVATIONS
from scaling.config import ModelConfig
from scaling.model.execution import Execution
from scaling.model.params import param


class Mlp(nnx.Module):
    def __init__(self, config: ModelConfig) -> None:
        d, f = config.d_model, config.d_ff
        self.activation = config.mlp
        if ACTIVATIONS[config.mlp].gated:
            self.w_gate_DF = param((d, f), ("embed", "mlp"), 1 / math.sqrt(d), "hidden")
        self.w_up_DF = param((d, f), ("embed", "mlp"), 1 / math.sqrt(d), "hidden")
        self.w_down_FD = param((f, d), ("mlp", "embed"), 1 / math.sqrt(f), "hidden")

    def __call__(self, x_TD: jax.Array, how: Execution) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        up_TF = x_TD @ how.weight(self.w_up_DF)
        if activation.gated:
            hidden_TF = activation.of(jax, x_TD @ how.weight(self.w_gate_DF)) * up_TF
        else:
            hidden_TF = activation.of(jax, up_TF)
        how.tap("mlp_hidden", hidden_TF)
        return how.join("...f,fd->...d", hidden_TF, how.weight(self.w_down_FD))
