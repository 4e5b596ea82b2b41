"""From which batch on do more sequences a step stop saving steps?

Steps to a target loss against batch, at a constant rate tuned for each batch (McCandlish et al. 2018,
arXiv:1812.06162): the critical batch is where steps and tokens are both twice their least.

    scaling plan critical_batch
    scaling launch critical_batch
    scaling preflight critical_batch --target v5p-128    # --size pod
"""

from __future__ import annotations

from pathlib import Path

from experiments.schedules import pod_base
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.bases import by_width
from sweeps.designs import Setting
from sweeps.sweep import Sweep
from sweeps.tuning import critical_batch

QUESTION = "From which batch on do more sequences a step stop saving steps?"
FACTORS = (0.5, 1.0, 2.0)  # times the rate that the square root of the batch gives

# --size cpu
WIDTH, TOKENS, VAL_TOKENS = 32, 2.5e5, 65_536
BATCHES = (1, 2, 4, 8, 16, 32)  # sequences
EXPECTED = 16.0  # a guess that only has to make runs long enough

# --size pod: a decoder of table A9 of Hoffmann et al. 2022
POD_MILLIONS, POD_TOKENS = 140, 3e9
POD_BATCHES = (64, 128, 256, 512, 1024, 2048)
POD_EXPECTED = 512.0


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "cpu") -> Sweep:
    """The runs. `data`: a folder made by `scaling data prepare`; `size`: cpu or pod.

    Raises UserError for another size, or where the text is too short.
    """
    if size == "cpu":
        text = text_info(data)
        setting = Setting(RECIPES["small"], text.config(VAL_TOKENS), text.epoch_tokens, seed)
        bases = by_width(setting, [WIDTH], TOKENS)
        return critical_batch("critical_batch", QUESTION, bases, BATCHES, EXPECTED, FACTORS)
    if size != "pod":
        raise UserError(f"size is {size!r}; choose from cpu, pod.")
    bases = pod_base(POD_MILLIONS, POD_TOKENS, seed, data)
    return critical_batch("critical_batch-pod", QUESTION, bases, POD_BATCHES, POD_EXPECTED, FACTORS)
