"""The next runs of a sweep of rates or batches, coarse to fine, from what its runs gave so far.

`analysis.tuning` says per cell what would bracket its optimum, or narrow it, or whether seeds are wanted;
here that becomes runs: each is the nearest run of its cell with another rate, batch or seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.accounting import counts
from scaling.config import RunConfig, to_dict
from scaling.errors import UserError
from sweeps.bases import with_batch, with_rate
from sweeps.sweep import Sweep

SAME_TOKENS = 0.1  # horizons this near (a share) are one: whole steps of different batches differ


@dataclass(frozen=True)
class Step:
    """What one cell of a sweep needs next: `runs` to add to it, none where `reason` says it is done."""

    cell: str
    reason: str
    runs: tuple[RunConfig, ...]


def refine(sweep: Sweep, folder: str | Path) -> tuple[Sweep, list[Step]]:
    """`sweep` with the runs to train next, given those finished in `folder`, and why, cell by cell.

    The sweep keeps its name: launched again it trains the new runs only. With nothing to add it comes back
    as it is. Raises UserError as `analysis.tuning.tune` does, and for a cell that no run of the sweep is of.
    """
    from analysis.columns import Reading  # on demand: sweeps stand on the analysis only to choose runs
    from analysis.tuning import tune
    from analysis.tuning_rows import load_sweep

    return extend(sweep, tune(load_sweep(str(folder), Reading())))


def extend(sweep: Sweep, found: dict[str, Any]) -> tuple[Sweep, list[Step]]:
    """`refine` from a result of `analysis.tuning.tune`."""
    known, steps = set(sweep.run_ids), []
    cells = list(sweep.design.get("cells", []))
    labels = sweep.labels()
    by_run = dict(zip(sweep.runs, labels, strict=True))
    runs = list(sweep.runs)
    for cell in found["cells"]:
        members = [run for run in sweep.runs if _member(run, cell, found["conventions"])]
        if not members:
            raise UserError(
                f"no run of sweep {sweep.name!r} is of cell {cell['label']}; give the sweep's own runs."
            )
        added = []
        for point in cell["next"]:
            run, base = _next(members, point, cell["seeds"])
            if run.run_id not in known:
                known.add(run.run_id)
                added.append(run)
                cells.append({"label": _label(by_run[base], run, base), "refined": cell["label"]})
        runs += added
        steps.append(Step(cell["label"], _reason(cell), tuple(added)))
    design = sweep.design | ({"cells": cells} if len(cells) == len(runs) else {})
    return replace(sweep, runs=tuple(runs), design=design), steps


def _member(run: RunConfig, cell: dict[str, Any], conventions: dict[str, str]) -> bool:
    """Whether a run is of a cell: its N, its horizon, and whatever else names the cell."""
    n: dict[Any, int] = {**counts(run.model, run.seq_len).n}
    if cell["n"] and not math.isclose(n[conventions["n"]], cell["n"], rel_tol=1e-6):
        return False
    if cell["d"] and abs(run.tokens / cell["d"] - 1) > SAME_TOKENS:
        return False
    batch, lr = run.batch_size * run.seq_len, run.optimizer.lr
    if any(given and not math.isclose(mine, given, rel_tol=0.02) for mine, given in
           ((batch, cell["batch"]), (lr, cell["lr"]))):  # fmt: skip
        return False
    return all(str(_dotted(run, name)) == str(value) for name, value in cell["by"].items())


def _dotted(run: RunConfig, name: str) -> Any:
    value: Any = to_dict(run)
    for part in name.split("."):
        value = value[part]
    return value


def _next(members: list[RunConfig], point: dict[str, Any], seeds: bool) -> tuple[RunConfig, RunConfig]:
    """The run at a point, under a seed of its own where seeds are wanted, and the member it is made from."""
    lr = point.get("lr")
    batch = point.get("batch")

    def away(run: RunConfig) -> float:
        off = abs(math.log(run.optimizer.lr / lr)) if lr else 0.0
        return off + (abs(math.log(run.batch_size * run.seq_len / batch)) if batch else 0.0)

    base = min(members, key=lambda run: (away(run), run.seed))
    run = base
    if batch and not math.isclose(batch, base.batch_size * base.seq_len, rel_tol=0.02):
        run = with_batch(run, max(1, round(batch / run.seq_len)))
    if lr and not math.isclose(lr, run.optimizer.lr, rel_tol=1e-3):
        run = with_rate(run, lr)
    if seeds:
        run = replace(run, seed=max(member.seed for member in members) + 1)
    return run, base


def _label(name: str, run: RunConfig, base: RunConfig) -> str:
    """The label of the run it was made from, and what is new."""
    new = f"lr={run.optimizer.lr:.3g}" if run.optimizer.lr != base.optimizer.lr else ""
    new += f" b={run.batch_size}" if run.batch_size != base.batch_size else ""
    new += f" seed={run.seed}" if run.seed != base.seed else ""
    return f"{name}>{new.strip().replace(' ', ',')}"


def _reason(cell: dict[str, Any]) -> str:
    if cell["refused"]:
        return str(cell["refused"])
    if not cell["next"]:
        return "the optimum is bracketed and its interval narrow"
    if cell["seeds"]:
        return "what is left is noise: more seeds"
    return "the optimum is bracketed, its neighbours are far apart"
