"""Trunk and branches: several horizons of a model for little more than the longest (Hägele et al. 2024).

Every run holds a constant rate after a warmup of the same steps and cools down over its last share, so the
shorter ones are branches of the longest (`sweeps.trunks`): each horizon a whole run, its loss a cooled one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from scaling.config import RunConfig, ScheduleConfig
from scaling.errors import UserError
from sweeps.designs import Setting, ascending, cut, short
from sweeps.sweep import Refusal, Sweep

Cooldown = Literal["linear", "sqrt"]


def horizons(
    name: str,
    question: str,
    setting: Setting,
    widths: Sequence[int],
    tokens: Sequence[float],
    decay: float = 0.1,
    cooldowns: Sequence[Cooldown] = ("linear",),
    tuned_for: float | None = None,
    cosine: bool = False,
) -> Sweep:
    """Each width on every horizon of `tokens`, as a trunk at a constant rate with branches that cool down.

    Runs of a width share rate, batch and warmup: the recipe's for `tuned_for` tokens (None: the geometric
    mean of the horizons), its warmup that of the shortest. `decay`: share of a run's steps in the cooldown.
    `cosine` adds at each horizon a run of its own with the recipe's cosine counterpart, to compare with.
    Raises UserError when no cell is left.
    """
    if not 0 < decay < 1:
        raise UserError(f"decay is {decay}; give the share of a run that cools down, between 0 and 1.")
    wanted = ascending("tokens", tokens)
    middle = tuned_for or math.exp(sum(map(math.log, wanted)) / len(wanted))
    runs: list[RunConfig] = []
    cells: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    for width in ascending("width", widths):
        base = cut(f"d{width}", int(width), middle, setting)
        if isinstance(base, Refusal):
            refused.append(base)
            continue
        warmup = warmup_steps(base, wanted[0])
        schedules = [(f"{kind}", _wsd(warmup, decay, kind)) for kind in cooldowns]
        if cosine:
            schedules.append(("cosine", ScheduleConfig(name="cosine", warmup_steps=warmup, final=0.0)))
        for horizon in wanted:
            for kind, schedule in schedules:
                label = f"d{width}-{short(horizon)}" + (f"-{kind}" if len(schedules) > 1 else "")
                run = _at_horizon(label, base, schedule, horizon, setting)
                if isinstance(run, Refusal):
                    refused.append(run)
                else:
                    runs.append(run)
                    cells.append({"label": label, "horizon": horizon, "schedule": kind})
    if not runs:
        raise UserError(
            f"no cell of sweep {name!r} can be met ({'; '.join(f'{r.label}: {r.reason}' for r in refused)}); "
            "change widths or tokens."
        )
    design = {
        "kind": "horizons", "recipe": setting.recipe.name, "seed": setting.seed,
        "unique_tokens": setting.unique_tokens, "epochs": setting.limits.epochs, "decay": decay,
        "tuned_for": middle, "cells": cells,
    }  # fmt: skip
    return Sweep(name, question, design, tuple(runs), tuple(refused))


def warmup_steps(base: RunConfig, shortest: float) -> int:
    """The base's warmup, where it is a share of the run, as whole steps of a run on `shortest` tokens."""
    return max(1, round(base.schedule.warmup * shortest / (base.batch_size * base.seq_len)))


def saving(horizons_H: Sequence[float], decay: float) -> float:
    """Share of the FLOPs of separate runs that a trunk with branches does not spend, in closed form.

    The longest run is trained whole, of each other only its cooldown: 42% at 1, 2, 4, 8 and 10% cooldown.
    """
    return (1 - decay) * (1 - max(horizons_H) / sum(horizons_H))


def _wsd(warmup: int, decay: float, cooldown: Cooldown) -> ScheduleConfig:
    return ScheduleConfig(name="wsd", warmup_steps=warmup, decay=decay, final=0.0, cooldown=cooldown)


def _at_horizon(
    label: str, base: RunConfig, schedule: ScheduleConfig, horizon: float, setting: Setting
) -> RunConfig | Refusal:
    """The base for another horizon: its batch and rate stay, so only whole steps of that batch will do."""
    limits, epochs = setting.limits, horizon / setting.unique_tokens
    if epochs > limits.epochs:
        return Refusal(label, f"needs {epochs:.3g} epochs of the text, {limits.epochs:g} allowed")
    steps = math.floor(horizon / (base.batch_size * base.seq_len))
    if steps < limits.min_steps:
        return Refusal(
            label, f"{steps} steps of {base.batch_size} sequences, at least {limits.min_steps} wanted"
        )
    data = replace(base.data, epochs=max(setting.data.epochs, math.ceil(epochs)))
    return replace(base, data=data, schedule=schedule, steps=steps)
