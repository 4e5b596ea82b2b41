"""What compiling costs a sweep: runs of one shape through the launcher and its warm workers.

Rate, weight decay, clipping, seed and horizon differ from run to run and are arguments of the compiled
step, so that its shape is compiled once, in memory for the next run of a worker and in the persistent cache
for other workers. CPU seconds of all worker processes from start to end: imports, about 11 steps a run,
evaluation and checkpoints are in, so compiling takes less (bar: 60 s for 30 runs). Programs are the entries
of the cache.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from launch.local import run_configs
from scaling.config import Placement, RunConfig, override
from scaling.data.text import embedded_info
from scaling.recipes import RECIPES

WIDTH = 48
RUNS = 30
WORKERS = 2
STEPS = 8  # of the shortest run; few, because what they take is not compiling


def rows() -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "cache"
        for what, count, cache in (
            ("1 run, nothing cached", 1, Path(folder) / "other"),
            (f"{RUNS} runs by {WORKERS} workers, nothing cached", RUNS, shared),
            (f"{RUNS} runs by {WORKERS} workers, a second launch", RUNS, shared),
        ):
            seconds = _launch(configs(count), Path(tempfile.mkdtemp(dir=folder)), cache)
            programs = float(sum(path.name.endswith("-cache") for path in cache.iterdir()))
            found += [
                {"what": what, "unit": "CPU s", "values": [seconds]},
                {"what": what, "unit": "CPU s a run", "values": [seconds / count]},
                {"what": what, "unit": "programs in the cache", "values": [programs]},
            ]
    return found


def configs(count: int) -> list[RunConfig]:
    """Runs of one shape that differ in all that may differ without another compilation."""
    recipe = RECIPES["small"]
    base = recipe.run(recipe.model(WIDTH), embedded_info().config(val_tokens=16_384), 1e6)
    return [
        override(
            base,
            {
                "seed": i,
                "steps": STEPS + i % 8,
                "optimizer.lr": base.optimizer.lr * 2 ** (i / 10 - 1.5),
                "optimizer.weight_decay": 0.01 * i,
                "optimizer.clip": 0.0 if i % 3 == 0 else 0.5 * i,
                "schedule.name": ("cosine", "wsd", "constant")[i % 3],
            },
        )
        for i in range(count)
    ]


def _launch(runs: list[RunConfig], folder: Path, cache: Path) -> float:
    """CPU seconds of the workers that train `runs`."""
    cache.mkdir(exist_ok=True)
    with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(cache)):
        outcome = run_configs(
            runs, folder, workers=WORKERS, placement=Placement(device="cpu"), on_event=lambda event: None
        )
    if outcome.exit_code:
        raise RuntimeError(f"a run did not end: {outcome}")
    return outcome.cpu_seconds
