"""The exponent a of N* ~ C^a after each step of a study that undoes one habit after another.

    published   the losses of Porian et al. 2024 (arXiv 2406.19146) by their own protocol (`analysis.porian`),
                beside the five exponents they print; 95% intervals, of their noise draws
    runs        a folder of runs whose sweep.json names the step and the budget of every run: the minima of
                each budget by a parabola in log N and by Akima's curve (`analysis.minima`), a power law
                through them, 90% intervals of runs drawn with replacement within each budget

Result (strict JSON): kind "exponents", source, level, steps [{step, says, count, runs, a, interval, printed,
akima {a, interval}, budgets [{c, n, interval, refused}], why}], notes. `a` is null where fewer than
three budgets have a minimum inside their sizes, and `why` says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis import porian
from analysis.bootstrap import LEVEL
from analysis.folders import Finished
from analysis.isoflop import Profiles, isoflop
from analysis.law import Array
from analysis.minima import grouped
from analysis.optimum import Cost
from analysis.published import find, registry
from analysis.published import table as published_table
from scaling.errors import UserError
from scaling.runs import RunFolder

SET = "porian_refinedweb"
SAYS = {
    "kaplan": "Kaplan's count, long warmup, no decay",
    "head": "all FLOPs counted",
    "warmup": "warmup by model size",
    "decay": "decay matched to the horizon",
    "tuned": "rate and batch by size and horizon",
}


@dataclass(frozen=True)
class Printed:
    """A step of Porian et al., figure 1: which rows, and a with its 95% interval as printed."""

    step: str
    hparams: str
    warmup: str
    decay: str
    param_count: str
    a: float
    interval: tuple[float, float]


PUBLISHED = (
    Printed("kaplan", "base", "long", "kaplan", "kaplan", 0.835, (0.824, 0.846)),
    Printed("head", "base", "long", "kaplan", "standard", 0.706, (0.691, 0.717)),
    Printed("warmup", "base", "short", "kaplan", "standard", 0.602, (0.591, 0.617)),
    Printed("decay", "base", "short", "chinchilla", "standard", 0.571, (0.560, 0.589)),
    Printed("tuned", "tuned", "short", "const", "standard", 0.497, (0.491, 0.505)),
)


def of_published(folder: Path | None) -> dict[str, Any]:
    """The five printed exponents from the published losses.

    Raises UserError when the set is neither in `folder` nor to be had.
    """
    item = registry()[SET]
    path = find(item, folder)
    frame = published_table(item, path)
    parts = [_rows(frame, printed, str(path)) for printed in PUBLISHED]
    found = porian.exponents(
        [tuple(part[name].to_numpy(np.float64) for name in ("n", "c", "loss")) for part in parts]  # type: ignore[misc]
    )
    steps = []
    for printed, part, entry in zip(PUBLISHED, parts, found, strict=True):
        steps.append(
            {
                "step": printed.step,
                "says": SAYS[printed.step],
                "count": printed.param_count,
                "runs": len(part),
                "a": entry["a"],
                "interval": entry["a_interval"],
                "printed": {"a": printed.a, "interval": list(printed.interval)},
                "akima": None,
                "budgets": [
                    {
                        "c": budget["c"],
                        "n": budget.get("n"),
                        "interval": _spread(budget),
                        "refused": budget.get("refused"),
                    }
                    for budget in entry["budgets"]
                ],
                "why": None,
            }
        )
    return {
        "kind": "exponents", "source": str(path), "level": porian.LEVEL, "steps": steps,
        "notes": [f"{item.paper}; N* by Akima's curve, intervals of noise draws, as they do"],
    }  # fmt: skip


def _rows(frame: pd.DataFrame, printed: Printed, source: str) -> pd.DataFrame:
    keep = np.ones(len(frame), bool)
    for name in ("hparams", "warmup", "decay", "param_count"):
        if name not in frame:
            raise UserError(f"{source} has no column {name!r} to choose the steps by; take the file anew.")
        keep &= (frame[name] == getattr(printed, name)).to_numpy(bool)
    if "file" in frame:
        keep &= (frame["file"] == "summary_df").to_numpy(bool)
    return frame[keep]


def _spread(budget: dict[str, Any]) -> list[float] | None:
    if "n" not in budget:
        return None
    factor = float(np.exp(1.96 * budget["spread"]))
    return [budget["n"] / factor, budget["n"] * factor]


def of_runs(path: Path, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The exponents of a folder of runs launched from a study whose cells name their `step`.

    Raises UserError where it is not one, and where no run has finished.
    """
    cells = _cells(path)
    done, lost = [], []
    for run in dict.fromkeys(run for run, _ in cells):
        folder = RunFolder(path / run)
        status = folder.status()
        if status == "done":  # rates that never came down among them: they are what the first steps are about
            done.append(Finished(folder, folder.summary()).row())
        else:
            lost.append(f"{run} is left out: {status}")
    if not done:
        raise UserError(f"{path} has no finished run; see `scaling status`.")
    table = pd.DataFrame(done).set_index("run_id")
    steps = []
    for step in dict.fromkeys(record["step"] for _, record in cells):
        chosen = [(run, record) for run, record in cells if record["step"] == step and run in table.index]
        steps.append(_step(step, chosen, table, resamples, seed))
    return {"kind": "exponents", "source": str(path), "level": LEVEL, "steps": steps, "notes": lost}


