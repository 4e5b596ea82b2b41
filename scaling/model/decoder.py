"""A pre-norm decoder in the restricted NNX subset: modules are pytrees, forward passes are pure.

Layers are stacked on a leading axis and walked by `lax.scan` (unrolled where asked: same numbers,
faster on CPU, slower to compile). B batch, S sequence, T = B*S tokens, D model, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.config import ModelConfig
from scaling.model.attention import Attention
from scaling.model.execution import Execution
from scaling.model.mlp import MLPS
from scaling.model.norm import RmsNorm
from scaling.model.params import is_param, param

M = TypeVar("M", bound=nnx.Module)


class Block(nnx.Module):
    def __init__(self, config: ModelConfig) -> None:
        self.norm_attention = RmsNorm(config)
        self.attention = Attention(config)
        self.norm_mlp = RmsNorm(config)
        self.mlp = MLPS[config.mlp](config)

    def __call__(self, x_TD: jax.Array, batch: int, how: Execution) -> jax.Array:
        x_TD = x_TD + self.attention(self.norm_attention(x_TD), batch, how)
        return x_TD + self.mlp(self.norm_mlp(x_TD))


class Decoder(nnx.Module):
    def __init__(self, config: ModelConfig) -> None:
        d, vocab = config.d_model, config.vocab_size
        self.config = config
        self.embed_VD = param((vocab, d), ("vocab", "embed"), 1 / math.sqrt(d))
        self.blocks = stack(lambda: Block(config), config.n_layers)
        self.norm_final = RmsNorm(config)
        if not config.tied:
            self.head_DV = param((d, vocab), ("embed", "vocab"), 1 / math.sqrt(d))

    def __call__(self, tokens_BS: jax.Array, how: Execution) -> jax.Array:
        """Next-token logits in float32, shape (B*S, V)."""

        def layer(x_TD: jax.Array, block: Block) -> tuple[jax.Array, None]:
            return block(x_TD, tokens_BS.shape[0], how), None

        table_VD = self.embed_VD[...].astype(how.dtype)
        x_TD = table_VD[tokens_BS.reshape(-1)] * math.sqrt(self.config.d_model)
        body: Callable[..., Any] = jax.checkpoint(layer) if how.remat else layer
        x_TD, _ = jax.lax.scan(body, x_TD, self.blocks, unroll=self.config.n_layers if how.unroll else 1)
        head_DV = table_VD.T if self.config.tied else self.head_DV[...].astype(how.dtype)
        return jnp.matmul(self.norm_final(x_TD), head_DV, preferred_element_type=jnp.float32)


def stack(make: Callable[[], M], layers: int) -> M:
    """One module whose every parameter has a leading `layer` axis."""

    def widen(leaf: nnx.Variable) -> nnx.Variable:
        metadata = leaf.get_metadata()
        return param((layers, *leaf.get_value().shape), ("layer", *metadata["axes"]), metadata["std"])

    return jax.tree.map(widen, make(), is_leaf=is_param)


def abstract(config: ModelConfig) -> tuple[nnx.GraphDef[Decoder], nnx.State]:
    """Graph definition and the state of shapes; allocates nothing."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config)))
