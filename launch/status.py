"""Where every run of a sweep stands, read from its run folders; works while it runs, and without JAX."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.accounting import counts, run_flops
from scaling.config import RunConfig
from scaling.runs import RunFolder, Status, run_folders
from sweeps.sweep import Sweep, find_sweep, read_sweep
from sweeps.trunks import Branch, branches

TAIL_BYTES = 4096  # more than one row of metrics.jsonl


@dataclass(frozen=True)
class RunStatus:
    """One run. `loss`: validation loss when ended, else the last training loss; nats/token."""

    run_id: str
    label: str
    status: Status
    loss: float | None
    n_total: int
    tokens: int  # seen so far
    tokens_planned: int
    flops: float  # to be trained after `start_tokens`, `matmul` convention
    start_tokens: int  # taken over from the trunk that it branches off; 0: none
    seconds: float | None  # of training so far
    error: str | None


@dataclass(frozen=True)
class SweepStatus:
    name: str
    folder: Path
    runs: list[RunStatus]
    others: int  # run folders beside them that are not of the sweep

    def totals(self) -> dict[str, int]:
        """Runs by status, every status present."""
        words: tuple[Status, ...] = ("done", "diverged", "failed", "running", "stopped", "pending")
        return {word: sum(run.status == word for run in self.runs) for word in words}

    @property
    def fraction(self) -> float:
        """Of the FLOPs that the sweep trains, by tokens seen; a run that ended counts whole."""
        total = sum(run.flops for run in self.runs)
        return sum(run.flops * _share(run) for run in self.runs) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": str(self.folder),
            "totals": self.totals(),
            "fraction": self.fraction,
            "others": self.others,
            "runs": [asdict(run) for run in self.runs],
        }


def sweep_status(name_or_path: str, root: str | Path = "runs") -> SweepStatus:
    """Status of a sweep by its name, its JSON file, or a folder of runs.

    As launched where it was launched, else as it would be. Raises UserError when there is no such sweep.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = Path(root) / name_or_path
    if (folder / "sweep.json").is_file():
        return _of_sweep(read_sweep(folder / "sweep.json"), folder)
    if folder.is_dir() and (found := run_folders(folder)):
        return SweepStatus(folder.name, folder, [_of_run(run, run.config()) for run in found], 0)
    sweep = find_sweep(name_or_path, root)
    folder = Path(root) / sweep.name
    if (folder / "sweep.json").is_file():
        sweep = read_sweep(folder / "sweep.json")
    return _of_sweep(sweep, folder)


def _share(run: RunStatus) -> float:
    if run.status in ("done", "diverged"):
        return 1.0
    return max(0, run.tokens - run.start_tokens) / (run.tokens_planned - run.start_tokens)


def _of_sweep(sweep: Sweep, folder: Path) -> SweepStatus:
    found = branches(sweep.runs)
    runs = [
        _of_run(RunFolder(folder / config.run_id), config, label, found.get(config.run_id))
        for config, label in zip(sweep.runs, sweep.labels(), strict=True)
    ]
    mine = set(sweep.run_ids)
    return SweepStatus(sweep.name, folder, runs, sum(run.run_id not in mine for run in run_folders(folder)))


def _of_run(run: RunFolder, config: RunConfig, label: str = "", branch: Branch | None = None) -> RunStatus:
    start = branch.step if branch else 0
    status, summary = run.status(), run.summary()
    ended = status in ("done", "diverged")
    row = {} if ended else _last_row(run.metrics_path)
    return RunStatus(
        run_id=config.run_id,
        label=label,
        status=status,
        loss=summary.get("loss") if ended else row.get("loss"),
        n_total=counts(config.model, config.seq_len).n["total"],
        tokens=int(summary.get("tokens", config.tokens) if ended else row.get("tokens", 0)),
        tokens_planned=config.tokens,
        flops=run_flops(config) * (1 - start / config.steps),
        start_tokens=start * config.batch_size * config.seq_len,
        seconds=(summary if ended else row).get("seconds"),
        error=summary.get("error") if status == "failed" else None,
    )


def _last_row(metrics: Path) -> dict[str, Any]:
    """The last whole row, from the end of the file: logs are long and this is asked of every run."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    for line in reversed(lines[:-1]):  # the last piece is empty, or a line still being written
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return {}
