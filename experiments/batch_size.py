"""Which learning rate and batch are best at each model size and horizon?

Rate x batch around the recipe's own at two widths on two horizons: enough to see whether the best batch
moves with the tokens, with the parameters, or with both, and how far off the recipe is. Rates are multiples
of the recipe's times the square root of the batch's (Malladi et al. 2022 for Adam).

    scaling plan batch_size
    scaling launch batch_size
    scaling tune runs/batch_size           # optimum of each cell with its interval
    scaling preflight batch_size --target v5p-128     # --size pod: two published shapes, two horizons
"""

from __future__ import annotations

from pathlib import Path

from experiments.schedules import pod_base
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.bases import Bases, by_width
from sweeps.designs import Setting, short
from sweeps.sweep import Sweep
from sweeps.tuning import rates_by_batch

QUESTION = "Which learning rate and batch are best at each model size and horizon?"
BATCHES = (0.5, 2.0, 8.0)  # times the recipe's
FACTORS = (0.5, 1.0, 2.0)  # times the rate that the square root gives

# --size cpu
WIDTHS = (16, 32)
HORIZONS = (2.5e5, 1e6)  # training tokens
VAL_TOKENS = 65_536

# --size pod: decoders of table A9 of Hoffmann et al. 2022; batches from 64 sequences on.
POD_MILLIONS = (140, 425)
POD_HORIZONS = (4e9, 1.6e10)
POD_BATCHES = (0.5, 1.0, 2.0, 4.0)


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "cpu") -> Sweep:
    """The runs. `data`: a folder made by `scaling data prepare`; `size`: cpu or pod.

    Raises UserError for another size, or where the text is too short.
    """
    if size == "cpu":
        text = text_info(data)
        setting = Setting(RECIPES["small"], text.config(VAL_TOKENS), text.epoch_tokens, seed)
        parts = [(horizon, by_width(setting, WIDTHS, horizon)) for horizon in HORIZONS]
        return rates_by_batch("batch_size", QUESTION, _joined(parts), BATCHES, FACTORS)
    if size != "pod":
        raise UserError(f"size is {size!r}; choose from cpu, pod.")
    parts = [
        (horizon, pod_base(millions, horizon, seed, data))
        for millions in POD_MILLIONS
        for horizon in POD_HORIZONS
    ]
    return rates_by_batch("batch_size-pod", QUESTION, _joined(parts), POD_BATCHES, FACTORS)


def _joined(parts: list[tuple[float, Bases]]) -> Bases:
    """The bases of several horizons, named by theirs too."""
    runs = {f"{label}-{short(tokens)}": run for tokens, bases in parts for label, run in bases.runs.items()}
    return Bases(runs, tuple(r for _, bases in parts for r in bases.refused), parts[0][1].design)