def _cells(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(run, record) of every place of a run on a profile."""
    try:
        stored = json.loads((path / "sweep.json").read_text())
        pairs = list(zip(stored["run_ids"], stored["design"]["cells"], strict=True))
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{path} is no launched study of steps; give runs/kaplan_vs_chinchilla, or --published."
        ) from None
    found = [(run, record) for run, cell in pairs for record in (cell, *cell.get("also", ()))]
    if not found or any(not {"step", "budget", "count"} <= record.keys() for _, record in found):
        raise UserError(f"the cells of {path}/sweep.json name no steps; give runs/kaplan_vs_chinchilla.")
    return found


def _step(
    step: str, chosen: list[tuple[str, dict[str, Any]]], table: pd.DataFrame, resamples: int, seed: int
) -> dict[str, Any]:
    out: dict[str, Any] = {
        "step": step, "says": SAYS.get(step, step), "count": chosen[0][1]["count"] if chosen else None,
        "runs": len(chosen), "a": None, "interval": None, "printed": None, "akima": None, "budgets": [],
        "why": None if chosen else "no run has finished",
    }  # fmt: skip
    if not chosen:
        return out
    rows = table.loc[[run for run, _ in chosen]]
    count = out["count"]
    n_P = rows[f"n_{'kaplan' if count == 'kaplan' else 'total'}"].to_numpy(np.float64)
    d_P, loss_P = rows["tokens"].to_numpy(np.float64), rows["loss"].to_numpy(np.float64)
    c_P = np.array([record["budget"] for _, record in chosen], np.float64)
    profiles = Profiles([run for run, _ in chosen], grouped(n_P, d_P, c_P), Cost())
    entries, _ = isoflop(profiles, loss_P, _draws(c_P, resamples, seed))
    best, other = entries["isoflop"], entries["isoflop_akima"]
    out |= {"a": best.get("a"), "interval": best.get("a_interval"), "why": best.get("skipped")}
    if "a" in other:
        out["akima"] = {"a": other["a"], "interval": other["a_interval"]}
    out["budgets"] = [
        {"c": b["c"], "n": b.get("n"), "interval": b.get("n_interval"), "refused": b.get("refused"),
         "sizes": n_P[c_P == c].tolist(), "losses": loss_P[c_P == c].tolist(), "parabola": b.get("parabola")}
        for b, c in zip(best["budgets"], np.unique(c_P), strict=False)
    ]  # fmt: skip
    return out


def _draws(c_P: Array, resamples: int, seed: int) -> Array:
    """Weights R x P: runs drawn with replacement among those of their budget, so that no profile is lost."""
    rng = np.random.default_rng(seed)
    out = np.zeros((resamples, len(c_P)))
    for c in np.unique(c_P):
        rows = np.flatnonzero(c_P == c)
        out[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
    return out


def exponents_text(content: dict[str, Any]) -> RenderableType:
    """One line a step: a, its interval, and what it is read beside."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    printed = any(step["printed"] for step in content["steps"])
    for name in (
        "step",
        "runs",
        "a",
        f"{content['level']:.0%} interval",
        "printed" if printed else "by Akima",
    ):
        table.add_column(name, justify="left" if name == "step" else "right")
    refused = []
    for step in content["steps"]:
        beside = step["printed"] or step["akima"]
        other = "-" if beside is None else f"{beside['a']:.3f} ({_ends(beside['interval'])})"
        a = "-" if step["a"] is None else f"{step['a']:.3f}"
        table.add_row(step["says"], str(step["runs"]), a, _ends(step["interval"]), other)
        refused += [Text(f"  {step['step']}: no exponent, {step['why']}")] if step["why"] else []
        for budget in step["budgets"]:
            if budget["refused"]:
                refused.append(Text(f"  {step['step']}, {budget['c']:.3g} FLOPs: {budget['refused']}"))
    return Group(table, *([Text("left out", style="bold"), *refused] if refused else []))


def _ends(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3f}, {interval[1]:.3f}"
