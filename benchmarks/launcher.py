"""What the launcher itself costs: its CPU time by the clock for each live run, and for each run in its queue.

Two workers train, far quicker than real runs so that events come as often as they ever do (four a second and
run), until the launcher has watched them for SECONDS. Bar: 1% of a core for each live run.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from launch.executor import Event
from launch.jobs import make_job
from launch.local import LocalPool, run_sweep
from scaling.config import ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.data.text import embedded_info
from sweeps.sweep import Sweep

LIVE, QUEUED, SECONDS = 2, 10_000, 20.0


def rows() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        live = _live(Path(folder))
        queued = _queued(Path(folder))
    return [
        {"what": "a live run", "unit": "% of a core", "values": [100 * live]},
        {"what": "a run put into the queue and taken out", "unit": "CPU ms", "values": [1000 * queued]},
    ]


def run(seed: int) -> RunConfig:
    return RunConfig(
        model=ModelConfig(n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=embedded_info().config(val_tokens=1024),
        optimizer=OptimizerConfig(lr=1e-3),
        seq_len=32,
        batch_size=1,
        steps=1_000_000 // 40,
        seed=seed,
    )


def _live(folder: Path) -> float:
    """CPU seconds of this process a second and live run."""
    progressing: set[str] = set()
    began: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []

    def watch(event: Event) -> None:
        now = time.perf_counter(), time.process_time()
        if event.kind == "progress":
            progressing.add(event.run_id)
        if len(progressing) == LIVE and not began:
            began.append(now)
        if began and not ended and now[0] - began[0][0] > SECONDS:
            ended.append(now)
            os.kill(os.getpid(), signal.SIGINT)

    runs = tuple(run(seed) for seed in range(LIVE))
    sweep = Sweep("launcher", "what does it cost?", {}, runs)
    run_sweep(sweep, folder, workers=LIVE, placement=Placement(device="cpu"), on_event=watch)
    [(wall, cpu)], [(wall_after, cpu_after)] = began, ended
    return (cpu_after - cpu) / (wall_after - wall) / LIVE


def _queued(folder: Path) -> float:
    pool = LocalPool(Placement(device="cpu"), folder / "logs", 1)
    jobs = [make_job(run(seed), folder, Placement(device="cpu")) for seed in range(QUEUED)]
    began = time.process_time()
    for job in jobs:
        pool.submit(job)
    pool.cancel([job.run_id for job in jobs])
    spent = time.process_time() - began
    assert len(pool.poll(0)) == QUEUED
    pool.close()
    return spent / QUEUED
