"""Can runs of seconds on a laptop forecast one of minutes, ten times their compute away?

IsoFLOP profiles of byte-level decoders over more than a decade and a half of compute, on the
embedded text or on yours; the laws fitted to them forecast the loss of one run at TARGET.

    scaling plan quickstart          # what it would train, what it costs, how sharp it would be
    scaling launch quickstart
    scaling quickstart               # launch, fit, forecast, train the target, verify, report
"""

from __future__ import annotations

from pathlib import Path

from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.designs import Setting, isoflop
from sweeps.prior import Prior
from sweeps.sweep import Sweep

QUESTION = "Which model size and loss does a larger budget give, and how well do small runs forecast it?"
RECIPE = "small"
# Training FLOPs (matmul) -> widths of its isoFLOP profile, about five-fold in N around the best.
WIDTHS = {
    1.2e10: (8, 12, 16, 20, 24, 28),
    2.9e10: (12, 16, 20, 24, 28, 32),
    6.7e10: (16, 20, 24, 32, 40),
    1.6e11: (20, 24, 32, 40, 48),
    3.8e11: (24, 32, 40, 48, 64),
}
# Their scatter is the noise that the fit weighs runs by. One seed for all cells would shift them together:
# they would see the same text in the same order (docs/forecasting.md).
SEEDS_PER_CELL = 2
TARGET = 3.9e12  # training FLOPs of the held-out run
TARGET_RATIO = 10.0  # how far beyond the grid a forecast must reach to be one
VAL_TOKENS = 262_144

# Where the cells lie and what interval `plan` prints; nothing fitted or forecast reads it.
PRIOR = Prior(
    A=20.9,
    B=21.9,
    E=0.776,
    alpha=0.400,
    beta=0.278,
    source="`scaling fit runs/quickstart`, seed 0, rounded",
)


def sweep(seed: int = 0, data: str | Path | None = None, target: float | None = None) -> Sweep:
    """The grid. `data`: a folder made by `scaling data prepare`; None is the embedded text.

    `target` in FLOPs only names what the grid is for; the runs do not depend on it.
    Raises UserError when the target is too near or the text too short.
    """
    text = text_info(data)
    setting = Setting(RECIPES[RECIPE], text.config(VAL_TOKENS), text.epoch_tokens, seed)
    extra = {"target": target_check(target)}
    return isoflop(
        "quickstart", QUESTION, setting, list(WIDTHS), PRIOR, widths=WIDTHS,
        seeds_per_cell=SEEDS_PER_CELL, extra=extra,
    )  # fmt: skip


def target_check(target: float | None) -> float:
    """`target` in FLOPs, or TARGET. Raises UserError below `TARGET_RATIO` times the largest budget."""
    target = TARGET if target is None else target
    least = TARGET_RATIO * max(WIDTHS)
    if not target >= least:
        raise UserError(
            f"target {target:.4g} FLOPs is less than {TARGET_RATIO:g} times the grid's largest budget; "
            f"give at least {least:.4g}."
        )
    return float(target)
