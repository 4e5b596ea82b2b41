"""What a sweep is and costs, before anything runs: its cells, its totals, its price on one machine."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaling.accounting import counts
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.rate import Rates, flops_per_step
from scaling.recipes import RECIPES, Recipe
from sweeps.designs import Limits, Setting, cut
from sweeps.prior import Prior, centre_n, family
from sweeps.simulate import NOISE, PARAMETERS, simulate
from sweeps.sweep import Refusal, Sweep
from sweeps.trunks import Branch, branches

FORWARD_SHARE = 1 / 3  # of a training step's FLOPs: what a validation token costs


@dataclass(frozen=True)
class Cell:
    """One run of a plan. `n` is `total`, `flops` is `matmul`, `batch_tokens` and `tokens` are tokens.

    `budget` is what the cell was cut for and `seconds` its price on one worker; None where unknown. A branch
    starts from its trunk's checkpoint after `first_step` steps, 0 otherwise; `seconds` are of what is left.
    """

    label: str
    run_id: str
    d_model: int
    n_layers: int
    n: int
    tokens: int
    tokens_per_parameter: float
    batch_tokens: int
    steps: int
    lr: float
    flops: float
    budget: float | None
    epochs: float | None
    seconds: float | None
    trunk: str | None = None  # run_id
    first_step: int = 0


@dataclass(frozen=True)
class Price:
    """Time for a sweep on this machine, in seconds; `wall_seconds` has the longest runs started first.

    `worker_seconds` is summed over workers; of it `compile_seconds` go to shapes that no cache
    holds, and `validation_seconds` to the final losses.
    """

    worker_seconds: float
    compile_seconds: float
    validation_seconds: float
    wall_seconds: float
    workers: int
    source: str


def cell(
    label: str,
    run: RunConfig,
    unique_tokens: float | None,
    budget: float | None = None,
    step_seconds: Callable[[float], float] | None = None,
    branch: Branch | None = None,
) -> Cell:
    first_step = branch.step if branch else 0
    counted = counts(run.model, run.seq_len)
    return Cell(
        label=label,
        run_id=run.run_id,
        d_model=run.model.d_model,
        n_layers=run.model.n_layers,
        n=counted.n["total"],
        tokens=run.tokens,
        tokens_per_parameter=run.tokens / counted.n["total"],
        batch_tokens=run.batch_size * run.seq_len,
        steps=run.steps,
        lr=run.optimizer.lr,
        flops=counted.flops_per_token["matmul"] * run.tokens,
        budget=budget,
        epochs=run.tokens / unique_tokens if unique_tokens else None,
        seconds=run_seconds(run, step_seconds, first_step) if step_seconds else None,
        trunk=branch.trunk if branch else None,
        first_step=first_step,
    )


def cells(sweep: Sweep, step_seconds: Callable[[float], float] | None = None) -> list[Cell]:
    """Every run of a sweep in its order; `step_seconds` maps FLOPs a step to seconds."""
    unique = sweep.design.get("unique_tokens")
    found = branches(sweep.runs)
    named = zip(sweep.labels(), sweep.runs, sweep.budgets(), strict=True)
    return [
        cell(label, run, unique, budget, step_seconds, found.get(run.run_id)) for label, run, budget in named
    ]


def run_seconds(run: RunConfig, step_seconds: Callable[[float], float], first_step: int = 0) -> float:
    """Training after `first_step` and the final validation on one worker, compilation left out."""
    steps = run.steps - first_step
    return step_seconds(flops_per_step(run)) * steps + validation_seconds(run, step_seconds)


def validation_seconds(run: RunConfig, step_seconds: Callable[[float], float]) -> float:
    """The final validation of one run: forward passes over its fixed validation tokens."""
    steps = run.data.val_tokens / (run.batch_size * run.seq_len)
    return step_seconds(flops_per_step(run)) * steps * FORWARD_SHARE


def price(runs: Sequence[RunConfig], rates: Rates, workers: int) -> Price:
    """Time of `runs` on `workers` workers, the longest first; each shape is compiled once.

    A branch is not started before its trunk, itself started at once, has reached the step that it leaves.
    """
    found = branches(runs)
    firsts = {run.run_id: found[run.run_id].step if run.run_id in found else 0 for run in runs}
    seconds = {run.run_id: run_seconds(run, rates.step_seconds, firsts[run.run_id]) for run in runs}
    compiling = rates.compile_seconds * len({(run.model, run.batch_size, run.seq_len) for run in runs})
    free_at = [0.0] * workers
    for run in sorted(runs, key=lambda run: (_ready(run, found, rates), -seconds[run.run_id])):
        begun = max(free_at[0], _ready(run, found, rates))
        heapq.heapreplace(free_at, begun + seconds[run.run_id])
    wall = max(free_at) + compiling / workers
    validating = sum(validation_seconds(run, rates.step_seconds) for run in runs)
    return Price(sum(seconds.values()) + compiling, compiling, validating, wall, workers, rates.source)


def _ready(run: RunConfig, found: dict[str, Branch], rates: Rates) -> float:
    """Seconds until a branch's checkpoint is there, were its trunk started at once; 0 for other runs."""
    branch = found.get(run.run_id)
    return rates.step_seconds(flops_per_step(run)) * branch.step if branch else 0.0


