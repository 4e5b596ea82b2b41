"""AdamW's memory of gradients at another batch: beta2 and epsilon that mean the same in tokens.

The square-root rule of the learning rate itself is a recipe's (Malladi et al. 2022); this is its other
half. No JAX here: planners call it.
"""

from __future__ import annotations

import dataclasses
import math

from scaling.config import OptimizerConfig
from scaling.errors import UserError


def at_batch(config: OptimizerConfig, batch: float, tuned_batch: float) -> OptimizerConfig:
    """`config`, tuned at `tuned_batch`, for `batch` (tokens or sequences, the same unit in both).

    beta2^(batch / tuned) keeps the half-life of the second moment in tokens (Marek et al. 2025,
    arXiv:2507.07101; to first order the 1 - beta2 proportional to the batch of Adam's square-root rule,
    Malladi et al. 2022). epsilon falls as sqrt(tuned / batch), as the gradient's noise does (the same rule).
    Raises UserError for a batch that is not above 0.
    """
    for name, value in (("batch", batch), ("tuned_batch", tuned_batch)):
        if not 0 < value < math.inf:
            raise UserError(f"{name} is {value}; give tokens or sequences, above 0.")
    ratio = batch / tuned_batch
    return dataclasses.replace(config, b2=config.b2**ratio, eps=config.eps / math.sqrt(ratio))
