"""Notices that training hangs, from a thread of its own, and ends the process, to be started again.

A collective that waits for a lost host, a device driver that never answers, a file system that is gone: the
training loop then stands still for ever, holding machines that are paid for. A hang is no progress for
`floor` seconds and for HANG_MEDIANS times the median step, whichever is longer. What is known to be long
(the start with its compilation, checkpoints, evaluation) may take ALLOWANCE times the floor.

Silence is counted in ticks of the thread, not by the clock: a process that was stopped (SIGSTOP, a laptop
asleep) has not hung when it goes on. A process whose every thread is stopped is for the launcher to see.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from scaling.runs import EXIT_RESTART

HANG_MEDIANS = 20
ALLOWANCE = 12
RECENT_STEPS = 64
_TICKS = 8  # within the floor

OnHang = Callable[[str], None]


class Watchdog:
    """Watches from `with` to its end; `floor` 0, or no `on_hang`, watches nothing."""

    def __init__(self, floor: float, on_hang: OnHang | None, first: str = "the start") -> None:
        self._floor, self._on_hang = floor, on_hang
        self._doing: str | None = first  # what may be long, until the first beat
        self._beats = 0
        self._last = time.perf_counter()
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._closed = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._on_hang is not None and self._floor > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def beat(self) -> None:
        """A step went by."""
        now = time.perf_counter()
        if self._doing is None:
            self._steps.append(now - self._last)
        self._doing, self._last = None, now
        self._beats += 1

    def expect(self, what: str) -> None:
        """The next step may take long: it compiles."""
        self._doing = what
        self._beats += 1

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Something that is no step and may take long."""
        before, self._doing = self._doing, what
        self._beats += 1
        try:
            yield
        finally:
            self._doing, self._last = before, time.perf_counter()
            self._beats += 1

    def limit(self) -> float:
        """Seconds without progress that are a hang now."""
        if self._doing is not None:
            return ALLOWANCE * self._floor
        with contextlib.suppress(RuntimeError):  # a beat came in between: then nothing hangs
            return max(self._floor, HANG_MEDIANS * statistics.median([*self._steps, 0.0]))
        return ALLOWANCE * self._floor

    def _watch(self) -> None:
        assert self._on_hang is not None
        tick = min(1.0, self._floor / _TICKS)
        seen, silent = self._beats, 0.0
        while not self._closed.wait(tick):
            if self._beats != seen:
                seen, silent = self._beats, 0.0
                continue
            silent += tick
            if silent >= self._floor and silent >= self.limit() and not self._closed.is_set():
                self._on_hang(f"no progress for {silent:.0f} s in {self._doing or 'a training step'}")
                return


def end_process(why: str) -> None:
    """Leave with EXIT_RESTART, saving nothing: the threads that would save are those that hang.

    Where each thread stood goes to stderr. The last checkpoint stands; the log is cut back to it.
    """
    os.write(
        2, f"hung: {why}; this process ends with exit code {EXIT_RESTART} to be started again\n".encode()
    )
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback(file=2, all_threads=True)
    os._exit(EXIT_RESTART)
