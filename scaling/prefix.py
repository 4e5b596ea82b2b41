"""Runs that begin alike: which first steps two runs share, and what a run can start from.

A trunk at a constant rate and the cooldowns that leave it (Hägele et al. 2024, arXiv:2405.18392) are
ordinary runs whose first steps are the same experiment. So a run that has no checkpoint of its own starts
from one of a run beside it, the latest whose steps are its own first steps; a branch is no kind of run.

No JAX here: planners and launchers ask which runs share their beginnings without a device.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaling.config import RunConfig, ScheduleConfig
from scaling.errors import UserError
from scaling.runs import RunFolder, run_folders
from scaling.schedule import fraction_of_peak


@functools.lru_cache(maxsize=16_384)  # a sweep of 10,000 runs asks for each several times
def stem(config: RunConfig) -> str:
    """12 hex digits naming all that enters a training step but its learning rate's fraction of the peak.

    Left out beside schedule and horizon: how many epochs the data may make and how much of it validates,
    for neither changes which tokens come at a step.
    """
    data = replace(config.data, epochs=1, val_tokens=1)
    return replace(config, data=data, schedule=ScheduleConfig(), steps=1).run_id


def prefix(config: RunConfig, step: int) -> str:
    """12 hex digits naming all that fixes the first `step` steps of a run: its stem, and every rate.

    Two runs of one prefix have, under one placement, the same state after `step` steps, bit for bit.
    Raises UserError for a step that the run does not have.
    """
    if not 0 <= step <= config.steps:
        raise UserError(f"step is {step}; run {config.run_id} has steps 0 to {config.steps}.")
    rates_S = _fractions(config.schedule, config.steps)[:step]
    return hashlib.sha256(stem(config).encode() + rates_S.astype("<f8").tobytes()).hexdigest()[:12]


def shared_steps(one: RunConfig, other: RunConfig) -> int:
    """How many first steps two runs have in common: the longest prefix that is the same."""
    if stem(one) != stem(other):
        return 0
    rates_S, others_S = (_fractions(run.schedule, run.steps) for run in (one, other))
    length = min(len(rates_S), len(others_S))
    differ = np.flatnonzero(rates_S[:length] != others_S[:length])
    return int(differ[0]) if len(differ) else length


@functools.lru_cache(maxsize=64)
def _fractions(schedule: ScheduleConfig, steps: int) -> np.ndarray:
    """Learning rate of every step in fractions of the peak, float64 (steps,)."""
    return np.array([fraction_of_peak(schedule, step, steps) for step in range(1, steps + 1)])


@dataclass(frozen=True)
class Beginning:
    """A run beside another that has the state of its first `step` steps, or the log of how they diverged."""

    folder: RunFolder
    step: int

    def rows(self) -> list[dict[str, Any]] | None:
        """Its log up to `step`; None where rows are missing, and the two are not to be joined."""
        rows = [row for row in self.folder.metrics()[0] if row["step"] <= self.step]
        return rows if [row["step"] for row in rows] == list(range(1, self.step + 1)) else None


def beginnings(config: RunConfig, folder: RunFolder) -> list[Beginning]:
    """Checkpoints beside `folder` that are of the first steps of its run, the latest first.

    Only within a store of runs, where folders have the names of their runs: a run laid elsewhere, under a
    name of somebody's own, begins at its beginning.
    """
    found = []
    for sibling, other in _siblings(config, folder):
        shared = shared_steps(config, other)
        steps = [int(path.name) for path in _listed(sibling) if path.name.isdigit()]
        found += [Beginning(sibling, step) for step in steps if 0 < step <= shared and step < config.steps]
    return sorted(found, key=lambda start: (-start.step, start.folder.run_id))


def divergence(config: RunConfig, folder: RunFolder) -> Beginning | None:
    """A run beside `folder` whose loss stopped being finite at a step that both runs share, if there is one.

    The run would train to the same end. A run that diverged by its final loss alone says nothing of others.
    """
    for sibling, other in _siblings(config, folder):
        step = sibling.summary().get("diverged_step") if sibling.status() == "diverged" else None
        if isinstance(step, int) and 0 < step <= shared_steps(config, other):
            start = Beginning(sibling, step)
            if (rows := start.rows()) and rows[-1].get("loss") is None:
                return start
    return None


def _siblings(config: RunConfig, folder: RunFolder) -> Iterator[tuple[RunFolder, RunConfig]]:
    """The other runs of its store that share at least one step."""
    if folder.run_id != config.run_id:
        return
    wanted = stem(config)
    for sibling in run_folders(folder.path.parent):
        if sibling.run_id == folder.run_id or not _may_share(config, sibling):
            continue
        try:
            other = sibling.config()
        except (UserError, OSError):  # of another version, or half removed
            continue
        if other.run_id == sibling.run_id and stem(other) == wanted:
            yield sibling, other


def _may_share(config: RunConfig, sibling: RunFolder) -> bool:
    """Rules most runs of a sweep out before their configs are checked field by field, 1 ms each."""
    try:
        raw = json.loads((sibling.path / "config.json").read_text())
        theirs = raw["seed"], raw["batch_size"], raw["model"]["d_model"], raw["optimizer"]["lr"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return theirs == (config.seed, config.batch_size, config.model.d_model, config.optimizer.lr)


def _listed(folder: RunFolder) -> list[Any]:
    try:
        return list(folder.checkpoints.iterdir())
    except OSError:
        return []
