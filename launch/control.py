"""What is done about runs that were launched, from any terminal: stop them, read what they printed."""

from __future__ import annotations

from pathlib import Path

from launch import claims
from launch.drive import CANCELLED
from launch.engines import LOCAL
from launch.executor import Live
from launch.selection import clusters
from scaling.errors import UserError
from scaling.files import write_whole
from scaling.runs import RunFolder
from sweeps.sweep import read_sweep


def launched(sweep: str, runs: Path) -> Path:
    """Folder of a launched sweep, by its name or path. Raises UserError when there is none."""
    for folder in (runs / sweep, Path(sweep)):
        if (folder / "sweep.json").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in runs.glob("*/sweep.json"))) or "none"
    raise UserError(f"no sweep {sweep!r} was launched in {runs}; known are {known}.")


def cancel(folder: Path, named: list[str]) -> dict[str, str]:
    """Stop runs of a sweep that are queued or train; returns where each was, by run_id.

    On a cluster the engine is told; a launch on this file system, where one trains, finds a mark for each.
    Raises UserError for a run that the sweep does not have, or an engine that cannot be asked.
    """
    wanted = set(_runs(folder, named))
    stopped: dict[str, str] = {}
    for engine, cluster in clusters(folder):
        cluster.check()
        listed = cluster.poll()
        found = {run_id: live for run_id, live in listed.items() if run_id in wanted}
        _check_whole_jobs(listed, found)
        if found:
            cluster.cancel(found)
        stopped |= {run_id: f"{live.state} on {engine} as {live.handle}" for run_id, live in found.items()}
    others = [RunFolder(folder / run_id) for run_id in sorted(wanted - stopped.keys())]
    if any(run.is_live() for run in others):
        for run in others:
            if not run.finished():
                write_whole(folder / CANCELLED / run.run_id, "")
                stopped[run.run_id] = "of a launch on this file system"
    return stopped


def _check_whole_jobs(listed: dict[str, Live], found: dict[str, Live]) -> None:
    """An engine ends whole jobs, and a job may train several runs."""
    handles = {live.handle for live in found.values()}
    others = [run for run, live in listed.items() if live.handle in handles and run not in found]
    if others:
        raise UserError(
            f"run {others[0]} is trained by the same job as one that is to be cancelled; name "
            f"{'it' if len(others) == 1 else 'all of ' + ', '.join(others)} as well, or cancel the sweep."
        )


def last_engine(folder: Path, profile: str | None) -> tuple[str, str | None]:
    """Engine of the newest submission and its profile, written out as it was; local where there is none."""
    known = list(claims.records(folder).values())
    if not known:
        return LOCAL, profile
    return known[-1].engine, profile or known[-1].source


def read_logs(folder: Path, named: list[str], lines: int) -> dict[str, str]:
    """The last `lines` lines of each run: what its job printed on a cluster, its error, by run_id.

    Of the failed ones, or of all where none failed, unless some are named.
    """
    ids = _runs(folder, named)
    if not named:
        failed = [one for one in ids if RunFolder(folder / one).status() == "failed"]
        ids = failed or [one for one in ids if (folder / one).is_dir()]
    engines = [cluster for _, cluster in clusters(folder)]
    found = {}
    for run_id in ids:
        run = RunFolder(folder / run_id)
        parts = [cluster.log(run_id, lines) for cluster in engines]
        parts.append(_tail(run.path / "error.log", lines))
        parts.append(str(run.summary().get("error", "")) if run.status() == "failed" else "")
        found[run_id] = "\n".join(part.rstrip() for part in parts if part)
    return found


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _runs(folder: Path, named: list[str]) -> list[str]:
    """Run ids of a sweep that start with one of `named`; all of them without."""
    known = read_sweep(folder / "sweep.json").run_ids
    if not named:
        return list(known)
    found = []
    for name in named:
        matching = [run_id for run_id in known if run_id.startswith(name)]
        if len(matching) != 1:
            what = (
                f"{len(matching)} runs of sweep {folder.name!r} start"
                if matching
                else (f"no run of sweep {folder.name!r} starts")
            )
            raise UserError(f"{what} with {name!r}; `scaling status` lists them.")
        found += matching
    return found
