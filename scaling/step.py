"""The training and evaluation steps: pure functions of (state, tokens, hyperparameters)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from scaling.config import ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.loss import head_losses
from scaling.model.decoder import abstract
from scaling.model.execution import Execution, execution
from scaling.model.params import initialise, is_param
from scaling.optimizer import Hyper, axes_of, hyper, transform
from scaling.parametrisation import STANDARD, Parametrisation, of_run
from scaling.pieces import in_pieces
from scaling.sharding import Shardings

Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    params: nnx.State
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Forward:
    """How the decoder is evaluated; static in every compiled function."""

    graphdef: Any
    how: Execution
    logit_cap: float = 0.0
    z_loss: float = 0.0
    rules: Parametrisation = STANDARD

    def losses(self, params: nnx.State, tokens_BS1: jax.Array) -> jax.Array:
        """Cross entropy of each next token, shape (B, S), nats."""
        return self._losses(params, tokens_BS1)[0]

    def objective(self, params: nnx.State, tokens_BS1: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is descended, and the mean cross entropy that is logged: they differ by the z-loss."""
        losses_BS, log_z_BS = self._losses(params, tokens_BS1)
        loss = losses_BS.mean()
        return (loss + self.z_loss * jnp.square(log_z_BS).mean() if self.z_loss else loss), loss

    def _losses(self, params: nnx.State, tokens_BS1: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs_BS, targets_BS = tokens_BS1[:, :-1].astype(jnp.int32), tokens_BS1[:, 1:].astype(jnp.int32)
        model = nnx.merge(self.graphdef, params)
        how = self.how
        x_TD = model(inputs_BS, how)
        head_DV = model.output_DV(how)
        return head_losses(x_TD, head_DV, targets_BS, self.logit_cap, how.loss_chunks, how.shardings)


def make_forward(
    model: ModelConfig,
    placement: Placement,
    platform: str,
    z_loss: float = 0.0,
    shardings: Shardings | None = None,
    rules: Parametrisation = STANDARD,
) -> Forward:
    graphdef, _ = abstract(model, rules)
    how = execution(placement, platform, model, shardings)
    return Forward(graphdef, how, model.logit_cap, z_loss, rules)


def forward_of(
    config: RunConfig, placement: Placement, platform: str, shardings: Shardings | None = None
) -> Forward:
    """How a run's decoder is evaluated, with its parametrisation and optimizer."""
    return make_forward(config.model, placement, platform, config.z_loss, shardings, of_run(config))


def init_state(config: RunConfig, shardings: Shardings) -> TrainState:
    """Parameters drawn from the run's seed; zero moments laid out like their parameters."""
    rules = of_run(config)
    _, shapes = abstract(config.model, rules)
    params = initialise(shapes, config.seed, shardings, rules)
    state = TrainState(params, transform(hyper(config.optimizer, 0.0), rules).init(params))
    return jax.device_put(state, state_shardings(state, shardings))


def state_shardings(state: TrainState, shardings: Shardings) -> TrainState:
    """The table of scaling/sharding.py applied to parameters and, through their metadata, to moments."""

    def place(leaf: Any) -> Any:
        if is_param(leaf):
            return leaf.replace(shardings.of(axes_of(leaf)))
        return shardings.replicated

    return jax.tree.map(place, state, is_leaf=is_param)


def train_step(
    state: TrainState, tokens_MBS1: jax.Array, h: Hyper, *, forward: Forward
) -> tuple[TrainState, Metrics]:
    """One update from M microbatches; gradients are averaged over all M*B*S tokens before clipping."""
    loss_and_grad = in_pieces(jax.value_and_grad(forward.objective, has_aux=True), forward.how.piece_tokens)

    def accumulate(total: Any, tokens_BS1: jax.Array) -> tuple[Any, jax.Array]:
        (_, loss), grads = loss_and_grad(state.params, tokens_BS1)
        return jax.tree.map(jnp.add, total, (loss, grads)), optax.tree.norm(grads, squared=True)

    micro = tokens_MBS1.shape[0]
    if micro == 1:
        (_, loss), grads = loss_and_grad(state.params, tokens_MBS1[0])
        squares_M = None
    else:
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        total, squares_M = jax.lax.scan(accumulate, zero, tokens_MBS1)
        loss, grads = jax.tree.map(lambda x: x / micro, total)
    square = optax.tree.norm(grads, squared=True)
    updates, opt_state = transform(h, forward.rules).update(grads, state.opt_state, state.params)
    metrics = {"loss": loss, "grad_norm": jnp.sqrt(square)}
    if squares_M is not None:
        metrics |= noise_scale_parts(squares_M.mean(), square, micro)
    return TrainState(optax.apply_updates(state.params, updates), opt_state), metrics


def noise_scale_parts(small_square: jax.Array, big_square: jax.Array, micro: int) -> Metrics:
    """Unbiased |G|^2 and tr(Sigma)/batch from |g|^2 at batch/M and at batch.

    McCandlish et al. 2018, appendix A.1, in units of the batch: their ratio times the batch in
    tokens, each averaged over steps first, is the simple noise scale in tokens.
    """
    signal = (micro * big_square - small_square) / (micro - 1)
    noise = (small_square - big_square) / (micro - 1)
    return {"grad_signal": signal, "grad_noise": noise}


def _abstract_state(
    model: ModelConfig, shardings: Shardings, rules: Parametrisation = STANDARD
) -> tuple[TrainState, TrainState]:
    """Shapes of the training state, and where each array of it lies."""
    _, params = abstract(model, rules)
    optimizer = transform(hyper(OptimizerConfig(lr=1.0), 0.0), rules)
    state = jax.eval_shape(lambda p: TrainState(p, optimizer.init(p)), params)
    return state, state_shardings(state, shardings)


@functools.cache
def compiled_train_step(forward: Forward, model: ModelConfig, shardings: Shardings) -> Any:
    """(state, tokens_MBS1, hyper) -> (state, metrics); the state given is consumed."""
    _, places = _abstract_state(model, shardings, forward.rules)
    step = functools.partial(train_step, forward=forward)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))


