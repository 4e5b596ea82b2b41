"""What a fit says of runs that do not exist: the best one for a question, as it can be built.

An interval of a loss here is that of one new run's measured loss (analysis.forecast): the law's own
uncertainty, the scatter of runs about it and, beyond the compute fitted, the drift of the law. The
intervals of N* and D* are the law's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.allocate import Demand
from analysis.backtest import Backtest
from analysis.constants import content_of, named
from analysis.fit import fit, load_fit
from analysis.forecast import history, spread
from analysis.law import Array, Values
from analysis.optimum import cost_of
from analysis.question import Model, Question
from analysis.shapes import choose, described, nearest, repeating, spend
from analysis.surfaces import Surface, surface_of
from analysis.table import load
from scaling.accounting import counts
from scaling.config import DataConfig, RunConfig, from_dict
from scaling.errors import UserError
from scaling.recipes import RECIPES, Recipe


def open_fit(source: str) -> tuple[dict[str, Any], list[str]]:
    """A fit file by path or by name under fits/; constants by the name of who printed them, or spelled; a
    folder of runs or a table, fitted on the spot.

    The fit, and what is to be said of how it was come by.
    """
    path = Path(source)
    if path.suffix == ".json" or (Path("fits") / f"{source}.json").exists():
        return load_fit(source), []
    here = path.exists() or (Path("runs") / source).is_dir() or source.startswith("wandb:")
    if not here and (content := content_of(source)) is not None:
        return content, [f"{content['source']}: constants without the runs behind them have no intervals"]
    if not here:
        raise UserError(
            f"{source} is neither a fit under fits/ nor a table or folder of runs; `scaling fit` makes one. "
            f"Printed constants go by {', '.join(named())}."
        )
    content = fit(load(source))
    dropped = [f"{row['run']} is left out: {row['reason']}" for row in content["rows_dropped"]]
    return content, [f"{source} is fitted for this answer only", *content["notes"], *dropped]


def recipe_of(content: dict[str, Any]) -> Recipe:
    """The recipe that made the fitted runs; the first one known where they do not name it."""
    name = (content["setting"] or {}).get("recipe") or next(iter(RECIPES))
    if name not in RECIPES:
        raise UserError(f"fit {content['name']} is of recipe {name!r}; known are {', '.join(RECIPES)}.")
    return RECIPES[name]


def buildable(
    content: dict[str, Any],
    flops: float,
    recipe: Recipe | None = None,
    data: DataConfig | None = None,
    seed: int = 0,
) -> RunConfig:
    """The recipe's run of lowest predicted loss that spends `flops`, in whole steps and never less.

    FLOPs as the fit counts them; recipe and data default to those of the fitted runs. Raises UserError
    for a fit of a foreign table, whose sizes are not those of our models.
    """
    return _build(content, surface_of(content), Demand(cost_of(content)), flops, None, recipe, data, seed)


def build(content: dict[str, Any], question: Question, surface: Surface, seed: int = 0) -> RunConfig:
    """The run to train that answers `question`: the nearest shape of the fitted runs' recipe. Of a loss that
    a model sets, ask with that loss. Raises UserError as `buildable` does."""
    demand = question.demand(cost_of(content))
    run = _build(content, surface, demand, question.budget(), question.loss, None, None, seed)
    return run if question.unique_tokens is None else repeating(run, question.unique_tokens)


def need_own(content: dict[str, Any]) -> None:
    """Raises UserError for a fit that no RunConfig belongs to."""
    if not content["own"] or not content["setting"]:
        raise UserError(
            f"fit {content['name']} is of a table, whose text and shapes are not known here, so no RunConfig "
            "belongs to it; fit a folder of runs."
        )


def counted(content: dict[str, Any], run: RunConfig, name: str, law: str | None = None) -> Model:
    """A run of ours as a model in the counts of a fit; total parameters for a stranger's."""
    size = counts(run.model, run.seq_len)
    known: dict[str, float] = {str(convention): float(value) for convention, value in size.n.items()}
    per_token = size.flops_per_token[content["conventions"]["c"]] if content["own"] else None
    return Model(
        name=name, n=known.get(surface_of(content, law).n_count, known["total"]), d=float(run.tokens),
        flops_per_token=per_token, run=run,
    )  # fmt: skip


