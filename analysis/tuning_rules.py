"""Published rules beside the optima of a sweep, and one answer from either: `hyperparameters`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.tuning_laws import at
from scaling.accounting import counts
from scaling.errors import UserError
from scaling.recipes import RECIPES, RULES, Recipe, Tuned

_ANSWER = (
    "rule", "lr", "lr_interval", "batch", "batch_interval", "weight_decay", "b2", "warmup", "cooldown",
    "schedule", "extrapolation", "fixed", "n_count", "source",
)  # fmt: skip


def beside(cells: Sequence[dict[str, Any]], own: bool) -> list[dict[str, Any]]:
    """For each rule with constants of its own: {rule, formula, source, fixed, lr_ratio, batch_ratio,
    extrapolation}. A ratio {median, low, high} is our optimum over the rule's, over the cells; the rate is
    asked at the cell's own batch. `extrapolation`: the largest factor a cell lies outside the rule's data."""
    out = []
    sized = [cell for cell in cells if cell["optimum"] and cell["n"] and cell["d"]]
    for rule in RULES.values():
        if rule.needs_tuned or not sized:
            continue
        ratios: dict[str, list[float]] = {"lr": [], "batch": []}
        beyond = [1.0]
        for cell in sized:
            try:
                answer = rule.at(cell["n"], cell["d"], cell["c"], cell["batch"])
            except UserError:  # so far beyond its data that its rate is below 0
                continue
            beyond.append(answer["extrapolation"] or 1.0)
            for name in cell["swept"]:
                if answer[name] and not (name == "lr" and "batch" in cell["swept"] and rule.batch is None):
                    ratios[name].append(cell["optimum"][name] / answer[name])
        if not any(ratios.values()):
            continue
        out.append(
            {
                "rule": rule.name,
                "formula": rule.formula,
                "source": rule.source,
                "fixed": rule.fixed,
                "lr_ratio": _spread(ratios["lr"]),
                "batch_ratio": _spread(ratios["batch"]),
                "extrapolation": max(beyond),
            }
        )
    return out


def _spread(ratios: list[float]) -> dict[str, float] | None:
    if not ratios:
        return None
    return {"median": float(np.median(ratios)), "low": min(ratios), "high": max(ratios)}


def hyperparameters(
    source: dict[str, Any] | Recipe | str,
    n: float,
    d: float,
    c: float | None = None,
    batch: float | None = None,
    tuned: Tuned | None = None,
) -> dict[str, Any]:
    """Learning rate, batch and the rest for N and D, with intervals where there are any.

    source   the result of `analysis.tuning.tune` (its laws), a `Recipe` or the name of one, or the name of
             a published rule (`scaling.recipes.RULES`)
    n        by the source's count (`n_count` of the answer); a recipe takes its width nearest to n total
    batch    tokens; where given, the rate is asked at it and the batch is not predicted

    {rule, lr, lr_interval, batch, batch_interval, weight_decay, b2, warmup, cooldown (shares of the steps),
    schedule, extrapolation (the largest factor outside the data behind it; null: not known), fixed, n_count,
    source}; null for what the source does not say. Raises UserError where it has no law of the rate.
    """
    if isinstance(source, dict):
        return _of_laws(source, n, d, 6 * n * d if c is None else c, batch)
    if isinstance(source, str) and source in RULES:
        answer = RULES[source].at(n, d, c, batch, tuned)
        return _filled(answer | {"lr_interval": None, "batch_interval": None})
    recipe = RECIPES.get(source) if isinstance(source, str) else source
    if recipe is None:
        raise UserError(f"rule {source!r} is not known; choose from {', '.join([*RECIPES, *RULES])}.")
    return _of_recipe(recipe, n, d)


def _filled(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer.get(name) for name in _ANSWER}


def _of_laws(content: dict[str, Any], n: float, d: float, c: float, batch: float | None) -> dict[str, Any]:
    laws = content["laws"]
    sizes: dict[str, float | None] = {"n": n, "d": d, "c": c, "batch": batch}
    found = {}
    for output in ("batch", "lr"):
        if output == "batch" and batch is not None:
            continue
        if output in laws:
            try:
                found[output] = at(laws[output], **sizes)
            except KeyError as missing:
                raise UserError(
                    f"the law of the {output} of {content['name']} reads {missing}; give it."
                ) from None
            sizes["batch"] = found["batch"]["value"] if output == "batch" else sizes["batch"]
    if "lr" not in found:
        rates = any("lr" in cell["swept"] for cell in content["cells"])
        short = "its cells are too few" if rates else "no rates were swept in it"
        why = laws.get("skipped", {}).get("lr", short)
        raise UserError(f"tuning {content['name']} has no law of the learning rate ({why}); tune more cells.")
    held = _held_batch(content) if batch is None and "batch" not in found else batch
    return _filled(
        {
            "rule": f"tuning {content['name']}",
            "lr": found["lr"]["value"],
            "lr_interval": found["lr"]["interval"],
            "batch": found["batch"]["value"] if "batch" in found else held,
            "batch_interval": found["batch"]["interval"] if "batch" in found else None,
            **_shared(content.get("held", {})),
            "extrapolation": max(answer["extrapolation"] for answer in found.values()),
            "fixed": laws["lr"]["fixed"],
            "n_count": content["conventions"]["n"],
            "source": content["source"],
        }
    )


def _shared(held: dict[str, Any]) -> dict[str, Any]:
    """What every run of the sweep had."""
    return {
        "weight_decay": held.get("optimizer.weight_decay"),
        "b2": held.get("optimizer.b2"),
        "warmup": held.get("schedule.warmup"),
        "cooldown": held.get("schedule.decay") if held.get("schedule.name") == "wsd" else None,
        "schedule": held.get("schedule.name"),
    }


def _held_batch(content: dict[str, Any]) -> float | None:
    """The batch that every cell of a sweep of rates held, if it is one."""
    values = {cell["batch"] for cell in content["cells"] if cell["optimum"]}
    return values.pop() if len(values) == 1 else None


def _of_recipe(recipe: Recipe, n: float, d: float) -> dict[str, Any]:
    from scaling.config import DataConfig

    models = [recipe.model(width) for width in recipe.widths()]
    sizes = [counts(model, recipe.seq_len).n["total"] for model in models]
    model = models[int(np.argmin([abs(math.log(size / n)) for size in sizes]))]
    run = recipe.run(model, DataConfig(name="text", fingerprint="none"), d)
    schedule = run.schedule
    return _filled(
        {
            "rule": f"recipe {recipe.name}",
            "lr": run.optimizer.lr,
            "batch": float(run.batch_size * run.seq_len),
            "weight_decay": run.optimizer.weight_decay,
            "b2": run.optimizer.b2,
            "warmup": schedule.warmup,
            "cooldown": schedule.decay if schedule.name == "wsd" else None,
            "schedule": schedule.name,
            "fixed": "the batch moves with the horizon as the recipe says",
            "n_count": "total",
            "source": recipe.source,
        }
    )
