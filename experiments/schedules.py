"""Does a trunk with cooldowns reach what a cosine over each horizon reaches, and at what share of the FLOPs?

Hägele et al. 2024 (arXiv:2405.18392) find that a constant rate with a cooldown over the last 10 to 20% of
the run ends where a cosine ends, the 1 - sqrt cooldown a little below the linear one. Here every horizon has
a cosine of its own, and one trunk a branch of each kind of cooldown; three rates for each, since the best
rate of a cosine is not that of a constant rate and a schedule must not win by the rate alone.

    scaling plan schedules                 # minutes on two cores
    scaling launch schedules
    scaling branches runs/schedules        # losses by schedule and horizon, FLOPs saved, figure
    scaling preflight schedules --target v5p-128      # --size pod: 425M parameters to 64e9 tokens
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from experiments.chinchilla import TEXT, model
from scaling.accounting import counts
from scaling.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES, RULES
from sweeps.bases import Bases, by_width
from sweeps.designs import Setting
from sweeps.horizons import horizons
from sweeps.sweep import Sweep

QUESTION = "Does a trunk with cooldowns reach what a cosine over each horizon reaches?"
DECAY = 0.2
FACTORS = (0.5, 1.0, 2.0)  # times the rate that the recipe has for the geometric mean of the horizons
SEEDS = 2  # of each run: what they differ by is what a difference between schedules has to exceed

# --size cpu: the recipe's decoder of this width, bytes of the embedded text.
WIDTH = 32
HORIZONS = (1.25e5, 2.5e5, 5e5, 1e6)  # training tokens
VAL_TOKENS = 65_536  # the same for every run: differences between runs are far surer than their losses

# --size pod: a decoder of table A9 of Hoffmann et al. 2022, 20 to 160 tokens a parameter.
POD_MILLIONS = 425
POD_HORIZONS = (8e9, 1.6e10, 3.2e10, 6.4e10)
POD_SEQ_LEN = 2048
POD_RULE = "steplaw"  # of N non-embedding: rate and batch, for the geometric mean of the horizons


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "cpu") -> Sweep:
    """The runs. `data`: a folder made by `scaling data prepare`; `size`: cpu or pod.

    Every run is made with SEEDS seeds; another `seed` shares none of them.

    Without data the CPU's runs are those of the embedded text, the pod's of one that is not here: they can
    be planned and preflighted. Raises UserError for another size, or where the text is too short.
    """
    if size == "cpu":
        text = text_info(data)
        setting = Setting(RECIPES["small"], text.config(VAL_TOKENS), text.epoch_tokens, seed)
        bases, tokens = by_width(setting, [WIDTH], middle(HORIZONS)), HORIZONS
    elif size == "pod":
        bases, tokens = pod_base(POD_MILLIONS, middle(POD_HORIZONS), seed, data), POD_HORIZONS
    else:
        raise UserError(f"size is {size!r}; choose from cpu, pod.")
    name = "schedules" if size == "cpu" else f"schedules-{size}"
    return horizons(
        name, QUESTION, bases, tokens, DECAY, ("linear", "sqrt"), cosine=True, factors=FACTORS,
        seeds=range(SEEDS * seed, SEEDS * (seed + 1)),
    )  # fmt: skip


def middle(tokens: tuple[float, ...]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, tokens)) / len(tokens))


def pod_base(millions: int, tokens: float, seed: int, data: str | Path | None) -> Bases:
    """A decoder of the published table at the rate and batch that a published rule gives it on `tokens`.

    The batch is the power of two sequences next to the rule's, so that slices of a pod divide it.
    """
    text = None if data is None else text_info(data)
    config: DataConfig = text.config() if text else TEXT
    shape = model(millions, config.vocab_size)
    asked = RULES[POD_RULE].at(counts(shape, POD_SEQ_LEN).n["non_embedding"], tokens)
    batch = 2 ** round(math.log2(asked["batch"] / POD_SEQ_LEN))
    run = RunConfig(
        model=shape,
        data=config,
        optimizer=OptimizerConfig(lr=float(f"{asked['lr']:.3g}"), weight_decay=asked["weight_decay"]),
        schedule=ScheduleConfig(name="wsd", warmup=0.1, decay=DECAY, final=0.0),
        seq_len=POD_SEQ_LEN,
        batch_size=batch,
        steps=round(tokens / (batch * POD_SEQ_LEN)),
        seed=seed,
    )
    design: dict[str, Any] = {"rule": POD_RULE, "seed": seed}
    if text:
        design |= {"unique_tokens": text.epoch_tokens, "epochs": 1.0}
    return Bases({f"{millions}M": run}, (), design)
