"""nanodo's own train step, as benchmarks/peers.py starts it: its model, loss, optimizer and Trainer.

`python peers_nanodo.py ORDER`, under an interpreter that has JAX, Flax, Optax, grain, sentencepiece and
ml_collections. The file ORDER is JSON and names a checkout of github.com/google-deepmind/nanodo; commands are
lines on standard input (a number of steps), each answered by one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path
from typing import Any


def config_of(order: dict[str, Any]) -> Any:
    """nanodo's default configuration with the order's shape; float32, and none but its plain metrics."""
    from nanodo.configs import default

    run, c = order["config"], default.get_config()
    model, optimizer = run["model"], run["optimizer"]
    c.model.update(D=model["d_model"], H=model["n_heads"], L=run["seq_len"], N=model["n_layers"])
    c.model.update(F=model["d_ff"], dtype="float32", fsdp_enabled=False)
    c.batch_size, c.log_internal_metrics = run["batch_size"], False
    c.opt.update(peak_learning_rate=optimizer["lr"], init_learning_rate=optimizer["lr"])
    c.opt.update(weight_decay=optimizer["weight_decay"], clip_by_global_norm=optimizer["clip"])
    return c


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, order["checkout"])
    # Its loop's loggers, which import TensorFlow; a step uses none of them.
    clu = types.ModuleType("clu")
    for name in ("metric_writers", "periodic_actions"):
        setattr(clu, name, types.ModuleType(name))
    sys.modules["clu"] = clu

    import jax
    import numpy as np
    from jax.sharding import Mesh
    from nanodo import model_factory, train

    c = config_of(order)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    model, get_loss_fn = model_factory.get_model_and_loss(c, order["config"]["model"]["vocab_size"])
    shardings, state = train._init_train_state(c, model, rng=jax.random.PRNGKey(c.seed), mesh=mesh)
    trainer = train.Trainer(c=c, state=state, mesh=mesh, shardings=shardings, get_loss_fn=get_loss_fn)
    # It shifts a sequence itself, and gives no loss for token 0.
    tokens_BS = np.load(order["arrays"])["tokens"][:, 1:].astype(np.int32)
    done = 0
    for line in sys.stdin:
        began = time.process_time()
        losses: list[Any] = []
        for _ in range(int(line)):
            metrics = trainer.do_step(done, tokens_BS)
            jax.block_until_ready(losses[-1:])  # as its loop: one step ahead of what is read
            losses.append(metrics["train_loss"])
            done += 1
        jax.block_until_ready(trainer.state)
        seconds = time.process_time() - began
        answer = {
            "cpu_seconds": seconds,
            "losses": [float(x) for x in losses],
            "version": f"jax {jax.__version__}",
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
