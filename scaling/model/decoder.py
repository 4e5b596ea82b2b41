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
import numpy as np
from flax import nnx

from scaling.config import ModelConfig
from scaling.model.attention import Attention, Sight
from scaling.model.execution import Execution
from scaling.model.mlp import Mlp
from scaling.model.norm import Norm
from scaling.model.params import is_param, param
from scaling.parametrisation import STANDARD, Parametrisation

M = TypeVar("M", bound=nnx.Module)

SEPARATOR = 0  # the token that every tokenizer puts before a document


class Block(nnx.Module):
    def __init__(self, config: ModelConfig, rules: Parametrisation = STANDARD) -> None:
        self.branch = rules.rule("residual").forward
        self.norm_attention = Norm(config, config.d_model, "embed")
        self.attention = Attention(config, rules.rule("attention_logits").forward)
        self.norm_mlp = Norm(config, config.d_model, "embed")
        self.mlp = Mlp(config)

    def __call__(self, x_TD: jax.Array, sight: Sight, how: Execution) -> jax.Array:
        attention_TD = self.attention(self.norm_attention(x_TD, how), sight, how)
        how.tap("attention_out", attention_TD)
        x_TD = x_TD + scaled(attention_TD, self.branch)
        mlp_TD = self.mlp(self.norm_mlp(x_TD, how), how)
        how.tap("mlp_out", mlp_TD)
        x_TD = how.split_rows(x_TD + scaled(mlp_TD, self.branch))
        how.tap("residual", x_TD)
        return x_TD


class Decoder(nnx.Module):
    def __init__(self, config: ModelConfig, rules: Parametrisation = STANDARD) -> None:
        d, vocab = config.d_model, config.vocab_size
        self.config = config
        self.embedding = math.sqrt(d) * rules.rule("embedding").forward
        self.readout = rules.rule("unembedding").forward
        self.embed_VD = param((vocab, d), ("vocab", "embed"), 1 / math.sqrt(d), "embedding")
        self.blocks = stack(lambda: Block(config, rules), config.n_layers)
        self.norm_final = Norm(config, d, "embed", "final")
        if not config.tied:
            self.head_DV = param((d, vocab), ("embed", "vocab"), 1 / math.sqrt(d), "unembedding")

    def __call__(self, tokens_BS: jax.Array, how: Execution) -> jax.Array:
        """The activations that the head reads, (B*S, D), or (B, S, D) where devices split sequences."""
        layers, windows = self.config.n_layers, self.config.windows
        document_BS = jnp.cumsum(tokens_BS == SEPARATOR, axis=1) if self.config.document_mask else None

        def layer(x_TD: jax.Array, at: tuple[Block, jax.Array | None]) -> tuple[jax.Array, Any]:
            block, window = at
            return block(x_TD, Sight(len(tokens_BS), window, document_BS), how), how.tapped()

        embedded_TD = how.rows(how.look_up(how.weight(self.embed_VD), tokens_BS) * self.embedding)
        windows_L = np.resize(np.array(windows, np.int32), layers) if any(windows) else None
        unroll = layers if how.unroll else 1
        x_TD, tapped = jax.lax.scan(
            how.rematerialised(layer), embedded_TD, (self.blocks, windows_L), unroll=unroll
        )
        how.tap_layers(tapped)
        how.tap("embedding", embedded_TD)
        return scaled(self.norm_final(x_TD, how), self.readout)

    def output_DV(self, how: Execution) -> jax.Array:
        """The head in float32: the token table where it is tied."""
        if self.config.tied:
            return how.weight(self.embed_VD, jnp.float32).T
        return how.weight(self.head_DV, jnp.float32)


def stack(make: Callable[[], M], layers: int) -> M:
    """One module whose every parameter has a leading `layer` axis."""

    def widen(leaf: nnx.Variable) -> nnx.Variable:
        metadata = leaf.get_metadata()
        stacked = (layers, *leaf.get_value().shape), ("layer", *metadata["axes"])
        return param(*stacked, metadata["std"], metadata["role"], metadata["inputs"])

    return jax.tree.map(widen, make(), is_leaf=is_param)


def scaled(x_TD: jax.Array, factor: float) -> jax.Array:
    """`factor` x; x itself at 1, which is no operation of the compiled step."""
    return x_TD if factor == 1 else x_TD * factor


def abstract(
    config: ModelConfig, rules: Parametrisation = STANDARD
) -> tuple[nnx.GraphDef[Decoder], nnx.State]:
    """Graph definition and the state of shapes; allocates nothing."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rules)))
