"""Parameters: declared once with shape, logical axes, initial spread and role; drawn without a compiler.

Initial values come from NumPy's Philox, keyed by (seed, parameter path, layer): the same numbers on
every device, mesh and process count. A jitted `jax.random` init takes longer to compile on CPU
than the training step, and a sweep has dozens of shapes.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scaling.errors import UserError
from scaling.parametrisation import STANDARD, Parametrisation
from scaling.sharding import Shardings


def param(
    shape: tuple[int, ...], axes: tuple[str | None, ...], std: float | None, role: str, inputs: int = 1
) -> nnx.Param:
    """Declare a parameter.

    `axes` names each dimension (see scaling/sharding.py). `std` is the initial spread in the standard
    parametrisation, None means ones; `role` is its row in the others (scaling/parametrisation.py). A
    matrix contracts its first `inputs` dimensions, the axis of stacked layers not counted.
    """
    assert len(shape) == len(axes), (shape, axes)
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, std=std, role=role, inputs=inputs)


def is_param(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def check_divides(abstract: nnx.State, shardings: Shardings) -> None:
    """Raise UserError where the mesh splits a dimension of some parameter into unequal parts."""
    for leaf in jax.tree.leaves(abstract, is_leaf=is_param):
        shape, axes = leaf.get_value().shape, leaf.get_metadata()["axes"]
        for size, axis, parts in zip(shape, axes, shardings.split(axes), strict=True):
            if size % parts:
                mesh = dict(shardings.mesh.shape)
                raise UserError(
                    f"placement.mesh {mesh} splits {axis!r} of size {size} into {parts}; give a divisor."
                )


def role_of(leaf: nnx.Variable) -> str:
    """The role that a parameter declares, of its moments and its gradient, too."""
    return str(leaf.get_metadata()["role"])


def initialise(
    abstract: nnx.State, seed: int, shardings: Shardings, rules: Parametrisation = STANDARD
) -> nnx.State:
    """Draw every parameter of an abstract state (float32), each shard only where it lives.

    Raises UserError for a role without a rule.
    """

    def draw(path: tuple[Any, ...], leaf: nnx.Variable) -> nnx.Variable:
        name = "/".join(str(getattr(part, "key", part)) for part in path)
        metadata = leaf.get_metadata()
        shape, axes = leaf.get_value().shape, metadata["axes"]
        spread = math.sqrt(rules.rule(role_of(leaf)).variance)
        std = None if metadata["std"] is None else metadata["std"] * spread
        value = _normal(name, shape, seed, std, stacked=axes[0] == "layer")
        sharding = shardings.of(axes)
        array = jax.make_array_from_callback(shape, sharding, lambda index: value[index])
        return leaf.replace(array)

    return jax.tree_util.tree_map_with_path(draw, abstract, is_leaf=is_param)


def _normal(name: str, shape: tuple[int, ...], seed: int, std: float | None, stacked: bool) -> np.ndarray:
    if std is None:
        return np.ones(shape, np.float32)
    if not stacked:
        return std * _draw(f"{name}:{seed}", shape)
    # One stream per layer: layer k starts the same whatever the depth.
    return std * np.stack([_draw(f"{name}:{seed}:{layer}", shape[1:]) for layer in range(shape[0])])


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    words = np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=words))
    return generator.standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)
