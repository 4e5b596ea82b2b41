"""Critical batches: steps to a target loss against the batch, and how the critical batch moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots import style

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def critical_figure(content: dict[str, Any], stem: Path, svg: bool = False) -> list[Path]:
    """`content` of `analysis.critical.critical_batches`: stem.png, .pdf, .csv.

    Left, the steps that each batch took with the fitted S_min + E_min / B; the tick on a curve is its
    critical batch. Right, where a law was fitted, the critical batches with their 90% intervals and the law.
    """
    cells = [cell for cell in content["cells"] if not cell["refused"]]
    law = content["laws"][0] if content["laws"] else None
    with style.styled():
        drawing = style.figure(3.1, style.WIDTH if law else 0.6 * style.WIDTH)
        panels = drawing.subplots(1, 2 if law else 1, squeeze=False)[0]
        kind = law["output"] if law else "b_star"
        parts = _steps(panels[0], cells, kind, content)
        if law:
            parts += _moves(panels[1], cells, law)
        _legend(drawing, panels[0], len(cells))
        return style.save(drawing, stem, style.stack(parts), svg)


def _legend(drawing: Figure, axes: Axes, count: int) -> None:
    if count > 1:
        handles, names = axes.get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside lower center", ncols=min(count, 5), handlelength=1)


def _steps(axes: Axes, cells: list[dict[str, Any]], kind: str, content: dict[str, Any]) -> list[pd.DataFrame]:
    every = [point for cell in cells for point in cell["points"]]
    left, right = style.padded([point["batch"] for point in every], 1.5)
    parts = []
    for number, (cell, colour) in enumerate(zip(cells, style.ordered_colours(len(cells)), strict=True)):
        batch = np.array([point["batch"] for point in cell["points"]])
        steps = np.array([point["steps"] for point in cell["points"]])
        axes.plot(
            batch, steps, MARKERS[number % len(MARKERS)], ms=4.2, color=colour, mec="white", mew=0.4,
            label=_name(cell),
        )  # fmt: skip
        along = np.geomspace(left, right, 200)
        axes.plot(along, cell["s_min"] + cell["e_min"] / along, color=colour, lw=1.1)
        at = cell[kind]
        if left < at < right:
            height = cell["s_min"] + cell["e_min"] / at
            axes.plot([at, at], [height / 1.18, height * 1.18], color=style.VERMILION, lw=1.6, zorder=5)
        parts.append(style.series(f"steps, {cell['label']}", batch=batch, steps=steps))
    style.log_axis(axes.xaxis, left, right, "ratio", 5)
    style.log_axis(axes.yaxis, *style.padded([point["steps"] for point in every], 1.5), "ratio", 5)
    axes.set_xlabel(f"batch, {content['unit']}")
    axes.set_ylabel("steps to the target loss")
    axes.set_title(f"tick: {_said(kind, content)}")
    return parts


def _said(kind: str, content: dict[str, Any]) -> str:
    if kind == "b_crit":
        return "twice the least steps"
    reference = content["reference"]
    return f"{content['excess']:g} × the examples at " + (
        f"B {reference:g}" if reference else "small batches"
    )


def _name(cell: dict[str, Any]) -> str:
    words = [f"N {style.human(cell['n'])}"] if cell["n"] is not None else []
    words += [f"loss {cell['target']:.4g}"] if cell["target"] is not None else []
    return ", ".join(words) or "all rows"


def _moves(axes: Axes, cells: list[dict[str, Any]], law: dict[str, Any]) -> list[pd.DataFrame]:
    """The critical batch against N or the target loss, and the power law through it."""
    kind = law["output"]
    by = "n" if kind == "b_star" else "target"
    used = [cell for cell in cells if cell[by] is not None]
    x = np.array([cell[by] for cell in used])
    for number, (cell, colour) in enumerate(zip(used, style.ordered_colours(len(used)), strict=True)):
        if cell[f"{kind}_interval"]:
            axes.plot([cell[by]] * 2, cell[f"{kind}_interval"], color=colour, lw=1.6, alpha=0.6)
        axes.plot(
            cell[by], cell[kind], MARKERS[number % len(MARKERS)], ms=5, color=colour, mec="white", mew=0.5
        )
    left, right = style.padded(x, 1.25 if by == "n" else 1.03)
    along = np.geomspace(left, right, 50)
    unit = 1e6 if "1e6" in law["formula"] else 1.0
    line = law["constants"]["k"] * (along / unit) ** law["constants"]["v"]
    axes.plot(along, line, color=style.GREY, lw=1.1, ls="--", zorder=1)
    heights = [value for cell in used for value in (cell[kind], *(cell[f"{kind}_interval"] or ()))]
    style.log_axis(axes.xaxis, left, right, "params" if by == "n" else "loss", 5)
    style.log_axis(axes.yaxis, *style.padded([*heights, *line], 1.2), "ratio", 5)
    axes.set_xlabel("parameters N" if by == "n" else "target loss (nats per token)")
    axes.set_ylabel("critical batch; 90% intervals")
    interval = law["intervals"]["v"]
    spread = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    title = f"exponent {law['constants']['v']:.3g}{spread}"
    axes.set_title(title.replace("-", "\N{MINUS SIGN}"))
    ends = np.array([cell[f"{kind}_interval"] or (np.nan, np.nan) for cell in used])
    return [
        style.series(kind, **{by: x}, value=[cell[kind] for cell in used], low=ends[:, 0], high=ends[:, 1]),
        style.series("law", **{by: along}, value=line),
    ]
