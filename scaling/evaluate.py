"""Loss on the fixed validation windows: the number every law is fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from scaling.sharding import Shardings

EVAL_BATCH = 32  # windows per call; the whole set is always used, whatever this is


def validation_loss(
    eval_step: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    tokens_WS1: np.ndarray,
    shardings: Shardings,
) -> tuple[float, float]:
    """Mean loss and its standard error, nats/token.

    Tokens of a window are not independent, so the error is that of the mean over windows.
    """
    rows = -(-EVAL_BATCH // shardings.batch_shards) * shardings.batch_shards
    sharding = shardings.of(("batch", None))
    pending = []
    for start in range(0, len(tokens_WS1), rows):
        batch = tokens_WS1[start : start + rows]
        padded = np.resize(batch, (rows, batch.shape[1]))  # repeats rows; one compiled shape
        pending.append((eval_step(params, jax.device_put(padded, sharding)), len(batch)))
    losses_W = np.concatenate([np.asarray(losses)[:count] for losses, count in pending]).astype(np.float64)
    error = losses_W.std(ddof=1) / np.sqrt(len(losses_W)) if len(losses_W) > 1 else 0.0
    return float(losses_W.mean()), float(error)
