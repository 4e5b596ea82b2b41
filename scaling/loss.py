"""Next-token cross entropy, nats per token, in float32; never all logits of a large vocabulary at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scaling.sharding import Shardings

# Elements of the largest block of float32 logits that a device makes at once where the caller leaves it to
# us: half a GiB.
LARGEST_BLOCK = 2**27


def cross_entropy(logits_TV: jax.Array, targets_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log p(target) and log Z = log sum exp(logits), both of the targets' shape, nats."""
    # A masked sum, not a gather: it fuses with the sum beside it, and works where devices split V.
    is_target_TV = jnp.arange(logits_TV.shape[-1]) == targets_T[..., None]
    target_T = jnp.where(is_target_TV, logits_TV, 0.0).sum(axis=-1)
    log_z_T = jax.nn.logsumexp(logits_TV, axis=-1)
    return log_z_T - target_T, log_z_T


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
    """cap tanh(x / cap): x near 0, never beyond the cap (Gemma 2, section 2). 0 leaves x as it is."""
    return cap * jnp.tanh(x / cap) if cap else x


def head_losses(
    x_TD: jax.Array,
    head_DV: jax.Array,
    targets_BS: jax.Array,
    cap: float,
    chunks: int,
    shardings: Shardings | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Losses and log Z of the next tokens, (B, S) each, from the decoder's last activations.

    `x_TD` is (B*S, D) or (B, S, D). In `chunks` parts (0: as few as keep a device's logits small), each of
    which makes its logits, forgets them, and makes them again for its gradient. A part is a piece of
    every sequence, and where devices split sequences a piece of each of their pieces: so every
    device works at every part. `head_DV` comes in float32 and is rounded here, so that its
    gradient is summed over parts in float32.
    """

    def losses(x__D: jax.Array, targets__: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits__V = jnp.matmul(x__D, head_DV.astype(x__D.dtype), preferred_element_type=jnp.float32)
        return cross_entropy(soft_cap(logits__V, cap), targets__)

    batch, seq_len = targets_BS.shape
    rows, pieces, columns = shardings.split(("batch", "sequence", "vocab")) if shardings else (1, 1, 1)
    chunks = chunks or chunks_for(-(-batch // rows), seq_len // pieces, -(-head_DV.shape[1] // columns))
    if chunks == 1:
        both = losses(x_TD, targets_BS.reshape(x_TD.shape[:-1]))
        return both[0].reshape(batch, seq_len), both[1].reshape(batch, seq_len)
    x_CBPSD = jnp.moveaxis(x_TD.reshape(batch, pieces, chunks, -1, x_TD.shape[-1]), 2, 0)
    targets_CBPS = jnp.moveaxis(targets_BS.reshape(batch, pieces, chunks, -1), 2, 0)
    part = jax.checkpoint(lambda _, inputs: (None, losses(*inputs)))
    _, both_CBPS = jax.lax.scan(part, None, (x_CBPSD, targets_CBPS))
    losses_BS, log_z_BS = (jnp.moveaxis(part, 0, 2).reshape(batch, seq_len) for part in both_CBPS)
    return losses_BS, log_z_BS


def chunks_for(batch: int, seq_len: int, vocab: int) -> int:
    """The fewest equal parts whose logits fit LARGEST_BLOCK; one token of a sequence each at the worst.

    `batch` sequences of `seq_len` tokens and `vocab` columns of the head are those of one device.
    """
    return next(
        parts
        for parts in range(1, seq_len + 1)
        if seq_len % parts == 0 and (batch * (seq_len // parts) * vocab <= LARGEST_BLOCK or parts == seq_len)
    )
