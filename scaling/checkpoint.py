"""Orbax checkpoints of a run: the training state, and where its data stream and clocks stand."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import sync_global_devices
from orbax.checkpoint import checkpoint_managers as managers

from scaling.errors import RunError, UserError

KEEP = 2


class CheckpointError(RunError):
    """A checkpoint could not be written; the one before it still stands."""


class Checkpoints:
    def __init__(self, folder: Path, steps: Collection[int] = (), every: int = 0) -> None:
        """The newest two are kept, those of `steps`, and each `every`-th (0: none)."""
        _let_orbax_raise_in_silence()
        policies = [managers.LatestN(KEEP), managers.CustomSteps(tuple(steps))]
        policies += [managers.EveryNSteps(every)] if every else []
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies), enable_async_checkpointing=True
        )
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._writing = 0

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Copy the state and write it, whole or not at all, while training goes on.

        Waits for the checkpoint before it. Raises CheckpointError, naming the cause, on a full disk and the
        like, for this checkpoint or for the one before it.
        """
        self.wait()
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), position=ocp.args.JsonSave(position))
        with self._unwritten(step):
            written = self._manager.save(step, args=items)
        if not written:  # Orbax skips a step at or before its newest without a word
            raise _unwritten(step, f"{self._folder} holds a newer one")
        self._writing = step

    def wait(self) -> None:
        """Until the last checkpoint is on disk. Raises CheckpointError when it cannot be written."""
        with self._unwritten(self._writing):
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _unwritten(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # tensorstore reports a full disk as ValueError
            raise _unwritten(step, reason(error)) from error

    def restore_newest(
        self, like: Any, run_id: str | None = None
    ) -> tuple[int, Any, dict[str, Any], list[str]]:
        """The newest checkpoint that can be read: its step (0: none), state, position; notes on the others.

        The state is laid out like `like` (arrays, their shardings kept). A checkpoint that cannot be read
        is moved to `unreadable/` beside the folder: its step will be written again.
        Raises UserError for a checkpoint whose position names another run than `run_id`.
        """
        self.wait()
        notes = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, position = _restore(self._manager, self._folder, step, like, run_id)
            except (UserError, jax.errors.JaxRuntimeError):  # no damage: another run, too little memory
                raise
            except Exception as error:  # damage shows as anything: ValueError, KeyError, bare Exception
                self._set_aside(step)
                notes.append(f"checkpoint of step {step} cannot be read ({reason(error)}); set aside")
            else:
                return step, state, position, notes
        return 0, like, {}, notes

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self._folder.with_name("unreadable") / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()

    def close(self) -> None:
        """Let go of the folder. Whether the last checkpoint could be written is for `wait` to say."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._manager.close()


def read_checkpoint(folder: Path, step: int, like: Any, run_id: str) -> tuple[Any, dict[str, Any]]:
    """State and position of a checkpoint in another run's folder, which may be training: nothing is touched.

    The state is laid out like `like`. Raises UserError for a checkpoint of another run than `run_id`, and
    whatever damage, or its removal by the run that owns it, shows as.
    """
    _let_orbax_raise_in_silence()
    with ocp.CheckpointManager(
        folder.absolute(), options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        return _restore(manager, folder, step, like, run_id)


def _restore(
    manager: ocp.CheckpointManager, folder: Path, step: int, like: Any, run_id: str | None
) -> tuple[Any, dict[str, Any]]:
    items = ocp.args.Composite(position=ocp.args.JsonRestore())
    position = manager.restore(step, args=items).position
    if run_id and position.get("run_id", run_id) != run_id:
        raise UserError(
            f"{folder / str(step)} is a checkpoint of run {position['run_id']}, not of {run_id}; "
            f"take it out of the folder to train this run."
        )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    arguments = ocp.checkpoint_utils.construct_restore_args(shapes)
    items = ocp.args.Composite(state=ocp.args.PyTreeRestore(shapes, restore_args=arguments))
    return manager.restore(step, args=items).state, position


@functools.cache
def _let_orbax_raise_in_silence() -> None:
    """Once a process. Orbax logs, traceback and all, what it then raises.

    The tasks that it abandons are reported again when they are collected, and by tensorstore, which
    still answers to their closed loop: fifty lines of traceback for one full disk.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "was never retrieved" not in record.getMessage())
    report = sys.unraisablehook

    def skip_closed_loops(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = skip_closed_loops


def _unwritten(step: int, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint of step {step} was not written ({reason}); mend that and start the run again: "
        f"it goes on from the checkpoint before"
    )


def reason(error: BaseException) -> str:
    """The end of the first line: tensorstore puts a chain of paths before the cause, and a code after it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ": ".join(line.split(" [os_error_code")[0].split(": ")[-2:])[:200]
