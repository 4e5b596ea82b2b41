"""Next-token cross entropy, nats per token, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logits_TV: jax.Array, targets_T: jax.Array) -> jax.Array:
    """-log p(target), shape (T,), nats."""
    target_T1 = jnp.take_along_axis(logits_TV, targets_T[:, None], axis=-1)
    return jax.nn.logsumexp(logits_TV, axis=-1) - target_T1[:, 0]
