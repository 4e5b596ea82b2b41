"""Compilers' processes from the caller's side: started when first needed, killed when they hang."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600.0  # of the processor for one compilation; a large one takes a minute
PATIENCE = 6  # times as long by the clock, for a machine that others keep busy
# A process that grew so large in one job is ended after it: the next one starts small.
LARGE = 1.5e9  # bytes
ROOM = 2.5e9  # bytes that one compilation may take
# JAX itself on the CPU; libtpu asks no metadata server who it is, and leaves a TPU of this machine alone.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Compiler:
    """`compile(job)` gives the worker's answer; jobs and answers as in launch/preflight_worker.py."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._said: IO[str] | None = None

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        """What one job takes; {"error": text} where it was refused, hung or killed its process."""
        process = self._start()
        assert process.stdin
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = self._answer(process.pid)
        except queue.Empty:
            self.close()
            return {"error": f"no answer of the compiler in {self.seconds:g} s"}
        except OSError:
            line = None
        if line is None:
            last = self._last_words()
            self.close()
            return {"error": f"the compiler's process died: {last}"}
        answer = json.loads(line)
        if answer.get("rss", 0) > LARGE:
            self.close()
        return answer

    def _answer(self, pid: int) -> str | None:
        """The next line; None where the process ended. Raises queue.Empty where it takes too long."""
        began, spent = time.monotonic(), _spent(pid)
        while True:
            try:
                return self._answers.get(timeout=min(5.0, self.seconds))
            except queue.Empty:
                late = time.monotonic() - began > PATIENCE * self.seconds
                if late or _spent(pid) - spent > self.seconds:
                    raise

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
            self._answers = queue.Queue()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "launch.preflight_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            )
            threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()
        return self._process

    def _last_words(self) -> str:
        if self._said is None:
            return "it was ended"
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing (out of memory?)"


class Compilers:
    """As many compilers as cores and free memory allow, for as many threads; an idle one takes each job.

    One compilation keeps about one core busy.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, min(_cores(), int(psutil.virtual_memory().available // ROOM)))
        self._all = [Compiler() for _ in range(self.count)]
        self._idle: queue.Queue[Compiler] = queue.Queue()
        self._ended = False
        for compiler in self._all:
            self._idle.put(compiler)

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        """As `Compiler.compile`."""
        compiler = self._idle.get()
        try:
            return {"error": "the compilers were ended"} if self._ended else compiler.compile(job)
        finally:
            self._idle.put(compiler)

    def close(self) -> None:
        """End every process; what is being compiled is given up, what comes after is refused."""
        self._ended = True
        for compiler in self._all:
            compiler.close()


def _spent(pid: int) -> float:
    """Seconds of the processor that a process has used; none where it has ended."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return used.user + used.system


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    """Answers as they come, None at the end; libraries' own lines are passed over."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("preflight "):
            answers.put(line.removeprefix("preflight "))
    answers.put(None)
