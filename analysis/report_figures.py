"""The figures of a report: drawn where the study has what they need, each with words that say what to see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.allocate import Demand, best
from analysis.optimum import cost_of
from analysis.plots import style, views
from analysis.plots.forecast import Reach, Scene, Target, forecast_figure
from analysis.plots.isoflop import isoflop_figure
from analysis.plots.loss_curves import Curve, envelope, loss_curves_figure, read_curve
from analysis.plots.optimum import optimum_figure
from analysis.plots.regret import regret_figure
from analysis.plots.surface import surface_figure
from analysis.regret import plain, regret
from analysis.report_study import Study
from analysis.score import Forecast
from analysis.surfaces import spread, surface_of


@dataclass(frozen=True)
class Figure:
    """Files in the order PNG, PDF, SVG, CSV. `alt` is for who cannot see it, `caption` for who can."""

    title: str
    paths: list[Path]
    alt: str
    caption: str

    @property
    def svg(self) -> Path:
        return next(path for path in self.paths if path.suffix == ".svg")

    @property
    def others(self) -> list[Path]:
        return [path for path in self.paths if path.suffix != ".svg"]


def draw_all(study: Study, folder: Path) -> tuple[list[Figure], list[str]]:
    """Every figure that the study supports, forecast first; and notes on log lines that were dropped."""
    curves, notes = _curves(study)
    figures = []
    if study.fit is not None:
        frontier = _frontier(study)
        figures += _forecast(study, frontier, folder)
        figures += _isoflop(study, folder)
        figures += _optimum(study, frontier, folder)
        figures += _regret(study, folder)
        figures += _surface(study, frontier, folder)
    figures += _loss_curves(study, curves, folder)
    return figures, notes


def _curves(study: Study) -> tuple[list[Curve], list[str]]:
    """Curves of the runs that count: what the sweep does not name is left out, as it is of the fit."""
    strangers = set(study.runs.loc[study.runs["role"] == "not in the fit", "run_id"]) if study.fit else set()
    read = [read_curve(folder) for folder in study.folders if folder.run_id not in strangers]
    return [curve for curve, _ in read if len(curve.c)], [note for _, notes in read for note in notes]


def _frontier(study: Study) -> views.Frontier | None:
    assert study.fit is not None
    flops = [row["c"] for row in study.fit["rows"]]
    return views.frontier_of(study.fit, min(flops) / 1.5, max(study.budget or 0.0, max(flops)) * 1.5)


def _loss_curves(study: Study, curves: list[Curve], folder: Path) -> list[Figure]:
    if not curves:
        return []
    target = study.headline.run_id if study.headline else None
    paths = loss_curves_figure(curves, folder / "loss_curves", target=target, svg=True)
    _, loss = envelope([c for c in curves if c.run != target])
    fall = ""
    if len(loss) > 1:
        fall = f" The envelope falls from {loss[0]:.3f} to {loss[-1]:.3f} nats/token."
    diverged = sum(c.status == "diverged" for c in curves)
    crossed = f" {diverged} diverged (dotted, ending in a cross); no law is fitted to it." if diverged else ""
    return [
        Figure(
            "Loss curves",
            paths,
            f"Training loss against compute of {len(curves)} runs on log axes, with final validation losses "
            "and their lower envelope.",
            f"Training loss of {len(curves)} runs against compute, smoothed; dots are the final validation "
            f"losses that the laws are fitted to.{fall} Each size has a stretch of compute where it is the "
            f"best.{crossed}",
        )
    ]


def _isoflop(study: Study, folder: Path) -> list[Figure]:
    assert study.fit is not None
    profiles = views.profiles_of(study.fit)
    if not profiles:
        return []
    names = study.fit["conventions"]
    paths = isoflop_figure(profiles, folder / "isoflop", n_name=names["n"], c_name=names["c"], svg=True)
    inside = [p for p in profiles if not p.refused]
    moved = ""
    if len(inside) > 1 and inside[0].n_star and inside[-1].n_star:
        low, high = style.human(inside[0].n_star), style.human(inside[-1].n_star)
        moved = f" The best size moves from {low} to {high} parameters."
    refused = len(profiles) - len(inside)
    edge = f" {refused} without a minimum inside the sizes tried: hollow, and not used." if refused else ""
    return [
        Figure(
            "IsoFLOP profiles",
            paths,
            f"Final validation loss against parameters at {len(profiles)} compute budgets, each with a "
            "fitted parabola and its minimum.",
            "Equal compute along each curve: to the left of a minimum the model is too small for its budget, "
            f"to the right it sees too few tokens.{moved}{edge}",
        )
    ]


def _optimum(study: Study, frontier: views.Frontier | None, folder: Path) -> list[Figure]:
    assert study.fit is not None
    flops = [row["c"] for row in study.fit["rows"]]
    top = max(study.budget or 0.0, max(flops)) * 1.5
    along = frontier.c if frontier is not None else np.geomspace(min(flops) / 1.5, top, views.PLACES)
    lines = views.lines_of(study.fit, frontier, along)
    if not lines:
        return []
    names = study.fit["conventions"]
    paths = optimum_figure(
        lines, views.optima_of(study.fit), folder / "optimum", target=study.budget, n_name=names["n"],
        c_name=names["c"], svg=True,
    )  # fmt: skip
    law = " The band is 90% of the surface refitted to resampled runs." if frontier is not None else ""
    return [
        Figure(
            "Compute-optimal size and tokens",
            paths,
            "Compute-optimal parameters and training tokens against compute on log axes by three approaches.",
            f"The best size (left) and number of tokens (right) for each budget by {_spell(len(lines))} "
            "readings of the same runs; where they part beyond the last points, extrapolation rests on the "
            f"choice.{law}",
        )
    ]


def _regret(study: Study, folder: Path) -> list[Figure]:
    """About the answer's budget, counted in FLOPs alone."""
    if study.fit is None or study.budget is None or not study.has_surface:
        return []
    laws, demand = surface_of(study.fit, "chinchilla"), Demand(cost_of(study.fit))
    plan = best(laws.best, demand, study.budget)
    sizes = spread(best(laws.draws, demand, study.budget).n)
    paths = regret_figure(laws, demand, plan, folder / "regret", interval=sizes, svg=True)
    half, double = plain(regret(laws, demand, plan, (0.5, 2.0)), plan)
    return [
        Figure(
            "What another size costs",
            paths,
            "Loss above the best at equal compute, and compute on top at equal loss, against model size over "
            "the best, with 90% bands.",
            f"At the budget of the answer, {style.power(float(f'{study.budget:.3g}'))} FLOPs. Half the best "
            f"size {_cost(half)}; twice the best {_cost(double)}. Each resampled law is held against its own "
            "best size, so the band at N* is what not knowing N* costs.",
        )
    ]


