"""The coordinate check: how large activations of each layer type are over the first steps, by shape.

A parametrisation transfers rates only if no activation grows or shrinks with the shape (Yang et al. 2022,
appendix D.1, where the check has its name). A model is taken at several widths or depths, trained for a few
steps at a constant rate, and measured before each: mean |x| over a batch, one number a layer type.

The readout starts at zero, which takes out of the logits what initial values alone give and what falls as
1/sqrt(width) in theory: an untied head starts so, and of a tied one the initial table is subtracted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scaling.config import ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.data.text import embedded_documents, embedded_info
from scaling.errors import UserError
from scaling.model.decoder import Decoder, abstract
from scaling.model.execution import Execution
from scaling.model.params import is_param
from scaling.optimizer import hyper
from scaling.parametrisation import Name, of_run, with_base
from scaling.sharding import make_shardings
from scaling.step import Forward, TrainState, init_state, train_step

WIDTHS = (64, 128, 256, 512)
DEPTHS = (2, 4, 8, 16)
SEEDS = 3
STEPS = 4
# In the order of the forward pass. Of layers the mean over depth, but for the residual stream the last.
LAYERS = ("embedding", "attention_logits", "attention_out", "mlp_hidden", "mlp_out", "residual", "logits")

Row = dict[str, Any]  # axis, width, depth, seed, step (updates made), layer, size
Show = Callable[[str], None]


def default_config(lr: float = 2.0**-8) -> RunConfig:
    """A small decoder of the embedded text's bytes: untied, AdamW."""
    model = ModelConfig(n_layers=2, d_model=64, n_heads=4, n_kv_heads=4, d_head=16, d_ff=192, tied=False)
    return RunConfig(
        model=model,
        data=embedded_info().config(),
        optimizer=OptimizerConfig(lr=lr),
        seq_len=32,
        batch_size=8,
        steps=STEPS,
    )


def at_widths(model: ModelConfig, widths: Sequence[int]) -> list[ModelConfig]:
    """`model` at each width, its MLP in proportion: with more heads, or where they do not divide with larger.

    One of the two for all widths. Raises UserError where neither goes at every width.
    """
    for grow in (_more_heads, _larger_heads):
        found = [grow(model, width) for width in widths]
        if all(found):
            return [one for one in found if one]
    raise UserError(
        f"widths {', '.join(map(str, widths))} leave neither whole heads nor an even d_head of a model with "
        f"d_model {model.d_model}, {model.n_heads} heads ({model.n_kv_heads} of keys) of {model.d_head}; "
        f"give multiples of {model.d_model}."
    )


