"""Cross entropy against SciPy, at ordinary logits and at extreme ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from scaling.loss import cross_entropy


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4, 1e30])
def test_loss_is_minus_the_log_probability_of_the_target(scale: float) -> None:
    generator = np.random.default_rng(0)
    logits = (generator.standard_normal((50, 7)) * scale).astype(np.float32)
    targets = generator.integers(0, 7, 50)
    expected = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(50), targets]
    found = np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(targets)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6 * max(scale, 1))


def test_uniform_logits_cost_the_log_of_the_vocabulary() -> None:
    found = cross_entropy(jnp.full((3, 256), 7.5), jnp.array([0, 100, 255]))
    np.testing.assert_allclose(found, np.log(256), rtol=1e-6)


def test_a_shift_of_all_logits_changes_nothing() -> None:
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((5, 9)), jnp.float32)
    targets = jnp.arange(5)
    shifted = cross_entropy(logits + 64.0, targets)
    np.testing.assert_allclose(shifted, cross_entropy(logits, targets), atol=1e-5)


def test_the_gradient_is_probabilities_less_the_target() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32) * 20
    targets = np.array([0, 3, 8, 8, 1])
    found = jax.grad(lambda x: cross_entropy(x, jnp.asarray(targets)).sum())(jnp.asarray(logits))
    expected = np.exp(log_softmax(logits.astype(np.float64), axis=-1)) - np.eye(9)[targets]
    np.testing.assert_allclose(found, expected, atol=1e-6)
