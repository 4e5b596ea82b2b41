"""Orbax checkpoints of a run: the training state, and where its data stream and clocks stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

KEEP = 2


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the one before it still stands."""


class Checkpoints:
    def __init__(self, folder: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Write both or neither. Raises CheckpointError, naming the cause, on a full disk and the like."""
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), position=ocp.args.JsonSave(position))
        try:
            self._manager.save(step, args=items)
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:  # tensorstore reports a full disk as ValueError
            raise CheckpointError(f"checkpoint of step {step} was not written: {_first_line(error)}") from error

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State laid out like `like` (arrays, their shardings kept), and the position saved with it."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        arguments = ocp.checkpoint_utils.construct_restore_args(shapes)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(shapes, restore_args=arguments), position=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        return restored.state, restored.position

    def close(self) -> None:
        self._manager.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
