"""Activation size against width and depth, a panel a layer type, a line a step: a coordinate check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from analysis.activations import Slope
from analysis.plots import style

_COLUMNS = 4
_LEAST_SPAN = 8.0  # a flat line should look flat: every panel spans at least this factor


def activations_figure(
    rows: Sequence[dict[str, Any]], found: Sequence[Slope], title: str, stem: Path
) -> list[Path]:
    """Write stem.png, .pdf and .csv (the rows). Bands are the range over seeds; titles give the slopes."""
    table = pd.DataFrame(rows)
    axes_names = list(dict.fromkeys(table["axis"]))
    layers = list(dict.fromkeys(table["layer"]))
    deep = -(-len(layers) // _COLUMNS)
    with style.styled():
        drawing = style.figure(0.5 + 1.65 * deep * len(axes_names))
        parts = drawing.subfigures(len(axes_names), 1, squeeze=False)[:, 0]
        for part, axis in zip(parts, axes_names, strict=True):
            panels = part.subplots(deep, _COLUMNS, squeeze=False).ravel()
            of_axis = table[table["axis"] == axis]
            for panel, layer in zip(panels, layers, strict=False):
                slope = next(s for s in found if (s.axis, s.layer) == (axis, layer))
                _panel(panel, of_axis[of_axis["layer"] == layer], axis, slope)
            for panel in panels[len(layers) :]:
                panel.set_axis_off()
            _legend(panels[-1], sorted(table["step"].unique()))
            part.suptitle(f"{title}, {axis}", x=0.01, ha="left", fontsize=9.5)
            part.supylabel("mean |activation|", fontsize=9)
            part.supxlabel({"width": "width d_model", "depth": "depth, layers"}[axis], fontsize=9)
        return style.save(drawing, stem, table)


def _panel(axes: Axes, table: pd.DataFrame, axis: str, slope: Slope) -> None:
    steps = sorted(table["step"].unique())
    for step, colour in zip(steps, _colours(len(steps)), strict=True):
        sizes = table[table["step"] == step].groupby(axis)["size"]
        middle = sizes.mean()
        shown = middle[middle > 0].index
        axes.plot(shown, middle[shown], color=colour, marker="o", markersize=2.6)
        axes.fill_between(shown, sizes.min()[shown], sizes.max()[shown], color=colour, alpha=0.2, lw=0)
    positive = table["size"][table["size"] > 0].to_numpy(float)
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    widen = max(1.25, np.sqrt(_LEAST_SPAN / (high / low)))
    style.log_axis(axes.yaxis, low / widen, high * widen, "ratio", 4)
    axes.set_xscale("log", base=2)
    sizes_shown = sorted(table[axis].unique())
    axes.xaxis.set_major_locator(FixedLocator(sizes_shown))
    axes.xaxis.set_major_formatter(FixedFormatter([str(size) for size in sizes_shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    name = slope.layer.replace("_", " ")
    said = "no slope" if slope.slope is None else f"{slope.slope:+.2f}".replace("-", "\N{MINUS SIGN}")
    colour = style.BLACK if slope.flat else style.VERMILION
    axes.set_title(f"{name} {said}", color=colour, fontsize=8.5)


def _colours(count: int) -> np.ndarray:
    return mpl.colormaps[style.ORDERED](np.linspace(0, style.ORDERED_TOP, max(2, count)))[:count]


def _legend(axes: Axes, steps: Sequence[int]) -> None:
    """In the panel that is left over."""
    lines = [Line2D([], [], color=c, marker="o", markersize=3) for c in _colours(len(steps))]
    axes.legend(lines, [str(step) for step in steps], title="steps made", loc="center", fontsize=8)
