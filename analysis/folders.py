"""Run folders as rows: each folder's files are read once, which a history of 100,000 runs notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.metrics import read_logs
from scaling.accounting import columns
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.runs import RunFolder

_FLAT = ("constant", "inverse_sqrt")


@dataclass(frozen=True)
class Finished:
    """A run that ended well: its folder and what its summary says."""

    folder: RunFolder
    summary: dict[str, Any]

    @cached_property
    def config(self) -> RunConfig:
        return self.folder.config()

    @property
    def hot(self) -> bool:
        """Whether its rate never fell for good."""
        schedule = self.config.schedule
        return schedule.name in _FLAT or (schedule.name == "wsd" and schedule.decay == 0)

    def row(self) -> dict[str, Any]:
        """The run as a row: its counts come from its config, its loss from its summary."""
        config, loss = self.config, self.summary.get("loss")
        if not isinstance(loss, int | float) or not np.isfinite(loss) or loss <= 0:
            raise UserError(f"{self.folder.path}/summary.json has loss = {loss!r}; train the run again.")
        return {
            "run_id": self.folder.run_id,
            "status": "done",
            "loss": float(loss),
            "loss_se": self.summary.get("loss_se"),
            **columns(config),
            "fingerprint": config.data.fingerprint,
            "unique_tokens": self.summary.get("unique_tokens"),
            "b2": config.optimizer.b2,
            "schedule": config.schedule.name,
            "warmup_steps": config.schedule.warmup_steps or config.schedule.warmup * config.steps,
        }


def split(folders: Sequence[RunFolder], cooled: bool) -> tuple[list[Finished], list[dict[str, str]]]:
    """The runs that ended well, and why the others do not count. `cooled`: where some runs' rate cooled down,
    those whose did not are left out too."""
    finished, dropped = [], []
    for folder in folders:
        summary = folder.summary()
        ended = summary.get("status") == "done" and (folder.path / "DONE").exists()
        status = "done" if ended else folder.status()
        if status == "done":
            finished.append(Finished(folder, summary))
            continue
        step = summary.get("diverged_step")
        dropped.append({"run": folder.run_id, "reason": f"{status} at step {step}" if step else status})
    hot = {one.folder.run_id for one in finished if cooled and one.hot}
    if hot and len(hot) < len(finished):
        reason = "its rate did not cool down, as others here did"
        dropped += [{"run": run, "reason": reason} for run in sorted(hot)]
        finished = [one for one in finished if one.folder.run_id not in hot]
    return finished, dropped


def curves(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """Every logged row of the runs: step, learning rate and training loss beside what their config fixes."""
    logs, _ = read_logs(
        [one.folder.metrics_path for one in finished], [one.folder.run_id for one in finished]
    )
    if not {"step", "lr", "loss"} <= set(logs.columns):
        return []
    # Of a step that comes twice, as after a resume, the later row counts.
    logs = logs.dropna(subset=["step", "lr", "loss"]).drop_duplicates(["run", "step"], keep="last")
    points = dict(list(logs.sort_values("step", kind="stable").groupby("run", observed=True)))
    rows: list[dict[str, Any]] = []
    for one in finished:
        if one.folder.run_id not in points:
            continue
        whole = one.row()
        own = {name: value for name, value in whole.items() if name not in ("loss_se", "steps", "lr", "loss")}
        part = points[one.folder.run_id]
        rows += [
            own | {"steps": int(step), "lr": float(lr), "loss": float(loss)}
            for step, lr, loss in zip(part["step"], part["lr"], part["loss"], strict=True)
        ]
    return rows
