"""Memory against what JAX keeps and compiles of the real step, and against published shapes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from tiny import MODEL

from scaling.accounting import parts
from scaling.arch.presets import find
from scaling.config import ModelConfig, Placement, from_dict, to_dict
from scaling.errors import UserError
from scaling.memory import RECIPES, REMAT, check_mesh, inference, training
from scaling.model.decoder import abstract
from scaling.optimizer import DIRECTIONS
from scaling.step import make_forward
from scaling.stored import OPTIMIZERS


def shape(layers: int = 2, **changes: Any) -> ModelConfig:
    values = {"n_layers": layers, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_head": 16, "d_ff": 160}
    return ModelConfig(**{**values, "vocab_size": 512, "tied": False, **changes})


# One process compiles the step for every mesh of eight devices (layers in a loop: quicker): its arguments,
# on one of them.
ARGUMENTS = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
from scaling.config import ModelConfig, Placement, from_dict
from scaling.optimizer import hyper
from scaling.sharding import make_shardings
from scaling.step import _abstract_state, compiled_train_step, make_forward
from scaling.config import OptimizerConfig

sizes = []
for values, mesh, micro, batch, seq_len in json.loads(sys.argv[1]):
    model = from_dict(ModelConfig, values)
    placement = Placement(device="cpu", mesh=mesh, microbatches=micro, compute_dtype="float32")
    shardings = make_shardings(placement)
    state, places = _abstract_state(model, shardings)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, places)
    rows = shardings.of((None, "batch", None))
    kind = jnp.uint8 if model.vocab_size <= 256 else jnp.uint16
    tokens = jax.ShapeDtypeStruct((micro, batch // micro, seq_len + 1), kind, sharding=rows)
    h = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in hyper(OptimizerConfig(lr=1.0), 1.0)}
    step = compiled_train_step(make_forward(model, placement, "gpu"), model, shardings)
    compiled = step.lower(state, tokens, h).compile()
    sizes.append(compiled.memory_analysis().argument_size_in_bytes - 4 * len(h))
print(json.dumps(sizes))
"""

CASES = [
    (shape(1, tied=True, mlp="gelu", vocab_size=256), {"fsdp": 1}, 1, 8, 32),
    (shape(1), {"data": 2, "fsdp": 2, "tensor": 2}, 1, 8, 24),
    (MODEL, {"fsdp": 2}, 2, 4, 32),
]


def test_arguments_are_those_of_the_compiled_step() -> None:
    """Parameters, two moments, the step counter and the tokens, byte for byte."""
    text = json.dumps([[to_dict(model), mesh, micro, b, s] for model, mesh, micro, b, s in CASES])
    done = subprocess.run([sys.executable, "-c", ARGUMENTS, text], capture_output=True, text=True, check=True)
    compiled = json.loads(done.stdout)
    for (model, mesh, micro, batch, seq_len), size in zip(CASES, compiled, strict=True):
        held = training(model, seq_len=seq_len, batch=batch, mesh=mesh, microbatches=micro)
        assert held.arguments == size, (model, mesh)


# Bytes of the state on one of eight devices, by optimizer.
STATES = """
import json, math, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
from scaling.config import ModelConfig, Placement, from_dict
from scaling.parametrisation import Parametrisation
from scaling.sharding import make_shardings
from scaling.step import _abstract_state

values, mesh, names = json.loads(sys.argv[1])
shardings = make_shardings(Placement(device="cpu", mesh=mesh))
sizes = {}
for name in names:
    rules = Parametrisation(optimizer=name)
    both = map(jax.tree.leaves, _abstract_state(from_dict(ModelConfig, values), shardings, rules))
    shards = [(s.shard_shape(x.shape), x.dtype.itemsize) for x, s in zip(*both, strict=True)]
    sizes[name] = sum(math.prod(shape) * size for shape, size in shards)
print(json.dumps(sizes))
"""


def test_moments_are_those_of_the_optimizer() -> None:
    model, mesh = shape(d_model=256, d_head=64, d_ff=512), {"data": 2, "fsdp": 2, "tensor": 2}
    text = json.dumps([to_dict(model), mesh, list(OPTIMIZERS)])
    done = subprocess.run([sys.executable, "-c", STATES, text], capture_output=True, text=True, check=True)
    sizes = json.loads(done.stdout)
    assert set(sizes) == set(OPTIMIZERS) == set(DIRECTIONS)
    for name, size in sizes.items():
        held = training(model, seq_len=8, batch=8, mesh=mesh, optimizer=name)
        # Counters, constants of the iteration, placeholders of what is not factored: not counted.
        assert held.master + held.moments == pytest.approx(size, abs=512), name
    assert sizes["lion"] == pytest.approx(sizes["adamw"] * 2 / 3, rel=1e-3)


