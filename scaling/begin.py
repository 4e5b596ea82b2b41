"""How a run with no checkpoint of its own begins: at a state that a run beside it left, or afresh.

What it takes over is all that its own first steps would have made: parameters and moments, where the data
stream stands, the log, the clock. The summary's `started_from` says whose they are; `steps_trained` and
`flops_trained` count what was trained here, so that summed over a sweep every step is counted once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jax

from scaling.checkpoint import read_checkpoint, reason
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.prefix import Beginning, beginnings, divergence, prefix
from scaling.processes import agreed
from scaling.runs import RunFolder

# Of placement.json: what has no part in the numbers of a step.
_NO_PART = {"data", "data_path", "checkpoint_seconds", "keep_steps", "keep_every", "hang_seconds"}
_NO_PART |= {"wandb", "wandb_project"}
CANDIDATES = 4  # checkpoints that are tried, the latest first; the others are older or copies


@dataclass(frozen=True)
class Start:
    """A state after `step` steps, the position and the log that belong to it; notes on what was passed over.

    `position` is that of a checkpoint, with `started_from`; `diverged` when the run is known to end here.
    """

    step: int
    state: Any
    position: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: list[str]
    diverged: bool = False


def begin(config: RunConfig, folder: RunFolder, fresh: Any) -> Start:
    """Where the run of `folder` begins; `fresh`, at step 0, where no run beside it has its first steps.

    `fresh` is a state to lay the found one out like. All processes of a run get the same.
    """
    candidates, notes = _candidates(config, folder), []
    for one in candidates:
        start = Beginning(RunFolder(folder.path.parent / one["run_id"]), one["step"])
        rows = start.rows()
        if rows is None:
            notes.append(f"the log of run {one['run_id']} lacks steps up to {one['step']}: passed over")
            continue
        known = {"run_id": one["run_id"], "step": one["step"], "prefix": prefix(config, one["step"])}
        if one["diverged"]:
            times = {"seconds": rows[-1]["seconds"], "cpu_seconds": 0.0}
            notes.append(f"not trained: run {one['run_id']}, which begins alike, diverged at {one['step']}")
            return Start(start.step, fresh, _position(known, times, None), rows, notes, diverged=True)
        try:
            state, theirs = read_checkpoint(start.folder.checkpoints, start.step, fresh, one["run_id"])
        except (UserError, jax.errors.JaxRuntimeError):  # no damage: a folder mixed up, too little memory
            raise
        except Exception as error:  # as in Checkpoints: damage, or its owner removed it, shows as anything
            which = f"checkpoint {one['step']} of run {one['run_id']}"
            notes.append(f"{which} cannot be read ({reason(error)}): passed over")
        else:
            times = {name: theirs[name] for name in ("seconds", "cpu_seconds")}
            return Start(start.step, state, _position(known, times, theirs["data"]), rows, notes)
    return Start(0, fresh, {}, [], notes)


def _candidates(config: RunConfig, folder: RunFolder) -> list[dict[str, Any]]:
    """What the first process sees: others may see the folders a moment later."""
    if dead := divergence(config, folder):
        found = [{"run_id": dead.folder.run_id, "step": dead.step, "diverged": True}]
    else:
        found = [
            {"run_id": start.folder.run_id, "step": start.step, "diverged": False}
            for start in beginnings(config, folder)[:CANDIDATES]
        ]
    return json.loads(agreed(json.dumps(found)))


def _position(known: dict[str, Any], times: dict[str, float], data: Any) -> dict[str, Any]:
    return {"data": data, "notes": [], "started_from": known | times, **times}


def other_placement(folder: RunFolder, started_from: dict[str, Any]) -> str | None:
    """A note where the run that it started from was run otherwise; both placement.json are written."""
    source = RunFolder(folder.path.parent / started_from["run_id"])
    mine, theirs = (_placement(one) for one in (folder, source))
    differ = sorted(name for name in mine.keys() | theirs if mine.get(name) != theirs.get(name))
    if not differ:
        return None
    return (
        f"its first {started_from['step']} steps are of run {source.run_id}, run with another "
        f"{', '.join(differ)}: not bit for bit those of a run of its own"
    )


def _placement(folder: RunFolder) -> dict[str, Any]:
    try:
        values = json.loads((folder.path / "placement.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in values.items() if name not in _NO_PART}
