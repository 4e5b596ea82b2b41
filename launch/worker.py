"""A warm worker: one process that trains one small run after another for the launcher.

JSON lines in on stdin: {"op": "train", "run", "folder", "config", "placement"}, {"op": "stop", "run"}.
JSON lines out on what was stdout: {"event": "started" | "progress" | an ending, "run", "data",
"leaving"}; after an ending with "leaving" the process ends by itself and takes no further run.

End of input means that the launcher is gone, even by `kill -9`: the run in hand is saved and the
process ends. Ctrl-C in a terminal reaches the whole process group; a worker ignores it, because
stopping is the launcher's to ask for. SIGTERM saves and ends with exit code 42, "start me again".

The environment (threads, device, compilation cache) is set by the launcher before this process
starts: XLA reads it once, on import.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from launch.executor import EventKind
from scaling.config import Placement, RunConfig, from_dict
from scaling.runs import EXIT_RESTART, RunBusy, RunFolder

# Compiled programs of many shapes add up, 25 MB each; a fresh process reads those it needs from the cache.
RETIRE_AFTER_BYTES = 1_000_000_000


class Say(Protocol):
    def __call__(
        self, event: EventKind, run_id: str, data: dict[str, Any], leaving: bool = False
    ) -> None: ...


@dataclass(frozen=True)
class Watched(RunFolder):
    """Knows whether the run ended through this object: `train` also returns runs that others finished."""

    ended_here: list[str] = field(default_factory=list)

    def finish(self, status: Literal["done", "diverged"], summary: dict[str, Any]) -> None:
        super().finish(status, summary)
        self.ended_here.append(status)


class Orders:
    """Reads the launcher's orders in a thread of its own, so that "stop" is heard during a step."""

    def __init__(self) -> None:
        self.trains: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped: set[str] = set()
        self._leaving = threading.Event()

    def listen(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def leave(self) -> None:
        """Save the run in hand and end the process."""
        self._leaving.set()
        self.trains.put(None)

    def should_stop(self, run_id: str) -> bool:
        return self._leaving.is_set() or run_id in self._stopped

    def _read(self) -> None:
        # Not sys.stdin: its buffer, locked by this thread for ever, would abort the interpreter's exit.
        with open(0, closefd=False) as lines:
            for line in lines:
                order = json.loads(line)
                if order["op"] == "stop":
                    self._stopped.add(order["run"])
                else:
                    self._stopped.discard(order["run"])
                    self.trains.put(order)
        self.leave()


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated = threading.Event()
    orders = Orders()

    def on_term(*_: object) -> None:
        terminated.set()
        orders.leave()

    signal.signal(signal.SIGTERM, on_term)
    say = _speak()
    orders.listen()
    full = None
    while (order := orders.trains.get()) is not None:
        ending, data = _train_one(order, orders, say)
        full = full or _resident_bytes() + RETIRE_AFTER_BYTES
        # After a failure this process is not to be trusted with another run.
        leaving = ending == "failed" or terminated.is_set() or _resident_bytes() > full
        say(ending, order["run"], data, leaving)
        if leaving:
            break
    return EXIT_RESTART if terminated.is_set() else 0


def _resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def _speak() -> Say:
    """Keep stdout for the launcher alone; whatever a library prints goes to the log on stderr."""
    private = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(event: EventKind, run_id: str, data: dict[str, Any], leaving: bool = False) -> None:
        message = {"event": event, "run": run_id, "data": data, "leaving": leaving}
        with contextlib.suppress(OSError):  # the launcher is gone; the end of input says so too
            private.write(json.dumps(message) + "\n")

    return say


def _train_one(order: dict[str, Any], orders: Orders, say: Say) -> tuple[EventKind, dict[str, Any]]:
    """Train one run; its ending, and what there is to say of it."""
    run_id, folder = order["run"], Watched(Path(order["folder"]))
    error_log = folder.path / "error.log"
    try:
        config = from_dict(RunConfig, order["config"])
        placement = from_dict(Placement, order["placement"])
        # Imported here: JAX takes seconds, in which orders are already heard.
        from scaling.train import Interrupted, train

        if orders.should_stop(run_id):
            return "stopped", {}
        say("started", run_id, {})
        try:
            summary = train(
                config,
                placement,
                folder,
                progress=lambda row: say("progress", run_id, row),
                should_stop=lambda: orders.should_stop(run_id),
            )
        except Interrupted:
            return "stopped", {}
        except RunBusy:
            return "busy", {}
        error_log.unlink(missing_ok=True)
        return (summary["status"] if folder.ended_here else "finished"), summary
    except Exception as error:
        return "failed", _record(error, error_log)


def _record(error: Exception, error_log: Path) -> dict[str, Any]:
    """Leave the traceback in the run folder and the log; on a full disk the launcher hears all the same."""
    data = {"error": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        error_log.write_text(traceback.format_exc())
        data["where"] = str(error_log)
    with contextlib.suppress(OSError):
        traceback.print_exc()
    return data


if __name__ == "__main__":
    sys.exit(main())
