"""A sweep of 10,000 runs: planned, deduplicated and looked at, each in a process of its own.

Everything is made here: an isoFLOP grid of the small recipe over many seeds whose runs ended, all but a few:
of those some failed, some were stopped and the rest were never started. `cold` is without the index that
`scaling status` keeps in the sweep's folder (launch/index.py), `warm` with it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

RUNS, REPEATS = 10_000, 3
LOGGED = 60  # rows of each log
FAILED, STOPPED, PENDING = 20, 20, 200


def rows() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as base:
        sweep_json = build(Path(base))
        return measured(Path(base), sweep_json)


def measured(base: Path, sweep_json: Path) -> list[dict[str, Any]]:
    """Each command `REPEATS` times, the command line's own start included."""
    folder, found = base / "runs" / "many", []
    commands = (
        ("plan, from its JSON file", ("plan", str(sweep_json), "--no-measure"), False),
        ("launch --dry-run: what is not done yet", ("launch", "many", "--dry-run", "--json"), False),
        ("status, cold", ("status", "many"), True),
        ("status, warm", ("status", "many"), False),
        ("status --json, warm", ("status", "many", "--json"), False),
    )
    for what, arguments, cold in commands:
        times = []
        for _ in range(REPEATS):
            if cold:
                (folder / "index.json").unlink(missing_ok=True)
            times.append(_process(["-m", "scaling.cli.main", *arguments], base))
        name = f"{RUNS:,} runs: {what}"
        found.append({"what": name, "unit": "CPU s", "values": [cpu for cpu, _ in times]})
        found.append({"what": name, "unit": "s on the clock", "values": [wall for _, wall in times]})
    return found


def build(base: Path, count: int = RUNS) -> Path:
    """`base/many.json` and its launched folder `base/runs/many`; returns the former."""
    from sweeps.sweep import Sweep

    runs, budgets = _grid(count)
    cells = [
        {"label": f"d{run.model.d_model}-{budget:.1e}-s{run.seed}", "budget": budget}
        for run, budget in zip(runs, budgets, strict=True)
    ]
    sweep = Sweep("many", "How does a sweep of 10,000 runs fare?", {"kind": "isoflop", "cells": cells}, runs)
    sweep.write(base / "many.json")
    folder = base / "runs" / sweep.name
    sweep.write(folder / "sweep.json")
    rng = np.random.default_rng(0)
    for number, (run, run_id) in enumerate(zip(runs[:-PENDING], sweep.run_ids, strict=False)):
        _write_run(folder / run_id, run, number, rng)
    return base / "many.json"


def _grid(count: int) -> tuple[tuple[Any, ...], list[float]]:
    from scaling.accounting import counts
    from scaling.config import DataConfig
    from scaling.recipes import RECIPES

    recipe, data = RECIPES["small"], DataConfig(name="drawn", fingerprint="0" * 12)
    shapes = []
    for budget in (1e10, 3e10, 1e11, 3e11, 1e12):
        for width in recipe.widths()[:10]:
            per_token = counts(recipe.model(width, 256), recipe.seq_len).flops_per_token["matmul"]
            shapes.append((recipe.run(recipe.model(width, 256), data, budget / per_token, 0), budget))
    chosen = [(*shapes[i % len(shapes)], i // len(shapes)) for i in range(count)]
    return tuple(replace(run, seed=seed) for run, _, seed in chosen), [budget for _, budget, _ in chosen]


def _write_run(place: Path, run: Any, number: int, rng: np.random.Generator) -> None:
    from scaling.accounting import counts
    from scaling.config import dump_run_config

    place.mkdir(parents=True)
    (place / "config.json").write_text(dump_run_config(run))
    (place / "placement.json").write_text(json.dumps({"platform": "cpu", "device_kind": "cpu", "devices": 1}))
    n = counts(run.model, run.seq_len).n["total"]
    loss = (1.3 + 45 / n**0.44 + 150 / run.tokens**0.45) * np.exp(0.01 * rng.standard_normal())
    steps = np.unique(np.linspace(1, run.steps, LOGGED).astype(int))
    log = [
        {"step": int(s), "tokens": int(s * run.batch_size * run.seq_len), "lr": 1e-3,
         "seconds": round(float(s) / 50, 3), "loss": float(loss + 3 / s**0.5)}
        for s in steps
    ]  # fmt: skip
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    if number < FAILED:
        (place / "summary.json").write_text(json.dumps({"status": "failed", "error": "OSError: disk full"}))
    elif number >= FAILED + STOPPED:
        summary = {"status": "done", "loss": float(loss), "loss_se": 0.01, "tokens": run.tokens,
                   "seconds": run.steps / 50, "cpu_seconds": run.steps / 50}  # fmt: skip
        (place / "summary.json").write_text(json.dumps(summary))
        (place / "DONE").write_text("done\n")


def _process(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU seconds and seconds on the clock of one command run in `folder`."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall
