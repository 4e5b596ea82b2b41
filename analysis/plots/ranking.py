"""Hidden runs: what each law forecast, with its 90% interval, against what was measured; and the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.plots import style

_MOST = 4  # laws drawn beside each other
_QUANTITIES: dict[str, style.Quantity] = {"c": "flops", "n": "params", "d": "tokens"}
_NAMES = {"c": "compute C", "n": "parameters N", "d": "tokens D"}


def ranking_figure(content: dict[str, Any], stem: Path, svg: bool = False) -> list[Path]:
    """`content`: of `analysis.ranking.rank`. Writes stem.png, .pdf and .csv (a row for each hidden run and
    law: run, sizes, measured, predicted, lower, upper, share; and a row of scores for each law).

    One panel for each of the first laws: predicted with its 90% interval over measured, coloured by what was
    held out; runs outside their interval are marked. Below: log scores of all laws.
    """
    rows = "all" if content["ranking"] else "frontier"
    order = content["ranking"] or content["ranking_frontier"]
    drawn = order[:_MOST]
    with style.styled():
        drawing = style.figure(2.5 + 0.24 * len(order) + 0.75)
        parts = drawing.subfigures(2, 1, squeeze=False, height_ratios=(2.5, 0.24 * len(order) + 0.75))
        top, bottom = parts[:, 0]
        panels = top.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        forecasts = [each for each in content["forecasts"] if rows == "all" or each["frontier"]]
        by, largest = content["hold_out"]["by"], content["hold_out"]["largest"]
        norm, cmap = style.log_colours(np.array([content["hold_out"]["edge"], largest]))
        limits = _limits(forecasts, drawn)
        for axes, name in zip(panels, drawn, strict=True):
            _panel(axes, forecasts, name, by, norm, cmap, limits)
        panels[0].set_ylabel("forecast / measured, 90%")
        style.colour_bar(top, panels[-1], norm, cmap, _QUANTITIES[by], f"{_NAMES[by]} of the hidden run")
        _scores(bottom.subplots(), content, order, rows)
        return style.save(drawing, stem, _numbers(content, order, rows), svg)


def _limits(forecasts: list[dict[str, Any]], drawn: list[str]) -> tuple[float, float]:
    """Of the ratio forecast / measured: all points, and intervals as far as they say something."""
    ratio = [each["laws"][name]["loss"] / each["measured"] for each in forecasts for name in drawn]
    ends = [each["laws"][name][key] / each["measured"] for each in forecasts for name in drawn[:1]
            for key in ("low", "high")]  # fmt: skip
    low, high = min(*ratio, *ends), max(*ratio, *ends)
    return max(0.5, low - 0.02), min(2.0, high + 0.02)


def _panel(
    axes: Axes, forecasts: list[dict[str, Any]], name: str, by: str, norm: Any, cmap: Any,
    limits: tuple[float, float],
) -> None:  # fmt: skip
    measured = np.array([each["measured"] for each in forecasts])
    found = pd.DataFrame([each["laws"][name] for each in forecasts])
    x = np.array([each[by] for each in forecasts])
    out = (found["share"] < 0.05) | (found["share"] > 0.95)
    axes.axhline(1, color="#444444", lw=0.8, zorder=1)
    axes.vlines(measured, found["low"] / measured, found["high"] / measured, colors=cmap(norm(x)), lw=1.1,
                alpha=0.45, zorder=2)  # fmt: skip
    ratio = found["loss"].to_numpy() / measured
    axes.scatter(measured, ratio, c=x, norm=norm, cmap=cmap, s=16, ec="white", lw=0.4, zorder=3)
    axes.scatter(measured[out], ratio[out], s=42, fc="none", ec=style.VERMILION, lw=1.0, zorder=4)
    style.log_axis(axes.xaxis, *style.loss_limits(measured), "loss", 3)
    style.linear_ticks(axes.yaxis, *limits, 6)
    axes.set_title(f"{name}\n{1 - out.mean():.0%} inside", fontsize=8.5)
    axes.set_xlabel("measured loss")


def _scores(axes: Axes, content: dict[str, Any], order: list[str], rows: str) -> None:
    scores = [content["laws"][name][rows]["log_score"] for name in order]
    inside = [content["laws"][name][rows]["coverage_90"] for name in order]
    place = np.arange(len(order))[::-1]
    axes.hlines(place, min(scores), scores, color="#c9c9c9", lw=1.4, zorder=1)
    axes.scatter(scores, place, s=30, color=style.BLUE, zorder=2)
    for y, value, share in zip(place, scores, inside, strict=True):
        axes.annotate(f"{value:.2f}, {share:.0%} in 90%", (value, y), (7, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    span = max(scores) - min(scores) or 1.0
    style.linear_ticks(axes.xaxis, min(scores) - 0.04 * span, max(scores) + 0.3 * span, 7)
    axes.set_yticks(place, order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(False, axis="y")
    what = "all hidden runs" if rows == "all" else "hidden runs of the frontier"
    axes.set_xlabel(f"mean log score of {what}, nats a run (higher is better)")


def _numbers(content: dict[str, Any], order: list[str], rows: str) -> pd.DataFrame:
    forecasts = [
        {
            "series": "forecast", "law": name, "run": each["run"],
            **{key: each[key] for key in ("n", "d", "c") if key in each},
            "measured": each["measured"], "predicted": each["laws"][name]["loss"],
            "lower": each["laws"][name]["low"], "upper": each["laws"][name]["high"],
            "share": each["laws"][name]["share"],
        }
        for name in order for each in content["forecasts"]
    ]  # fmt: skip
    scores = [{"series": "score", "law": name, **content["laws"][name][rows]} for name in order]
    return pd.DataFrame(forecasts + scores)
