"""Feed-forward blocks: SwiGLU (Shazeer 2020) or GELU. T tokens, D model, F hidden."""

from __future__ import annotations

import math

import jax
from flax import nnx

from scaling.config import ModelConfig
from scaling.model.params import param


class SwiGlu(nnx.Module):
    def __init__(self, config: ModelConfig) -> None:
        d, f = config.d_model, config.d_ff
        self.w_gate_DF = param((d, f), ("embed", "mlp"), 1 / math.sqrt(d))
        self.w_up_DF = param((d, f), ("embed", "mlp"), 1 / math.sqrt(d))
        self.w_down_FD = param((f, d), ("mlp", "embed"), 1 / math.sqrt(f))

    def __call__(self, x_TD: jax.Array) -> jax.Array:
        gate_TF = jax.nn.silu(x_TD @ self.w_gate_DF[...].astype(x_TD.dtype))
        return (gate_TF * (x_TD @ self.w_up_DF[...].astype(x_TD.dtype))) @ self.w_down_FD[...].astype(x_TD.dtype)


class Gelu(nnx.Module):
    def __init__(self, config: ModelConfig) -> None:
        d, f = config.d_model, config.d_ff
        self.w_up_DF = param((d, f), ("embed", "mlp"), 1 / math.sqrt(d))
        self.w_down_FD = param((f, d), ("mlp", "embed"), 1 / math.sqrt(f))

    def __call__(self, x_TD: jax.Array) -> jax.Array:
        return jax.nn.gelu(x_TD @ self.w_up_DF[...].astype(x_TD.dtype)) @ self.w_down_FD[...].astype(x_TD.dtype)


MLPS: dict[str, type[nnx.Module]] = {"swiglu": SwiGlu, "gelu": Gelu}
