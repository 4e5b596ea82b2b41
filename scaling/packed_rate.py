"""What a pack gains on this device: steps of P runs in one program against one at a time, measured.

`python -m scaling.packed_rate` takes {"config", "placement", "members"} on stdin and prints a Gain as JSON,
for a launcher that must not hold the device itself. The feed and the log are left out of both.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaling.config import Placement, RunConfig, from_dict

SECONDS = 1.0  # of steps, after compilation


@dataclass(frozen=True)
class Gain:
    """Seconds of one step: of a run alone, and of a pack of `members`."""

    members: int
    alone: float
    packed: float
    device: str

    @property
    def ratio(self) -> float:
        """Rate of all members packed over that of one after another."""
        return self.members * self.alone / self.packed


def measure(config: RunConfig, placement: Placement, members: int, seconds: float = SECONDS) -> Gain:
    """Both, here and now, in this process, on random tokens; CPU seconds on a CPU with one thread."""
    import jax

    alone = _step_seconds(config, placement, 1, seconds)
    packed = _step_seconds(config, placement, members, seconds)
    return Gain(members, alone, packed, jax.devices()[0].device_kind)


def _step_seconds(config: RunConfig, placement: Placement, members: int, seconds: float) -> float:
    """Of one call of the compiled step over `members` runs."""
    import jax

    from scaling.data.tokenizers import dtype_of
    from scaling.optimizer import hyper
    from scaling.sharding import make_shardings
    from scaling.step import compiled_leaf_step, compiled_packed_step, forward_of, init_state

    shardings = make_shardings(placement)
    on_cpu = shardings.mesh.devices.flat[0].platform == "cpu"
    forward = forward_of(config, placement, shardings.mesh.devices.flat[0].platform, shardings)
    micro, vocab = placement.microbatches, config.model.vocab_size
    shape: tuple[int, ...] = (micro, config.batch_size // micro, config.seq_len + 1)
    leaves: list[Any] = jax.tree.leaves(init_state(config, shardings))
    h: dict[str, Any] = hyper(config.optimizer, config.optimizer.lr)
    step = compiled_leaf_step(forward, config.model, shardings)
    if members > 1:
        step = compiled_packed_step(forward, config.model, shardings)
        shape = (members, *shape)
        leaves = [np.stack([leaf] * members) for leaf in leaves]
        h = {name: np.full(members, value, np.float32) for name, value in h.items()}
    tokens = np.random.default_rng(0).integers(0, vocab, shape, dtype_of(vocab))
    clock = time.process_time if on_cpu and placement.threads == 1 else time.perf_counter
    leaves, metrics = step(leaves, tokens, h)
    jax.block_until_ready(metrics)  # compiled
    until, began, done = time.perf_counter() + seconds, clock(), 0
    while done < 3 or time.perf_counter() < until:
        leaves, following = step(leaves, tokens, h)
        jax.block_until_ready(metrics)  # as the training loop: one step ahead of what is read
        metrics, done = following, done + 1
    jax.block_until_ready(metrics)
    return (clock() - began) / done


def main() -> None:
    order = json.load(sys.stdin)
    config, placement = from_dict(RunConfig, order["config"]), from_dict(Placement, order["placement"])
    print(json.dumps(asdict(measure(config, placement, order["members"]))))


if __name__ == "__main__":
    main()