def _more_heads(model: ModelConfig, width: int) -> ModelConfig | None:
    # One head of keys for several of queries stays one: that is what multi-query attention is.
    multi_query = model.n_kv_heads == 1 < model.n_heads
    grown = model.n_heads if multi_query else model.n_kv_heads
    if grown * width % model.d_model or model.n_heads * width % model.d_model:
        return None
    heads, kv_heads = (count * width // model.d_model for count in (model.n_heads, model.n_kv_heads))
    return _wide(model, width, n_heads=heads, n_kv_heads=1 if multi_query else kv_heads)


def _larger_heads(model: ModelConfig, width: int) -> ModelConfig | None:
    if model.d_head * width % (2 * model.d_model):
        return None
    return _wide(model, width, d_head=model.d_head * width // model.d_model)


def _wide(model: ModelConfig, width: int, **heads: Any) -> ModelConfig:
    d_ff = max(1, round(model.d_ff * width / model.d_model))
    return dataclasses.replace(model, d_model=width, d_ff=d_ff, **heads)


def shapes(config: RunConfig, name: Name, axis: str, sizes: Sequence[int]) -> list[RunConfig]:
    """`config` in parametrisation `name` at each width or depth, the rates those of its base.

    A base that the config names is kept; otherwise it is the smallest shape. The vocabulary is cut to the
    bytes of the text that is trained on. Raises UserError for sizes that make no model.
    """
    if len(set(sizes)) < 2 or min(sizes) < 1:
        raise UserError(f"{axis}s are {', '.join(map(str, sizes))}; give at least two, each 1 or more.")
    model = dataclasses.replace(config.model, vocab_size=256)
    own = config if config.parametrisation == name else None
    if axis == "width":
        base = (own and own.base_d_model) or min(sizes)
        models = at_widths(model, (base, *sizes))
    else:
        base = (own and own.base_n_layers) or min(sizes)
        at_base_width = at_widths(model, [(own and own.base_d_model) or model.d_model])[0]
        models = [dataclasses.replace(at_base_width, n_layers=base)]
        models += [dataclasses.replace(model, n_layers=depth) for depth in sizes]
    plain = dataclasses.replace(
        config,
        data=embedded_info().config(),
        parametrisation="standard",
        base_d_model=0,
        base_d_head=0,
        base_n_layers=0,
    )
    return [with_base(dataclasses.replace(plain, model=one), name, models[0]) for one in models[1:]]


def measure(
    config: RunConfig,
    name: Name,
    axis: str,
    sizes: Sequence[int],
    *,
    seeds: int = SEEDS,
    steps: int = STEPS,
    show: Show = lambda _: None,
) -> list[Row]:
    """Sizes of every layer type at every shape, seed and step from 0 (none made) to `steps`.

    A size that is not finite is None: the run diverged. Batches of 8 sequences of the config's, at most 32
    tokens each: statistics of activations need no more. Raises UserError for sizes that make no model.
    """
    rows: list[Row] = []
    for run in shapes(config, name, axis, sizes):
        run = dataclasses.replace(run, batch_size=8, seq_len=min(32, run.seq_len))
        show(f"{axis} {run.model.d_model if axis == 'width' else run.model.n_layers}")
        step = _compiled(run)
        for seed in range(seeds):
            at = {"axis": axis, "width": run.model.d_model, "depth": run.model.n_layers, "seed": seed}
            for made, found in enumerate(_first_steps(dataclasses.replace(run, seed=seed), step, steps)):
                rows += [at | {"step": made, "layer": layer, "size": found[layer]} for layer in LAYERS]
    return rows


def _first_steps(config: RunConfig, step: Any, steps: int) -> Iterator[dict[str, float | None]]:
    shardings = make_shardings(Placement(mesh={"fsdp": 1}))
    state = _zero_readout(init_state(config, shardings))
    # Copied: the table that is subtracted would else be the one that the step is given to overwrite.
    start = jax.tree.map(jnp.copy, state.params)
    h = hyper(config.optimizer, config.optimizer.lr)
    for tokens_MBS1 in _batches(config, steps + 1):
        state, found = step(state, start, tokens_MBS1, h)
        yield {name: float(size) if np.isfinite(size) else None for name, size in found.items()}


def _compiled(config: RunConfig) -> Any:
    """(state, initial parameters, tokens_MBS1, hyper) -> (state after the step, sizes before it)."""
    rules = of_run(config)
    graphdef, _ = abstract(config.model, rules)
    # A loop over layers compiles at once for every depth; the numbers are those of the unrolled one.
    how = Execution(jnp.float32)
    forward = Forward(graphdef, how, config.model.logit_cap, config.z_loss, rules)

    def step(
        state: TrainState, start: nnx.State, tokens_MBS1: jax.Array, h: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        found = _sizes(graphdef, state.params, start, tokens_MBS1[0, :, :-1], how)
        return train_step(state, tokens_MBS1, h, forward=forward)[0], found

    return jax.jit(step)


def _sizes(
    graphdef: Any, params: nnx.State, start: nnx.State, tokens_BS: jax.Array, how: Execution
) -> dict[str, jax.Array]:
    """Mean |activation| of every layer type, () float32 each."""
    tapping = dataclasses.replace(how, taps={})
    model: Decoder = nnx.merge(graphdef, params)
    x_TD = model(tokens_BS.astype(jnp.int32), tapping)
    learned_DV = model.output_DV(how) - nnx.merge(graphdef, start).output_DV(how)
    tapping.tap("logits", x_TD @ learned_DV)
    found = tapping.tapped() or {}
    last = {"residual": found["residual"][-1]}
    return {name: jnp.mean(size) for name, size in (found | last).items()}


def _zero_readout(state: TrainState) -> TrainState:
    def zeroed(path: tuple[Any, ...], leaf: Any) -> Any:
        of_head = leaf.get_metadata()["role"] == "unembedding"
        return leaf.replace(jnp.zeros_like(leaf.get_value())) if of_head else leaf

    params = jax.tree_util.tree_map_with_path(zeroed, state.params, is_leaf=is_param)
    return TrainState(params, state.opt_state)


def _batches(config: RunConfig, count: int) -> Iterator[np.ndarray]:
    """Windows of the embedded text, (1, B, S + 1) uint8, drawn by the seed."""
    text = b"".join(document.text for document in embedded_documents()["train"][:40])
    tokens = np.frombuffer(text, np.uint8)
    generator = np.random.default_rng(config.seed)
    for _ in range(count):
        starts_B = generator.integers(0, len(tokens) - config.seq_len - 1, config.batch_size)
        yield np.stack([tokens[at : at + config.seq_len + 1] for at in starts_B])[None]
