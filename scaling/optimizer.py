"""Optimizers from Optax, their hyperparameters passed as arrays so that they never trigger a compile.

Each is clip by global norm, then its direction, then weight decay, then -lr. The factors of a
parametrisation are constants of the compiled step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from scaling.config import OptimizerConfig
from scaling.model.params import is_param, role_of
from scaling.parametrisation import STANDARD, Parametrisation

Hyper = dict[str, Any]  # lr, b1, b2, eps, weight_decay, clip: float scalars


def hyper(config: OptimizerConfig, lr: float) -> Hyper:
    """The arguments of one step at rate `lr`.

    Independent decay takes lambda * lr / peak off a weight, coupled decay lambda * lr: the first is the
    second with lambda / peak.
    """
    return {
        "lr": lr,
        "b1": config.b1,
        "b2": config.b2,
        "eps": config.eps,
        "weight_decay": config.weight_decay / (config.lr if config.independent_decay else 1),
        "clip": config.clip if config.clip > 0 else float("inf"),
    }


def transform(h: Hyper, rules: Parametrisation = STANDARD) -> optax.GradientTransformation:
    """Updates of one step; its state takes the layout of the parameters (`scaling.step.state_shardings`).

    Decay comes after the rates of the roles: rate times lambda is one for all that decay.
    Raises UserError for a role without a rule.
    """
    parts = [optax.clip_by_global_norm(h["clip"]), DIRECTIONS[rules.optimizer](h, rules)]
    if rules.name != "standard":
        parts.append(by_role(rules, lambda rule: rule.rate))
    decay = optax.add_decayed_weights(h["weight_decay"], mask=lambda params: decayed(params, rules))
    return optax.chain(*parts, decay, optax.scale(-h["lr"]))


def decayed(params: Any, rules: Parametrisation = STANDARD) -> Any:
    """True for matrices and tables, False for norm gains, which are no scale to shrink."""
    return jax.tree.map(lambda leaf: rules.rule(role_of(leaf)).decays, params, is_leaf=is_param)


def by_role(rules: Parametrisation, factor: Callable[[Any], float]) -> optax.GradientTransformation:
    """Each update times a factor of its role's rule."""

    def scale(updates: Any, params: Any = None) -> Any:
        def one(leaf: Any) -> Any:
            by = factor(rules.rule(role_of(leaf)))
            return leaf if by == 1 else leaf.replace(leaf.get_value() * by)

        return jax.tree.map(one, updates, is_leaf=is_param)

    return optax.stateless(scale)


def _adam(h: Hyper, rules: Parametrisation) -> optax.GradientTransformation:
    """Kingma & Ba 2015, algorithm 1; with decay after it AdamW (Loshchilov & Hutter 2019, algorithm 2)."""
    adam = optax.scale_by_adam(b1=h["b1"], b2=h["b2"], eps=h["eps"])
    if rules.name == "standard":
        return adam
    # Adam does not see the size of a gradient but through epsilon: c epsilon is epsilon for gradient / c.
    return optax.chain(by_role(rules, lambda rule: 1 / rule.eps), adam)


def _lion(h: Hyper, rules: Parametrisation) -> optax.GradientTransformation:
    """Chen et al. 2023, algorithm 2: the sign of a mean of gradients."""
    return optax.scale_by_lion(b1=h["b1"], b2=h["b2"])


def _muon(h: Hyper, rules: Parametrisation) -> optax.GradientTransformation:
    """Orthogonal momentum for the matrices of blocks, layer by layer (Jordan et al. 2024); Adam for the rest.

    b1 is the momentum of both. The orthogonal matrix is scaled by sqrt(fan_out / fan_in): a spectral norm
    that keeps activations as they are at every width (Bernstein & Newhouse 2024, "Old optimizer, new norm").
    """
    orthogonal = optax.chain(
        scale_by_muon(beta=h["b1"], weight_dimension_numbers=_dimensions), optax.stateless(_by_shape)
    )
    return optax.partition({"muon": orthogonal, "adam": _adam(h, rules)}, _kinds)


def _adafactor(h: Hyper, rules: Parametrisation) -> optax.GradientTransformation:
    """Shazeer & Stern 2018, algorithm 4 with momentum b1, each layer's matrix factored by itself.

    Without its scaling by the size of the parameter: a rate means what it does to Adam, and so does the
    table of scaling/parametrisation.py. Its decay of second moments is 1 - t^-0.8, of b2 and eps it has none.
    """
    return optax.chain(
        _as_matrices(optax.scale_by_factored_rms()),
        optax.stateless(_clip_layers),
        optax.ema(h["b1"], debias=False),
    )


