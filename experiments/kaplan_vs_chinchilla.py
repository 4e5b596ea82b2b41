"""Which habits make the best size grow as C^.84, as Kaplan et al. found, and which as C^.50?

Porian et al. 2024 (arXiv 2406.19146) undo one habit after another: FLOPs that leave out the last layer, a
warmup of one length for every run, a decay that is not matched to the horizon, one rate and one batch for
every size. Here the same steps on small decoders, isoFLOP profiles of each:

    kaplan   N and C without embeddings and head; 128 steps of warmup; a rate that never comes down, as in the
             early part of a schedule far longer than the run; one rate and batch
    head     the same runs, all FLOPs counted, on profiles of their own
    warmup   a warmup of as many tokens as the model has parameters
    decay    a cosine to the run's own horizon
    tuned    rate, batch and schedule of the recipe, which move with size and horizon

Runs of the first three are trunks: one constant rate a width, from which every horizon is a branch.

    scaling plan kaplan_vs_chinchilla
    scaling launch kaplan_vs_chinchilla
    scaling exponents runs/kaplan_vs_chinchilla        # exponents with intervals, figure
    scaling exponents --published                      # the five that Porian et al. print, from their losses
    scaling preflight kaplan_vs_chinchilla --size pod --target v5p-128
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.chinchilla import TEXT, model
from scaling.accounting import CConvention, counts
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES, RULES, Recipe
from sweeps.designs import short
from sweeps.sweep import Refusal, Sweep

QUESTION = "Which habits make the best size grow as C^.84, and which as C^.50?"
STEPS = ("kaplan", "head", "warmup", "decay", "tuned")


@dataclass(frozen=True)
class Scale:
    """Profiles and habits of one setting. Budgets in FLOPs as each step counts them -> the sizes at each.

    batch, lr: those of every size until the last step; long_warmup: steps of the first two.
    """

    budgets: dict[float, tuple[int, ...]]
    kaplan_budgets: dict[float, tuple[int, ...]]
    seq_len: int
    batch: int
    lr: float
    long_warmup: int
    min_steps: int = 50


# --size cpu: widths of the recipe. Budgets by Kaplan's count are .6 of those that count all: D is alike. The
# batch is the recipe's at the largest budgets and the rate that of a middle width, as a study would carry
# them over; 128 steps of 512 tokens are more than the largest model of the smallest budget sees.
CPU = Scale(
    budgets={
        1.2e10: (8, 12, 16, 20, 24, 28),
        2.9e10: (8, 12, 16, 20, 24, 32),
        6.7e10: (12, 16, 20, 24, 32, 40),
        1.6e11: (16, 20, 24, 32, 40, 48),
    },
    kaplan_budgets={
        7e9: (8, 12, 16, 20, 24, 28),
        1.7e10: (8, 12, 16, 20, 24, 32),
        4e10: (12, 16, 20, 24, 32, 40),
        1e11: (16, 20, 24, 32, 40, 48),
    },
    seq_len=128,
    batch=4,
    lr=8e-3,
    long_warmup=128,
)
VAL_TOKENS = 65_536

# --size pod: decoders of table A9 of Hoffmann et al. 2022; rate and batch of GPT-3's 760M for every size,
# 3,000 steps of warmup as Kaplan et al. had; the last step takes StepLaw's rate and batch.
POD = Scale(
    budgets={
        1e19: (106, 140, 196, 278, 425, 552),
        3e19: (140, 196, 278, 425, 552, 816),
        1e20: (278, 425, 552, 816, 1143, 1609),
        3e20: (425, 552, 816, 1143, 1609, 2283),
    },
    kaplan_budgets={
        8e18: (106, 140, 196, 278, 425, 552),
        2.4e19: (140, 196, 278, 425, 552, 816),
        8e19: (278, 425, 552, 816, 1143, 1609),
        2.4e20: (425, 552, 816, 1143, 1609, 2283),
    },
    seq_len=2048,
    batch=256,
    lr=2.5e-4,
    long_warmup=3000,
)
POD_RULE = "steplaw"


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "cpu") -> Sweep:
    """The five steps. `data`: a folder made by `scaling data prepare`; `size`: cpu or pod.

    Without data the CPU's runs are those of the embedded text, the pod's of one that is not here: they can be
    planned and preflighted. Cells that are too short, or longer than the text, are refused by name. Raises
    UserError for another size.
    """
    if size not in ("cpu", "pod"):
        raise UserError(f"size is {size!r}; choose from cpu, pod.")
    text = text_info(data) if data is not None or size == "cpu" else None
    config = text.config(VAL_TOKENS) if text and size == "cpu" else text.config() if text else TEXT
    study = _Study(
        CPU if size == "cpu" else POD, size == "cpu", config, text.epoch_tokens if text else None, seed
    )
    made = [study.cell(*asked) for asked in study.asked()]
    runs: dict[RunConfig, dict[str, Any]] = {}
    refused = []
    for cell, run in made:
        if isinstance(run, Refusal):
            refused.append(run)
        elif run in runs:  # one run can stand on profiles of two steps
            runs[run]["also"] = [*runs[run].get("also", []), cell]
        else:
            runs[run] = cell
    name = "kaplan_vs_chinchilla" + ("" if size == "cpu" else "-pod")
    design = {
        "kind": "exponents", "seed": seed, "unique_tokens": study.unique, "epochs": 1.0, "steps": list(STEPS),
        "recipe": "small" if size == "cpu" else None, "cells": list(runs.values()),
    }  # fmt: skip
    return Sweep(name, QUESTION, design, tuple(runs), tuple(refused))


@dataclass(frozen=True)
class _Study:
    scale: Scale
    small: bool
    data: DataConfig
    unique: int | None
    seed: int

    def asked(self) -> Iterable[tuple[str, float, int]]:
        for step in STEPS:
            budgets = self.scale.kaplan_budgets if step == "kaplan" else self.scale.budgets
            for budget, sizes in budgets.items():
                for size in sizes:
                    yield step, budget, size

    def cell(self, step: str, budget: float, size: int) -> tuple[dict[str, Any], RunConfig | Refusal]:
        """The record of a cell and its run, in whole steps and spending no more than its budget."""
        unit = f"d{size}" if self.small else f"{size}M"
        label = f"{step}-{short(budget)}-{unit}"
        record = {"label": label, "step": step, "budget": budget, "count": _count(step)}
        shape = (
            self._recipe.model(size, self.data.vocab_size)
            if self.small
            else model(size, self.data.vocab_size)
        )
        tokens = budget / counts(shape, self.scale.seq_len).flops_per_token[_count(step)]
        if self.unique and tokens > self.unique:
            return record, Refusal(label, f"needs {tokens / self.unique:.3g} epochs of the text, 1 allowed")
        run = self._tuned(shape, tokens) if step == "tuned" else self._base(step, shape, tokens)
        if run.steps < self.scale.min_steps:
            return record, Refusal(label, f"{run.steps} steps, at least {self.scale.min_steps} wanted")
        return record, run

    @property
    def _recipe(self) -> Recipe:
        return RECIPES["small"]

    def _base(self, step: str, shape: ModelConfig, tokens: float) -> RunConfig:
        per_step = self.scale.batch * self.scale.seq_len
        warmup = self.scale.long_warmup
        if step not in ("kaplan", "head"):
            total = counts(shape, self.scale.seq_len).n["total"]
            warmup = max(1, round(total / per_step))
        name: Any = "cosine" if step == "decay" else "constant"
        return RunConfig(
            model=shape,
            data=self.data,
            optimizer=OptimizerConfig(lr=self.scale.lr, b2=0.95, weight_decay=0.1),
            schedule=ScheduleConfig(name=name, warmup_steps=warmup, final=0.1),
            seq_len=self.scale.seq_len,
            batch_size=self.scale.batch,
            steps=math.floor(tokens / per_step),
            seed=self.seed,
        )

    def _tuned(self, shape: ModelConfig, tokens: float) -> RunConfig:
        if self.small:
            run = self._recipe.run(shape, self.data, tokens, self.seed)
            return replace(run, steps=math.floor(tokens / (run.batch_size * run.seq_len)))
        asked = RULES[POD_RULE].at(counts(shape, self.scale.seq_len).n["non_embedding"], tokens)
        batch = 2 ** round(math.log2(asked["batch"] / self.scale.seq_len))
        run = self._base("decay", shape, tokens)
        return replace(
            run,
            optimizer=replace(run.optimizer, lr=float(f"{asked['lr']:.3g}")),
            batch_size=batch,
            steps=math.floor(tokens / (batch * run.seq_len)),
            schedule=replace(run.schedule, warmup_steps=0, warmup=0.02),
        )


def _count(step: str) -> CConvention:
    return "kaplan" if step == "kaplan" else "matmul"
