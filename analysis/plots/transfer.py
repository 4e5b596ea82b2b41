"""Loss against learning rate by size, a panel a parametrisation: whether the optimum stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.plots import style

_ACROSS = 2  # panels of a row
_LONG = 12  # letters of a name that leave no room for the move beside it
_MOST = 8  # sizes in a legend; more are told by colour


def transfer_figure(content: dict[str, Any], stem: Path, svg: bool = False) -> list[Path]:
    """`content` of `analysis.transfer.transfer`: stem.png, .pdf, .csv.

    Points are means over seeds with their range; lines the local quadratics; diamonds the optima with their
    intervals. The dashed line is the rate tuned at the smallest size.
    """
    found = content["found"]
    numbers: list[pd.DataFrame] = []
    with style.styled():
        rows = -(-len(found) // _ACROSS)
        drawing = style.figure(3.0 * rows)
        grid = drawing.subplots(rows, min(len(found), _ACROSS), squeeze=False, sharey=True)
        panels = grid.ravel()
        for axes in panels[len(found) :]:
            axes.set_axis_off()
        for axes, one in zip(panels, found, strict=False):
            colours = style.ordered_colours(len(one["sizes"]))
            step = -(-len(one["sizes"]) // _MOST)
            for i, (size, colour) in enumerate(zip(one["sizes"], colours, strict=True)):
                label = style.human(size["n"]) if i % step == 0 else "_"
                numbers.append(_line(axes, one["name"], size, colour, label))
            if one["sizes"][0]["optimum"]:
                axes.axvline(one["sizes"][0]["optimum"]["lr"], color=style.GREY, ls="--", lw=1, zorder=0)
            rates = [point["lr"] for size in one["sizes"] for point in size["points"]]
            style.log_axis(axes.xaxis, *style.padded(rates, 1.3), "ratio", 5)
            axes.set_xlabel("learning rate of the base")
            axes.set_title(_title(one))
            axes.legend(
                title="parameters N", fontsize=8, loc="upper center", ncols=4, columnspacing=1,
                handlelength=1, frameon=True, facecolor="white", edgecolor="none",
            )  # fmt: skip
        shown = [point["loss"] for one in found for size in one["sizes"] for point in _near(size)]
        low, high = style.loss_limits(shown)
        room = (high / low) ** 0.22  # for the legend, above every point
        style.log_axis(panels[0].yaxis, low, high * room, "loss")
        for axes in grid[:, 0]:
            axes.set_ylabel("final loss (nats per token)")
        return style.save(drawing, stem, style.stack(numbers), svg)


def _near(size: dict[str, Any]) -> list[dict[str, Any]]:
    """Points that are shown: not those far above the lowest."""
    known = [point for point in size["points"] if point["loss"] is not None]
    least = min((point["loss"] for point in known), default=np.inf)
    return [point for point in known if point["loss"] <= 1.25 * least]


def _title(one: dict[str, Any]) -> str:
    moved = "move not known" if one["moved"] is None else f"optimum × {2 ** one['moved']:.2g}"
    between = ":\n" if len(one["name"]) > _LONG else ": "
    return f"{one['name']}{between}{moved}"


def _line(axes: Axes, name: str, size: dict[str, Any], colour: Any, label: str) -> pd.DataFrame:
    points = _near(size)
    x, y = [p["lr"] for p in points], [p["loss"] for p in points]
    spans = [[p["loss"] - min(p["losses"]) for p in points], [max(p["losses"]) - p["loss"] for p in points]]
    axes.errorbar(x, y, spans, fmt="o", ms=3.4, color=colour, lw=0.8, label=label)
    if size["curve"]:
        axes.plot(size["curve"]["x"], size["curve"]["loss"], color=colour, lw=1.2)
    else:
        axes.plot(x, y, color=colour, lw=0.8, alpha=0.6)
    if optimum := size["optimum"]:
        if optimum["lr_interval"]:
            axes.plot(optimum["lr_interval"], [optimum["loss"]] * 2, color=colour, lw=3.2, alpha=0.45)
        axes.plot(optimum["lr"], optimum["loss"], "D", ms=5, color=colour, mec="black", mew=0.8, zorder=4)
    every = size["points"]
    loss = [np.nan if p["loss"] is None else p["loss"] for p in every]
    return style.series(name, n=size["n"], lr=[p["lr"] for p in every], loss=loss)
