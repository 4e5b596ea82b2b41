"""Learning-rate schedules as fractions of the peak, evaluated on the host in float64.

The rate enters the compiled step as an argument, so a sweep over rates, schedules and horizons
of one shape compiles once.
"""

from __future__ import annotations

import math

from scaling.config import ScheduleConfig


def fraction_of_peak(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Rate of update `step` (1-based) of `steps`, relative to the peak.

    Warmup is linear and reaches the peak at its last step. `cosine` falls to `final` over the rest
    (Loshchilov & Hutter 2017, eq. 5); `wsd` holds, then falls over the last `decay` of the run, linearly or,
    with cooldown `sqrt`, by the square root of the way gone (Haegele et al. 2024, section 3); a decay of 1
    is the linear schedule. Both reach `final` at step == steps, unless every step is warmup or `decay` is 0.
    `inverse_sqrt` falls as sqrt(warmup / step) (Vaswani et al. 2017, eq. 3), from step 1 without a warmup.
    """
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return step / warmup
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / step)
    if schedule.name == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    cooldown = min(max(1, round(schedule.decay * steps)), steps - warmup) if schedule.decay > 0 else 0
    remaining = steps - step
    if cooldown == 0 or remaining >= cooldown:
        return 1.0
    left = remaining / cooldown if schedule.cooldown == "linear" else 1 - math.sqrt(1 - remaining / cooldown)
    return schedule.final + (1 - schedule.final) * left


def warmup_steps(schedule: ScheduleConfig, steps: int) -> int:
    """Updates until the peak, the one at the peak among them; 0: the first is at the peak."""
    if schedule.warmup_steps:
        return schedule.warmup_steps
    return max(1, round(schedule.warmup * steps)) if schedule.warmup > 0 else 0
