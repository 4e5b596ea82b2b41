"""One worker process (`launch/worker.py`), seen from the launcher."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launch.devices import Slot
from launch.executor import Job
from scaling.config import to_dict

LEAVE_SECONDS = 20.0


class Worker:
    def __init__(self, number: int, slot: Slot, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.number, self.log = number, log
        self.jobs: dict[str, Job] = {}  # in hand, by run: one, or a pack
        self.checkpoints: dict[str, int] = {}  # step of each run's newest checkpoint as it was handed over
        self.packed = False
        self.heard = time.monotonic()
        self.silent = False  # killed because nothing was heard of it
        self._unread = b""
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=slot.environment,
                start_new_session=True,  # Ctrl-C in the terminal is the launcher's to pass on
            )

    @property
    def pipe(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def train(self, jobs: list[Job], checkpoints: dict[str, int]) -> None:
        """Hand over a run, or several to be trained in one program."""
        self.jobs, self.checkpoints = {job.run_id: job for job in jobs}, checkpoints
        self.packed, self.heard = len(jobs) > 1, time.monotonic()
        runs = [
            {"run": job.run_id, "folder": str(job.folder.path), "config": to_dict(job.config)} for job in jobs
        ]
        self._send({"op": "train", "runs": runs, "placement": to_dict(jobs[0].placement)})

    def stop(self, run_id: str) -> None:
        self._send({"op": "stop", "run": run_id})

    def _send(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it died; its closed pipe is the next thing that is read
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[dict[str, Any]] | None:
        """Whole lines that have arrived; None once the process is gone."""
        chunk = os.read(self.pipe, 1 << 16)
        if not chunk:
            return None
        self.heard = time.monotonic()
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        self.process.kill()

    def end(self, kill: bool = False) -> int:
        """Close its input, on which a worker with no run in hand leaves, and wait for it.

        One that cannot finish leaving is killed: it has nothing left to save.
        """
        if kill:
            self.process.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            code = self.process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code
