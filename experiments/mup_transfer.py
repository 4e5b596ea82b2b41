"""Does the learning rate tuned at a small width hold at one eight times as wide?

Rate x width in the standard parametrisation and in mup (scaling/parametrisation.py), everything else fixed:
depth, head size, batch, horizon, schedule, text. The rate is tuned at the narrowest and scored at the widest.

    scaling plan mup_transfer
    scaling launch mup_transfer
    scaling transfer runs/mup_transfer        # how far each optimum moves, what the tuned rate costs, figure
    scaling preflight mup_transfer --target v5p-128      # --size pod: widths 512 to 4096
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.chinchilla import TEXT
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.parametrisation import Name, with_base
from sweeps.bases import Bases
from sweeps.sweep import Sweep
from sweeps.tuning import rates

QUESTION = "Does the learning rate tuned at a small width hold at one eight times as wide?"
SEEDS = 3
FACTORS = tuple(2.0**power for power in range(-3, 4))
# The middle of the rates tried; the standard optimum falls with the width, so its window is a middle one's.
MIDDLE: dict[Name, float] = {"standard": 2.0**-7, "mup": 2.0**-5}
SCHEDULE = ScheduleConfig(name="wsd", warmup=0.1, decay=0.4, final=0.0)

# --size cpu: bytes of the embedded text.
WIDTHS = (16, 32, 64, 128)
LAYERS, D_HEAD = 2, 16
SEQ_LEN, BATCH, STEPS = 64, 8, 250
VAL_TOKENS = 32_768  # the same for every run: differences between runs are far surer than their losses

# --size pod: 5e9 tokens each.
POD_WIDTHS = (512, 1024, 2048, 4096)
POD_LAYERS, POD_D_HEAD = 16, 128
POD_SEQ_LEN, POD_BATCH, POD_STEPS = 2048, 256, 9_537
POD_MIDDLE: dict[Name, float] = {"standard": 2.0**-9, "mup": 2.0**-8}  # of the narrowest, 512


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "cpu") -> Sweep:
    """The runs. `data`: a folder made by `scaling data prepare`; `size`: cpu or pod.

    Every run is made with SEEDS seeds; another `seed` shares none of them. Without data the CPU's runs are
    those of the embedded text, the pod's of one that is not here. Raises UserError for another size.
    """
    base = start(size, data)
    small = size == "cpu"
    widths, middle = (WIDTHS, MIDDLE) if small else (POD_WIDTHS, POD_MIDDLE)
    layers, d_head = (LAYERS, D_HEAD) if small else (POD_LAYERS, POD_D_HEAD)
    models = [shape(width, layers, d_head, base.model.vocab_size) for width in widths]
    runs = {
        f"{name}-d{model.d_model}": tuned(base, name, model, models[0], lr)
        for name, lr in middle.items()
        for model in models
    }
    return crossed("mup_transfer", QUESTION, runs, size, seed)


def start(size: str, data: str | Path | None) -> RunConfig:
    """What runs of either study share, shape and rate aside."""
    if size not in ("cpu", "pod"):
        raise UserError(f"size is {size!r}; choose from cpu, pod.")
    small = size == "cpu"
    text: DataConfig = TEXT if data is None and not small else text_info(data).config(VAL_TOKENS)
    return RunConfig(
        model=shape(D_HEAD, 1, D_HEAD, text.vocab_size),
        data=text,
        optimizer=OptimizerConfig(lr=1.0, b2=0.98 if small else 0.95, weight_decay=0.01 if small else 0.1),
        schedule=SCHEDULE,
        seq_len=SEQ_LEN if small else POD_SEQ_LEN,
        batch_size=BATCH if small else POD_BATCH,
        steps=STEPS if small else POD_STEPS,
    )


def shape(width: int, layers: int, d_head: int, vocab_size: int) -> ModelConfig:
    """Heads of one size, more of them in a wider model; an MLP of 8/3 widths, whole units of 8."""
    heads = max(1, width // d_head)
    return ModelConfig(
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d_head,
        d_ff=8 * round(width / 3),
        vocab_size=vocab_size,
        tied=False,
    )


def tuned(base: RunConfig, name: Name, model: ModelConfig, of: ModelConfig, lr: float) -> RunConfig:
    """`base` of shape `model` in parametrisation `name`, `lr` being that of the shape `of`."""
    rate = replace(base.optimizer, lr=lr)
    return with_base(replace(base, model=model, optimizer=rate), name, of)


def crossed(name: str, question: str, runs: dict[str, RunConfig], size: str, seed: int) -> Sweep:
    """Every run at every rate and seed."""
    seeds: Sequence[int] = range(SEEDS * seed, SEEDS * (seed + 1))
    design: dict[str, Any] = {"seed": seed}
    return rates(
        name if size == "cpu" else f"{name}-{size}", question, Bases(runs, (), design), FACTORS, seeds
    )
