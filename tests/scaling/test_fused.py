"""Fused attention equals the plain form, and its gradients: splash interpreted here, cuDNN where a GPU is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from tiny import MODEL

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.kernels import attention_kernel
from scaling.model.attention import Sight, attend, scores
from scaling.model.fused import attend_fused, by_window, cudnn_attention
from scaling.model.splash import splash_attention

BATCH, SEQ_LEN = 2, 256
Arrays = tuple[jax.Array, jax.Array, jax.Array]


def heads(kv_heads: int, groups: int, d_head: int, dtype: Any = jnp.float32) -> Arrays:
    draw = np.random.default_rng(0).standard_normal
    q = draw((BATCH, kv_heads, groups, SEQ_LEN, d_head)) * d_head**-0.5
    k, v = (draw((BATCH, kv_heads, SEQ_LEN, d_head)) for _ in range(2))
    return jnp.asarray(q, dtype), jnp.asarray(k, dtype), jnp.asarray(v, dtype)


def plain(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int = 0, cap: float = 0.0, document: Any = None
) -> jax.Array:
    sight = Sight(BATCH, jnp.int32(window) if window else None, document)
    return attend(q, k, v, functools.partial(scores, cap=cap, sight=sight, scale=1.0))


def with_gradients(form: Callable[..., jax.Array], arrays: Arrays) -> list[np.ndarray]:
    """The output, and gradients of a fixed random sum of it."""
    weights = np.random.default_rng(1).standard_normal(arrays[0].shape).astype(np.float32)

    def total(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = form(*args)
        return (out.astype(jnp.float32) * weights).sum(), out

    grads, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x, np.float64) for x in (out, *grads)]


def assert_equal_to(expected: list[np.ndarray], found: list[np.ndarray], relative: float) -> None:
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert np.linalg.norm(a - b) <= relative * np.linalg.norm(b), name


DOCUMENT = np.cumsum(np.random.default_rng(2).random((BATCH, SEQ_LEN)) < 0.02, axis=1).astype(np.int32)
CASES: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "multi-head": ((2, 1, 64), {}),
    "grouped-query": ((2, 2, 128), {}),
    "multi-query": ((1, 3, 64), {}),
    "window": ((1, 2, 64), {"window": 100}),
    "capped": ((2, 1, 64), {"cap": 0.5}),
    "documents": ((1, 2, 64), {"document": DOCUMENT}),
}


@pytest.mark.parametrize("case", CASES)
def test_splash_is_plain_attention(case: str) -> None:
    shape, options = CASES[case]
    arrays = heads(*shape)
    rest = {name: value for name, value in options.items() if name != "document"}
    splash = functools.partial(splash_attention, document_BS=options.get("document"), interpret=True, **rest)
    expected = with_gradients(functools.partial(plain, **options), arrays)
    assert_equal_to(expected, with_gradients(splash, arrays), 1e-5)
    if options:  # the option is one that can be missed
        assert np.linalg.norm(expected[0] - np.asarray(plain(*arrays))) > 1e-2 * np.linalg.norm(expected[0])


def test_a_layer_takes_the_kernel_of_its_window() -> None:
    seen: Callable[[int], Callable[[jax.Array], jax.Array]] = lambda size: lambda x: x + size  # noqa: E731
    for window in (0, 7, 300):
        chosen = by_window((7, 0, 300, 7), jnp.int32(window), seen)
        assert float(jax.jit(chosen)(jnp.float32(0))) == window
    assert float(by_window((), None, seen)(jnp.float32(1))) == 1


def of(**changes: Any) -> ModelConfig:
    import dataclasses

    return dataclasses.replace(MODEL, d_head=64, **changes)


def test_the_rule_of_kernels() -> None:
    assert attention_kernel("auto", "tpu", of(), 256).name == "splash"
    assert attention_kernel("auto", "gpu", of(), 250).name == "cudnn"
    assert attention_kernel("plain", "tpu", of(), 256).name == "plain"
    assert attention_kernel("auto", "cpu", of(), 256).name == "plain"
    assert attention_kernel("auto", "tpu", of(), 256, mesh={"fsdp": 4, "tensor": 2}).name == "splash"
    served_by_plain: list[tuple[str, ModelConfig, int, str, dict[str, int]]] = [
        ("tpu", of(), 200, "bfloat16", {}),
        ("tpu", of(), 256, "bfloat16", {"context": 2}),
        ("gpu", of(), 256, "float32", {}),
        ("gpu", of(attention_cap=50.0), 256, "bfloat16", {}),
        ("gpu", of(document_mask=True), 256, "bfloat16", {}),
        ("gpu", of(), 256, "bfloat16", {"context": 2}),
    ]
    for platform, model, seq_len, dtype, mesh in served_by_plain:
        kernel = attention_kernel("auto", platform, model, seq_len, dtype, mesh)
        assert kernel.name == "plain" and kernel.reason
        with pytest.raises(UserError, match=r"placement\.attention"):
            attention_kernel("fused", platform, model, seq_len, dtype, mesh)
    with pytest.raises(UserError, match="CPU"):
        attention_kernel("fused", "cpu", of(), 256)


@pytest.mark.parametrize("window", [0, 100])
def test_the_cudnn_form_lowers_for_a_gpu_that_is_not_here(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward become cuDNN's calls, with no product of queries and keys written out."""

    class Versions:
        cudnn_get_version = staticmethod(lambda: 91_000)

    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", Versions)
    form = functools.partial(cudnn_attention, window=window)
    step = jax.jit(jax.grad(lambda *x: form(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2)))
    text = step.trace(*heads(2, 2, 64, jnp.bfloat16)).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text and "__cudnn$fmhaSoftmaxBackward" in text
    assert f"x{SEQ_LEN}x{SEQ_LEN}x" not in text


