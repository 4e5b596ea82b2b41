"""Cross entropy against SciPy, at ordinary logits and at extreme ones."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from scaling.loss import cross_entropy

losses = jax.jit(cross_entropy)
TARGETS = np.random.default_rng(1).integers(0, 7, 50)


def random_logits(scale: float) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((50, 7)) * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4, 1e30])
def test_loss_is_minus_the_log_probability_of_the_target(scale: float) -> None:
    logits = random_logits(scale)
    expected = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(50), TARGETS]
    found = np.asarray(losses(logits, TARGETS))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6 * max(scale, 1))


def test_uniform_logits_cost_the_log_of_the_vocabulary() -> None:
    found = losses(np.full((50, 7), 7.5, np.float32), TARGETS)
    np.testing.assert_allclose(found, np.log(7), rtol=1e-6)


def test_a_shift_of_all_logits_changes_nothing() -> None:
    logits = random_logits(1.0)
    np.testing.assert_allclose(losses(logits + 64, TARGETS), losses(logits, TARGETS), atol=1e-5)


def test_the_gradient_is_probabilities_less_the_target() -> None:
    logits = random_logits(20.0)
    found = jax.jit(jax.grad(lambda x: cross_entropy(x, TARGETS).sum()))(logits)
    expected = np.exp(log_softmax(logits.astype(np.float64), axis=-1)) - np.eye(7)[TARGETS]
    np.testing.assert_allclose(found, expected, atol=1e-6)
