"""What a report is about: the runs of a sweep, its fit, its forecasts, read once and put side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.forecast import history, spread
from analysis.minima import budgets
from analysis.optimum import compute_optimal
from analysis.plots.views import rows_of
from analysis.score import Forecast
from scaling.accounting import columns
from scaling.errors import UserError
from scaling.runs import RunFolder, run_folders

BEYOND = 10.0  # without a forecast the question is asked at this multiple of the largest budget


@dataclass(frozen=True)
class Study:
    """`runs`: one row per run folder; of a table, which has no `folder`, one per row. `fit` is None where too
    few runs are finished; `notes` says why."""

    name: str
    question: str
    folder: Path | None
    runs: pd.DataFrame
    folders: list[RunFolder]
    fit: dict[str, Any] | None
    forecasts: list[Forecast]
    refused: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """How files of this study are called."""
        return self.name if self.folder is None else self.folder.resolve().name

    @property
    def has_surface(self) -> bool:
        return self.fit is not None and "chinchilla" in self.fit["laws"]

    @property
    def counting(self) -> list[Forecast]:
        """The first forecast of every target, in the order of registration."""
        first: dict[str, Forecast] = {}
        for forecast in sorted(self.forecasts, key=lambda f: (f.registered_at, f.path.name)):
            first.setdefault(forecast.run_id, forecast)
        return list(first.values())

    @property
    def headline(self) -> Forecast | None:
        """The forecast that the report opens with: of the target registered last, its first."""
        return self.counting[-1] if self.counting else None

    @property
    def budget(self) -> float | None:
        """FLOPs that the question is asked at: the target's, or `BEYOND` times the largest fitted."""
        if self.headline is not None:
            return float(self.headline.record["target"]["flops"])
        if self.fit is None:
            return None
        return BEYOND * max(row["c"] for row in self.fit["rows"])

    def spent(self) -> dict[str, float]:
        """FLOPs (matmul), CPU seconds and seconds of all runs that ended."""
        names = {"flops": "c_matmul", "cpu_seconds": "cpu_seconds", "seconds": "seconds"}
        if self.folder is None:
            return dict.fromkeys(names, 0.0)
        ended = self.runs[self.runs["status"].isin(["done", "diverged"])]
        return {key: float(ended[name].sum()) for key, name in names.items()}


@dataclass(frozen=True)
class Answer:
    """The compute-optimal run of a budget (see `analysis.optimum.compute_optimal`) and the 90% interval of
    one new run's loss there, nats/token; `parts`: half-widths in log loss of what that interval is made of
    (law, scatter, drift; see `analysis.forecast.spread`)."""

    flops: float
    optimum: dict[str, Any]
    run_interval: tuple[float, float]
    parts: dict[str, float | None]


def answers(fit: dict[str, Any], budgets_flops: Sequence[float]) -> list[Answer]:
    """An `Answer` for each budget; the fit has a surface."""
    past = history(fit)
    found = []
    for flops in budgets_flops:
        best = compute_optimal(fit, flops)
        around = spread(fit, best["n"], best["d"], flops, past)
        low, high = around.quantiles["0.05"], around.quantiles["0.95"]
        found.append(Answer(flops, best, (low, high), around.parts))
    return found


def read_study(
    folder: Path, fit: dict[str, Any] | None, forecasts: Sequence[Forecast], notes: Sequence[str] = ()
) -> Study:
    """Read every run folder under `folder`. Raises UserError when it does not exist or holds no run."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; give a launched sweep's name or a folder of runs.")
    folders = run_folders(folder)
    if not folders:
        raise UserError(f"{folder} has no run folders; `scaling launch` makes them.")
    sweep = _sweep(folder)
    roles = _roles(fit, forecasts)
    rows = [_row(run, roles.get(run.run_id, "")) for run in folders]
    runs = pd.DataFrame(rows).sort_values(["role", "c_matmul", "n_total"], kind="stable", ignore_index=True)
    remarks = [*notes, *(fit["notes"] if fit else [])]
    remarks += [f"{f.path.name}: changed after it was registered" for f in forecasts if not f.intact]
    return Study(
        name=str(sweep.get("name") or folder.resolve().name),
        question=str(sweep.get("question") or ""),
        folder=folder,
        runs=runs,
        folders=folders,
        fit=fit,
        forecasts=list(forecasts),
        refused=list(sweep.get("refused") or []),
        notes=remarks,
    )


def of_table(fit: dict[str, Any]) -> Study:
    """The study that a fit's own rows are. Raises UserError where they are of no size, data and compute."""
    if not {"n", "d", "c", "loss"} <= fit["rows"][0].keys():
        raise UserError(f"fit {fit['name']} is not of a loss over N, D and C, which a report is about.")
    dropped = pd.DataFrame(
        [{"run": row["run"], "role": "left out", "note": row["reason"]} for row in fit["rows_dropped"]],
        columns=["run", "role", "note"],
    )
    runs = pd.concat([rows_of(fit).assign(role="fitted"), dropped], ignore_index=True)
    runs = runs.rename(columns={"run": "run_id", "predicted": "loss_of_law"})
    return Study(fit["name"], "", None, runs, [], fit, [], [], list(fit["notes"]))


def _sweep(folder: Path) -> dict[str, Any]:
    """The stored sweep as plain data; {} where there is none or it cannot be read."""
    try:
        stored = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _roles(fit: dict[str, Any] | None, forecasts: Sequence[Forecast]) -> dict[str, str]:
    roles = {row["run"]: "fitted" for row in fit["rows"]} if fit else {}
    roles |= {forecast.run_id: "target" for forecast in forecasts}
    dropped = fit["rows_dropped"] if fit else []
    return roles | {row["run"]: "left out" for row in dropped}


def _row(folder: RunFolder, role: str) -> dict[str, Any]:
    config, summary, status = folder.config(), folder.summary(), folder.status()
    done = status == "done"
    row = {
        "run_id": folder.run_id,
        "role": role or "not in the fit",
        "status": status,
        "loss": summary.get("loss") if done else None,
        "loss_se": summary.get("loss_se") if done else None,
        **columns(config),
    }
    kept = ("unique_tokens", "epochs", "seconds", "cpu_seconds", "tokens_per_second", "device")
    return row | {name: summary.get(name) for name in kept} | {"note": _remark(status, summary)}


def _remark(status: str, summary: dict[str, Any]) -> str:
    if status == "diverged":
        step = summary.get("diverged_step")
        return f"diverged at step {step:,}" if isinstance(step, int) else "diverged"
    if status == "failed":
        return f"failed: {summary.get('error', 'no reason recorded')}"
    return "; ".join(map(str, summary.get("notes") or []))


def budget_groups(fit: dict[str, Any]) -> list[float]:
    """Budgets of the fitted rows, FLOPs: runs within a few percent of one another are one."""
    flops = np.array([row["c"] for row in fit["rows"]], float)
    return [float(np.exp(np.log(flops[group]).mean())) for group in budgets(flops)]
