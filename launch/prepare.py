"""The one path of every engine that keeps jobs: a sweep, less what is done and what is live, with its price.

`prepare` reads and submits nothing; `launch.submit` hands over what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.engines import find_engine
from launch.estimate import Estimate, on_chips
from launch.executor import Cluster, Job
from launch.jobs import sweep_jobs
from launch.profiles import Profile, load_profile
from launch.selection import Selection, select, stale_folders
from launch.submit import dry_submission, ready
from scaling.config import Placement, to_dict
from sweeps.sweep import Sweep


@dataclass(frozen=True)
class Prepared:
    """What a launch would submit: `now`, the most urgent first; `held`: why others cannot go yet."""

    sweep: Sweep
    folder: Path
    engine: str
    profile: Profile
    profile_path: Path
    cluster: Cluster
    jobs: list[Job]  # of the whole sweep
    selection: Selection
    now: list[Job]
    held: dict[str, str]
    estimate: Estimate
    stale: list[str]  # run folders beside the sweep's, of an older numerics_version

    def render(self) -> str:
        """Exactly what would be submitted."""
        return self.cluster.render(dry_submission(self.folder, self.now, self.selection))

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep.name,
            "folder": str(self.folder),
            "engine": self.engine,
            "profile": str(self.profile_path),
            "submit": [job.run_id for job in self.now],
            "held": self.held,
            "done": self.selection.done,
            "live": {run_id: vars(live) for run_id, live in self.selection.live.items()},
            "stale": self.stale,
            "estimate": self.estimate.to_json(),
        }


def prepare(
    engine: str,
    sweep: Sweep,
    runs: Path,
    placement: Placement,
    profile: str | None = None,
    *,
    dry_run: bool = False,
) -> Prepared:
    """Sort and price the runs of `sweep` for `engine`, in `runs/<name>/`.

    `placement` is laid over the profile's where it says something. A dry run takes the shipped profile where
    the user has none and asks no engine for its list. Raises UserError for an unknown engine, a profile that
    is missing or misspelt, a chip without a table, and runs of other numerics.
    """
    entry = find_engine(engine)
    found, path = load_profile(engine, entry.profile_type(), profile, example=dry_run)
    folder = (runs / sweep.name).absolute()
    jobs = sweep_jobs(sweep, folder, _over(found.placement, placement))
    cluster = entry.make(found, folder)
    selection = select(folder, jobs, ask=not dry_run)
    now, held = ready(selection, cluster.chains)
    stale = stale_folders(folder, set(sweep.run_ids))
    estimate = on_chips(now, found)
    return Prepared(sweep, folder, engine, found, path, cluster, jobs, selection, now, held, estimate, stale)


def _over(base: Placement, said: Placement) -> Placement:
    """`base` with the fields that `said` has other than their default."""
    default = to_dict(Placement())
    changed = {name: getattr(said, name) for name, value in to_dict(said).items() if value != default[name]}
    return replace(base, **changed)
