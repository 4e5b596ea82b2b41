"""Trunk and branches: several horizons of a model for little more than the longest (Hägele et al. 2024).

Every run holds a constant rate after a warmup of the same steps and cools down over its last share, so the
shorter ones are branches of the longest (`sweeps.trunks`): each horizon a whole run, its loss a cooled one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from scaling.config import RunConfig, ScheduleConfig
from scaling.errors import UserError
from sweeps.bases import Bases, with_rate
from sweeps.designs import Limits, ascending, short
from sweeps.sweep import Refusal, Sweep

Cooldown = Literal["linear", "sqrt"]


def horizons(
    name: str,
    question: str,
    bases: Bases,
    tokens: Sequence[float],
    decay: float = 0.1,
    cooldowns: Sequence[Cooldown] = ("linear",),
    cosine: bool = False,
    factors: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (),
) -> Sweep:
    """Each base on every horizon of `tokens`, as a trunk at a constant rate with branches that cool down.

    The runs of a base share its batch, its rate (each of `factors` times it) and a warmup as long as the
    base's own share of the shortest horizon; what tokens the base itself was cut for says where it is tuned.
    `decay`: share of a run's steps in the cooldown. `cosine` adds at each horizon a run of its own that
    falls to zero as a cosine, to compare with. `seeds`: each run at every one of them; none: the base's own.
    Raises UserError when no cell is left.
    """
    if not 0 < decay < 1:
        raise UserError(f"decay is {decay}; give the share of a run that cools down, between 0 and 1.")
    wanted, multiples = ascending("tokens", tokens), ascending("factor", factors)
    runs: list[RunConfig] = []
    cells: list[dict[str, Any]] = []
    refused = list(bases.refused)
    for base_label, base in bases.runs.items():
        for horizon in wanted:
            steps = _steps(base, horizon, bases)
            if isinstance(steps, str):
                refused.append(Refusal(f"{base_label}-{short(horizon)}", steps))
                continue
            data = replace(base.data, epochs=max(base.data.epochs, _epochs(horizon, bases)))
            schedules = _schedules(warmup_steps(base, wanted[0]), decay, cooldowns, cosine)
            for kind, factor, seed in itertools.product(schedules, multiples, seeds or (base.seed,)):
                rated = with_rate(base, base.optimizer.lr * factor)
                runs.append(replace(rated, data=data, schedule=schedules[kind], steps=steps, seed=seed))
                cell = {"base": base_label, "horizon": horizon, "schedule": kind, "lr": factor, "seed": seed}
                cells.append(cell)
    if not runs:
        reasons = "; ".join(f"{refusal.label}: {refusal.reason}" for refusal in refused) or "no base"
        raise UserError(f"no cell of sweep {name!r} can be met ({reasons}); change bases or tokens.")
    varied = [key for key in ("schedule", "lr", "seed") if len({cell[key] for cell in cells}) > 1]
    cells = [{"label": _label(cell, varied)} | cell for cell in cells]
    design = {"kind": "horizons", **bases.design, "decay": decay, "cells": cells}
    return Sweep(name, question, design, tuple(runs), tuple(refused))


def warmup_steps(base: RunConfig, shortest: float) -> int:
    """The base's warmup, where it is a share of the run, as whole steps of a run on `shortest` tokens."""
    if base.schedule.warmup_steps:
        return base.schedule.warmup_steps
    return max(1, round(base.schedule.warmup * shortest / (base.batch_size * base.seq_len)))


def saving(horizons_H: Sequence[float], decay: float) -> float:
    """Share of the FLOPs of separate runs that a trunk with branches does not spend, in closed form.

    The longest run is trained whole, of each other only its cooldown: 42% at 1, 2, 4, 8 and 10% cooldown.
    """
    return (1 - decay) * (1 - max(horizons_H) / sum(horizons_H))


def _schedules(
    warmup: int, decay: float, cooldowns: Sequence[Cooldown], cosine: bool
) -> dict[str, ScheduleConfig]:
    found: dict[str, ScheduleConfig] = {
        kind: ScheduleConfig(name="wsd", warmup_steps=warmup, decay=decay, final=0.0, cooldown=kind)
        for kind in cooldowns
    }
    if cosine:
        found["cosine"] = ScheduleConfig(name="cosine", warmup_steps=warmup, final=0.0)
    return found


def _steps(base: RunConfig, horizon: float, bases: Bases) -> int | str:
    """Whole steps of the base's batch on `horizon` tokens, none over; or why there are none."""
    allowed, unique = bases.design.get("epochs"), bases.design.get("unique_tokens")
    if allowed and unique and horizon / unique > allowed:
        return f"needs {horizon / unique:.3g} epochs of the text, {allowed:g} allowed"
    steps, least = math.floor(horizon / (base.batch_size * base.seq_len)), Limits().min_steps
    if steps < least:
        return f"{steps} steps of {base.batch_size} sequences, at least {least} wanted"
    return steps


def _epochs(horizon: float, bases: Bases) -> int:
    unique = bases.design.get("unique_tokens")
    return math.ceil(horizon / unique) if unique else 1


def _label(cell: dict[str, Any], varied: Sequence[str]) -> str:
    """`d32-1e6-linear-lr0.5-seed1`: of schedule, rate and seed what varies."""
    parts = [cell["base"], short(cell["horizon"])]
    for key in varied:
        parts.append(cell[key] if key == "schedule" else f"{key}{cell[key]:g}")
    return "-".join(parts)
