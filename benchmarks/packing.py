"""Eight models of a million and of ten million parameters: packed in one program against one at a time.

`times` is the rate of all eight packed over that of one after another, the step alone, feed and log left out
of both. CPU seconds of one thread where there is no accelerator. The launcher packs from 1.2 times on
(`launch/packing.py`), and asks its own measurement, not this table.
"""

from __future__ import annotations

from typing import Any

from scaling.accounting import counts
from scaling.config import ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.data.text import embedded_info
from scaling.environment import has_accelerator
from scaling.packed_rate import measure

MEMBERS = 8
REPEATS = 2
SHAPES = ((5, 128, 344), (8, 320, 864))  # layers, width, width of the MLP: 1M and 10M parameters
SEQ_LEN = 128
BATCH = 32 if has_accelerator() else 2  # sequences a step


def config(layers: int, width: int, d_ff: int) -> RunConfig:
    heads = width // 64
    return RunConfig(
        model=ModelConfig(
            n_layers=layers, d_model=width, n_heads=heads, n_kv_heads=heads, d_head=64, d_ff=d_ff
        ),
        data=embedded_info().config(val_tokens=16_384),
        optimizer=OptimizerConfig(lr=1e-3),
        seq_len=SEQ_LEN,
        batch_size=BATCH,
        steps=100,
    )


def rows() -> list[dict[str, Any]]:
    second = "second" if has_accelerator() else "CPU second"
    found = []
    for shape in SHAPES:
        run = config(*shape)
        what = f"{counts(run.model, run.seq_len).n['total']:,} parameters, {BATCH} x {SEQ_LEN} tokens a step"
        gains = [measure(run, Placement(), MEMBERS) for _ in range(REPEATS)]
        tokens = BATCH * SEQ_LEN
        found += [
            {
                "what": what,
                "unit": f"one at a time, tokens/{second}",
                "values": [tokens / gain.alone for gain in gains],
            },
            {
                "what": what,
                "unit": f"{MEMBERS} packed, tokens/{second}",
                "values": [MEMBERS * tokens / gain.packed for gain in gains],
            },
            {"what": what, "unit": "times", "values": [gain.ratio for gain in gains]},
        ]
    return found
