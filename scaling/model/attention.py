"""Causal self-attention with rotary positions; multi-head, grouped-query or multi-query.

B batch, S sequence, T = B*S tokens, D model, H query heads, K key/value heads, G = H/K, N head size.
Arrays are heads-first (B, K, G, S, N): the batched products are then contiguous, on CPU above all.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from scaling.config import ModelConfig
from scaling.loss import soft_cap
from scaling.model.execution import Execution
from scaling.model.fused import attend_fused
from scaling.model.norm import Norm
from scaling.model.params import param

_KV_GROUPS = ("kv_heads", None)  # logical axes of (K, G)


@dataclass(frozen=True)
class Sight:
    """What a query sees besides the past: its last `window` tokens (an int32 scalar; 0: all), its document.

    None where no layer has a window, and where documents are not told apart.
    """

    batch: int
    window: jax.Array | None = None
    document_BS: jax.Array | None = None

    def masked(self, seen: Any, age_ST: Any, first: int) -> Any:
        """`seen` (like B, 1, 1, S, T) without what lies out of sight; the queries begin at `first`."""
        if self.window is not None:
            seen = seen & ((age_ST < self.window) | (self.window == 0))
        if self.document_BS is not None:
            queries, keys = age_ST.shape
            of_query, of_key = self.document_BS[:, first : first + queries], self.document_BS[:, :keys]
            seen = seen & (of_query[:, None, None, :, None] == of_key[:, None, None, None, :])
        return seen


class Attention(nnx.Module):
    def __init__(self, config: ModelConfig, logits_multiplier: float = 1.0) -> None:
        d, h, k, n = config.d_model, config.n_heads, config.n_kv_heads, config.d_head
        self.config = config
        self.scale = logits_multiplier / math.sqrt(n)
        self.w_q_DHN = param((d, h, n), ("embed", "heads", "head"), 1 / math.sqrt(d), "hidden")
        self.w_k_DKN = param((d, k, n), ("embed", "kv_heads", "head"), 1 / math.sqrt(d), "hidden")
        self.w_v_DKN = param((d, k, n), ("embed", "kv_heads", "head"), 1 / math.sqrt(d), "hidden")
        self.w_o_HND = param((h, n, d), ("heads", "head", "embed"), 1 / math.sqrt(h * n), "hidden", 2)
        if config.qk_norm:
            self.norm_q = Norm(config, n, "head")
            self.norm_k = Norm(config, n, "head")

    def __call__(self, x_TD: jax.Array, sight: Sight, how: Execution) -> jax.Array:
        """Attention within each sequence; x is (B*S, D) on one device, (B, S, D) on several."""
        config = self.config
        heads = self._heads_split(x_TD, how) if how.shardings else self._heads(x_TD, sight.batch, how)
        q_BKGSN, k_BKSN, v_BKSN = heads
        if config.qk_norm:
            q_BKGSN, k_BKSN = self.norm_q(q_BKGSN, how), self.norm_k(k_BKSN, how)
        kernel = how.attention_kernel(config, q_BKGSN.shape[-2])
        # Kernels are given queries times the scale, multiplied in before they are rounded.
        scale = 1.0 if kernel == "plain" else self.scale
        q_BKGSN, k_BKSN = rotate(q_BKGSN, config.rope_theta, scale), rotate(k_BKSN, config.rope_theta)
        # Where sequences are split, every device sees all keys and values and its own queries.
        q_BKGSN = how.split(q_BKGSN, ("batch", "kv_heads", None, "sequence", None))
        k_BKSN, v_BKSN = (how.split(x, ("batch", "kv_heads", None, None)) for x in (k_BKSN, v_BKSN))
        if how.taps is not None:
            logits = scores(q_BKGSN, k_BKSN, 0, config.attention_cap, sight, self.scale / scale)
            how.tap("attention_logits", logits)
        out_BKGSN = self._attend(kernel, q_BKGSN, k_BKSN, v_BKSN, sight, how)
        if how.shardings:
            shape, axes = self._groups(self.w_o_HND), (*_KV_GROUPS, None, None)
            w_o_KGND = how.reshape(how.weight(self.w_o_HND), shape, axes)
            return how.join("bkgsn,kgnd->bsd", out_BKGSN, w_o_KGND)
        out_TX = out_BKGSN.transpose(0, 3, 1, 2, 4).reshape(len(x_TD), -1)
        return out_TX @ how.weight(self.w_o_HND).reshape(out_TX.shape[1], -1)

    def _attend(
        self,
        kernel: str,
        q_BKGSN: jax.Array,
        k_BKSN: jax.Array,
        v_BKSN: jax.Array,
        sight: Sight,
        how: Execution,
    ) -> jax.Array:
        """Attention by one of the forms of scaling.kernels, (B, K, G, S, N)."""
        qkv = (q_BKGSN, k_BKSN, v_BKSN)
        if kernel in ("splash", "cudnn"):
            return attend_fused(kernel, *qkv, self.config, sight.window, sight.document_BS, how.shardings)
        score = functools.partial(scores, cap=self.config.attention_cap, sight=sight, scale=self.scale)
        return checkpoint_name(attend(*qkv, score, how.query_blocks), "attention")

    def _heads(self, x_TD: jax.Array, batch: int, how: Execution) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, K, G, S, N), keys and values (B, K, S, N): of one product, quicker than three."""
        d, h, k, n = (getattr(self.config, f) for f in ("d_model", "n_heads", "n_kv_heads", "d_head"))
        w_DXN = jnp.concatenate([how.weight(w) for w in (self.w_q_DHN, self.w_k_DKN, self.w_v_DKN)], axis=1)
        qkv_TX = x_TD @ w_DXN.reshape(d, (h + 2 * k) * n)
        qkv_BXSN = qkv_TX.reshape(batch, -1, h + 2 * k, n).transpose(0, 2, 1, 3)
        q_BKGSN = qkv_BXSN[:, :h].reshape(batch, k, h // k, -1, n)
        return q_BKGSN, qkv_BXSN[:, h : h + k], qkv_BXSN[:, h + k :]

    def _heads_split(self, x_BSD: jax.Array, how: Execution) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The same where devices split heads, which lie joined in no order that they could share."""
        shape, axes = self._groups(self.w_q_DHN), (None, *_KV_GROUPS, None)
        w_q_DKGN = how.reshape(how.weight(self.w_q_DHN), shape, axes)
        q_BKGSN = jnp.einsum("bsd,dkgn->bkgsn", x_BSD, w_q_DKGN)
        k_BKSN, v_BKSN = (
            jnp.einsum("bsd,dkn->bksn", x_BSD, how.weight(w)) for w in (self.w_k_DKN, self.w_v_DKN)
        )
        return q_BKGSN, k_BKSN, v_BKSN

    def _groups(self, weight: nnx.Param) -> tuple[int, ...]:
        """The weight's shape with H cut into (K, G)."""
        h, k, n, d = (getattr(self.config, f) for f in ("n_heads", "n_kv_heads", "d_head", "d_model"))
        return (d, k, h // k, n) if weight is self.w_q_DHN else (k, h // k, n, d)


def rotate(x__SN: jax.Array, theta: float, scale: float = 1.0) -> jax.Array:
    """Rotary positions over the last two axes (Su et al. 2021, eq. 15), angles in float64 rounded once.

    Times `scale`.
    """
    seq_len, d_head = x__SN.shape[-2:]
    angles = np.arange(seq_len)[:, None] * theta ** (-np.arange(0, d_head, 2) / d_head)
    cos, sin = ((scale * part(angles)).astype(np.float32) for part in (np.cos, np.sin))
    a, b = jnp.split(x__SN.astype(jnp.float32), 2, axis=-1)  # bfloat16 angles lose far positions
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x__SN.dtype)


def scores(
    q_BKGSN: jax.Array,
    k_BKTN: jax.Array,
    first: int,
    cap: float = 0.0,
    sight: Sight | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Attention logits in float32, (B, K, G, S, T); -1e30 for a key after its query or out of sight.

    The first query stands at position `first`, the first key at 0. `scale` is the factor on q k, by
    default 1 / sqrt(N).
    """
    (queries, d_head), keys = q_BKGSN.shape[-2:], k_BKTN.shape[-2]
    # Divided: a product with the rounded reciprocal would differ in the last bit.
    divisor = math.sqrt(d_head) if scale is None else 1 / scale
    logits = jnp.einsum("bkgsn,bktn->bkgst", q_BKGSN, k_BKTN, preferred_element_type=jnp.float32)
    age_ST = first + np.arange(queries)[:, None] - np.arange(keys)
    seen: Any = age_ST >= 0
    if sight is not None:
        seen = sight.masked(seen, age_ST, first)
    return jnp.where(seen, soft_cap(logits / divisor, cap), -1e30)


def attend(
    q_BKGSN: jax.Array,
    k_BKSN: jax.Array,
    v_BKSN: jax.Array,
    score: Callable[[jax.Array, jax.Array, int], jax.Array] = scores,
    query_blocks: int = 1,
) -> jax.Array:
    """Softmax attention of every query over the keys that `score` lets it see. Returns (B, K, G, S, N).

    Each of `query_blocks` blocks of queries meets only the keys up to its own end: the rest of its
    square is masked anyway.
    """
    seq_len = q_BKGSN.shape[-2]
    edges = [round(i * seq_len / query_blocks) for i in range(query_blocks + 1)]
    out = []
    for start, end in itertools.pairwise(edges):
        logits = score(q_BKGSN[..., start:end, :], k_BKSN[..., :end, :], start)
        weights = jax.nn.softmax(logits, axis=-1).astype(v_BKSN.dtype)
        out.append(jnp.einsum("bkgst,bktn->bkgsn", weights, v_BKSN[..., :end, :]))
    return jnp.concatenate(out, axis=-2)
