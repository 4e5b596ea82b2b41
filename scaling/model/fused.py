"""Attention by the kernels of accelerators, which write no scores to memory.

Which serves where is scaling/kernels.py's rule. B batch, S sequence, K key/value heads, G query heads of
each, H = K*G, N head size. Queries come multiplied by the scale of the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from scaling.config import ModelConfig
from scaling.sharding import Shardings

Attend = Callable[..., jax.Array]


def attend_fused(
    kernel: str,
    q_BKGSN: jax.Array,
    k_BKSN: jax.Array,
    v_BKSN: jax.Array,
    model: ModelConfig,
    window: jax.Array | None,
    document_BS: jax.Array | None,
    shardings: Shardings | None,
) -> jax.Array:
    """Causal attention within windows and documents, (B, K, G, S, N), by `kernel`: splash or cudnn."""
    if kernel == "cudnn":
        attend = by_window(
            model.windows, window, lambda size: functools.partial(cudnn_attention, window=size)
        )
        return checkpoint_name(attend(q_BKGSN, k_BKSN, v_BKSN), "attention")
    from scaling.model.splash import splash_attention

    how = functools.partial(splash_attention, cap=model.attention_cap, shardings=shardings)
    attend = by_window(model.windows, window, lambda size: functools.partial(how, window=size))
    return attend(q_BKGSN, k_BKSN, v_BKSN, document_BS)


def by_window(windows: Sequence[int], window: jax.Array | None, attend: Callable[[int], Attend]) -> Attend:
    """`attend(w)` for the w of `windows` that the layer at hand has: a kernel is made for one.

    Layers of several windows, walked in a loop, choose among as many kernels as they go.
    """
    kinds = sorted(set(windows)) or [0]
    if len(kinds) == 1 or window is None:
        return attend(kinds[0])
    index = jnp.searchsorted(jnp.array(kinds), window)
    return lambda *args: jax.lax.switch(index, [attend(kind) for kind in kinds], *args)


def cudnn_attention(q_BKGSN: jax.Array, k_BKSN: jax.Array, v_BKSN: jax.Array, window: int = 0) -> jax.Array:
    """cuDNN's flash attention. Devices may split batch and heads: it brings a rule for that."""
    batch, kv_heads, groups, seq_len, d_head = q_BKGSN.shape
    q_BSHN = q_BKGSN.reshape(batch, kv_heads * groups, seq_len, d_head).swapaxes(1, 2)
    out_BSHN = jax.nn.dot_product_attention(
        q_BSHN,
        k_BKSN.swapaxes(1, 2),
        v_BKSN.swapaxes(1, 2),
        scale=1.0,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )
    return out_BSHN.swapaxes(1, 2).reshape(q_BKGSN.shape)
