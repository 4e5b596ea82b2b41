"""Lion, Muon and Adafactor against Optax's own on plain matrices, and every optimizer laid out on a mesh."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.config import OptimizerConfig
from scaling.model.params import param
from scaling.optimizer import hyper, transform
from scaling.parametrisation import Parametrisation

LR = 0.01
THEIRS = {
    "lion": lambda: optax.lion(LR, b1=0.9, b2=0.95, weight_decay=0.1),
    # Square: Optax's factor for shapes and ours are both 1.
    "muon": lambda: optax.contrib.muon(LR, beta=0.9, weight_decay=0.1),
    "adafactor": lambda: optax.adafactor(LR, multiply_by_parameter_scale=False, momentum=0.9),
}


@pytest.mark.parametrize("name", THEIRS)
def test_stacked_heads_move_as_optax_moves_each_layers_matrix(name: str) -> None:
    generator = np.random.default_rng(0)
    # Adafactor factors from 128 on; Newton-Schulz of so large a matrix takes long to compile.
    shape = (2, 128, 2, 64) if name == "adafactor" else (2, 16, 2, 8)
    layers, width = shape[:2]
    start = generator.standard_normal(shape).astype(np.float32)
    grads = [generator.standard_normal(shape).astype(np.float32) * scale for scale in (0.1, 2.0)]
    decay = 0.0 if name == "adafactor" else 0.1  # theirs multiplies it by no rate
    config = OptimizerConfig(lr=LR, clip=0, weight_decay=decay)
    declared = param(shape, ("layer", "embed", "heads", "head"), 1.0, "hidden")

    params = {"w": declared.replace(jnp.asarray(start))}
    plain = [jnp.asarray(one.reshape(width, -1)) for one in start]
    ours, theirs = transform(hyper(config, LR), Parametrisation(optimizer=name)), THEIRS[name]()
    state, states = ours.init(params), [theirs.init(one) for one in plain]
    update, update_plain = jax.jit(ours.update), jax.jit(theirs.update)
    for grad in grads:
        updates, state = update({"w": declared.replace(jnp.asarray(grad))}, state, params)
        params = optax.apply_updates(params, updates)
        for layer in range(layers):
            flat = jnp.asarray(grad[layer].reshape(width, -1))
            moved, states[layer] = update_plain(flat, states[layer], plain[layer])
            plain[layer] = optax.apply_updates(plain[layer], moved)
    found, wanted = np.asarray(params["w"].get_value()), np.stack(plain).reshape(shape)
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted - start)


def test_muons_update_has_the_spectral_norm_of_its_shape() -> None:
    """sqrt(fan_out / fan_in) times the rate, of a tall matrix and a wide one; Newton-Schulz is within 30%."""
    rules, h = Parametrisation(optimizer="muon"), hyper(OptimizerConfig(lr=1.0, weight_decay=0, clip=0), 1.0)
    declared = {
        "up": param((16, 64), ("embed", "mlp"), 1.0, "hidden"),
        "out": param((8, 8, 16), ("heads", "head", "embed"), 1.0, "hidden", 2),
    }
    generator = np.random.default_rng(0)
    grads = {
        n: p.replace(jnp.asarray(generator.standard_normal(p.shape), jnp.float32))
        for n, p in declared.items()
    }
    optimizer = transform(h, rules)
    updates, _ = jax.jit(lambda: optimizer.update(grads, optimizer.init(declared), declared))()
    norms = {
        "up": np.linalg.norm(updates["up"].get_value(), 2),
        "out": np.linalg.norm(np.reshape(updates["out"].get_value(), (64, 16)), 2),
    }
    assert norms == pytest.approx({"up": 2.0, "out": 0.5}, rel=0.3)


MESH = """
import dataclasses, json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
import numpy as np
import optax
from scaling.config import Placement, RunConfig, from_dict
from scaling.model.params import is_param
from scaling.optimizer import hyper, transform
from scaling.parametrisation import of_run
from scaling.sharding import make_shardings
from scaling.step import TrainState, init_state, state_shardings

def moved(config, mesh):
    shardings, rules = make_shardings(Placement(device="cpu", mesh=mesh)), of_run(config)
    state = init_state(config, shardings)

    def update(state):
        # Gradients of no symmetry: the initial values and their order.
        grads = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), state.params)
        optimizer = transform(hyper(config.optimizer, 0.1), rules)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state)

    after = jax.block_until_ready(jax.jit(update, out_shardings=state_shardings(state, shardings))(state))
    arrays = [x for x in jax.tree.leaves(after.opt_state) if x.ndim > 1]
    held = sum(x.addressable_shards[0].data.nbytes for x in arrays) / sum(x.nbytes for x in arrays)
    start = [np.asarray(x, np.float64) for x in jax.tree.leaves(state.params)]
    return [np.asarray(x, np.float64) - y for x, y in zip(jax.tree.leaves(after.params), start)], held

found = {}
for name in json.loads(sys.argv[2]):
    config = json.loads(sys.argv[1])
    config["optimizer"]["name"] = name
    config = from_dict(RunConfig, config)
    one, _ = moved(config, {"fsdp": 1})
    several, held = moved(config, {"fsdp": 4, "tensor": 2})
    error = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(several, one))
    found[name] = {"error": error, "held": held}
print(json.dumps(found))
"""

RUN = {
    "model": {
        "n_layers": 2, "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "d_head": 64, "d_ff": 136,
        "tied": False,
    },
    "data": {"name": "random", "fingerprint": ""},
    "optimizer": {"lr": 0.1},
    "seq_len": 32, "batch_size": 16, "steps": 1, "parametrisation": "mup", "base_d_model": 64,
}  # fmt: skip


def test_on_a_mesh_every_optimizer_holds_its_part_and_moves_as_on_one_device() -> None:
    names = ["adamw", "lion", "muon", "adafactor"]
    command = [sys.executable, "-c", MESH, json.dumps(RUN), json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, found in json.loads(done.stdout).items():
        assert found["error"] < 1e-4, name
        # An eighth; adafactor keeps rows and columns of a matrix, each split over one axis of the mesh.
        assert found["held"] < (0.5 if name == "adafactor" else 0.13), name
