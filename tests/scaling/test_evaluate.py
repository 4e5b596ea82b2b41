"""Validation loss: every window counts once, whatever the batches, and its error is the closed form."""

from __future__ import annotations

import math
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CPU

from scaling.evaluate import EVAL_BATCH, validation_loss
from scaling.sharding import make_shardings

SEEN: list[int] = []


def loss_of_window(params: Any, tokens_BS1: jax.Array) -> jax.Array:
    """Stands for the model: a loss that only the window's own tokens decide."""
    SEEN.append(len(tokens_BS1))
    return params + jnp.asarray(tokens_BS1, jnp.float32).mean(axis=1)


@pytest.mark.parametrize("windows", [2, EVAL_BATCH - 1, EVAL_BATCH, EVAL_BATCH + 1, 2 * EVAL_BATCH + 7])
def test_every_window_counts_once(windows: int) -> None:
    SEEN.clear()
    tokens_WS1 = np.random.default_rng(0).integers(0, 256, (windows, 9)).astype(np.uint8)
    loss, error = validation_loss(loss_of_window, 0.5, tokens_WS1, make_shardings(CPU))
    per_window = [0.5 + statistics.fmean(map(float, row)) for row in tokens_WS1]
    assert loss == pytest.approx(statistics.fmean(per_window), rel=1e-6)
    assert error == pytest.approx(statistics.stdev(per_window) / math.sqrt(windows), rel=1e-5)
    assert len(set(SEEN)) == 1  # one compiled shape


def test_a_single_window_has_a_loss() -> None:
    tokens_WS1 = np.arange(9, dtype=np.uint8)[None]
    loss, error = validation_loss(loss_of_window, 0.0, tokens_WS1, make_shardings(CPU))
    assert loss == pytest.approx(4.0)
    assert error == 0.0
