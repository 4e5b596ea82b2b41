"""Several processes that train one run: where each keeps its log, and how they act as one.

Every process runs the same program over its own devices (`jax.distributed`). The first writes the run
folder; the others keep their log in `processes/<index>/` of it. Whatever depends on a clock or a signal
is put to a vote, for a process that saved or stopped alone would leave the others waiting for ever.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import NamedSharding

from scaling.errors import UserError
from scaling.runs import RunFolder
from scaling.sharding import Shardings

NOTHING, SAVE, STOP = 0, 1, 2  # what a process wishes at a step; the most of any is done by all


def first() -> bool:
    """Whether this process writes the run folder, the tracker and the terminal."""
    return jax.process_index() == 0


def own_folder(folder: RunFolder) -> RunFolder:
    """Where this process writes its log and outcome."""
    return folder if first() else folder.of_process(jax.process_index())


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes of this run, before JAX is used for anything else.

    With no address the cluster is asked (Slurm, GKE, Cloud TPU). Raises UserError when there is none.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except ValueError as error:
        raise UserError(
            f"the processes of this run cannot be found ({error}); start it under Slurm or on a TPU pod, or "
            f"give --coordinator HOST:PORT, --processes and --process."
        ) from None


def agreed(text: str) -> str:
    """The first process's `text` (4 KiB at most), in every process."""
    if jax.process_count() == 1:
        return text
    sent_T = np.zeros(4096, np.uint8)
    written_T = np.frombuffer(text.encode(), np.uint8)
    sent_T[: len(written_T)] = written_T
    return broadcast_one_to_all(sent_T).tobytes().rstrip(b"\0").decode()


class Votes:
    """What all processes do at a step: one decides at once, several on the wishes of the step before.

    A vote is a reduction over devices queued behind the step and read one step later, when it has
    long ended: nobody waits for it, and all read the same.
    """

    def __init__(self, shardings: Shardings) -> None:
        self._alone = jax.process_count() == 1
        self._before: jax.Array | None = None
        mesh = shardings.mesh
        self._place = NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        self._most = jax.jit(lambda wishes_P: wishes_P.max(), out_shardings=shardings.replicated)

    def decide(self, wish: int) -> int:
        """NOTHING, SAVE or STOP; every process calls this once a step."""
        if self._alone:
            return wish
        one = np.full(1, wish, np.int32)
        wishes_P = jax.make_array_from_callback((self._place.mesh.size,), self._place, lambda _: one)
        decided = NOTHING if self._before is None else int(self._before)
        self._before = self._most(wishes_P)
        return decided
