"""What follows a crash: when the run is tried again, and which devices are left out.

A count of retries cannot tell a run that gets nowhere from one that is preempted hourly for a week. So
retries are bounded in time without progress: 1, 2, 4, ... s apart, for so many minutes since the first crash
after the newest checkpoint. A later checkpoint starts the count anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

RETRY_MINUTES = 5.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds
FAILURES = 3  # crashes of a device, in a row, of more than one run, that leave it out


@dataclass
class _Trouble:
    checkpoint: int
    since: float
    crashes: int = 0


class Retries:
    """When each run that crashed goes on."""

    def __init__(self, minutes: float = RETRY_MINUTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = 60 * minutes, clock
        self._troubles: dict[str, _Trouble] = {}
        self._ready: dict[str, float] = {}

    def crashed(self, run_id: str, checkpoint: int) -> float | None:
        """Seconds until the run, whose newest checkpoint is of step `checkpoint`, is tried again.

        None when the time without progress is spent; at least one retry is always made.
        """
        now = self._clock()
        trouble = self._troubles.get(run_id)
        if trouble is None or checkpoint > trouble.checkpoint:
            trouble = self._troubles[run_id] = _Trouble(checkpoint, now)
        trouble.crashes += 1
        wait = min(FIRST_WAIT * 2 ** (trouble.crashes - 1), LONGEST_WAIT)
        if trouble.crashes > 1 and now + wait - trouble.since > self._seconds:
            return None
        self._ready[run_id] = now + wait
        return wait

    def forget(self, run_id: str) -> None:
        """The run is asked for anew: its time starts again."""
        self._troubles.pop(run_id, None)
        self._ready.pop(run_id, None)

    def ready(self, run_id: str) -> bool:
        """Whether the run's pause is over."""
        return self._clock() >= self._ready.get(run_id, 0.0)

    def trouble(self, run_id: str) -> str:
        """How often it has crashed without progress, for a person."""
        trouble = self._troubles.get(run_id)
        if trouble is None:
            return ""
        seconds = self._clock() - trouble.since
        return f"{trouble.crashes} times in {seconds:.0f} s without getting past step {trouble.checkpoint}"


@dataclass
class Health:
    """Which devices still get runs; several slots may be of one device.

    A crash is the run's fault when the run crashes elsewhere too, and the device's when other runs crash on
    it too: a device is left out after FAILURES in a row of more than one run. The last one never is.
    """

    devices: Sequence[str]  # of each slot
    left_out: list[str] = field(default_factory=list)
    _crashes: dict[str, list[str]] = field(default_factory=dict)  # device -> runs, since it last worked

    def worked(self, slot: int) -> None:
        """A run ended well on it, or got to a further checkpoint."""
        self._crashes.pop(self.devices[slot], None)

    def crashed(self, slot: int, run_id: str) -> str | None:
        """A sentence when the device is left out from now on."""
        device = self.devices[slot]
        runs = self._crashes.setdefault(device, [])
        runs.append(run_id)
        others = set(self.devices) - {device, *self.left_out}
        if device in self.left_out or len(runs) < FAILURES or len(set(runs)) < 2 or not others:
            return None
        self.left_out.append(device)
        return f"{device} is left out: {len(runs)} crashes in a row on it, of {len(set(runs))} runs"

    def usable(self, slot: int) -> bool:
        return self.devices[slot] not in self.left_out

    def suits(self, slot: int, run_id: str) -> bool:
        """Whether the run may go there: not where it has just crashed, while there is another device."""
        device = self.devices[slot]
        others = set(self.devices) - {device, *self.left_out}
        return run_id not in self._crashes.get(device, ()) or all(
            run_id in self._crashes.get(other, ()) for other in others
        )