@pytest.mark.gpu
@pytest.mark.parametrize("window", [0, 100])
def test_cudnn_is_plain_attention(window: int) -> None:
    """In bfloat16, whose rounding of the weights is what they differ by."""
    arrays = heads(2, 2, 64, jnp.bfloat16)
    expected = with_gradients(functools.partial(plain, window=window), arrays)
    found = with_gradients(functools.partial(cudnn_attention, window=window), arrays)
    assert_equal_to(expected, found, 2e-2)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="the TPU compiler libtpu is not installed")
@pytest.mark.parametrize(("d_head", "mesh"), [(64, {}), (128, {"fsdp": 4, "tensor": 4})])
def test_splash_compiles_for_a_tpu_and_needs_less_memory(d_head: int, mesh: dict[str, int]) -> None:
    """On one chip and on sixteen; temporary memory of forward and backward pass of a few layers' heads."""
    from jax.experimental import topologies

    from scaling.config import Placement
    from scaling.sharding import MESH_AXES, Shardings

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    sizes = [mesh.get(axis, 1) for axis in MESH_AXES]
    devices = np.array(topology.devices)[: int(np.prod(sizes))].reshape(sizes)
    kinds = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    shardings = Shardings(jax.sharding.Mesh(devices, MESH_AXES, axis_types=kinds))
    batch, kv_heads, groups, seq_len = 4 * mesh.get("fsdp", 1), 4, 2, 2048
    model = of(n_heads=8, n_kv_heads=4)
    kernel = attention_kernel(Placement().attention, "tpu", model, seq_len, mesh=mesh).name
    assert kernel == "splash"

    def bytes_of(form: Callable[..., jax.Array]) -> int:
        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            axes = ("batch", "kv_heads", *(None,) * (len(sizes) - 2))
            return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=shardings.of(axes))

        arrays = (
            shape(batch, kv_heads, groups, seq_len, d_head),
            *(shape(batch, kv_heads, seq_len, d_head) for _ in range(2)),
        )
        gradient = jax.jit(jax.grad(lambda *x: form(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2)))
        return gradient.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    several = shardings if mesh else None
    fused = bytes_of(lambda *x: attend_fused(kernel, *x, model, None, None, several))
    score = functools.partial(scores, scale=1.0)
    written_out = bytes_of(lambda *x: attend(*x, score))
    assert fused < written_out / 2
