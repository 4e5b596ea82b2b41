"""The training step: tokens and FLOPs a second, of one thread's CPU time or of the accelerator, compiled."""

from __future__ import annotations

from typing import Any

from scaling.accounting import counts
from scaling.config import DataConfig, Placement
from scaling.environment import has_accelerator
from scaling.rate import flops_per_step, measure
from scaling.recipes import RECIPES

WIDTHS = (48, 96, 192)
TOKENS = 1e7  # the horizon that sets the recipe's batch
REPEATS = 3


def rows() -> list[dict[str, Any]]:
    second = "second" if has_accelerator() else "CPU second"
    found = []
    for width in WIDTHS:
        recipe = RECIPES["small"]
        config = recipe.run(recipe.model(width), DataConfig(name="random", fingerprint=""), TOKENS)
        size = counts(config.model, config.seq_len).n["total"]
        shape = f"{size:,} parameters, {config.batch_size} x {config.seq_len} tokens a step"
        seconds = [measure(config, Placement())[0] for _ in range(REPEATS)]
        tokens, flops = config.batch_size * config.seq_len, flops_per_step(config)
        found += [
            {"what": shape, "unit": f"tokens/{second}", "values": [tokens / s for s in seconds]},
            {"what": shape, "unit": f"GFLOP/{second}", "values": [flops / s / 1e9 for s in seconds]},
        ]
    return found
