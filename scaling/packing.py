"""Which runs can be trained in one program, side by side. No JAX here: launchers ask it of every run.

What differs between members of a pack is what the compiled step takes as an argument (scaling/step.py): the
rate and every other number of the optimizer, the schedule, the seed and with it the tokens. All else is one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from scaling.config import OptimizerConfig, RunConfig, ScheduleConfig


@lru_cache(maxsize=16384)
def pack_key(config: RunConfig) -> str:
    """12 hex digits that are the same for runs of one shape, batch, data, horizon and kind of optimizer."""
    optimizer = OptimizerConfig(lr=1.0, name=config.optimizer.name)
    return replace(config, optimizer=optimizer, schedule=ScheduleConfig(), seed=0).run_id
