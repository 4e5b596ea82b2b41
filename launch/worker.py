"""A warm worker: one process that trains one small run after another for the launcher.

JSON lines in on stdin: {"op": "train", "runs": [{"run", "folder", "config"}, ...], "placement"}, where more
than one run is a pack, trained in one program; {"op": "stop", "run"}.
JSON lines out on what was stdout: {"event": "started" | "progress" | an ending, "run", "data",
"leaving"}; each run of an order has its ending, and after one with "leaving" the process ends by itself and
takes no further run. {"event": "alive"} comes every 2 s, whatever happens.

End of input means that the launcher is gone, even by `kill -9`: the run in hand is saved and the
process ends. Ctrl-C in a terminal reaches the whole process group; a worker ignores it, because
stopping is the launcher's to ask for. SIGTERM saves and ends with exit code 42, "start me again"; a step that
hangs ends with 42 as well, with nothing saved (`scaling/watchdog.py`).

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import psutil

from launch.executor import EventKind
from scaling.config import Placement, RunConfig, from_dict
from scaling.runs import EXIT_RESTART, RunBusy, RunFolder
from scaling.watchdog import end_process

# Compiled programs of many shapes add up, 25 MB each; a fresh process reads those it needs from the cache.
RETIRE_AFTER_BYTES = 1_000_000_000
ALIVE_SECONDS = 2.0

Endings = dict[str, tuple[EventKind, dict[str, Any]]]  # by run


class Voice:
    """What the launcher hears: JSON lines on what was stdout. To all else that is stderr now."""

    def __init__(self) -> None:
        self._pipe = os.dup(1)
        os.dup2(2, 1)
        self._one_at_a_time = threading.Lock()

    def say(self, event: str, run_id: str, data: dict[str, Any], leaving: bool = False) -> None:
        rest = json.dumps({"event": event, "run": run_id, "data": data, "leaving": leaving}).encode() + b"\n"
        with contextlib.suppress(OSError), self._one_at_a_time:  # no launcher: the end of input says so too
            while rest:
                rest = rest[os.write(self._pipe, rest) :]

    def sign_of_life(self) -> None:
        """From now on, every ALIVE_SECONDS."""

        def repeat() -> None:
            while True:
                time.sleep(ALIVE_SECONDS)
                self.say("alive", "", {})

        threading.Thread(target=repeat, daemon=True).start()


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
                    self._stopped -= {run["run"] for run in order["runs"]}
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
    voice = Voice()
    orders.listen()
    voice.sign_of_life()
    full = None
    while (order := orders.trains.get()) is not None:
        endings = _train(order, orders, voice)
        full = full or _resident_bytes() + RETIRE_AFTER_BYTES
        # After a failure this process is not to be trusted with another run.
        failed = any(kind == "failed" for kind, _ in endings.values())
        leaving = failed or terminated.is_set() or _resident_bytes() > full
        for left, (run_id, (ending, data)) in enumerate(endings.items(), 1 - len(endings)):
            voice.say(ending, run_id, data, leaving and left == 0)
        if leaving:
            break
    return EXIT_RESTART if terminated.is_set() else 0


def _resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def _train(order: dict[str, Any], orders: Orders, voice: Voice) -> Endings:
    """Train one run, or one pack; each run's ending, and what there is to say of it."""
    ids = [run["run"] for run in order["runs"]]
    folders = [Watched(Path(run["folder"])) for run in order["runs"]]
    error_logs = {folder.run_id: folder.path / "error.log" for folder in folders}
    try:
        configs = [from_dict(RunConfig, run["config"]) for run in order["runs"]]
        placement = from_dict(Placement, order["placement"])
        if any(orders.should_stop(run_id) for run_id in ids):
            return {run_id: ("stopped", {}) for run_id in ids}
        for run_id in ids:
            voice.say("started", run_id, {})
        # Imported here: JAX takes seconds, in which orders are already heard.
        if len(ids) > 1:
            from scaling.packed import train_packed

            found = train_packed(
                configs,
                placement,
                folders,
                progress=lambda run_id, row: voice.say("progress", run_id, row),
                should_stop=lambda: any(orders.should_stop(run_id) for run_id in ids),
                on_hang=end_process,
            )
            return {
                run_id: _ending(found[run_id], folder) for run_id, folder in zip(ids, folders, strict=True)
            }
        return {ids[0]: _train_one(configs[0], placement, folders[0], orders, voice)}
    except Exception as error:
        return {run_id: ("failed", _record(error, error_logs[run_id])) for run_id in ids}


def _train_one(
    config: RunConfig, placement: Placement, folder: Watched, orders: Orders, voice: Voice
) -> tuple[EventKind, dict[str, Any]]:
    from scaling.train import Interrupted, train

    run_id = config.run_id
    try:
        summary = train(
            config,
            placement,
            folder,
            progress=lambda row: voice.say("progress", run_id, row),
            should_stop=lambda: orders.should_stop(run_id),
            on_hang=end_process,
        )
    except Interrupted:
        return "stopped", {}
    except RunBusy:
        return "busy", {}
    return _ending(summary, folder)


def _ending(found: dict[str, Any] | str, folder: Watched) -> tuple[EventKind, dict[str, Any]]:
    """Of a summary, or of the one word that there is to say of a run that did not end."""
    if isinstance(found, str):
        return cast(EventKind, found), {}
    (folder.path / "error.log").unlink(missing_ok=True)
    return (found["status"] if folder.ended_here else "finished"), found


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
