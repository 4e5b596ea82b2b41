"""The runs that a design varies: a recipe's at each width, depth or horizon, cut into whole steps.

A base has a label and a run; one that cannot be had is refused by name. The designs that vary bases
are in `sweeps.tuning`, trunks with branches in `sweeps.horizons`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scaling.accounting import counts
from scaling.config import ModelConfig, RunConfig
from sweeps.designs import Setting, ascending, cut
from sweeps.sweep import Refusal

TOKENS_PER_PARAMETER = 20.0  # near the compute optimum of Hoffmann et al. 2022: one unit of a ladder


@dataclass(frozen=True)
class Bases:
    """Labelled runs, and those that the setting could not give."""

    runs: dict[str, RunConfig]
    refused: tuple[Refusal, ...] = ()
    design: dict[str, Any] = field(default_factory=dict)  # of the setting: recipe, unique tokens, epochs


def by_width(setting: Setting, widths: Sequence[int], tokens: float | None = None) -> Bases:
    """The recipe's run at each width (d_model) on `tokens`, or on 20 tokens a parameter (N `total`)."""
    return _collect(
        setting,
        (
            (f"d{width}", cut(f"d{width}", width, tokens or _tokens(setting.model(width), setting), setting))
            for width in ascending("width", widths)
        ),
    )


def by_depth(setting: Setting, width: int, depths: Sequence[int], tokens: float) -> Bases:
    """The recipe's run at one width on `tokens`, its layers replaced by each of `depths`."""
    base = cut(f"d{width}", width, tokens, setting)
    if isinstance(base, Refusal):
        return Bases({}, (base,))
    return _collect(
        setting,
        (
            (f"d{width}-L{depth}", replace(base, model=replace(base.model, n_layers=int(depth))))
            for depth in ascending("depth", depths)
        ),
    )


def by_multiple(setting: Setting, widths: Sequence[int], multiples: Sequence[float]) -> Bases:
    """A ladder's rungs: each width on each multiple of 20 tokens a parameter (N `total`)."""
    rungs = [
        (f"d{width}-x{multiple:g}", width, multiple)
        for width in ascending("width", widths)
        for multiple in ascending("multiple", multiples)
    ]
    return _collect(
        setting,
        (
            (label, cut(label, width, multiple * _tokens(setting.model(width), setting), setting))
            for label, width, multiple in rungs
        ),
    )


def with_batch(run: RunConfig, batch_size: int, tokens: float | None = None) -> RunConfig:
    """The same run with another batch on the same tokens, or on `tokens`, in whole steps, none over."""
    wanted = tokens or run.tokens
    return replace(run, batch_size=batch_size, steps=max(1, math.floor(wanted / (batch_size * run.seq_len))))


def with_rate(run: RunConfig, lr: float) -> RunConfig:
    """The same run at another peak rate, rounded to four digits."""
    return replace(run, optimizer=replace(run.optimizer, lr=float(f"{lr:.4g}")))


def _tokens(model: ModelConfig, setting: Setting) -> float:
    return TOKENS_PER_PARAMETER * counts(model, setting.recipe.seq_len).n["total"]


def _collect(setting: Setting, cuts: Iterable[tuple[str, RunConfig | Refusal]]) -> Bases:
    runs, refused = {}, []
    for label, run in cuts:
        if isinstance(run, Refusal):
            refused.append(run)
        else:
            runs[label] = run
    design = {
        "recipe": setting.recipe.name, "seed": setting.seed, "unique_tokens": setting.unique_tokens,
        "epochs": setting.limits.epochs,
    }  # fmt: skip
    return Bases(runs, tuple(refused), design)