def kept_by_jax(model: ModelConfig, remat: Any, batch: int, seq_len: int, attention: Any = "plain") -> int:
    """Bytes that jax.vjp of the real loss keeps, in bfloat16, as compiled for a TPU."""
    placement = Placement(remat=remat, compute_dtype="bfloat16", attention=attention)
    forward = make_forward(model, placement, "tpu")
    _, params = abstract(model)
    tokens = jax.ShapeDtypeStruct((batch, seq_len + 1), jnp.int32)
    back = jax.eval_shape(lambda p, t: jax.vjp(lambda p: forward.losses(p, t).mean(), p)[1], params, tokens)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(back))


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("remat", REMAT)
def test_activations_are_what_the_real_step_keeps(remat: Any, mlp: Any) -> None:
    """Of one more layer and four more sequences: weights and tables cancel in the second difference."""
    seq_len = 48
    kept = {
        (layers, batch): kept_by_jax(shape(layers, mlp=mlp), remat, batch, seq_len)
        for layers in (2, 3)
        for batch in (4, 8)
    }
    real = kept[3, 8] - kept[2, 8] - kept[3, 4] + kept[2, 4]
    ours = {
        (layers, batch): training(
            shape(layers, mlp=mlp), seq_len=seq_len, batch=batch, remat=remat, recipe="plain"
        ).activations
        for layers in (2, 3)
        for batch in (4, 8)
    }
    counted = ours[3, 8] - ours[2, 8] - ours[3, 4] + ours[2, 4]
    # Not counted: a number per token and norm, and two per token and head.
    assert counted == pytest.approx(real, rel=0.02)
    assert counted <= real


def test_fused_attention_keeps_no_scores() -> None:
    """Of one more layer and two more sequences, as above; heads of a whole register's width."""
    seq_len, terms = 128, {"d_model": 256, "n_heads": 2, "n_kv_heads": 1, "d_head": 128}
    kept, ours = (
        {(layers, batch): f(shape(layers, **terms), batch) for layers in (2, 3) for batch in (2, 4)}
        for f in (
            lambda model, batch: kept_by_jax(model, "none", batch, seq_len, "fused"),
            lambda model, batch: training(model, seq_len=seq_len, batch=batch, remat="none").activations,
        )
    )
    real, counted = (x[3, 4] - x[2, 4] - x[3, 2] + x[2, 2] for x in (kept, ours))
    # What attention gives is listed twice, the kernel's and the next product's: one buffer when compiled.
    real -= 2 * seq_len * 256 * 2
    assert counted == pytest.approx(real, rel=0.02)
    assert counted <= real  # not counted: a number per token and norm, and per token and head


@pytest.mark.parametrize(("recipe", "bytes_each"), [("engine", 4 + 4 + 8), ("mixed", 4 + 2 + 8)])
def test_bytes_per_parameter_on_one_device(recipe: str, bytes_each: int) -> None:
    held = training(shape(), seq_len=8, batch=1, recipe=recipe)
    assert held.master + held.gradients + held.moments == bytes_each * parts(shape()).total + 4


def test_copies_in_the_compute_type() -> None:
    """Of every layer where the backward pass finds them kept, else of one; ZeRO's recipe: of everything."""
    sizes, table = parts(shape()), 512 * 64
    layers = sizes.total - 2 * table - 64  # two tables, the last norm
    assert training(shape(), seq_len=8, batch=1, remat="none").weights == 2 * (layers + table)
    assert training(shape(), seq_len=8, batch=1, remat="full").weights == 2 * (layers / 2 + table)
    assert training(shape(), seq_len=8, batch=1, recipe="mixed").weights == 2 * sizes.total


def test_a_mesh_divides_what_it_should() -> None:
    model = find("llama3-8b")
    terms: dict[str, Any] = {"seq_len": 4096, "recipe": "mixed"}
    one = training(model, batch=1, **terms)
    fsdp = training(model, batch=8, mesh={"fsdp": 8}, **terms)
    data = training(model, batch=8, mesh={"data": 8}, **terms)
    tensor = training(model, batch=1, mesh={"tensor": 8}, **terms)
    for kind in ("master", "gradients"):
        assert getattr(fsdp, kind) == pytest.approx(getattr(one, kind) / 8)
        assert getattr(data, kind) == getattr(one, kind)
        assert getattr(tensor, kind) == pytest.approx(getattr(one, kind) / 8, rel=1e-3)  # norms are not split
    assert data.activations == fsdp.activations == one.activations
    assert tensor.logits == one.logits / 8
    assert one.logits == 4096 * 128_256 * (4 + 2)


