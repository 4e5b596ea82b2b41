"""Learning rate, batch, weight decay, warmup and cooldown that go with an answer, by every rule at hand.

First the rule that the RunConfig follows: laws of the user's own sweep (`scaling tune`) where they are
given, else the recipe of the fitted runs. Then published rules, for comparison, each at the N and D of the
answer. An interval is the rule's own where it has one (laws of a sweep: of the optimum at a new size); what
not knowing N and D adds is apart.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.law import Array
from analysis.limits import fitted_ranges
from analysis.surfaces import spread
from analysis.tuning_rules import hyperparameters
from scaling.accounting import counts
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.recipes import RULES

_FIELDS = {"kind", "name", "source", "conventions", "cells", "laws"}
_DRAWS = 100  # of N and D at which a published rule is asked


def load_tuning(path: Path) -> dict[str, Any]:
    """What `scaling tune` wrote. Raises UserError for another file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        content = None
    whole = isinstance(content, dict) and content.keys() >= _FIELDS and content["kind"] == "tuning"
    if not whole:
        raise UserError(f"--tuning is {str(path)!r}, which `scaling tune` did not write; give its JSON file.")
    return dict(content)


def tuned(run: RunConfig, tuning: dict[str, Any]) -> RunConfig:
    """The run with the batch (2^k sequences) and the rate of a sweep's laws, on the same tokens."""
    n, d, c = _sizes(run, tuning["conventions"])
    asked = hyperparameters(tuning, n, d, c)
    batch = run.batch_size
    if asked["batch"] is not None:
        _counted_in_tokens(asked["batch"], run.seq_len, tuning)
        batch = 2 ** max(0, round(math.log2(asked["batch"] / run.seq_len)))
    lr = hyperparameters(tuning, n, d, c, batch=float(batch * run.seq_len))["lr"]
    steps = max(1, math.ceil(run.tokens / (batch * run.seq_len) - 1e-9))
    optimizer = replace(run.optimizer, lr=float(f"{lr:.4g}"))
    return replace(run, optimizer=optimizer, batch_size=batch, steps=steps)


def _counted_in_tokens(batch: float, seq_len: int, tuning: dict[str, Any]) -> None:
    """Raises UserError for a batch far below one sequence from somebody's table: it counts sequences."""
    if batch < 0.25 * seq_len and tuning["conventions"]["n"] == "given":
        raise UserError(
            f"tuning {tuning['name']} gives a batch of {batch:.3g} tokens, a sequence has {seq_len}; "
            "if its table counts sequences, tune again with --batch-unit and the tokens of one."
        )


@dataclass(frozen=True)
class Settled:
    """The run to build before any tuning changed it; `given`: asked about as it is, so that none does."""

    run: RunConfig
    given: bool = False


def settings(
    content: dict[str, Any],
    settled: Settled | None,
    n: float,
    d: float,
    flops: float,
    drawn: tuple[Array, Array, Array],
    tuning: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """Rules in the order of their weight, `used`: whether the RunConfig follows it; `drawn`: N, D and FLOPs
    of the resamples. Fields as in `analysis.tuning_rules.hyperparameters`, and `lr_over_sizes`,
    `batch_over_sizes`: 90% over the resamples of N and D, null where they were not asked."""
    found = []
    run = settled.run if settled else None
    given = settled is not None and settled.given
    if tuning is not None:
        size = (n, d, flops) if run is None else _sizes(run, tuning["conventions"])
        found.append(hyperparameters(tuning, *size) | {"used": run is not None and not given})
    if settled is not None:
        found.append(_of_run(content, settled) | {"used": tuning is None or given})
    for name, rule in RULES.items():
        if not rule.needs_tuned and name != "kaplan":  # whose batch and steps are the same at every size
            found.append(_published(name, run, (n, d, flops), drawn) | {"used": False})
    return [{"lr_over_sizes": None, "batch_over_sizes": None} | entry for entry in found]


def _sizes(run: RunConfig, conventions: dict[str, str]) -> tuple[float, float, float]:
    """N, D and C of a run by the counts of a sweep's laws; total and 6ND for a stranger's."""
    flat = counts(run.model, run.seq_len).flat(run.tokens)
    n = flat.get(f"n_{conventions['n']}", flat["n_total"])
    return n, float(run.tokens), flat.get(f"c_{conventions.get('c')}", 6 * n * run.tokens)


def _of_run(content: dict[str, Any], settled: Settled) -> dict[str, Any]:
    """What the recipe gave the run, and by what factor its size or tokens lie outside the fitted runs."""
    run = settled.run
    recipe = (content["setting"] or {}).get("recipe")
    flat = counts(run.model, run.seq_len).flat(run.tokens)
    asked = {"n": flat["n_total"], "d": float(run.tokens)}
    ranges = fitted_ranges(content["rows"], "n_total")
    beyond = [
        max(low / asked[name], asked[name] / high, 1.0)
        for name, (low, high) in ranges.items()
        if name in asked
    ]
    return {
        "rule": "its own config"
        if settled.given
        else f"recipe {recipe}"
        if recipe
        else "the recipe of this project",
        "lr": run.optimizer.lr,
        "lr_interval": None,
        "batch": float(run.batch_size * run.seq_len),
        "batch_interval": None,
        "weight_decay": run.optimizer.weight_decay,
        "b2": run.optimizer.b2,
        "warmup": run.schedule.warmup,
        "cooldown": run.schedule.decay if run.schedule.name == "wsd" else None,
        "schedule": run.schedule.name,
        "extrapolation": max(beyond, default=None),
        "fixed": "all of it" if settled.given else "the batch moves with the tokens",
        "n_count": "total",
        "source": "as given" if settled.given else "tuned on the smaller runs of this project",
    }


def _published(
    name: str,
    run: RunConfig | None,
    sizes: tuple[float, float, float],
    drawn: tuple[Array, Array, Array],
) -> dict[str, Any]:
    n, d, c = sizes
    ratio = 1.0
    if run is not None and (count := RULES[name].n_count) is not None:
        known: dict[str, float] = counts(run.model, run.seq_len).flat(run.tokens)
        ratio = known[f"n_{count}"] / known["n_total"]
    found = hyperparameters(name, n * ratio, d, c)
    rates, batches = [], []
    every = max(1, len(drawn[0]) // _DRAWS)
    for each in zip(*(values[::every] for values in drawn), strict=True):
        if all(np.isfinite(each)) and min(each) > 0:
            answer = RULES[name].at(each[0] * ratio, each[1], each[2])
            rates.append(answer["lr"])
            batches.append(answer["batch"])
    return found | {
        "lr_over_sizes": spread(np.array(rates)),
        "batch_over_sizes": spread(np.array(batches)),
    }