@functools.cache
def compiled_leaf_step(forward: Forward, model: ModelConfig, shardings: Shardings) -> Any:
    """The same step over `jax.tree.leaves(state)`, tokens given as a NumPy array.

    For the training loop: wrapping and unwrapping NNX variables and placing the batch in Python
    is a large part of a small model's step on one core.
    """
    shapes, places = _abstract_state(model, shardings, forward.rules)
    leaves, batch = jax.tree.leaves(places), shardings.of((None, "batch", None))
    return jax.jit(
        _leaf_step(forward, jax.tree.structure(shapes)),
        donate_argnums=0,
        in_shardings=(leaves, batch, None),
        out_shardings=(leaves, None),
    )


@functools.cache
def compiled_packed_step(forward: Forward, model: ModelConfig, shardings: Shardings) -> Any:
    """The same step of P runs side by side: leaves, tokens_PMBS1 and each hyperparameter have a P axis."""
    shapes, _ = _abstract_state(model, shardings, forward.rules)
    return jax.jit(jax.vmap(_leaf_step(forward, jax.tree.structure(shapes))), donate_argnums=0)


def _leaf_step(forward: Forward, treedef: Any) -> Callable[..., tuple[list[jax.Array], Metrics]]:
    def leaf_step(
        leaves: list[jax.Array], tokens_MBS1: jax.Array, h: Hyper
    ) -> tuple[list[jax.Array], Metrics]:
        state, metrics = train_step(jax.tree.unflatten(treedef, leaves), tokens_MBS1, h, forward=forward)
        return jax.tree.leaves(state), metrics

    return leaf_step


@functools.cache
def compiled_eval_step(forward: Forward) -> Any:
    """(params, tokens_BS1) -> mean loss of each window, shape (B,), nats/token, whole in every process."""
    shardings = forward.how.shardings
    return jax.jit(
        lambda params, tokens_BS1: forward.losses(params, tokens_BS1).mean(axis=1),
        out_shardings=shardings.replicated if shardings else None,
    )
