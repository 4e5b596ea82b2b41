"""Which rates to run next, coarse to fine, so that few runs bracket an optimum.

Steps of a factor 4 until the lowest loss has a higher one on either side (a diverged run is one), halves of
the gaps beside it (in logs) until these are a factor 2, and then seeds, for what is left is noise. From a
start off by a factor R that takes about log4 R + 4 rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

COARSE = 4.0
FINE = 2.0
ENOUGH = math.sqrt(2)  # half of an interval (a factor) that needs no more runs


@dataclass(frozen=True)
class Level:
    """One value of a rate or batch: the mean loss of its runs (nats per token), None where one diverged."""

    at: float
    loss: float | None


@dataclass(frozen=True)
class Bracket:
    """Where the lowest loss stands among the values tried. `reason`: why there is no bracket, or None;
    `next`: the values to run next; `seeds`: run them under another seed."""

    best: int
    reason: str | None
    next: tuple[float, ...] = ()
    seeds: bool = False


def bracket(levels: Sequence[Level], what: str = "rate", least: float = 0.0) -> Bracket:
    """Whether the lowest loss has a higher one beside it on either side; if not, what to try.

    `levels` ascending, at least one with a loss; `least`: no smaller value can be run.
    """
    finite = [i for i, level in enumerate(levels) if level.loss is not None]
    best = min(finite, key=lambda i: (levels[i].loss, i))
    at = levels[best].at
    below, above = levels[:best], levels[best + 1 :]
    if not below:
        reason = f"the lowest loss is at the smallest {what} tried, {at:.3g}"
        if at <= least * 1.05:
            return Bracket(best, f"{reason}, and none smaller can be run")
        return Bracket(best, reason, (max(at / COARSE, least),))
    if not above:
        return Bracket(best, f"the lowest loss is at the largest {what} tried, {at:.3g}", (at * COARSE,))
    for beside, word in ((below[-1], "next lower"), (above[0], "next higher")):
        if beside.loss is None:
            if max(beside.at / at, at / beside.at) <= ENOUGH:
                return Bracket(best, f"the lowest loss is beside a {what} that diverged, {beside.at:.3g}")
            reason = f"the {word} {what}, {beside.at:.3g}, diverged: the turn lies between"
            return Bracket(best, reason, (math.sqrt(at * beside.at),))
    return Bracket(best, None)


def refine(levels: Sequence[Level], best: int, interval: tuple[float, float] | None) -> Bracket:
    """Of a bracketed optimum: the middles of wide gaps beside it, or more seeds, or nothing more.

    `interval`: of the optimum, ends 0 or inf where open; None where there is none.
    """
    at = levels[best].at
    gaps = [(levels[best - 1].at, at), (at, levels[best + 1].at)]
    wide = tuple(math.sqrt(low * high) for low, high in gaps if high / low > FINE * 1.05)
    if interval is not None and _half(interval) <= ENOUGH:
        return Bracket(best, None)
    if wide:
        return Bracket(best, None, wide)
    return Bracket(best, None, (levels[best - 1].at, at, levels[best + 1].at), seeds=True)


def _half(interval: tuple[float, float]) -> float:
    low, high = interval
    return math.sqrt(high / low) if low > 0 and math.isfinite(high) else math.inf
