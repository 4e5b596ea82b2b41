"""The gradient of a batch in pieces, one after another, whose activations stay in a processor's cache.

A step of 4,096 tokens writes its activations to memory and reads them back; the same tokens in pieces of
512 take two thirds of the CPU time. Pieces of whole sequences, equally many in each: the mean of their
means is the batch's mean, so only the order of summation differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ValueAndGrad = Callable[[Any, jax.Array], tuple[tuple[jax.Array, jax.Array], Any]]


def in_pieces(value_and_grad: ValueAndGrad, tokens: int) -> ValueAndGrad:
    """`value_and_grad(params, tokens_BS1)` of means over the batch, at most `tokens` tokens at once.

    0: the whole batch. A sequence is never cut: one longer than `tokens` is a piece of its own.
    """
    if not tokens:
        return value_and_grad

    def whole(params: Any, tokens_BS1: jax.Array) -> Any:
        batch, width = tokens_BS1.shape
        pieces = pieces_of(batch, width, tokens)
        if pieces == 1:
            return value_and_grad(params, tokens_BS1)
        tokens_PBS1 = tokens_BS1.reshape(pieces, -1, tokens_BS1.shape[1])

        def add(total: Any, piece_BS1: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, value_and_grad(params, piece_BS1)), None

        zero = (jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, zero, tokens_PBS1)
        return jax.tree.map(lambda x: x / pieces, total)

    return whole


def pieces_of(batch: int, width: int, tokens: int) -> int:
    """The fewest equal pieces of `batch` sequences of `width` - 1 tokens with at most `tokens` in each."""
    at_once = max(1, tokens // (width - 1))
    return next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= at_once)
