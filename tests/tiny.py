"""The smallest runs that are still real, shared by the tests of the training core."""

from __future__ import annotations

import dataclasses
from typing import Any

from scaling.config import ModelConfig, OptimizerConfig, Placement, RunConfig, ScheduleConfig, override
from scaling.data.text import embedded_info

CPU = Placement(device="cpu")

# Grouped queries, a head width of its own, an untied head: nothing coincides by accident.
MODEL = ModelConfig(n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, d_head=6, d_ff=24, tied=False)

# One layer: compiling is most of what these tests cost.
CONFIG = RunConfig(
    model=dataclasses.replace(MODEL, n_layers=1),
    data=embedded_info().config(val_tokens=2048),
    optimizer=OptimizerConfig(lr=1e-2),
    schedule=ScheduleConfig(name="wsd", warmup=0.1, decay=0.3, final=0.0),
    seq_len=32,
    batch_size=4,
    steps=40,
)


def tiny(**changes: Any) -> RunConfig:
    """CONFIG with fields changed; a double underscore stands for the dot: `optimizer__lr=1.0`."""
    return override(CONFIG, {name.replace("__", "."): value for name, value in changes.items()})
