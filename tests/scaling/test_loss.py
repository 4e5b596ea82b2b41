"""Cross entropy against SciPy, at ordinary logits and at extreme ones; whole and in parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from scipy.special import log_softmax, logsumexp

from scaling.loss import chunks_for, cross_entropy, head_losses
from scaling.sharding import MESH_AXES, Shardings

losses = jax.jit(lambda logits, targets: cross_entropy(logits, targets)[0])
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
    found = jax.jit(jax.grad(lambda x: cross_entropy(x, TARGETS)[0].sum()))(logits)
    expected = np.exp(log_softmax(logits.astype(np.float64), axis=-1)) - np.eye(7)[TARGETS]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_log_z_is_scipys() -> None:
    logits = random_logits(3.0)
    _, log_z = cross_entropy(jax.numpy.asarray(logits), jax.numpy.asarray(TARGETS))
    np.testing.assert_allclose(log_z, logsumexp(logits.astype(np.float64), axis=-1), rtol=1e-6)


@pytest.mark.parametrize("chunks", [2, 3, 12])
def test_the_head_in_parts_is_the_head_in_one(chunks: int) -> None:
    """Losses, log Z and the gradients of activations and head, sequences of 12 in a batch of 4."""
    generator = np.random.default_rng(0)
    x_TD, head_DV = generator.standard_normal((48, 8)).astype(np.float32), generator.standard_normal((8, 20))
    targets_BS, weights_BS = generator.integers(0, 20, (4, 12)), generator.standard_normal((2, 4, 12))

    def both(chunks: int) -> list[np.ndarray]:
        def weighted(x_TD: jax.Array, head_DV: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
            found = head_losses(x_TD, head_DV, targets_BS, 5.0, chunks)
            return sum((part * weight).sum() for part, weight in zip(found, weights_BS, strict=True)), found

        grads, found = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(x_TD, np.float32(head_DV))
        return [np.asarray(part) for part in (*grads, *found)]

    for part, whole in zip(both(chunks), both(1), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-5)


def test_all_logits_of_a_large_vocabulary_never_exist() -> None:
    """Temporary memory of the gradient as XLA plans it: the whole logits are 128 MiB, a part 8 MiB."""
    x_TD, head_DV = np.zeros((256, 16), np.float32), np.zeros((16, 131_072), np.float32)
    targets_BS = np.zeros((2, 128), int)

    def bytes_of(chunks: int) -> int:
        def mean(x_TD: jax.Array, head_DV: jax.Array) -> jax.Array:
            return head_losses(x_TD, head_DV, targets_BS, 0.0, chunks)[0].mean()

        gradient = jax.jit(jax.grad(mean, argnums=(0, 1))).lower(x_TD, head_DV).compile()
        return gradient.memory_analysis().temp_size_in_bytes

    whole, parts = bytes_of(1), bytes_of(16)
    assert whole >= 256 * 131_072 * 4
    assert parts < whole / 3


@pytest.mark.parametrize(
    ("batch", "seq_len", "vocab", "expected"),
    [(16, 128, 256, 1), (8, 2048, 8192, 1), (8, 2048, 8193, 2), (8, 2048, 128_256, 16), (10**9, 6, 256, 6)],
)
def test_parts_are_as_few_as_memory_asks(batch: int, seq_len: int, vocab: int, expected: int) -> None:
    assert chunks_for(batch, seq_len, vocab) == expected


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [((1, 1, 1, 1), 16), ((2, 4, 1, 1), 2), ((1, 4, 4, 1), 1), ((1, 2, 1, 4), 2), ((2, 8, 1, 8), 1)],
)
def test_parts_count_what_one_device_makes(mesh: tuple[int, ...], expected: int) -> None:
    """16 sequences of 2,048 over a vocabulary of 65,536 are 16 blocks of LARGEST_BLOCK."""
    shardings = Shardings(AbstractMesh(mesh, MESH_AXES))
    x_BSD, head_DV = jax.ShapeDtypeStruct((16, 2048, 8), jnp.float32), jnp.zeros((8, 65_536))
    targets_BS = jax.ShapeDtypeStruct((16, 2048), jnp.int32)
    made = jax.make_jaxpr(lambda x, t: head_losses(x, head_DV, t, 0.0, 0, shardings))(x_BSD, targets_BS)
    loops = [equation.params["length"] for equation in made.eqns if equation.primitive.name == "scan"]
    assert loops == ([expected] if expected > 1 else [])
