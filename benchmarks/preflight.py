"""`scaling preflight` as it is called: verdict, bytes, seconds and memory of asking, and of asking again.

    pip install 'libtpu==0.0.42.*'
    python -m benchmarks.preflight [CASE ...]

Every case is asked twice, each time in a process of its own, of one cache that is empty at first. Half an
hour on two cores for all; the rows of cases named are replaced in results/preflight-<device>.json, the
others stay. `seconds` are by the clock, `cpu_seconds` and `peak_bytes` of the process and all that it
started, `compilations` what the compiler was asked.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.memory import MODELS, VOCABULARY
from benchmarks.run import device
from launch.memory import PeakMemory
from scaling.arch.families import shape_for
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from scaling.files import write_json
from sweeps.sweep import Sweep

RESULTS = Path(__file__).parent / "results"
BASE = RunConfig(
    model=ModelConfig(**MODELS["135M"], vocab_size=VOCABULARY["135M"], tied=False),
    data=DataConfig(name="any", fingerprint=""),
    optimizer=OptimizerConfig(lr=1e-3),
    seq_len=2048,
    batch_size=256,
    steps=1000,
)


def one(name: str, batch: int, seq_len: int, **changes: int) -> Sweep:
    """One run of a shape of benchmarks/memory.py."""
    model = ModelConfig(**(MODELS[name] | changes), vocab_size=VOCABULARY[name], tied=False)
    run = replace(BASE, model=model, batch_size=batch, seq_len=seq_len)
    return Sweep(name="one", question="", design={}, runs=(run,))


def thirty() -> Sweep:
    """Six shapes from 135M to 1B, each at five horizons."""
    shapes = ((135e6, 64), (200e6, 64), (300e6, 128), (450e6, 128), (700e6, 128), (1e9, 256))
    runs = [
        replace(BASE, model=shape_for(n), batch_size=batch, steps=2000 * times)
        for n, batch in shapes
        for times in range(1, 6)
    ]
    return Sweep(name="thirty", question="", design={}, runs=tuple(runs))


# Name -> the sweep, the slice.
CASES: dict[str, tuple[Callable[[], Sweep] | str, str]] = {
    "135M, heads of 64": (lambda: one("135M", 256, 2048), "v5litepod-16"),
    "135M, heads of 128": (
        lambda: one("135M", 256, 2048, n_heads=6, n_kv_heads=6, d_head=128),
        "v5litepod-16",
    ),
    "1B": (lambda: one("1B", 64, 2048), "v5p-128"),
    "8B": (lambda: one("8B", 512, 4096), "v5p-1024"),
    "70B": (lambda: one("70B", 512, 4096), "v5p-8192"),
    "8B, too large": (lambda: one("8B", 64, 4096), "v5litepod-16"),
    "30 runs, 6 shapes": (thirty, "v5p-128"),
    "quickstart": ("quickstart", "v5litepod-16"),
    "chinchilla": ("chinchilla", "v5p-128"),
}


def ask(sweep: str, target: str, cache: str) -> dict[str, Any]:
    """One call: its exit code and report, and what it took."""
    environment = os.environ | {"SCALING_CACHE": cache}
    command = [sys.executable, "-m", "scaling.cli.main", "preflight", sweep, "--target", target, "--json"]
    memory, began, spent = PeakMemory(), time.perf_counter(), _children()
    memory.start()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    memory.stop()
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.stderr)
    return {
        "exit_code": done.returncode,
        "report": json.loads(done.stdout),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(_children() - spent, 1),
        "peak_bytes": memory.peak_bytes,
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str) -> dict[str, Any]:
    made, target = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(made, str):
            sweep = made
        else:
            sweep = f"{folder}/sweep.json"
            made().write(sweep)
        first, again = (ask(sweep, target, f"{folder}/cache") for _ in range(2))
    report = first.pop("report")
    again_report = again.pop("report")
    return {
        "what": name,
        "target": target,
        "fits": report["fits"],
        "runs": sum(len(row["runs"]) for row in report["shapes"]),
        "shapes": [_shape(row) for row in report["shapes"]],
        "sweep_cost": report["sweep_cost"],
        "first": first | {"compilations": report["compilations"]},
        "again": again | {"compilations": again_report["compilations"]},
    }


def _shape(row: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "n_total", "batch_size", "seq_len", "fits", "chips", "mesh", "remat", "bytes", "compiled",
        "largest_batch", "step_seconds", "step_seconds_floor", "bound",
    )  # fmt: skip
    return {"d_head": row["model"]["d_head"]} | {name: row[name] for name in kept}


def show(row: dict[str, Any]) -> None:
    first, again = row["first"], row["again"]
    print(
        f"{row['what']:<20} {row['target']:<13} {'fits' if row['fits'] else 'does not fit':<12} "
        f"{first['compilations']:>3} compiled in {first['seconds']:6.1f} s, "
        f"{first['cpu_seconds']:6.1f} CPU s, {first['peak_bytes'] / 1e9:.2f} GB; "
        f"again {again['seconds']:.1f} s",
        flush=True,
    )


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in CASES]:
        sys.exit(f"error: no case {unknown[0]!r}; choose from {', '.join(CASES)}.")
    for name in names or CASES:
        row = measure(name)
        show(row)
        write(row)


def write(row: dict[str, Any]) -> None:
    """Put a row in the place of the one of the same case."""
    path = RESULTS / f"preflight-{re.sub(r'[^a-z0-9]+', '-', device().lower()).strip('-')}.json"
    kept = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = {old["what"]: old for old in kept} | {row["what"]: row}
    versions = {library: version(library) for library in ("jax", "jaxlib", "flax", "libtpu")}
    head = {"benchmark": "preflight", "device": device(), "cores": os.cpu_count(), "versions": versions}
    write_json(path, head | {"rows": [rows[name] for name in CASES if name in rows]})


if __name__ == "__main__":
    main(sys.argv[1:])
