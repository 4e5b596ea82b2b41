"""A laboratory's whole history: 100,000 runs loaded and fitted, 10 million metric rows read.

Everything is made here: runs of the printed Chinchilla law (Hoffmann et al. 2022, eq. 10) with 1% noise, as
CSV, as parquet and as run folders of this project; logs of 1,000 runs with 10,000 steps each, as JSON lines
and as parquet. Each figure is of a process of its own, imports included: CPU seconds, seconds on the clock
and the most memory it held.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RUNS, RESAMPLES = 100_000, 1_000
LOGS, STEPS = 1_000, 10_000


def rows() -> list[dict[str, Any]]:
    found = []
    for make, task, what in (
        (_csv, "fit_table", f"{RUNS:,} runs as CSV: load, fit, {RESAMPLES:,} resamples"),
        (_parquet, "fit_table", f"{RUNS:,} runs as parquet: load, fit, {RESAMPLES:,} resamples"),
        (_folders, "fit_folder", f"{RUNS:,} run folders: load, fit, {RESAMPLES:,} resamples"),
        (_logs, "read_logs", f"{LOGS * STEPS:,} metric rows in {LOGS:,} JSON-lines logs: read"),
        (_log_table, "read_table", f"{LOGS * STEPS:,} metric rows as parquet: read"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            found += _process(task, make(Path(folder)), what)
    return found


def _process(task: str, path: Path, what: str) -> list[dict[str, Any]]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", task, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {what} failed: {done.stderr.strip().splitlines()[-1]}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    memory = json.loads(done.stdout.strip().splitlines()[-1])["gigabytes"]
    return [
        {"what": what, "unit": "CPU s", "values": [cpu]},
        {"what": what, "unit": "s on the clock", "values": [wall]},
        {"what": what, "unit": "GB at most", "values": [memory]},
    ]


def _drawn() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    c = 10 ** rng.uniform(17, 22, RUNS)
    n = np.round(np.sqrt(c / 120) * np.exp(rng.uniform(-1.5, 1.5, RUNS)))
    d = np.round(c / (6 * n))
    loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(0.01 * rng.standard_normal(RUNS))
    names = [f"run-{i:06d}" for i in range(RUNS)]
    return pd.DataFrame({"run": names, "params": n, "tokens": d, "val_loss": loss, "seed": 0})


def _csv(folder: Path) -> Path:
    _drawn().to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv"


def _parquet(folder: Path) -> Path:
    _drawn().to_parquet(folder / "runs.parquet")
    return folder / "runs.parquet"


def _folders(folder: Path) -> Path:
    """Shapes of the small recipe, each at many lengths and seeds; folders by number, not by their run_id."""
    from scaling.accounting import counts
    from scaling.config import DataConfig, dump_run_config
    from scaling.recipes import RECIPES

    recipe = RECIPES["small"]
    rng, data = np.random.default_rng(0), DataConfig(name="drawn", fingerprint="0" * 12)
    models = [recipe.model(width, 256) for width in recipe.widths()]
    sizes = [counts(model, recipe.seq_len).n["total"] for model in models]
    shapes = [
        (n, recipe.run(model, data, factor * n, 0))
        for model, n in zip(models, sizes, strict=True) for factor in np.geomspace(2, 200, 40)
    ]  # fmt: skip
    texts = [dump_run_config(run) for _, run in shapes]
    assert all('"seed": 0' in text for text in texts)
    for i in range(RUNS):
        n, run = shapes[i % len(shapes)]
        place = folder / f"run-{i:06d}"
        place.mkdir()
        loss = (1.3 + 45 / n**0.44 + 150 / run.tokens**0.45) * np.exp(0.01 * rng.standard_normal())
        (place / "config.json").write_text(texts[i % len(shapes)].replace('"seed": 0', f'"seed": {i}'))
        (place / "summary.json").write_text(
            json.dumps({"status": "done", "loss": float(loss), "loss_se": 0.01})
        )
        (place / "DONE").write_text("done\n")
    return folder


def _rows(seed: int) -> pd.DataFrame:
    step = np.arange(1, STEPS + 1)
    noise = np.random.default_rng(seed).standard_normal(STEPS)
    loss, lr = 2 + 10 / step**0.3 + 0.02 * noise, 1e-3 / step**0.5
    return pd.DataFrame({"step": step, "tokens": 4096 * step, "loss": loss, "lr": lr})


def _logs(folder: Path) -> Path:
    """Twenty different logs, each of them fifty times."""
    texts = [_rows(seed).to_json(orient="records", lines=True) for seed in range(20)]
    for i in range(LOGS):
        (folder / f"run-{i:04d}").mkdir()
        (folder / f"run-{i:04d}" / "metrics.jsonl").write_text(texts[i % 20])
    return folder


def _log_table(folder: Path) -> Path:
    parts = [_rows(seed).assign(run=f"run-{seed:04d}") for seed in range(20)]
    pd.concat([parts[i % 20] for i in range(LOGS)]).to_parquet(folder / "metrics.parquet", index=False)
    return folder / "metrics.parquet"


def fit_table(path: Path) -> None:
    from analysis.columns import Reading
    from analysis.fit import fit
    from analysis.table import load

    content = fit(load(str(path), Reading(n="params", d="tokens", loss="val_loss")), resamples=RESAMPLES)
    _as_drawn(content["laws"]["chinchilla"], {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28})


def fit_folder(path: Path) -> None:
    from analysis.fit import fit
    from analysis.table import load

    content = fit(load(str(path)), resamples=RESAMPLES)
    _as_drawn(content["laws"]["chinchilla"], {"A": 45.0, "B": 150.0, "E": 1.3, "alpha": 0.44, "beta": 0.45})


def _as_drawn(law: dict[str, Any], truth: dict[str, float]) -> None:
    """The law that was drawn from is found, and the fit certified."""
    for name, value in truth.items():
        low, high = law["intervals"][name]
        if not low - 2 * (high - low) <= value <= high + 2 * (high - low):
            sys.exit(f"{name} is {low} to {high}, drawn with {value}")
    if not law["certificate"]["converged"]:
        sys.exit("the fit is not certified")


def read_logs(path: Path) -> None:
    from analysis.importing import gather

    table, _, notes = gather(str(path), curves=True)
    if len(table) != LOGS * STEPS or notes or table["run"].nunique() != LOGS:
        sys.exit(f"{len(table):,} rows of {table['run'].nunique()} runs were read")


def read_table(path: Path) -> None:
    from analysis.table import read

    if len(read(path)) != LOGS * STEPS:
        sys.exit("rows are missing")


TASKS: dict[str, Callable[[Path], None]] = {
    task.__name__: task for task in (fit_table, fit_folder, read_logs, read_table)
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
