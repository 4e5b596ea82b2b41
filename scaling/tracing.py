"""A profiler's trace of a few steps, by `scaling train --profile FOLDER`; nothing where none is asked for.

`FOLDER/plugins/profile/<time>/` then holds `<host>.xplane.pb` for TensorBoard or XProf and
`<host>.trace.json.gz` for ui.perfetto.dev: device operations, and what the host did meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from scaling.errors import UserError


@dataclass(frozen=True)
class Profile:
    """Which steps to trace, counted from this start of the run, both ends in. The first one compiles."""

    folder: Path
    first: int = 3
    last: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise UserError(
                f"--profile-steps is {self.first}:{self.last}; give FIRST:LAST, counted from 1, as 3:7."
            )


class Trace:
    """Starts and stops the profiler as steps go by. Losing a trace never stops a run: it becomes a note."""

    def __init__(self, profile: Profile | None) -> None:
        """Raises UserError where the folder cannot be written."""
        self.notes: list[str] = []
        self._profile, self._count, self._running = profile, 0, False
        if profile is None:
            return
        try:
            profile.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--profile {str(profile.folder)!r} cannot be made ({error.strerror}); give a folder."
            ) from None
        if not os.access(profile.folder, os.W_OK):
            raise UserError(f"--profile {str(profile.folder)!r} cannot be written; give another folder.")

    def step(self, number: int) -> contextlib.AbstractContextManager[Any]:
        """Around the dispatch of a step."""
        if self._profile is None:
            return _NOTHING
        self._count += 1
        if self._count == self._profile.first:
            self._attempt(lambda: jax.profiler.start_trace(self._profile.folder))
            self._running = not self.notes
        return jax.profiler.StepTraceAnnotation("train", step_num=number) if self._running else _NOTHING

    def dispatched(self, metrics: Any) -> None:
        """After it: the last step of a trace is waited for."""
        if self._running and self._profile and self._count == self._profile.last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """End the trace, if one is being taken; a note says so where the run was too short for one."""
        if self._profile is None:
            return
        if self._running:
            self._running = False
            self._attempt(jax.profiler.stop_trace)
        elif self._count < self._profile.first:
            self.notes.append(
                f"no trace: this start of the run had {self._count} steps, and --profile-steps begins "
                f"at {self._profile.first}"
            )

    def _attempt(self, action: Any) -> None:
        try:
            action()
        # Whatever the profiler raises (a full disk, another trace under way), training goes on.
        except Exception as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            self.notes.append(f"no trace: {first_line}")


_NOTHING: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