def _cost(row: dict[str, Any]) -> str:
    dearer = row["extra_cost"]
    more = "never reaches" if dearer is None else f"takes {100 * dearer:.0f}% more compute for"
    return f"loses {row['loss']:.2g} nats/token at equal compute, or {more} the same loss"


def _surface(study: Study, frontier: views.Frontier | None, folder: Path) -> list[Figure]:
    if frontier is None or study.fit is None:
        return []
    fit, rows = study.fit, views.rows_of(study.fit)
    line = views.lines_of(fit, frontier, frontier.c)[0]
    paths = surface_figure(
        rows, lambda n, d: views.loss_at(fit, n, d), line, folder / "surface", n_name=fit["conventions"]["n"],
        svg=True,
    )  # fmt: skip
    rms = fit["laws"]["chinchilla"]["rms"]
    return [
        Figure(
            "Fitted surface",
            paths,
            "Contours of the fitted loss over parameters and tokens, the runs on it, and their residuals.",
            "Left: the law's loss over size and tokens; measured above it is orange and points up, below it "
            "blue and down (runs of one size and length by their mean); neighbours of one colour would be a "
            "shape that the law misses. Right: the residual of every run, "
            f"{100 * rms:.2f}% rms (shaded).",
        )
    ]


def _forecast(study: Study, frontier: views.Frontier | None, folder: Path) -> list[Figure]:
    assert study.fit is not None
    fit, headline = study.fit, study.headline
    flops = [row["c"] for row in fit["rows"]]
    top = max(study.budget or 0.0, max(flops)) * 1.5
    along = frontier.c if frontier is not None else np.geomspace(min(flops) / 1.5, top, views.PLACES)
    law = views.forecast_reach(fit, frontier) if frontier is not None else None
    straight = views.straight_reach(fit, along)
    if law is None and straight is None:
        return []
    scene = Scene(views.rows_of(fit), views.envelope_of(fit), law, straight, _target(headline))
    paths = forecast_figure(scene, folder / "forecast", c_name=fit["conventions"]["c"], svg=True)
    return [Figure("Forecast", paths, _forecast_alt(headline), _forecast_caption(headline, law))]


def _target(forecast: Forecast | None) -> Target | None:
    if forecast is None:
        return None
    line = forecast.straight_line
    span = line.get("interval")
    return Target(
        c=float(forecast.record["target"]["flops"]),
        loss=forecast.loss,
        interval=forecast.interval,
        straight=line.get("loss"),
        straight_interval=(span[0], span[1]) if span else None,
        measured=(forecast.measured or {}).get("loss"),
    )


def _forecast_alt(forecast: Forecast | None) -> str:
    what = "Loss against compute on log axes: the fitted runs, the law and a straight line beyond them"
    return what + (", and the registered forecast at the target." if forecast else ".")


def _forecast_caption(forecast: Forecast | None, law: Reach | None) -> str:
    parts = ["The best loss at each compute (large dots) and what carries it on"]
    parts.append(
        ": the law, whose band holds 90% of what one new run should measure, and a straight line (90% of its "
        "resamples)." if law else ": a straight line through it with 90% of its resamples."
    )  # fmt: skip
    if forecast is not None:
        ratio = forecast.record["target"]["flops_over_largest_fitted"]
        parts.append(f" The target takes {ratio:.3g} times the compute of the largest fitted run")
        parts.append(
            "; on the right, forecast and measurement from close by." if (forecast.measured or {}).get("loss")
            else "; it has not been measured yet."
        )  # fmt: skip
    return "".join(parts)


def _spell(count: int) -> str:
    return {1: "one", 2: "two", 3: "three"}.get(count, str(count))
