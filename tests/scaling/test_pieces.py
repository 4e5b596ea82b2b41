"""The gradient in pieces is the batch's gradient; how many pieces there are."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from tiny import CONFIG, CPU

from scaling.model.execution import PIECE_BYTES, PIECE_LEAST, cached_tokens
from scaling.pieces import in_pieces, pieces_of
from scaling.sharding import make_shardings
from scaling.step import init_state, make_forward


@pytest.mark.parametrize("tokens_at_once", [1, 2 * CONFIG.seq_len])
def test_the_gradient_of_pieces_is_that_of_the_batch(tokens_at_once: int) -> None:
    forward = make_forward(CONFIG.model, CPU, "cpu", z_loss=0.1)
    params = init_state(CONFIG, make_shardings(CPU)).params
    batch_BS1 = np.random.default_rng(0).integers(0, 256, (4, CONFIG.seq_len + 1)).astype(np.uint8)
    whole = jax.value_and_grad(forward.objective, has_aux=True)
    values, grads = jax.jit(whole)(params, batch_BS1)
    found_values, found_grads = jax.jit(in_pieces(whole, tokens_at_once))(params, batch_BS1)
    np.testing.assert_allclose(found_values, values, rtol=1e-6)
    for found, expected in zip(jax.tree.leaves(found_grads), jax.tree.leaves(grads), strict=True):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_pieces_are_equal_whole_sequences_and_as_few_as_fit() -> None:
    assert pieces_of(32, 129, 4096) == 1
    assert pieces_of(32, 129, 4095) == 2
    assert pieces_of(32, 129, 512) == 8
    assert pieces_of(12, 129, 128 * 5) == 3  # of four sequences: five do not divide twelve
    assert pieces_of(7, 129, 128 * 6) == 7  # a prime batch
    assert pieces_of(4, 1025, 512) == 4  # a sequence is never cut


def test_a_cpu_takes_what_its_cache_holds_and_an_accelerator_the_batch() -> None:
    narrow, wide = (dataclasses.replace(CONFIG.model, d_ff=f) for f in (512, 2**20))
    assert cached_tokens(narrow) == PIECE_BYTES // (4 * 512)
    assert cached_tokens(wide) == PIECE_LEAST
    assert make_forward(narrow, CPU, "cpu").how.piece_tokens == cached_tokens(narrow)
    for platform in ("gpu", "tpu"):
        assert make_forward(narrow, CPU, platform).how.piece_tokens == 0
