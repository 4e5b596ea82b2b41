"""Sweeps of hyperparameters around bases (`sweeps.bases`): what else stays fixed is what each one is about.

Every run is a base with some fields changed; its cell names the base and the factors. Rates are multiples
of the base's: a recipe's rule is then the point 1 of every row, and rows of several sizes line up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scaling.config import RunConfig, ScheduleConfig
from scaling.errors import UserError
from sweeps.bases import Bases, with_batch, with_rate
from sweeps.designs import ascending
from sweeps.sweep import Refusal, Sweep

Varied = list[tuple[dict[str, Any], RunConfig]]  # what makes the cell, and its run

HALVES = (0.25, 0.5, 1.0, 2.0, 4.0)


def rates(
    name: str,
    question: str,
    bases: Bases,
    factors: Sequence[float] = HALVES,
    seeds: Sequence[int] = (),
) -> Sweep:
    """Learning rate x whatever the bases differ in (width, depth, horizon), the rate a multiple of theirs.

    Each at every one of `seeds`; none given, at the base's own.
    """
    varied: Varied = []
    for base, run in bases.runs.items():
        for factor in ascending("factor", factors):
            for seed in seeds or (run.seed,):
                cell = {"base": base, "lr": factor} | ({"seed": seed} if len(seeds) > 1 else {})
                varied.append((cell, replace(with_rate(run, run.optimizer.lr * factor), seed=seed)))
    return _sweep("lr", name, question, bases, varied)


def rates_by_batch(
    name: str,
    question: str,
    bases: Bases,
    batches: Sequence[float] = (0.25, 1.0, 4.0),
    factors: Sequence[float] = HALVES,
    seeds: Sequence[int] = (),
    min_steps: int = 50,
) -> Sweep:
    """Learning rate x batch at each base's N and D: tokens stay, steps give way.

    `batches` are multiples of the base's, at least one sequence. `factors` are multiples of the base's rate
    times the square root of the batch's, the rule of Malladi et al. 2022 for Adam, so that the window moves
    with the batch as the optimum is expected to.
    """
    varied: Varied = []
    refused: list[Refusal] = []
    for base, run in bases.runs.items():
        sizes = sorted({max(1, round(run.batch_size * share)) for share in ascending("batch", batches)})
        for size in sizes:
            resized = with_batch(run, size)
            if resized.steps < min_steps:
                reason = f"{resized.steps} steps of {size} sequences, at least {min_steps} wanted"
                refused.append(Refusal(f"{base}-b{size}", reason))
                continue
            scaled = run.optimizer.lr * math.sqrt(size / run.batch_size)
            for factor in ascending("factor", factors):
                for seed in seeds or (run.seed,):
                    cell = {"base": base, "b": size, "lr": factor} | (
                        {"seed": seed} if len(seeds) > 1 else {}
                    )
                    varied.append((cell, replace(with_rate(resized, scaled * factor), seed=seed)))
    return _sweep("lr_batch", name, question, bases, varied, refused)


def timescales(
    name: str,
    question: str,
    bases: Bases,
    decay: Sequence[float] = (0.1, 0.3, 1.0, 3.0),
    b2_tokens: Sequence[float] = (),
) -> Sweep:
    """The memory of AdamW: of its weights through weight decay, of its second moment through beta2.

    `decay`: timescales 1 / (lr * weight_decay) in steps, as multiples of the run's steps (Wang & Aitchison
    2024, arXiv:2405.13698, whose optimum is nearly constant in this unit). `b2_tokens`: half-lives of the
    second moment in tokens, beta2 = 2^(-batch tokens / half-life) (Marek et al. 2025, arXiv:2507.07101);
    empty: the base's beta2 alone.
    """
    varied: Varied = []
    for base, run in bases.runs.items():
        if run.optimizer.independent_decay:
            raise UserError(
                f"base {base} has optimizer.independent_decay = true, whose timescale is not 1 / (lr * "
                "weight_decay); give bases with coupled decay."
            )
        for share in ascending("decay", decay):
            weight_decay = float(f"{1 / (run.optimizer.lr * share * run.steps):.4g}")
            for half_life in ascending("b2_tokens", b2_tokens) if b2_tokens else (None,):
                changed = replace(run.optimizer, weight_decay=weight_decay)
                cell: dict[str, Any] = {"base": base, "t": share}
                if half_life:
                    changed = replace(changed, b2=_b2(run, half_life))
                    cell["h"] = half_life
                varied.append((cell, replace(run, optimizer=changed)))
    return _sweep("timescales", name, question, bases, varied)


def critical_batch(
    name: str,
    question: str,
    bases: Bases,
    batches: Sequence[int],
    expected: float,
    factors: Sequence[float] = (0.5, 1.0, 2.0),
    target: float | None = None,
) -> Sweep:
    """Steps to a target loss against batch, the target chosen afterwards or given: McCandlish et al. 2018.

    Each base is trained at a constant rate with every batch (sequences) of `batches` until any loss that
    the base itself reaches should be reached: (S / S_min - 1)(E / E_min - 1) = 1 says that a batch of
    b times the critical one takes (1 + b) times the fewest tokens. `expected`: the critical batch in
    sequences, so that no run is too short. Rates are multiples of the square-root rule, the best one kept per
    batch: a rate that is tuned at one batch alone finds that batch the best.
    """
    varied: Varied = []
    for base, run in bases.runs.items():
        steps = max(1, round(run.schedule.warmup * run.steps)) if not run.schedule.warmup_steps else 0
        warm_tokens = (run.schedule.warmup_steps or steps) * run.batch_size
        for size in ascending("batch", batches):
            tokens = run.tokens * (1 + size / expected) / (1 + run.batch_size / expected)
            resized = with_batch(run, int(size), max(tokens, run.tokens))
            flat = ScheduleConfig(name="constant", warmup_steps=max(1, round(warm_tokens / size)))
            scaled = run.optimizer.lr * math.sqrt(size / run.batch_size)
            for factor in ascending("factor", factors):
                cell = {"base": base, "b": int(size), "lr": factor}
                varied.append((cell, replace(with_rate(resized, scaled * factor), schedule=flat)))
    extra = {"expected": expected} | ({"target_loss": target} if target else {})
    return _sweep("critical_batch", name, question, bases, varied, extra=extra)


def seeds(name: str, question: str, bases: Bases, values: Sequence[int] = (0, 1, 2, 3)) -> Sweep:
    """The noise floor: the same runs with other initial weights and another order of the text."""
    if len(set(values)) < 2:
        raise UserError(f"seeds are {list(values)}; give at least two, whose losses can differ.")
    varied: Varied = [
        ({"base": base, "seed": seed}, replace(run, seed=seed))
        for base, run in bases.runs.items()
        for seed in sorted(set(values))
    ]
    return _sweep("seeds", name, question, bases, varied)


def ladder(name: str, question: str, bases: Bases) -> Sweep:
    """The bases as they are: `sweeps.bases.by_multiple` makes the rungs."""
    return _sweep(
        "ladder", name, question, bases, [({"base": base}, run) for base, run in bases.runs.items()]
    )


def _b2(run: RunConfig, half_life: float) -> float:
    return float(f"{2 ** (-run.batch_size * run.seq_len / half_life):.6g}")


def _sweep(
    kind: str,
    name: str,
    question: str,
    bases: Bases,
    varied: Varied,
    refused: Sequence[Refusal] = (),
    extra: dict[str, Any] | None = None,
) -> Sweep:
    """Runs that come out the same are kept once. Raises UserError when none is left."""
    refused = (*bases.refused, *refused)
    if not varied:
        reasons = "; ".join(f"{refusal.label}: {refusal.reason}" for refusal in refused) or "no base"
        raise UserError(f"no cell of sweep {name!r} can be met ({reasons}); change its bases.")
    kept = {run: cell for cell, run in reversed(varied)}
    cells = [{"label": label(cell)} | cell for cell in reversed(kept.values())]
    design = {"kind": kind, **bases.design, **(extra or {}), "cells": cells}
    return Sweep(name, question, design, tuple(reversed(kept)), tuple(refused))


def label(cell: dict[str, Any]) -> str:
    """`d32-b16-lr0.5-seed1`: the base and what is varied."""
    return "-".join(
        [str(cell["base"])]
        + [f"{key}{value:g}" for key, value in cell.items() if key not in ("base", "label")]
    )
