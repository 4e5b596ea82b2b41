"""Compute-optimal parameters and tokens against compute, by every approach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.plots import style

LOOKS: dict[str, dict[str, Any]] = {
    "parametric": {"color": style.BLUE, "ls": "-", "lw": 2.0, "marker": ""},
    "isoflop": {"color": style.VERMILION, "ls": "--", "lw": 1.4, "marker": "D"},
    "isoflop_akima": {"color": style.PURPLE, "ls": (0, (4, 1.5, 1, 1.5, 1, 1.5)), "lw": 1.2, "marker": "^"},
    "isoflop_surface": {"color": style.BLACK, "ls": "-", "lw": 1.3, "marker": "o"},
    "envelope": {"color": style.GREEN, "ls": "-.", "lw": 1.4, "marker": "o"},
}
NAMES = {
    "envelope": "approach 1: envelope",
    "isoflop": "approach 2: isoFLOP parabola",
    "isoflop_akima": "approach 2: isoFLOP Akima",
    "isoflop_surface": "approach 2: isoFLOP surface",
    "parametric": "approach 3: fitted surface",
}


@dataclass(frozen=True)
class Line:
    """One approach's answer along `c` (FLOPs): `n` parameters, `d` tokens; bands are (lower, upper)."""

    approach: Literal["envelope", "isoflop", "parametric"]
    c: np.ndarray
    n: np.ndarray
    d: np.ndarray
    n_band: tuple[np.ndarray, np.ndarray] | None = None
    d_band: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Optimum:
    """One measured optimum: an isoFLOP minimum or an envelope point."""

    approach: Literal["envelope", "isoflop"]
    c: float
    n: float
    d: float
    n_interval: tuple[float, float] | None = None
    d_interval: tuple[float, float] | None = None


def optimum_figure(
    lines: Sequence[Line],
    points: Sequence[Optimum],
    stem: Path,
    *,
    target: float | None = None,
    n_name: str = "total",
    c_name: str = "matmul",
    svg: bool = False,
) -> list[Path]:
    """Two panels, N*(C) and D*(C), each approach with its points; `target` FLOPs is marked.

    Writes stem.png, .pdf, .csv (series, approach, c_flops, n_params, d_tokens, each with lower and upper).
    """
    with style.styled():
        drawing = style.figure(3.5)
        left, right = drawing.subplots(1, 2)
        for axes, quantity in ((left, "n"), (right, "d")):
            for line in sorted(lines, key=lambda x: NAMES[x.approach]):
                _draw_line(axes, line, quantity)
            for point in points:
                _draw_point(axes, point, quantity)
            _frame(axes, lines, points, quantity, target)
        left.set_title("compute-optimal parameters N*")
        right.set_title("compute-optimal tokens D*")
        left.set_ylabel(f"parameters ({style.count_name(n_name)})")
        right.set_ylabel("tokens")
        drawing.supxlabel(f"training compute C, FLOPs ({style.count_name(c_name)})", fontsize=9)
        handles, names = left.get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside upper left", ncols=3, columnspacing=1.4)
        return style.save(drawing, stem, _numbers(lines, points), svg)


def _draw_line(axes: Axes, line: Line, quantity: str) -> None:
    look = LOOKS[line.approach]
    values, band = (line.n, line.n_band) if quantity == "n" else (line.d, line.d_band)
    if band is not None:
        axes.fill_between(line.c, band[0], band[1], color=look["color"], alpha=0.16, lw=0)
    axes.plot(line.c, values, color=look["color"], ls=look["ls"], lw=look["lw"], label=NAMES[line.approach])


def _draw_point(axes: Axes, point: Optimum, quantity: str) -> None:
    look = LOOKS[point.approach]
    value, interval = (point.n, point.n_interval) if quantity == "n" else (point.d, point.d_interval)
    if interval:
        axes.plot([point.c] * 2, interval, color=look["color"], lw=1.6, alpha=0.8, zorder=3)
    axes.plot(
        point.c,
        value,
        look["marker"],
        color=look["color"],
        ms=5 if point.approach == "isoflop" else 3.5,
        mec="white",
        mew=0.6,
        zorder=4,
    )


def _reachable(line: Line, quantity: str) -> np.ndarray:
    """The line's band, as far as it is worth an axis: within a factor 3 of the line."""
    values, band = (line.n, line.n_band) if quantity == "n" else (line.d, line.d_band)
    return values if band is None else np.clip(np.concatenate(band), values.min() / 3, values.max() * 3)


def _frame(
    axes: Axes, lines: Sequence[Line], points: Sequence[Optimum], quantity: str, target: float | None
) -> None:
    flops = np.concatenate([x.c for x in lines] + [[p.c for p in points]])
    heights = [x.n if quantity == "n" else x.d for x in lines]
    heights += [_reachable(x, quantity) for x in lines]
    heights.append(np.array([p.n if quantity == "n" else p.d for p in points]))
    low, high = style.padded(flops)
    style.log_axis(axes.xaxis, low, high, "flops", 5)
    style.log_axis(
        axes.yaxis, *style.padded(np.concatenate(heights), 1.25), "params" if quantity == "n" else "tokens", 6
    )
    if target and low < target < high:
        axes.axvline(target, color=style.GREY, lw=0.9, ls=":")
        axes.annotate(
            "the answer's budget",
            (target, 0.02),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="bottom",
            rotation=90,
            fontsize=8,
            color=style.GREY,
        )


def _numbers(lines: Sequence[Line], points: Sequence[Optimum]) -> pd.DataFrame:
    parts = []
    for p in points:
        n_low, n_high = p.n_interval or (np.nan, np.nan)
        d_low, d_high = p.d_interval or (np.nan, np.nan)
        sizes = {"n_params": p.n, "n_lower": n_low, "n_upper": n_high}
        tokens = {"d_tokens": p.d, "d_lower": d_low, "d_upper": d_high}
        parts.append(style.series("point", approach=p.approach, c_flops=p.c, **sizes, **tokens))
    for x in lines:
        none = np.full(len(x.c), np.nan)
        n_lower, n_upper = x.n_band or (none, none)
        d_lower, d_upper = x.d_band or (none, none)
        bands = {"n_params": x.n, "n_lower": n_lower, "n_upper": n_upper}
        bands |= {"d_tokens": x.d, "d_lower": d_lower, "d_upper": d_upper}
        parts.append(style.series("line", approach=x.approach, c_flops=x.c, **bands))
    return style.stack(parts)