def build_model(
    content: dict[str, Any], model: Model, tokens: float, surface: Surface, seed: int = 0
) -> RunConfig:
    """The run that was asked about; else that of the recipe's shape nearest in N, on `tokens`."""
    if model.run is not None:
        return model.run
    recipe = recipe_of(content)
    shape = nearest(recipe, model.n, content["setting"]["vocab_size"], surface.n_count)
    per_token = counts(shape, recipe.seq_len).flops_per_token[content["conventions"]["c"]]
    data = from_dict(DataConfig, content["setting"]["data"])
    return spend(recipe, shape, data, tokens, per_token, seed)


def _build(
    content: dict[str, Any],
    surface: Surface,
    demand: Demand,
    budget: float | None,
    loss: float | None,
    recipe: Recipe | None,
    data: DataConfig | None,
    seed: int,
) -> RunConfig:
    if data is None or not content["own"]:
        need_own(content)
    recipe = recipe or recipe_of(content)
    if data is None:
        data = from_dict(DataConfig, content["setting"]["data"])
    model, tokens, per_token = choose(
        recipe, surface.best, demand, budget=budget, loss=loss, n_name=surface.n_count,
        vocab_size=(content["setting"] or {}).get("vocab_size", 256), c_name=content["conventions"]["c"],
    )  # fmt: skip
    return spend(recipe, model, data, tokens, per_token, seed)


@dataclass(frozen=True)
class NewRuns:
    """The measured loss of runs that a fit has not seen, under one of its laws."""

    content: dict[str, Any]
    law: str
    past: Backtest | None

    @classmethod
    def of(cls, content: dict[str, Any], law: str) -> NewRuns:
        return cls(content, law, history(content) if law == "chinchilla" and content["rows"] else None)

    def interval(
        self, n: float, d: float, c: float, unique: float = np.inf
    ) -> tuple[list[float] | None, str]:
        """90%, nats per token, and how it came about; None for printed constants."""
        x = Values(n=np.array([n]), d=np.array([d]), unique=np.array([min(unique, d)]))
        low, high, how = self.intervals(x, np.array([c]))
        return None if low is None else [float(low[0]), float(high[0])], how

    def intervals(self, x: Values, c_P: Array) -> tuple[Any, Any, str]:
        """Ends for rows of the law's inputs, P each; c_P in FLOPs as the fit counts them."""
        if not self.content["rows"]:
            return None, None, "none: constants were printed, not the runs behind them"
        if self.law == "chinchilla":
            each = [spread(self.content, n, d, c, self.past) for n, d, c in zip(x.n, x.d, c_P, strict=True)]
            ends = np.array([[found.quantiles["0.05"], found.quantiles["0.95"]] for found in each])
            return ends[:, 0], ends[:, 1], each[0].method
        from analysis.predictive import of_fit

        found = of_fit(self.content, self.law)
        along_P = c_P if found.along == "c" else np.asarray(x[found.along])
        low, high = found.quantiles(x, along_P)
        return (
            low,
            high,
            (
                "the law refitted to resampled runs, Student's t through its residuals, and its drift beyond "
                "the rows as forecasts of the larger rows from the smaller ones show it"
            ),
        )


def describe_run(
    content: dict[str, Any], run: RunConfig, surface: Surface | None = None, new: NewRuns | None = None
) -> dict[str, Any]:
    """A run of ours and what the fit says of it."""
    surface = surface or surface_of(content)
    new = new or NewRuns.of(content, surface.law)
    found = described(run, surface.n_count, content["conventions"]["c"])
    loss = surface.best.loss(np.log([found["n"]]), np.log([float(found["tokens"])]))
    interval, _ = new.interval(found["n"], found["tokens"], found["flops"])
    return found | {"loss": float(loss[0]), "interval": interval}
