"""What a trunk with branches gave: the FLOPs that it saved, counted from the logs, and its cooled losses
beside those of other schedules.

A folder of runs whose configs differ in horizon, schedule, rate and seed. Schedules are compared at equal
(model, horizon), each at the rate that was best for it: the mean over seeds is the lowest. The noise is what
seeds of one setting differ by, pooled over all settings; an interval is of the mean difference to the cosine.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from analysis.bootstrap import LEVEL
from scaling.accounting import counts, run_flops
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.runs import RunFolder, run_folders

Cell = tuple[int, int, str]  # N (`total`), training tokens, schedule


@dataclass(frozen=True)
class Ended:
    """A finished run; `started_from` the run_id and step of its trunk, empty where it has none."""

    folder: RunFolder
    config: RunConfig
    loss: float  # final validation loss, nats/token
    flops: float  # training FLOPs of all its steps, `matmul`
    flops_trained: float  # of those trained in this run
    started_from: dict[str, Any]

    @property
    def cell(self) -> Cell:
        n = counts(self.config.model, self.config.seq_len).n["total"]
        return n, self.config.tokens, schedule_name(self.config)


@dataclass(frozen=True)
class Line:
    """One schedule at one (model, horizon), at its best rate.

    `difference`: of the mean loss to the cosine's, relative, and its 90% interval where seeds give one.
    `edge`: the best rate is the least or the greatest tried, so a better one may lie outside.
    """

    n: int
    tokens: int
    schedule: str
    lr: float
    loss: float
    seeds: int
    edge: bool
    difference: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Study:
    """`flops` of separate runs, `flops_trained` what was spent; `noise` relative, over seeds, and its degrees
    of freedom; `dropped` runs by reason."""

    source: str
    runs: list[Ended]
    lines: list[Line]
    flops: float
    flops_trained: float
    noise: float | None
    freedom: int
    dropped: list[dict[str, str]]

    @property
    def saved(self) -> float:
        """Share of the FLOPs of separate runs."""
        return 1 - self.flops_trained / self.flops

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "runs": len(self.runs),
            "branches": sum(bool(run.started_from) for run in self.runs),
            "flops": self.flops,
            "flops_trained": self.flops_trained,
            "saved": self.saved,
            "noise": self.noise,
            "noise_degrees_of_freedom": self.freedom,
            "level": LEVEL,
            "schedules": [asdict(line) for line in self.lines],
            "dropped": self.dropped,
        }


def schedule_name(config: RunConfig) -> str:
    """`cosine`, `wsd linear 20%`: what tells schedules apart beside warmup and horizon."""
    schedule = config.schedule
    if schedule.name != "wsd":
        return schedule.name
    return f"wsd {schedule.cooldown} {schedule.decay:.0%}"


def read_study(source: str | Path) -> Study:
    """Every run of a folder that is done. Raises UserError when there is none."""
    path = Path(source)
    if not path.is_dir() and (Path("runs") / path).is_dir():
        path = Path("runs") / path
    runs, dropped = [], []
    for folder in run_folders(path):
        if (status := folder.status()) == "done":
            runs.append(_ended(folder))
        else:
            dropped.append({"run": folder.run_id, "reason": status})
    if not runs:
        raise UserError(f"{path} has no finished run; launch its sweep first.")
    noise, freedom = _noise(runs)
    return Study(
        source=str(path),
        runs=runs,
        lines=_lines(runs, noise, freedom),
        flops=sum(run.flops for run in runs),
        flops_trained=sum(run.flops_trained for run in runs),
        noise=noise,
        freedom=freedom,
        dropped=dropped,
    )


def _ended(folder: RunFolder) -> Ended:
    config, summary = folder.config(), folder.summary()
    flops = run_flops(config)
    return Ended(
        folder=folder,
        config=config,
        loss=float(summary["loss"]),
        flops=flops,
        flops_trained=float(summary.get("flops_trained", flops)),
        started_from=summary.get("started_from", {}),
    )


def _settings(runs: list[Ended]) -> dict[tuple[Cell, float], np.ndarray]:
    """Losses over seeds by cell and rate."""
    found: dict[tuple[Cell, float], list[float]] = defaultdict(list)
    for run in runs:
        found[run.cell, run.config.optimizer.lr].append(run.loss)
    return {key: np.array(losses) for key, losses in found.items()}


def _noise(runs: list[Ended]) -> tuple[float | None, int]:
    """Standard deviation of log loss over seeds, pooled, and its degrees of freedom."""
    logs = [np.log(losses) for losses in _settings(runs).values() if len(losses) > 1]
    freedom = sum(len(values) - 1 for values in logs)
    if not freedom:
        return None, 0
    return float(np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in logs) / freedom)), freedom


def _lines(runs: list[Ended], noise: float | None, freedom: int) -> list[Line]:
    rates: dict[Cell, dict[float, np.ndarray]] = defaultdict(dict)
    for (cell, lr), losses in _settings(runs).items():
        rates[cell][lr] = losses
    best = {cell: min(tried, key=lambda lr: float(tried[lr].mean())) for cell, tried in rates.items()}
    lines = []
    for cell in sorted(rates):
        n, tokens, schedule = cell
        losses = rates[cell][best[cell]]
        against = rates.get((n, tokens, "cosine"))
        difference = interval = None
        if against is not None and schedule != "cosine":
            theirs = against[best[n, tokens, "cosine"]]
            difference = float(losses.mean() / theirs.mean() - 1)
            if noise:
                spread = noise * np.sqrt(1 / len(losses) + 1 / len(theirs))
                reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * spread)
                interval = (difference - reach, difference + reach)
        lines.append(
            Line(
                n,
                tokens,
                schedule,
                best[cell],
                float(losses.mean()),
                len(losses),
                len(rates[cell]) > 1 and best[cell] in (min(rates[cell]), max(rates[cell])),
                difference,
                interval,
            )
        )
    return lines
