"""Designs: isoFLOP profiles and N x D grids, cut into whole steps of a recipe's runs.

Every run's hyperparameters come from the recipe. A cell that cannot be had as asked is refused by
name, never moved in silence: its FLOPs off by more than the tolerance, too few steps, or more
tokens than the data holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scaling.config import DataConfig, ModelConfig, RunConfig
from scaling.errors import UserError
from scaling.recipes import Recipe
from sweeps.prior import Prior, at_edge, centre_n, centred_widths
from sweeps.sweep import Refusal, Sweep

SEED_STRIDE = 1000  # between seeds of one design, so that designs of seeds below it share none


@dataclass(frozen=True)
class Limits:
    """What a cell may not cross."""

    tolerance: float = 0.01  # of its FLOPs
    min_steps: int = 50  # with fewer, warmup and decay are a handful of steps
    epochs: float = 1.0  # passes over the training tokens
    batch_slack: float = 0.25  # how far from the recipe's batch a cell may go to meet its FLOPs


@dataclass(frozen=True)
class Setting:
    """What all cells of a design share. `unique_tokens`: training tokens that the text holds."""

    recipe: Recipe
    data: DataConfig
    unique_tokens: int
    seed: int = 0
    limits: Limits = field(default_factory=Limits)

    def model(self, width: int) -> ModelConfig:
        """The recipe's model of this width, for the text's vocabulary."""
        return self.recipe.model(width, self.data.vocab_size)

    def tokens(self, width: int, flops: float) -> float:
        """D that `flops` (training, `matmul`) buy at this width."""
        return flops / self.recipe.flops_per_token(self.model(width))


def isoflop(
    name: str,
    question: str,
    setting: Setting,
    budgets: Sequence[float],
    centre: Prior | float = 20.0,
    widths: Sequence[int] | Mapping[float, Sequence[int]] | None = None,
    count: int = 7,
    spread: float = 12.0,
    seeds_per_cell: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Sweep:
    """Several model sizes at each budget (training FLOPs, `matmul`): Hoffmann et al. 2022, approach 2.

    Sizes are `widths` (one list for all, or one for each budget), or by default `count` widths
    spanning about `spread`-fold in N around the optimum that `centre` expects: a prior's, or that
    many tokens per parameter. `extra` joins the sweep's design as it is.
    Raises UserError when a budget is left without a cell.
    """
    recipe = setting.recipe
    sizes_of: dict[float, list[int]] = {}
    for budget in ascending("budget", budgets):
        if isinstance(widths, Mapping):
            if budget not in widths:
                raise UserError(f"no widths are given for budget {budget:.3g}; give a list of them.")
            sizes_of[budget] = list(widths[budget])
        else:
            sizes_of[budget] = list(widths or centred_widths(budget, recipe, centre, count, spread))
    wanted = [
        _Cell(f"{short(budget)}-d{width}", width, setting.tokens(width, budget), budget)
        for budget, sizes in sizes_of.items()
        for width in sizes
    ]
    if seeds_per_cell is not None:
        wanted = _repeated(wanted, setting.seed, seeds_per_cell)
    runs, cells, refused = _cut_all(wanted, setting)
    profiles = []
    for budget in sizes_of:
        kept = [run.model.d_model for run, cell in zip(runs, cells, strict=True) if cell["budget"] == budget]
        if not kept:
            reasons = _reasons(r for r in refused if r.label.startswith(f"{short(budget)}-"))
            raise UserError(f"no cell can meet a budget of {budget:.3g} FLOPs ({reasons}); change it.")
        profiles.append(
            {
                "budget": float(budget),
                "expected_n": centre_n(budget, recipe, centre),
                "at_edge": at_edge(budget, recipe, centre, kept),
            }
        )
    prior = {"prior": centre.to_json()} if isinstance(centre, Prior) else {"tokens_per_parameter": centre}
    design = _design("isoflop", setting, cells) | {"profiles": profiles} | prior | dict(extra or {})
    return Sweep(name, question, design, runs, refused)


def n_by_d(
    name: str,
    question: str,
    setting: Setting,
    widths: Sequence[int],
    tokens: Sequence[float],
    extra: Mapping[str, Any] | None = None,
) -> Sweep:
    """Every width on every horizon (training tokens). Raises UserError when no cell is left."""
    wanted = [
        _Cell(f"d{width}-{short(horizon)}", int(width), horizon, None)
        for horizon in ascending("tokens", tokens)
        for width in ascending("width", widths)
    ]
    runs, cells, refused = _cut_all(wanted, setting)
    if not runs:
        raise UserError(
            f"no cell of sweep {name!r} can be met ({_reasons(refused)}); change widths or tokens."
        )
    return Sweep(name, question, _design("n_by_d", setting, cells) | dict(extra or {}), runs, refused)


def cut(label: str, width: int, tokens: float, setting: Setting) -> RunConfig | Refusal:
    """The recipe's run of `width` on `tokens`, in whole steps; or why there is none.

    The recipe's batch is kept when whole steps of it come within the tolerance; else the nearest
    batch that does. C is proportional to D at a fixed width, so one tolerance serves both. A run
    never spends more than asked: ten times the largest budget is then ten times every run.
    """
    recipe, limits = setting.recipe, setting.limits
    epochs = tokens / setting.unique_tokens
    if epochs > limits.epochs:
        return Refusal(label, f"needs {epochs:.3g} epochs of the text, {limits.epochs:g} allowed")
    data = replace(setting.data, epochs=max(setting.data.epochs, math.ceil(epochs)))
    run = recipe.run(setting.model(width), data, tokens, setting.seed)
    sequences = tokens / run.seq_len
    for batch in _batches(run.batch_size, limits.batch_slack):
        steps = math.floor(sequences / batch)
        if steps >= limits.min_steps and abs(batch * steps / sequences - 1) <= limits.tolerance:
            return replace(run, batch_size=batch, steps=steps)
    steps = math.floor(sequences / run.batch_size)
    if steps < limits.min_steps:
        return Refusal(
            label, f"{steps} steps of {run.batch_size} sequences, at least {limits.min_steps} wanted"
        )
    off = abs(run.batch_size * steps / sequences - 1)
    return Refusal(label, f"whole steps miss its FLOPs by {off:.1%}, {limits.tolerance:.1%} allowed")


@dataclass(frozen=True)
class _Cell:
    label: str
    width: int
    tokens: float
    budget: float | None
    seed: int | None = None  # the setting's


def _repeated(cells: list[_Cell], seed: int, each: int) -> list[_Cell]:
    """Every cell with `each` seeds that no other cell has, nor a design of another seed below SEED_STRIDE."""
    if each < 1:
        raise UserError(f"seeds_per_cell is {each}; give at least 1.")
    return [
        replace(
            cell,
            label=f"{cell.label}-{chr(97 + i)}" if each > 1 else cell.label,
            seed=seed + SEED_STRIDE * (each * k + i),
        )
        for k, cell in enumerate(cells)
        for i in range(each)
    ]


def _cut_all(
    wanted: list[_Cell], setting: Setting
) -> tuple[tuple[RunConfig, ...], list[dict[str, Any]], tuple[Refusal, ...]]:
    """Runs, their records for the design in the same order, and what was refused."""
    runs: list[RunConfig] = []
    records: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    for cell in wanted:
        own = setting if cell.seed is None else replace(setting, seed=cell.seed)
        run = cut(cell.label, cell.width, cell.tokens, own)
        if isinstance(run, Refusal):
            refused.append(run)
        else:
            runs.append(run)
            records.append({"label": cell.label} | ({"budget": cell.budget} if cell.budget else {}))
    return tuple(runs), records, tuple(refused)


def _batches(batch: int, slack: float) -> list[int]:
    """Batch sizes within `slack` of `batch`, nearest first, the smaller first where two are as near."""
    reach = math.floor(batch * slack)
    return sorted(range(max(1, batch - reach), batch + reach + 1), key=lambda size: (abs(size - batch), size))


def short(value: float) -> str:
    """2.2e11 as `2.2e11`: part of a name, so no plus sign and no spare zero."""
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def _reasons(refused: Iterable[Refusal]) -> str:
    return "; ".join(f"{refusal.label}: {refusal.reason}" for refusal in refused)


def ascending(what: str, values: Sequence[float]) -> list[Any]:
    """Sorted, each once. Raises UserError where there is none, or one that is not above 0."""
    if not values or any(not 0 < value < math.inf for value in values):
        raise UserError(f"{what} list {list(values)} is empty or holds a number not above 0; mend it.")
    return sorted(set(values))


def _design(kind: str, setting: Setting, cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": kind,
        "recipe": setting.recipe.name,
        "seed": setting.seed,
        "unique_tokens": setting.unique_tokens,
        "epochs": setting.limits.epochs,
        "tolerance": setting.limits.tolerance,
        "cells": cells,
    }
