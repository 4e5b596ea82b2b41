"""Splash attention: JAX's Pallas kernel for TPUs, which writes no scores to memory.

Imported where it is used: Pallas takes longer to import than a small model to compile. B batch, S sequence,
K key/value heads, G query heads of each, N head size. Queries come multiplied by the scale of the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from scaling.kernels import LANES
from scaling.sharding import Shardings

LARGEST_BLOCK = 512  # positions of a block, of queries and of keys
SAVED = "attention"  # as remat policies know what attention gives


def splash_attention(
    q_BKGSN: jax.Array,
    k_BKSN: jax.Array,
    v_BKSN: jax.Array,
    document_BS: jax.Array | None = None,
    *,
    window: int = 0,
    cap: float = 0.0,
    shardings: Shardings | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention, causal; (B, K, G, S, N). Every device works on the sequences and heads it has.

    The kernel wants heads of a multiple of 128 channels: zeros are added, and taken off again.
    """
    pad = [(0, 0), (0, -q_BKGSN.shape[-1] % LANES)]
    local = functools.partial(_splash, window=window, cap=cap, interpret=interpret)
    arrays = [jnp.pad(x, [(0, 0)] * (x.ndim - 2) + pad) for x in (q_BKGSN, k_BKSN, v_BKSN)]
    arrays += [] if document_BS is None else [document_BS]
    if shardings is None:
        return local(*arrays)[..., : q_BKGSN.shape[-1]]
    q_axes = ("batch", "kv_heads", None, None, None)
    kv_axes = ("batch", "kv_heads", None, None)
    axes = [q_axes, kv_axes, kv_axes, ("batch", None)]
    mapped = jax.shard_map(
        local,
        mesh=shardings.mesh,
        in_specs=tuple(shardings.spec(a) for a in axes[: len(arrays)]),
        out_specs=shardings.spec(q_axes),
        check_vma=False,  # the kernel declares no axes over which its output varies
    )
    return mapped(*arrays)[..., : q_BKGSN.shape[-1]]


def _splash(
    q_BKGSN: jax.Array,
    k_BKSN: jax.Array,
    v_BKSN: jax.Array,
    document_BS: jax.Array | None = None,
    *,
    window: int,
    cap: float,
    interpret: bool,
) -> jax.Array:
    batch, kv_heads, groups, seq_len, d_head = q_BKGSN.shape
    heads = kv_heads * groups
    kernel = _splash_kernel(heads, seq_len, window, cap, interpret)
    segments = None
    if document_BS is not None:
        ids_BS = document_BS.astype(jnp.int32)
        segments = splash.SegmentIds(q=ids_BS, kv=ids_BS)
    q_BHSN = q_BKGSN.reshape(batch, heads, seq_len, d_head)
    return jax.vmap(kernel)(q_BHSN, k_BKSN, v_BKSN, segments).reshape(q_BKGSN.shape)


def _splash_kernel(heads: int, seq_len: int, window: int, cap: float, interpret: bool) -> Callable[..., Any]:
    """The kernel of one shape. Masked blocks are known in advance and skipped, in both directions."""
    square = (seq_len, seq_len)
    mask = masks.LocalMask(square, (window - 1, 0), 0) if window else masks.CausalMask(square)
    block = next(size for size in range(min(LARGEST_BLOCK, seq_len), 0, -LANES) if seq_len % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap or None,
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )
