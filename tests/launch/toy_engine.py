"""A fourth engine, whole: every job a process of its own on this machine, which outlives the launcher."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from launch.executor import Live, Submission
from launch.profiles import Profile
from scaling.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ToyProfile(Profile):
    nice: int = 0  # of every job


class Toy:
    chains = False

    def __init__(self, profile: ToyProfile, folder: Path) -> None:
        self.profile, self.pids = profile, folder / "toy"

    def check(self) -> None:
        if shutil.which("nice") is None:
            raise UserError("nice is not on PATH; install coreutils.")

    def render(self, submission: Submission) -> str:
        return "".join(f"nice -n {self.profile.nice} {shlex.join(job.argv)}\n" for job in submission.jobs)

    def submit(self, submission: Submission) -> None:
        self.pids.mkdir(exist_ok=True)
        for job, command in zip(submission.jobs, self.render(submission).splitlines(), strict=True):
            with (self.pids / f"{job.run_id}.log").open("ab") as log:
                process = subprocess.Popen(
                    shlex.split(command), stdout=log, stderr=log, start_new_session=True
                )
            (self.pids / f"{job.run_id}.pid").write_text(f"{process.pid} {submission.id}")

    def poll(self) -> dict[str, Live]:
        found = {}
        for path in self.pids.glob("*.pid"):
            pid, submission = path.read_text().split()
            if psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
                found[path.stem] = Live("running", pid, submission)
        return found

    def cancel(self, live: dict[str, Live]) -> None:
        for one in live.values():
            psutil.Process(int(one.handle)).terminate()

    def log(self, run_id: str, lines: int) -> str:
        path = self.pids / f"{run_id}.log"
        return "\n".join(path.read_text().splitlines()[-lines:]) if path.is_file() else ""
