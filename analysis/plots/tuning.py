"""Optima of a sweep: loss against the learning rate (batch) by cell, and the optima against N, D or C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.plots import style
from analysis.tuning_laws import at

_AXIS = {"lr": "learning rate", "batch": "batch"}
_SIZE: dict[str, tuple[style.Quantity, str]] = {
    "n": ("params", "parameters N"),
    "d": ("tokens", "training tokens D"),
    "c": ("flops", "training FLOPs C"),
}
_MOST = 12  # names in the legend; more cells are told by colour


def tuning_figure(content: dict[str, Any], stem: Path, svg: bool = False) -> list[Path]:
    """`content` of `analysis.tuning.tune`: stem.png, .pdf, .csv.

    A row of panels for each of rate and batch that was swept. Left: losses (mean of seeds) against it, the
    local quadratic, the optimum and its interval; a cross at the top is a run that diverged, hollow points
    are outside the quadratic. Right: the optima against what varies, with the law and its interval.
    """
    outputs = [name for name in ("lr", "batch") if any(name in cell["swept"] for cell in content["cells"])]
    with style.styled():
        drawing = style.figure(3.1 * len(outputs) + 0.5)
        grid = drawing.subplots(len(outputs), 2, squeeze=False, width_ratios=(1.25, 1))
        numbers: list[pd.DataFrame] = []
        for (left, right), output in zip(grid, outputs, strict=True):
            cells = [cell for cell in content["cells"] if output in cell["swept"] and _finite(cell)]
            colours = style.ordered_colours(len(cells))
            numbers += _losses(left, cells, colours, output)
            numbers += _optima(right, content, cells, colours, output)
        _legend(drawing, cells, colours)
        return style.save(drawing, stem, style.stack(numbers), svg)


def _finite(cell: dict[str, Any]) -> bool:
    return any(point["loss"] is not None for point in cell["points"])


def _profile(cell: dict[str, Any], output: str) -> list[dict[str, Any]]:
    """The points of a coordinate; of a crossed sweep the lowest loss that the other allows."""
    best: dict[float, dict[str, Any]] = {}
    for point in cell["points"]:
        key = point[output]
        if key not in best or (point["loss"] or np.inf) < (best[key]["loss"] or np.inf):
            best[key] = point
    return [best[key] for key in sorted(best)]


def _losses(axes: Axes, cells: list[dict[str, Any]], colours: list[Any], output: str) -> list[pd.DataFrame]:
    numbers = []
    shown: list[float] = []
    for place, (cell, colour) in enumerate(zip(cells, colours, strict=True)):
        points = _profile(cell, output)
        known = [p for p in points if p["loss"] is not None]
        least = min(p["loss"] for p in known)
        near = [p for p in known if p["loss"] <= least * 1.12]
        shown += [p["loss"] for p in near]
        for used in (True, False):
            part = [p for p in known if p["used"] is used]
            face = colour if used else "white"
            x, y = [p[output] for p in part], [p["loss"] for p in part]
            axes.plot(x, y, "o", ms=3.6, color=colour, mfc=face, mew=0.8, zorder=3)
        if not cell["curve"]:
            axes.plot([p[output] for p in known], [p["loss"] for p in known], color=colour, lw=0.8, alpha=0.5)
        else:
            axes.plot(cell["curve"]["x"], cell["curve"]["loss"], color=colour, lw=1.2, zorder=2)
            numbers.append(
                style.series("curve", cell=cell["label"], x=cell["curve"]["x"], loss=cell["curve"]["loss"])
            )
        lost = [p[output] for p in points if p["loss"] is None]
        height = 0.98 - 0.03 * (place % 8)  # so that cells do not hide each other
        axes.plot(lost, [height] * len(lost), "x", ms=5, color=colour, transform=axes.get_xaxis_transform())
        _mark(axes, cell, colour, output)
        numbers.append(
            style.series(
                "runs", cell=cell["label"], x=[p[output] for p in points],
                loss=[np.nan if p["loss"] is None else p["loss"] for p in points],
            )
        )  # fmt: skip
    low, high = style.loss_limits(shown)
    style.log_axis(axes.yaxis, low, high, "loss")
    x = [p[output] for cell in cells for p in cell["points"]]
    style.log_axis(axes.xaxis, *style.padded(x, 1.15), "ratio", 6)
    axes.set_xlabel(_AXIS[output])
    axes.set_ylabel("final loss (nats per token)")
    return numbers


def _mark(axes: Axes, cell: dict[str, Any], colour: Any, output: str) -> None:
    optimum = cell["optimum"]
    if not optimum:
        return
    interval = optimum[f"{output}_interval"]
    if interval:
        axes.plot(interval, [optimum["loss"]] * 2, color=colour, lw=3.2, alpha=0.45, solid_capstyle="butt")
    axes.plot([optimum[output]], [optimum["loss"]], "D", ms=5, color=colour, mec="black", mew=0.8, zorder=4)


def _against(content: dict[str, Any], output: str) -> tuple[str, str | None]:
    """Which size the optima are drawn against, and the law drawn through them."""
    for name in (output, f"{output}_n", f"{output}_d", f"{output}_c"):
        law = content["laws"].get(name)
        if law and len(law["inputs"]) == 1 and law["inputs"][0] in _SIZE:
            return law["inputs"][0], name
    varying = [n for n in ("n", "d", "c") if len({c[n] for c in content["cells"] if c[n]}) > 1]
    return (varying or ["n"])[0], None


def _optima(
    axes: Axes, content: dict[str, Any], cells: list[dict[str, Any]], colours: list[Any], output: str
) -> list[pd.DataFrame]:
    size, name = _against(content, output)
    main = content["laws"].get(output)
    numbers = []
    sizes, values = [], []
    for cell, colour in zip(cells, colours, strict=True):
        if not cell["optimum"] or not cell[size]:
            continue
        value, interval = cell["optimum"][output], cell["optimum"][f"{output}_interval"]
        if interval:
            axes.plot([cell[size]] * 2, interval, color=colour, lw=1.6, zorder=2)
        axes.plot([cell[size]], [value], "D", ms=4.5, color=colour, mec="black", mew=0.6, zorder=3)
        sizes.append(cell[size])
        values += [value, *(interval or ())]
        low, high = interval or (np.nan, np.nan)
        numbers.append(
            style.series("optimum", cell=cell["label"], size=cell[size], x=value, low=low, high=high)
        )
    if not sizes:
        found = any(cell["optimum"] for cell in cells)
        words = "no N, D or C\nto draw the optima against" if found else "no optimum\ninside what was tried"
        axes.text(0.5, 0.5, words, ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return numbers
    limits = style.padded(sizes, 1.35)
    if main and len(main["inputs"]) > 1:
        numbers += _lines(axes, main, cells, size, output)
    elif name:
        numbers += _band(axes, content["laws"][name], size, limits)
    style.log_axis(axes.xaxis, *limits, _SIZE[size][0], 5)
    style.log_axis(axes.yaxis, *style.padded(values, 1.3), "ratio", 6)
    convention = style.count_name(content["conventions"].get(size, "")) if size in ("n", "c") else ""
    axes.set_xlabel(f"{_SIZE[size][1]}{f' ({convention})' if convention else ''}")
    axes.set_ylabel(f"optimal {_AXIS[output]}, 90% interval")
    _title(axes, main or (content["laws"][name] if name else None))
    return numbers


def _lines(
    axes: Axes, law: dict[str, Any], cells: list[dict[str, Any]], size: str, output: str
) -> list[pd.DataFrame]:
    """A law of several inputs: what it says of each cell, as a short bar."""
    numbers = []
    for cell in cells:
        if cell["optimum"] and all(cell[name] for name in law["inputs"]):
            value = at(law, **{name: cell[name] for name in law["inputs"]})["value"]
            axes.plot(
                [cell[size] / 1.12, cell[size] * 1.12], [value, value], color=style.BLACK, lw=1.1, zorder=4
            )
            numbers.append(style.series("law", cell=cell["label"], size=cell[size], x=value))
    return numbers


def _band(axes: Axes, law: dict[str, Any], size: str, limits: tuple[float, float]) -> list[pd.DataFrame]:
    x = np.geomspace(*limits, 60)
    found = [at(law, **{size: value}) for value in x.tolist()]
    y = [f["value"] for f in found]
    axes.plot(x, y, color=style.BLACK, lw=1.1, zorder=1)
    low = [f["interval"][0] if f["interval"] else np.nan for f in found]
    high = [f["interval"][1] if f["interval"] else np.nan for f in found]
    axes.fill_between(x, low, high, color=style.GREY, alpha=0.18, lw=0, zorder=0)
    return [style.series("law", size=x, x=y, low=low, high=high)]


def _title(axes: Axes, law: dict[str, Any] | None) -> None:
    if not law:
        return
    letters = {"n": "N", "d": "D", "c": "C", "batch": "B"}
    exponents = list(law["constants"].items())[1:]
    words = [
        f"{letters[name]}^{value:.3g}" for name, (_, value) in zip(law["inputs"], exponents, strict=True)
    ]
    axes.set_title(f"law: {law['output']} ~ " + " ".join(words).replace("-", "\N{MINUS SIGN}"))


def _legend(drawing: Figure, cells: list[dict[str, Any]], colours: list[Any]) -> None:
    step = -(-len(cells) // _MOST)
    picked = list(zip(cells, colours, strict=True))[::step]
    handles = [
        Line2D([], [], marker="o", ls="", ms=4, color=colour, label=cell["label"]) for cell, colour in picked
    ]
    drawing.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7.5)
