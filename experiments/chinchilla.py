"""How should a budget be shared between parameters and tokens? The grid of Hoffmann et al. 2022.

Nine budgets from 6e18 to 3e21 FLOPs, at each several of the decoders of their table A9 around the best: the
isoFLOP profiles of their figure 3. For a pod: 3e22 FLOPs in all. `--size cpu` is the same design a billion
times smaller, without the two largest budgets: minutes on two cores.

    scaling plan chinchilla
    scaling preflight chinchilla --target v5p-128     # needs no data
    scaling launch chinchilla --data FOLDER           # text prepared with 32,000 tokens
    scaling launch chinchilla --size cpu
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.quickstart import PRIOR
from scaling.accounting import counts
from scaling.arch.blocks import Attention, Mlp
from scaling.arch.presets import chinchilla_table
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.designs import Limits, Setting, isoflop
from sweeps.sweep import Refusal, Sweep

QUESTION = "How do the best model size and number of tokens grow with the budget?"
# Training FLOPs -> sizes in millions of parameters as table A9 prints them. The budgets are those of
# figure 3; of the sizes drawn there every second to fourth, so that profiles share them.
SIZES: dict[float, tuple[int, ...]] = {
    6e18: (74, 106, 140, 196, 278, 425, 552),
    1e19: (106, 140, 196, 278, 425, 552, 816, 1143),
    3e19: (140, 196, 278, 425, 552, 816, 1143, 1609),
    6e19: (278, 425, 552, 816, 1143, 1609),
    1e20: (425, 552, 816, 1143, 1609, 2283),
    3e20: (552, 816, 1143, 1609, 2283, 2980, 4516),
    6e20: (816, 1143, 1609, 2283, 2980, 4516, 6796),
    1e21: (1609, 2283, 2980, 4516, 6796, 9293),
    3e21: (2980, 4516, 6796, 9293, 12569, 16183),
}
# The paper prints neither batches nor rates of these runs. One batch keeps profiles smooth: .5M tokens lie
# between the .25M and the 2M of Gopher's smaller models, whose rates these are, by d_model (Rae et al.
# 2021, table 1), straight lines between them in log-log.
SEQ_LEN, BATCH = 2048, 256
RATES = {512: 6e-4, 768: 6e-4, 1536: 2e-4, 2048: 2e-4, 4096: 1.2e-4, 16384: 4e-5}
# Cosine over the run's own horizon to a tenth of the rate, AdamW (section 3 and appendix B there); a warmup
# that is a share of each horizon, as a fixed one takes too much of the short runs (Porian et al. 2024).
SCHEDULE = ScheduleConfig(name="cosine", warmup=0.03, final=0.1)
WEIGHT_DECAY, B2 = 0.1, 0.95
# Where no text is given: their own, of 32,000 tokens, with no fingerprint. It can be planned, not trained.
TEXT = DataConfig(name="massivetext", fingerprint="none", tokenizer="unigram-32000-none")
LIMITS = Limits()

CPU_SCALE, CPU_BUDGETS = 1e-9, 7


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "pod") -> Sweep:
    """The grid. `data`: a folder made by `scaling data prepare`; `size`: pod or cpu.

    Without data the pod's runs are those of a text that is not here, the CPU's those of the embedded one.
    Raises UserError for another size, or where the text is too short for every cell of a budget.
    """
    if size == "cpu":
        return _small(seed, data)
    if size != "pod":
        raise UserError(f"size is {size!r}; choose from pod, cpu.")
    text = None if data is None else text_info(data)
    config = text.config() if text else TEXT
    unique = text.epoch_tokens if text else None
    runs: list[RunConfig] = []
    cells: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    for budget, sizes in SIZES.items():
        kept, said = len(runs), f"{budget:.0e}".replace("+", "")
        for printed in sizes:
            label = f"{said}-{printed}M"
            run = _run(label, model(printed, config.vocab_size), budget, config, unique, seed)
            if isinstance(run, Refusal):
                refused.append(run)
            else:
                runs.append(run)
                cells.append({"label": label, "budget": budget})
        if len(runs) == kept:
            raise UserError(
                f"no cell of {said} FLOPs can be met ({refused[-1].label} {refused[-1].reason}); "
                "give a longer text, or --size cpu."
            )
    design = {
        "kind": "isoflop", "seed": seed, "unique_tokens": unique, "epochs": LIMITS.epochs,
        "tolerance": LIMITS.tolerance, "cells": cells,
    }  # fmt: skip
    return Sweep("chinchilla", QUESTION, design, tuple(runs), tuple(refused))


def model(printed: int, vocab_size: int = 32_000) -> ModelConfig:
    """The decoder of table A9 with so many million parameters printed: rotary, not relative, positions."""
    row = next(row for row in chinchilla_table() if row.nominal_parameters == printed * 1e6)
    (layer,) = row.layers
    attention = next(block for block in layer.blocks if isinstance(block, Attention))
    mlp = next(block for block in layer.blocks if isinstance(block, Mlp))
    return ModelConfig(
        n_layers=layer.repeat,
        d_model=row.d_model,
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_kv_heads,
        d_head=attention.d_head,
        d_ff=mlp.d_ff,
        vocab_size=vocab_size,
        mlp="gelu",
    )


def _run(
    label: str, shape: ModelConfig, budget: float, data: DataConfig, unique: int | None, seed: int
) -> RunConfig | Refusal:
    """The cell in whole steps, spending no more than its budget; or why there is none."""
    tokens = budget / counts(shape, SEQ_LEN).flops_per_token["matmul"]
    steps = math.floor(tokens / (BATCH * SEQ_LEN))
    if unique and tokens > LIMITS.epochs * unique:
        return Refusal(label, f"needs {tokens / unique:.3g} epochs of the text, {LIMITS.epochs:g} allowed")
    rate = float(np.exp(np.interp(math.log(shape.d_model), *np.log(np.array([*RATES.items()]).T))))
    return RunConfig(
        model=shape,
        data=data,
        optimizer=OptimizerConfig(lr=float(f"{rate:.3g}"), b2=B2, weight_decay=WEIGHT_DECAY),
        schedule=SCHEDULE,
        seq_len=SEQ_LEN,
        batch_size=BATCH,
        steps=steps,
        seed=seed,
    )


def _small(seed: int, data: str | Path | None) -> Sweep:
    """Profiles of the recipe's small decoders at the same ratios of budgets."""
    text = text_info(data)
    setting = Setting(RECIPES["small"], text.config(), text.epoch_tokens, seed)
    budgets = [budget * CPU_SCALE for budget in SIZES][:CPU_BUDGETS]
    return isoflop("chinchilla-cpu", QUESTION, setting, budgets, PRIOR, count=5)