def test_key_value_heads_fewer_than_devices_are_copied() -> None:
    """PaLM has one key/value head: on 8 devices each holds it whole."""
    palm = find("palm")
    one, eight = (training(palm, seq_len=8, batch=1, mesh={"tensor": t}).master for t in (1, 8))
    copied = 118 * 2 * 18432 * 256 * 4 * (1 - 1 / 8)
    norms = 119 * 18432 * 4 * (1 - 1 / 8)
    assert eight == pytest.approx(one / 8 + copied + norms, rel=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "mixtral-8x7b", "deepseek-v3", "jamba"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_more_remat_keeps_less(name: str, recipe: str) -> None:
    held = [
        training(find(name), seq_len=1024, batch=1, remat=remat, recipe=recipe).activations for remat in REMAT
    ]
    assert held == sorted(held, reverse=True)
    assert held[0] > 2 * held[-1] > 0
    arch = find(name)
    assert held[-1] == arch.n_layers * 1024 * arch.d_model * 2


def test_gradient_accumulation_trades_activations_for_gradients() -> None:
    whole, split = (training(shape(), seq_len=64, batch=8, microbatches=m) for m in (1, 4))
    assert split.activations == whole.activations / 4
    assert split.gradients == 3 * whole.gradients  # a sum, and the next one being added to it
    assert split.batch == whole.batch


@pytest.mark.parametrize(
    ("name", "elements_per_token"),
    [
        ("gpt2", 2 * 12 * 12 * 64),  # multi-head
        ("llama3-8b", 2 * 32 * 8 * 128),  # grouped-query
        ("palm", 2 * 118 * 1 * 256),  # multi-query
        ("deepseek-v3", 61 * (512 + 64)),  # latent
    ],
)
def test_cache_from_the_real_shape(name: str, elements_per_token: int) -> None:
    held = inference(find(name), context=1000, sequences=3)
    assert held.cache == elements_per_token * 1000 * 3 * 2


def test_a_window_caps_the_cache() -> None:
    """Gemma 2: every other layer attends to the last 4,096 tokens only."""
    gemma = find("gemma2-2b")
    per_layer = 2 * 4 * 256 * 2
    assert inference(gemma, context=8192).cache == per_layer * 13 * (8192 + 4096)
    assert inference(gemma, context=1024).cache == per_layer * 26 * 1024


def test_weights_by_precision() -> None:
    """GPT-3 in 2 bytes: 349.2 GB from its shape."""
    gpt3 = find("gpt3")
    held = {
        name: inference(gpt3, context=1, precision=name).weights for name in ("fp32", "bf16", "int8", "int4")
    }
    assert f"{held['bf16'] / 1e9:.1f}" == "349.2"
    assert held["fp32"] == 2 * held["bf16"] == 4 * held["int8"] == 8 * held["int4"]


def test_bytes_of_the_cache() -> None:
    model = shape()
    plain = {name: inference(model, context=10, precision=name).cache for name in ("fp32", "bf16", "int4")}
    assert plain["fp32"] == 2 * plain["bf16"] == 2 * plain["int4"]
    assert inference(model, context=10, cache_bytes=1).cache == plain["bf16"] / 2


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"mesh": {"pipeline": 2}}, "pipeline.*data, fsdp, tensor"),
        ({"mesh": {"fsdp": 0}}, r"mesh\.fsdp is 0"),
        ({"mesh": {"fsdp": 3}, "batch": 3}, r"mesh\.fsdp is 3.*d_model"),
        ({"mesh": {"tensor": 8}}, r"mesh\.tensor is 8.*n_heads = 4"),
        ({"mesh": {"data": 2}, "batch": 3}, "batch is 3.*multiple of .* = 2"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 2, "microbatches": 3}, "batch is 2"),
        ({"seq_len": 0}, "seq_len is 0"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"remat": "some"}, "remat is 'some'; choose from none, dots, attention"),
        ({"recipe": "fp8"}, "recipe is 'fp8'; choose from engine, plain, mixed"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        training(shape(), **({"seq_len": 8, "batch": 1} | terms))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"precision": "fp8"}, "precision"),
        ({"context": 0}, "context"),
        ({"sequences": -1}, "sequences"),
        ({"cache_bytes": 0.0}, "cache_bytes"),
    ],
)
def test_bad_inference_terms(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        inference(shape(), **({"context": 8} | terms))


def test_absent_axes_are_one() -> None:
    assert check_mesh({"fsdp": 4}) == {"data": 1, "fsdp": 4, "tensor": 1}


def test_totals_of_steps_compiled_for_tpus() -> None:
    """Arguments within 1%, totals from 5% under to 15% over, of what libtpu plans for the same step."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "memory-tpu-topologies.json"
    rows = json.loads(path.read_text())["rows"]
    assert {row["remat"] for row in rows} == set(REMAT)
    for row in rows:
        model = row["model"], row["mesh"], row["remat"]
        terms = {name: row[name] for name in ("seq_len", "batch", "mesh", "remat", "microbatches", "recipe")}
        ours = training(from_dict(ModelConfig, row["shape"]), tiled=True, **terms)
        compiled = row["compiled"]
        assert ours.arguments == pytest.approx(compiled["arguments"], rel=0.01), model
        total = compiled["arguments"] + compiled["temporaries"] + compiled["outputs"]
        assert 0.95 < ours.total / total < 1.15, model
