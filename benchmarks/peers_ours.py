"""The training step of this project as benchmarks/peers.py starts it beside its peers.

`python -m benchmarks.peers_ours ORDER`: the file ORDER is JSON; commands are lines on standard input (a
number of steps, or `products`), each answered by one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np

from scaling.config import Placement, RunConfig, from_dict
from scaling.optimizer import hyper
from scaling.sharding import make_shardings
from scaling.step import compiled_leaf_step, init_state, make_forward

CPU = Placement(device="cpu")
SIDE = 512  # of the square matrices whose product stands for the core's peak


def product_rate() -> float:
    """GFLOP a CPU second of float32 matrix products alone: the limit of any step on this core."""
    square = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(square, square))
    rates = []
    for _ in range(50):
        began = time.process_time()
        jax.block_until_ready(multiply(square, square))
        rates.append(2 * SIDE**3 / (time.process_time() - began) / 1e9)
    return statistics.median(rates)


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    config = from_dict(RunConfig, order["config"])
    shardings = make_shardings(CPU)
    forward = make_forward(config.model, CPU, "cpu", config.z_loss, shardings)
    leaves = jax.tree.leaves(init_state(config, shardings))
    step = compiled_leaf_step(forward, config.model, shardings)
    tokens_MBS1 = np.load(order["arrays"])["tokens"][None]
    h = hyper(config.optimizer, config.optimizer.lr)
    for line in sys.stdin:
        if line.strip() == "products":
            print(json.dumps({"gflop_per_cpu_second": product_rate()}), flush=True)
            continue
        began = time.process_time()
        losses = []
        for _ in range(int(line)):
            leaves, metrics = step(leaves, tokens_MBS1, h)
            jax.block_until_ready(losses[-1:])  # as the training loop: one step ahead of what is read
            losses.append(metrics["loss"])
        jax.block_until_ready(leaves)
        seconds = time.process_time() - began
        answer = {
            "cpu_seconds": seconds,
            "losses": [float(x) for x in losses],
            "version": f"jax {jax.__version__}",
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