def _kinds(params: Any) -> Any:
    def kind(leaf: Any) -> str:
        return "muon" if role_of(leaf) == "hidden" else "adam"

    return jax.tree.map(kind, params, is_leaf=is_param)


def _dimensions(updates: Any) -> Any:
    """Which axes of a matrix are its rows and its columns; the axis of layers is neither."""

    def one(leaf: Any) -> Any:
        first, inputs, outputs = _cut(leaf)
        rows = tuple(range(first, first + inputs))
        return leaf.replace(
            MuonDimensionNumbers(rows, tuple(range(first + inputs, first + inputs + outputs)))
        )

    return jax.tree.map(one, updates, is_leaf=is_param)


def _by_shape(updates: Any, params: Any = None) -> Any:
    def one(leaf: Any) -> Any:
        _, fan_in, fan_out = _matrix_shape(leaf)
        return leaf.replace(leaf.get_value() * math.sqrt(fan_out / fan_in))

    return jax.tree.map(one, updates, is_leaf=is_param)


def _clip_layers(updates: Any, params: Any = None) -> Any:
    """Root mean square of each layer's update at most 1 (Shazeer & Stern 2018, section 6)."""

    def one(leaf: Any) -> Any:
        u = leaf.get_value()
        square = jnp.mean(jnp.square(u), axis=tuple(range(_cut(leaf)[0], u.ndim)), keepdims=True)
        return leaf.replace(u / jnp.maximum(1.0, jnp.sqrt(square)))

    return jax.tree.map(one, updates, is_leaf=is_param)


def _as_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` over (layer, fan_in, fan_out): factored moments are of rows and columns of a matrix."""

    def flat(leaf: Any) -> Any:
        first, inputs, outputs = _cut(leaf)
        axes, value = leaf.get_metadata()["axes"], leaf.get_value()
        if not outputs:
            return nnx.Param(value, axes=axes, sizes=value.shape, role=role_of(leaf))
        shape = (*value.shape[:first], *_matrix_shape(leaf)[1:])
        merged = (*axes[:first], axes[first], axes[first + inputs])
        return nnx.Param(value.reshape(shape), axes=merged, sizes=shape, role=role_of(leaf))

    def flatten(tree: Any) -> Any:
        return jax.tree.map(flat, tree, is_leaf=is_param)

    def init(params: Any) -> Any:
        return inner.init(flatten(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        flat_updates, state = inner.update(flatten(updates), state, flatten(params))
        shaped = jax.tree.map(
            lambda leaf, like: like.replace(leaf.get_value().reshape(like.get_value().shape)),
            flat_updates,
            updates,
            is_leaf=is_param,
        )
        return shaped, state

    return optax.GradientTransformation(init, update)


def axes_of(leaf: Any) -> tuple[str | None, ...]:
    """Logical axes of an array of parameters or of moments, factored ones among them.

    A mean over one axis of a matrix keeps the names of the others; of a placeholder, shape (1,), none.
    """
    metadata, shape = leaf.get_metadata(), leaf.get_value().shape
    axes: tuple[str | None, ...] = metadata["axes"]
    sizes = metadata.get("sizes", shape)
    if shape == sizes:
        return axes
    for gone in range(len(axes)):
        if shape == (*sizes[:gone], *sizes[gone + 1 :]):
            return (*axes[:gone], *axes[gone + 1 :])
    return (None,) * len(shape)


def _cut(leaf: Any) -> tuple[int, int, int]:
    """How many axes of an array are of layers, rows and columns; a gain has no columns."""
    metadata = leaf.get_metadata()
    axes, inputs = metadata["axes"], metadata["inputs"]
    first = 1 if axes[0] == "layer" else 0
    return first, inputs, len(axes) - first - inputs


def _matrix_shape(leaf: Any) -> tuple[int, int, int]:
    """Layers (1 where they are not stacked), rows and columns."""
    first, inputs, _ = _cut(leaf)
    shape = leaf.get_value().shape
    split = first + inputs
    return math.prod(shape[:first]), math.prod(shape[first:split]), math.prod(shape[split:])


DIRECTIONS = {"adamw": _adam, "lion": _lion, "muon": _muon, "adafactor": _adafactor}
