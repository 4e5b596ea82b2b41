"""Every mesh computes the gradients of one device, array by array. The devices are CPU threads."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

GRADIENTS = """
import dataclasses, json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
import optax
from jax.sharding import AxisType
from scaling.config import ModelConfig, Placement, RunConfig, from_dict
from scaling.optimizer import hyper
from scaling.sharding import make_shardings
from scaling.step import compiled_train_step, init_state, make_forward

BASE = json.loads(sys.argv[1])
TOKENS = np.random.default_rng(0).integers(0, 256, (16, 33)).astype(np.uint8)

def gradients(model, platform, placement, explicit=False):
    # "gpu" walks the layers in a loop, "cpu" in straight-line code.
    placement = from_dict(Placement, {"device": "cpu", "compute_dtype": "float32"} | placement)
    shardings = make_shardings(placement, AxisType.Explicit if explicit else AxisType.Auto)
    config = from_dict(RunConfig, BASE | {"model": BASE["model"] | model})
    forward = make_forward(config.model, placement, platform, 0.1, shardings)
    with jax.set_mesh(shardings.mesh):
        params = init_state(config, shardings).params
        tokens = jax.device_put(TOKENS, shardings.of(("batch", None)))
        gradient = jax.jit(jax.grad(lambda p, t: forward.objective(p, t)[0]))
        grads = jax.block_until_ready(gradient(params, tokens))
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]

def accumulated(model, platform, placement):
    # By the training step: after its first update Adam's mean is (1 - b1) of the gradient it was given.
    placement = from_dict(Placement, {"device": "cpu", "compute_dtype": "float32"} | placement)
    shardings = make_shardings(placement)
    config = from_dict(RunConfig, BASE | {"model": BASE["model"] | model})
    forward = make_forward(config.model, placement, platform, 0.1, shardings)
    step = compiled_train_step(forward, config.model, shardings)
    micro = placement.microbatches
    tokens = TOKENS.reshape(micro, len(TOKENS) // micro, -1)
    h = hyper(config.optimizer, config.optimizer.lr)
    state, _ = jax.block_until_ready(step(init_state(config, shardings), tokens, h))
    means = jax.tree.leaves(optax.tree.get(state.opt_state, "mu"))
    return [np.asarray(leaf, np.float64) / (1 - config.optimizer.b1) for leaf in means]

one, found = {}, {}
for name, model, platform, placement, explicit in json.loads(sys.argv[2]):
    key = json.dumps(model)
    if key not in one:
        one[key] = gradients(model, "cpu", {"mesh": {"fsdp": 1}})
    by_step = placement.get("microbatches", 1) > 1
    way = (model, platform, placement)
    several = accumulated(*way) if by_step else gradients(*way, explicit)
    found[name] = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(several, one[key]))
print(json.dumps(found))
"""

RUN = {
    "model": {
        "n_layers": 2, "d_model": 64, "n_heads": 8, "n_kv_heads": 8, "d_head": 8, "d_ff": 64, "tied": False,
    },
    "data": {"name": "random", "fingerprint": ""},
    "optimizer": {"lr": 1e-3, "clip": 0.0},
    "seq_len": 32, "batch_size": 16, "steps": 1,
}  # fmt: skip

MHA: dict[str, Any] = {}
GQA: dict[str, Any] = {"n_heads": 16}
OPTIONS: dict[str, Any] = {
    "document_mask": True,
    "windows": [7, 0],
    "qk_norm": True,
    "logit_cap": 5.0,
    "tied": True,
}

# name: (model, layers as on, placement, explicit axes)
FAST = {
    "(2, 4), GQA": (GQA, "cpu", {"mesh": {"data": 2, "tensor": 4}}, False),
    "(2, 4), a key head per query head": (MHA, "cpu", {"mesh": {"data": 2, "tensor": 4}}, False),
    "(8, 1), looped": (GQA, "gpu", {"mesh": {"fsdp": 8}}, False),
    "(1, 8), recomputed": (GQA, "gpu", {"mesh": {"tensor": 8}, "remat": "full"}, False),
    "2 slices of (2, 2), head in parts": (
        GQA, "gpu", {"mesh": {"fsdp": 2, "tensor": 2}, "slices": {"data": 2}, "loss_chunks": 4}, False,
    ),
    "sequences split, head in parts": (
        GQA, "gpu", {"mesh": {"fsdp": 2, "context": 2, "tensor": 2}, "loss_chunks": 2}, False,
    ),
    "(2, 4), accumulated": (
        GQA, "gpu", {"mesh": {"data": 2, "tensor": 4}, "microbatches": 4}, False,
    ),
    "explicit axes": (GQA, "gpu", {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}, True),
}  # fmt: skip
MESHES: list[dict[str, Any]] = [
    {"mesh": {"data": 2, "tensor": 4}},
    {"mesh": {"data": 2, "fsdp": 4}},
    {"mesh": {"fsdp": 8}},
    {"mesh": {"data": 8}},
    {"mesh": {"tensor": 8}},
    {"mesh": {"context": 8}},
    {"mesh": {"fsdp": 2, "tensor": 2}, "slices": {"data": 2}},
    {"mesh": {"context": 2, "tensor": 2}, "slices": {"fsdp": 2}},
]
WAYS: list[dict[str, Any]] = [
    {},
    {"remat": "dots", "microbatches": 2},
    {"remat": "full", "loss_chunks": 2},
    {"remat": "attention"},
]
ALL = {
    f"{name} {mesh} {way} {platform}": (model, platform, mesh | way, False)
    for name, model in {"MHA": MHA, "GQA": GQA, "options": OPTIONS}.items()
    for mesh in MESHES
    for way in WAYS
    for platform in (("cpu", "gpu") if not way else ("gpu",))
}


def errors(cases: dict[str, Any]) -> dict[str, float]:
    """The largest relative error of any array's gradient, by case."""
    listed = json.dumps([[name, *case] for name, case in cases.items()])
    command = [sys.executable, "-c", GRADIENTS, json.dumps(RUN), listed]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_gradients_on_a_mesh_are_those_of_one_device() -> None:
    found = errors(FAST)
    assert found.keys() == FAST.keys()
    assert {name: error for name, error in found.items() if error > 1e-5} == {}


@pytest.mark.slow
def test_gradients_on_every_mesh_in_every_way() -> None:
    found = errors(ALL)
    assert found.keys() == ALL.keys()
    assert {name: error for name, error in found.items() if error > 1e-5} == {}
