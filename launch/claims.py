"""Who may submit a run: for every attempt a file that can be made only once, by whichever launcher is first.

    runs/<sweep>/submissions/<id>/submission.json   engine, profile, runs, who, when; before any claim
    runs/<sweep>/submissions/<id>/submitted         the engine has taken all of it
    runs/<sweep>/claims/<run_id>.<n>                the n-th attempt is of the submission named in it

A claim is dead when its submission is: taken by the engine and no longer in the engine's list, or never taken
and its launcher gone. The next attempt is the file n + 1, made with "create, fail if it exists": of two
launchers that both find n dead, on whatever machines, one gets it. A job looks again before it trains
(`newest`), so that a launcher that slept between claiming and submitting does no harm either.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launch.executor import Live
from scaling.errors import UserError
from scaling.files import write_json, write_whole

LEASE_SECONDS = 180.0  # from the record to `submitted`; a launcher gives up in half of it
CLAIMS, SUBMISSIONS = "claims", "submissions"


@dataclass(frozen=True)
class Record:
    """A submission as written down: `profile` holds the engine's fields as read from the file `source`.

    `made` is a Unix time.
    """

    id: str
    engine: str
    profile: dict[str, Any]
    source: str
    runs: tuple[str, ...]
    user: str
    host: str
    pid: int
    made: float

    def taken(self, folder: Path) -> bool:
        return (folder / SUBMISSIONS / self.id / "submitted").exists()

    def abandoned(self, folder: Path) -> bool:
        """Whether its launcher can no longer hand it over: it failed, died, or its lease has run out."""
        if (folder / SUBMISSIONS / self.id / "failed").exists():
            return True
        if self.host == socket.gethostname() and not psutil.pid_exists(self.pid):
            return True
        return time.time() - self.made > LEASE_SECONDS


class Claimed:
    """Submitting from `folder`: the record is written at once, claims and the outcome follow."""

    def __init__(
        self, folder: Path, engine: str, profile: dict[str, Any], source: str, runs: Iterable[str]
    ) -> None:
        self._began = time.monotonic()
        self.folder = folder
        self.id = f"{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        self.path = folder / SUBMISSIONS / self.id
        values: dict[str, Any] = {"engine": engine, "profile": profile, "source": source, "runs": [*runs]}
        values |= {
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "made": time.time(),
        }
        try:
            write_json(self.path / "submission.json", values)
            (folder / CLAIMS).mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}); name another with --runs."
            ) from None

    def take(self, attempts: dict[str, int]) -> list[str]:
        """Of the runs, with the number of the newest claim that was seen on each, those that are now ours."""
        return [run_id for run_id, seen in attempts.items() if self._create(f"{run_id}.{seen + 1}")]

    def check_lease(self) -> None:
        """Raises UserError when the claims took so long that others may take them for abandoned."""
        if time.monotonic() - self._began > LEASE_SECONDS / 2:
            raise UserError(
                f"claiming the runs in {self.folder} took too long; nothing was submitted, launch again."
            )

    def submitted(self) -> None:
        write_whole(self.path / "submitted", "")

    def failed(self) -> None:
        write_whole(self.path / "failed", "")

    def _create(self, name: str) -> bool:
        try:
            handle = os.open(self.folder / CLAIMS / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            file.write(self.id)
        return True


def newest(folder: Path) -> dict[str, int]:
    """The number of the newest claim on each run of a sweep's folder."""
    found: dict[str, int] = {}
    try:
        names = [entry.name for entry in os.scandir(folder / CLAIMS)]
    except FileNotFoundError:
        return found
    for name in names:
        run_id, _, number = name.rpartition(".")
        if number.isdigit():
            found[run_id] = max(found.get(run_id, 0), int(number))
    return found


def holder(folder: Path, run_id: str, number: int) -> str:
    """Id of the submission whose claim it is; empty while it is being written, or where there is none."""
    try:
        return (folder / CLAIMS / f"{run_id}.{number}").read_text()
    except FileNotFoundError:
        return ""


def is_holder(folder: Path, run_id: str, submission: str) -> bool:
    """Whether a run is still this submission's to train."""
    return holder(folder, run_id, newest(folder).get(run_id, 0)) == submission


def records(folder: Path) -> dict[str, Record]:
    """Every submission of a sweep's folder by id, the oldest first."""
    found = {}
    for path in sorted((folder / SUBMISSIONS).glob("*/submission.json")):
        values = json.loads(path.read_text())
        found[path.parent.name] = Record(path.parent.name, **{**values, "runs": tuple(values["runs"])})
    return found


def being_submitted(folder: Path, known: dict[str, Record], claims: dict[str, int]) -> dict[str, Live]:
    """Runs whose claim is of a launcher that has not yet handed them over, by run_id."""
    pending = {one.id for one in known.values() if not one.taken(folder) and not one.abandoned(folder)}
    if not pending:
        return {}
    held = {run_id: holder(folder, run_id, number) for run_id, number in claims.items()}
    return {
        run_id: Live("queued", "", submission, remark="being submitted by another launcher")
        for run_id, submission in held.items()
        if submission in pending or not submission
    }
