"""The training step alone, compiled, and the loop around it: data, dispatch, waiting, the log.

Tokens and FLOPs a second, of one thread's CPU time or of the accelerator by the clock. `in the loop` is
`scaling train` itself on the embedded text, from its second progress report to its last, every thread of
the process counted. `log` is the share of a step's time by the clock that the loop spends on its row of
metrics.jsonl, while the device works on the next step (bar: 1%).
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from scaling.accounting import counts
from scaling.config import Placement, RunConfig, override
from scaling.data.text import embedded_info
from scaling.environment import has_accelerator
from scaling.rate import flops_per_step, measure
from scaling.recipes import RECIPES
from scaling.runs import RunFolder

WIDTHS = (48, 96, 192)
TOKENS = 1e7  # the horizon that sets the recipe's batch
REPEATS = 3
LOOP_SECONDS = 1.5


def rows() -> list[dict[str, Any]]:
    second = "second" if has_accelerator() else "CPU second"
    found = []
    for width in WIDTHS:
        recipe = RECIPES["small"]
        config = recipe.run(recipe.model(width), embedded_info().config(val_tokens=16_384), TOKENS)
        size = counts(config.model, config.seq_len).n["total"]
        shape = f"{size:,} parameters, {config.batch_size} x {config.seq_len} tokens a step"
        alone, in_loop, log = [], [], []
        for _ in range(REPEATS):
            alone.append(measure(config, Placement())[0])
            seconds, share = loop(config, math.ceil(LOOP_SECONDS / alone[-1]))
            in_loop.append(seconds)
            log.append(100 * share)
        tokens, flops = config.batch_size * config.seq_len, flops_per_step(config)
        found += [
            {"what": shape, "unit": f"tokens/{second}", "values": [tokens / s for s in alone]},
            {"what": shape, "unit": f"GFLOP/{second}", "values": [flops / s / 1e9 for s in alone]},
            {"what": shape, "unit": f"in the loop, tokens/{second}", "values": [tokens / s for s in in_loop]},
            {"what": shape, "unit": "log, % of a step", "values": log},
        ]
    return found


def loop(config: RunConfig, steps: int) -> tuple[float, float]:
    """Seconds a step of `scaling.train.train`, and the share of them, by the clock, that the log takes."""
    from scaling.train import train

    clock = time.perf_counter if has_accelerator() else time.process_time
    seen: list[tuple[int, float]] = []
    config = override(config, {"steps": steps, "data.epochs": 100})
    with tempfile.TemporaryDirectory() as folder:
        summary = train(
            config,
            Placement(),
            RunFolder(Path(folder) / config.run_id),
            progress=lambda report: seen.append((report["step"], clock())),
        )
    (first, began), (last, ended) = seen[1], seen[-1]
    parts = summary["step_seconds"]
    return (ended - began) / (last - first), parts["log"] / parts["step"]
