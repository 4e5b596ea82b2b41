"""Of a sweep's runs, those to submit: without what is done and what is live, on whatever engine.

The order in which things are read is what makes it certain: claims, then what was handed over, then the
engines' own lists, then the run folders. Whatever changes after the claims were read makes the next claim on
that run, `claims.Claimed.take`, fail.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import claims
from launch.engines import find_engine
from launch.executor import Cluster, Job, Live
from scaling.config import NUMERICS_VERSION, from_dict
from scaling.errors import UserError
from scaling.runs import RunFolder

CACHE_SECONDS = 5.0
_LIVE: dict[Path, tuple[float, tuple[dict[str, Live], list[str]]]] = {}


@dataclass(frozen=True)
class Selection:
    """What becomes of each run of a launch. `attempts`: the newest claim seen on each of `todo`."""

    todo: list[Job]
    done: list[str] = field(default_factory=list)  # or diverged
    live: dict[str, Live] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def select(folder: Path, jobs: list[Job], *, ask: bool = True) -> Selection:
    """Sort the runs of a launch; `ask` no engine for its list and what was submitted counts as live.

    Raises UserError for runs of another `numerics_version`, and when an engine that has runs of this sweep
    cannot be asked from here.
    """
    check_version(job.config.numerics_version for job in jobs)
    numbers = claims.newest(folder)
    listed, notes = _listed(folder, numbers, ask)
    chosen = Selection([], attempts={}, notes=notes)
    for job in jobs:
        if job.folder.finished():
            _check_folder(job)
            chosen.done.append(job.run_id)
        elif job.run_id in listed:
            chosen.live[job.run_id] = listed[job.run_id]
        elif job.folder.is_live():
            chosen.live[job.run_id] = Live("running", "", remark="a process on this file system holds it")
        else:
            chosen.todo.append(job)
            chosen.attempts[job.run_id] = numbers.get(job.run_id, 0)
    return chosen


def live(folder: Path) -> tuple[dict[str, Live], list[str]]:
    """Runs of a sweep's folder that engines hold, by run_id, and notes on engines that cannot be asked.

    For showing: what was found is kept for `CACHE_SECONDS`. Asks nobody where nothing was ever submitted.
    """
    asked, found = _LIVE.get(folder, (0.0, ({}, [])))
    if not asked or time.monotonic() - asked > CACHE_SECONDS:
        try:
            found = _listed(folder, claims.newest(folder), ask=True)
        except UserError as error:
            found = ({}, [str(error)])
        _LIVE[folder] = (time.monotonic(), found)
    return found


def clusters(folder: Path) -> list[tuple[str, Cluster]]:
    """Every engine, as it was described, that runs of this folder were handed to, with its name."""
    seen: dict[str, tuple[str, Cluster]] = {}
    for record in claims.records(folder).values():
        key = json.dumps([record.engine, record.profile], sort_keys=True)
        if key not in seen:
            seen[key] = (record.engine, _cluster(record.engine, record.profile, folder))
    return list(seen.values())


def _cluster(name: str, values: dict[str, Any], folder: Path) -> Cluster:
    engine = find_engine(name)
    return engine.make(from_dict(engine.profile_type(), values, "profile"), folder)


def _listed(folder: Path, numbers: dict[str, int], ask: bool) -> tuple[dict[str, Live], list[str]]:
    if not numbers:
        return {}, []
    known = claims.records(folder)
    found = claims.being_submitted(folder, known, numbers)
    if not ask:
        return found, ["runs submitted earlier are not looked up in a dry run"]
    for engine, cluster in clusters(folder):
        try:
            cluster.check()
            found |= cluster.poll()
        except UserError as error:
            raise UserError(f"runs of {folder} went to {engine}, which cannot be asked: {error}") from None
    return found, []


def check_version(versions: Iterable[int]) -> None:
    """Raises UserError when any run is of other numerics than this code's."""
    others = sorted({one for one in versions if one != NUMERICS_VERSION})
    if others:
        raise UserError(
            f"the sweep has runs of numerics_version {others[0]}, and this code trains {NUMERICS_VERSION}: "
            "they are stale; plan the sweep anew under another name, or take the code of that version."
        )


def _check_folder(job: Job) -> None:
    """A finished folder whose config is of other numerics is not this run, whatever it is called."""
    found = folder_version(job.folder)
    if found is not None and found != job.config.numerics_version:
        raise UserError(
            f"{job.folder.path} is stale: a run of numerics_version {found}, and this code trains "
            f"{NUMERICS_VERSION}; move it away or give another --runs."
        )


def folder_version(folder: RunFolder) -> int | None:
    """`numerics_version` of a run folder; None where there is no config that can be read."""
    try:
        return int(json.loads((folder.path / "config.json").read_text())["numerics_version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stale_folders(folder: Path, mine: set[str]) -> list[str]:
    """Names of run folders beside those of the sweep that are of an older `numerics_version`."""
    beside = sorted(path.parent for path in folder.glob("*/config.json") if path.parent.name not in mine)
    versions = {path.name: folder_version(RunFolder(path)) for path in beside}
    return [name for name, version in versions.items() if version is not None and version < NUMERICS_VERSION]
