"""Peak resident memory of this process and everything it started."""

from __future__ import annotations

import contextlib
import threading

import psutil

SECONDS = 1.0


class PeakMemory:
    """Samples the process tree once a second in a thread; `peak_bytes` is the largest sum seen."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            total = 0
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    total += one.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
            if self._stopping.wait(SECONDS):
                return
