"""The nearest model that can be built: of a recipe's family, whole heads, layers and steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.allocate import Demand, Laws
from analysis.law import Array
from analysis.optimum import Cost
from scaling.accounting import counts
from scaling.config import DataConfig, ModelConfig, RunConfig
from scaling.recipes import Recipe

WIDEST = 32_768
_FINE = 512  # every width of the family up to here; beyond, widths that a mesh divides
_COARSE = 64


@dataclass(frozen=True)
class Exact(Cost):
    """FLOPs of a token of shapes that are known, in place of the curve through the rows."""

    log_c: Array = field(default_factory=lambda: np.zeros(()))

    def per_token(self, log_n: Array) -> Array:
        return self.log_c


def widths(recipe: Recipe) -> list[int]:
    return [width for width in recipe.widths(WIDEST) if width <= _FINE or width % _COARSE == 0]


def choose(
    recipe: Recipe,
    laws: Laws,
    demand: Demand,
    *,
    budget: float | None,
    loss: float | None,
    vocab_size: int,
    n_name: str,
    c_name: str,
) -> tuple[ModelConfig, float, float]:
    """The model of the family of lowest loss for `budget`, or that reaches `loss` at the lowest cost; its
    tokens and FLOPs per token. The demand's own costs of a token give way to those of the shapes."""
    models = [recipe.model(width, vocab_size) for width in widths(recipe)]
    sizes = [counts(model, recipe.seq_len) for model in models]
    per_token = np.array([size.flops_per_token[c_name] for size in sizes])  # type: ignore[index]
    exact = replace(demand, cost=Exact(log_c=np.log(per_token)))
    u = np.log(np.array([size.n[n_name] for size in sizes], np.float64))  # type: ignore[index]
    with np.errstate(all="ignore"):
        if loss is None:
            assert budget is not None
            v = exact.tokens(u, budget, laws.unique)
            worst = np.where(np.isfinite(v), laws.loss(u, v), np.inf)
        else:
            v = laws.tokens_for(u, loss)
            worst = np.where(np.isfinite(v), exact.of(u, v, laws.unique), np.inf)
    chosen = int(worst.argmin())
    return models[chosen], float(np.exp(v[chosen])), float(per_token[chosen])


def nearest(recipe: Recipe, n: float, vocab_size: int, n_name: str) -> ModelConfig:
    """The model of the family whose parameters lie nearest to n, by their ratio."""
    models = [recipe.model(width, vocab_size) for width in widths(recipe)]
    sizes = [counts(model, recipe.seq_len).n[n_name] for model in models]  # type: ignore[index]
    return models[int(np.abs(np.log(np.array(sizes, np.float64) / n)).argmin())]


def spend(
    recipe: Recipe, model: ModelConfig, data: DataConfig, tokens: float, per_token: float, seed: int
) -> RunConfig:
    """The recipe's run of at least `tokens`, in whole steps."""
    flops = tokens * per_token
    run = recipe.run(model, data, flops / per_token, seed)
    step = per_token * run.batch_size * run.seq_len
    # A target "10 times the largest" that stops a hair short of it would not be one.
    return replace(run, steps=max(1, math.ceil(flops / step - 1e-9)))


def repeating(run: RunConfig, unique: float) -> RunConfig:
    """The run on so many tokens of its text, passed over as often as it takes."""
    held = int(unique) // run.seq_len * run.seq_len
    epochs = max(1, math.ceil(run.tokens / max(held, 1)))
    return replace(run, data=replace(run.data, unique_tokens=int(unique), epochs=epochs))


def described(run: RunConfig, n_name: str, c_name: str) -> dict[str, Any]:
    """A run of ours in the counts of a fit."""
    flat = counts(run.model, run.seq_len).flat(run.tokens)
    return {
        "run_id": run.run_id,
        "d_model": run.model.d_model,
        "n_layers": run.model.n_layers,
        "n": flat[f"n_{n_name}"],
        "tokens": run.tokens,
        "flops": flat[f"c_{c_name}"],
        "lr": run.optimizer.lr,
        "batch_tokens": run.batch_size * run.seq_len,
        "steps": run.steps,
    }
