"""A warm worker: one process that trains one small run after another for the launcher.

JSON lines in on stdin: {"op": "train", "run", "folder", "config", "placement"}, {"op": "stop", "run"}.
JSON lines out on what was stdout: {"event": "started" | "progress" | an ending, "run", "data"}.

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
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.config import Placement, RunConfig, from_dict
from scaling.runs import EXIT_RESTART, RunBusy, RunFolder

Say = Callable[[str, str, dict[str, Any]], None]


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
    while (order := orders.trains.get()) is not None:
        if not _train_one(order, orders, say):
            return 1
    return EXIT_RESTART if terminated.is_set() else 0


def _speak() -> Say:
    """Keep stdout for the launcher alone; whatever a library prints goes to the log on stderr."""
    private = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(event: str, run_id: str, data: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the launcher is gone; the end of input says so too
            private.write(json.dumps({"event": event, "run": run_id, "data": data}) + "\n")

    return say


def _train_one(order: dict[str, Any], orders: Orders, say: Say) -> bool:
    """Train one run and report its ending. False: this process is not to be trusted with another."""
    run_id, folder = order["run"], RunFolder(Path(order["folder"]))
    error_log = folder.path / "error.log"
    try:
        config = from_dict(RunConfig, order["config"])
        placement = from_dict(Placement, order["placement"])
        if orders.should_stop(run_id):
            say("stopped", run_id, {})
            return True
        # Imported here: JAX takes a second, in which orders are already heard.
        from scaling.train import Interrupted, train
    except Exception as error:
        return _failed(folder, error_log, error, say)
    say("started", run_id, {})
    asked = time.time()
    try:
        summary = train(
            config,
            placement,
            folder,
            progress=lambda row: say("progress", run_id, row),
            should_stop=lambda: orders.should_stop(run_id),
        )
    except Interrupted:
        say("stopped", run_id, {})
    except RunBusy:
        say("busy", run_id, {})
    except Exception as error:
        return _failed(folder, error_log, error, say)
    else:
        error_log.unlink(missing_ok=True)
        earlier = (folder.path / "DONE").stat().st_mtime < asked  # another launcher's, in the meantime
        say("finished" if earlier else summary["status"], run_id, summary)
    return True


def _failed(folder: RunFolder, error_log: Path, error: Exception, say: Say) -> bool:
    """Leave the traceback in the run folder and the log; on a full disk the launcher hears all the same."""
    data = {"error": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        error_log.write_text(traceback.format_exc())
        data["where"] = str(error_log)
    with contextlib.suppress(OSError):
        traceback.print_exc()
    say("failed", folder.run_id, data)
    return False


if __name__ == "__main__":
    sys.exit(main())