def recipe_of(sweep: Sweep) -> Recipe | None:
    """The recipe that a design names; None for a sweep made without one."""
    return RECIPES.get(str(sweep.design.get("recipe")))


def prior_of(sweep: Sweep) -> Prior | None:
    """The prior that a design was centred on, or carries for its simulation."""
    stored = sweep.design.get("prior")
    return Prior(**stored) if stored else None


def target_run(sweep: Sweep, prior: Prior, recipe: Recipe, target: float) -> RunConfig:
    """The run that the prior would make at `target` FLOPs: the width nearest to its optimum.

    It may ask for more tokens than the text holds; `Cell.epochs` says so. Raises UserError when the
    target cannot be met in whole steps.
    """
    models = family(recipe)
    nearest = np.abs(np.log(models.n_W / centre_n(target, recipe, prior))).argmin()
    width = models.widths[int(nearest)]
    setting = Setting(
        recipe,
        sweep.runs[0].data,
        int(sweep.design.get("unique_tokens") or 2**62),
        int(sweep.design.get("seed", 0)),
        Limits(epochs=math.inf),
    )
    run = cut(f"target-d{width}", width, setting.tokens(width, target), setting)
    if isinstance(run, Refusal):
        raise UserError(f"target {target:.3g} FLOPs: {run.label} {run.reason}; choose a smaller target.")
    return run


def totals(planned: Sequence[Cell]) -> dict[str, Any]:
    """Runs, FLOPs (`matmul`) and tokens of all cells, and the span of their budgets in decades.

    `flops` as if every run were trained apart; `flops_trained` are spent, steps that runs share once, and
    `saved` is the share of `flops` that are not.
    """
    flops = [one.flops for one in planned]
    trained = sum(one.flops * (1 - one.first_step / one.steps) for one in planned)
    return {
        "runs": len(planned),
        "flops": sum(flops),
        "flops_trained": trained,
        "saved": 1 - trained / sum(flops),
        "branches": sum(one.first_step > 0 for one in planned),
        "tokens": sum(one.tokens for one in planned),
        "largest_flops": max(flops),
        "decades": float(np.log10(max(flops) / min(flops))),
    }


def report(
    sweep: Sweep,
    target: float | None = None,
    prior: Prior | None = None,
    noise: float = NOISE,
    rates: Rates | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """The whole plan as plain JSON data.

    `price` is None without rates; `target` without a target budget, a prior and a recipe;
    `intervals` also when the runs are too few for the law.
    """
    recipe = recipe_of(sweep)
    step_seconds = rates.step_seconds if rates else None
    planned = cells(sweep, step_seconds)
    plan: dict[str, Any] = {
        "name": sweep.name,
        "question": sweep.question,
        "design": {key: value for key, value in sweep.design.items() if key != "cells"},
        "cells": [dict(vars(one)) for one in planned],
        "refused": [asdict(refusal) for refusal in sweep.refused],
        "totals": totals(planned),
        "price": asdict(price(sweep.runs, rates, workers)) if rates else None,
        "target": None,
        "intervals": None,
    }
    if target and prior and recipe:
        run = target_run(sweep, prior, recipe, target)
        plan["target"] = asdict(cell("target", run, sweep.design.get("unique_tokens"), target, step_seconds))
        if len(sweep.runs) > PARAMETERS:
            plan["intervals"] = simulate(sweep.runs, prior, recipe, target, noise).to_json()
    return plan
