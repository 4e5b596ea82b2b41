"""The exponent of the best size step by step, and the optima behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator

from analysis.plots import style

KAPLAN, CHINCHILLA = 0.73, 0.50  # Kaplan et al. 2020, eq. 1.7; Hoffmann et al. 2022, approach 1
MARKS = ("o", "^", "D", "P", "v")  # of each step, beside its colour, in both panels


def exponents_figure(content: dict[str, Any], stem: Path, svg: bool = False) -> list[Path]:
    """`content` of `analysis.exponents`: stem.png, .pdf, .csv.

    Left: a with its interval after each step (squares beside: as printed, or by Akima's curve), and the
    exponents that Kaplan et al. and Hoffmann et al. print. Right: N* of each budget with its interval, N and
    C as the step counts them.
    """
    steps = content["steps"]
    colours = style.ordered_colours(len(steps))
    with style.styled():
        drawing = style.figure(3.4)
        left, right = drawing.subplots(1, 2, width_ratios=(1, 1))
        numbers = _exponents(left, steps, colours, content["level"])
        numbers += _optima(right, steps, colours)
        drawing.legend(handles=_key(steps), loc="outside upper left", ncols=2)
        return style.save(drawing, stem, style.stack(numbers), svg)


def _key(steps: list[dict[str, Any]]) -> list[Line2D]:
    """What the two rows of a step are."""
    beside = "as printed" if any(step["printed"] for step in steps) else "by Akima's curve"
    return [
        Line2D([], [], color=style.GREY, lw=1.8, marker=MARKS[0], ms=5.5, label="a of these runs"),
        Line2D([], [], color=style.GREY, lw=1.0, marker="s", ms=4, mfc="white", label=f"the same {beside}"),
    ]


def _exponents(
    axes: Axes, steps: list[dict[str, Any]], colours: list[Any], level: float
) -> list[pd.DataFrame]:
    numbers = []
    ends: list[float] = [KAPLAN, CHINCHILLA]
    for place, (step, colour) in enumerate(zip(steps, colours, strict=True)):
        beside = step["printed"] or step["akima"]
        for entry, shift, marker, face in (
            (step, 0.0, MARKS[place % len(MARKS)], colour),
            (beside, 0.22, "s", "white"),
        ):
            if entry is None or entry["a"] is None:
                continue
            low, high = entry["interval"] or (np.nan, np.nan)
            axes.plot([low, high], [place + shift] * 2, color=colour, lw=1.8 if entry is step else 1.0)
            axes.plot([entry["a"]], [place + shift], marker, ms=5.5 if entry is step else 4, color=colour,
                      mfc=face, zorder=3)  # fmt: skip
            ends += [entry["a"], *(v for v in (low, high) if np.isfinite(v))]
            name = "a" if entry is step else "printed" if step["printed"] else "akima"
            numbers.append(style.series(name, step=step["step"], a=entry["a"], low=low, high=high))
        if step["a"] is None:
            axes.text(KAPLAN, place, "no exponent", va="center", ha="center", fontsize=8, color=style.GREY)
    for value, name in ((KAPLAN, "Kaplan"), (CHINCHILLA, "Chinchilla")):
        axes.axvline(value, color=style.GREY, lw=0.9, ls=(0, (4, 3)), zorder=0)
        axes.text(value, -0.72, name, ha="center", va="bottom", fontsize=7.5, color=style.GREY)
    axes.set_ylim(len(steps) - 0.45, -0.75)
    axes.yaxis.set_major_locator(FixedLocator(range(len(steps))))
    axes.yaxis.set_major_formatter(FixedFormatter([_wrapped(step["says"]) for step in steps]))
    axes.grid(axis="y", visible=False)
    margin = 0.06 * (max(ends) - min(ends))
    style.linear_ticks(axes.xaxis, min(ends) - margin, max(ends) + margin, 6)
    axes.set_xlabel(f"a of N* ~ C^a, {level:.0%} interval")
    return numbers


def _wrapped(words: str) -> str:
    parts = words.split(" ")
    middle = len(parts) // 2
    return " ".join(parts[:middle]) + "\n" + " ".join(parts[middle:])


def _optima(axes: Axes, steps: list[dict[str, Any]], colours: list[Any]) -> list[pd.DataFrame]:
    numbers = []
    every_c, every_n = [], []
    for place, (step, colour) in enumerate(zip(steps, colours, strict=True)):
        found = [budget for budget in step["budgets"] if budget["n"]]
        c, n = [b["c"] for b in found], [b["n"] for b in found]
        for budget in found:
            if budget["interval"]:
                axes.plot([budget["c"]] * 2, budget["interval"], color=colour, lw=1.2, alpha=0.7)
                every_n += budget["interval"]
        axes.plot(c, n, MARKS[place % len(MARKS)], ms=3.6, color=colour, label=step["step"], zorder=3)
        if step["a"] is not None and found:
            middle = float(np.mean(np.log(n)) - step["a"] * np.mean(np.log(c)))
            line = np.geomspace(min(c), max(c), 20)
            axes.plot(line, np.exp(middle) * line ** step["a"], color=colour, lw=1.1, zorder=2)
        every_c += c
        every_n += n
        low = [b["interval"][0] if b["interval"] else np.nan for b in found]
        high = [b["interval"][1] if b["interval"] else np.nan for b in found]
        if found:
            numbers.append(style.series("optimum", step=step["step"], c=c, n=n, low=low, high=high))
    if not every_c:
        axes.text(0.5, 0.5, "no minimum inside the sizes", ha="center", transform=axes.transAxes)
        return numbers
    style.log_axis(axes.xaxis, *style.padded(every_c, 1.4), "flops", 4)
    style.log_axis(axes.yaxis, *style.padded(every_n, 1.25), "params", 6)
    axes.set_xlabel("C, FLOPs (by the step's count)")
    axes.set_ylabel("N*, parameters (by the step's count)")
    axes.legend(loc="upper left", fontsize=7.5)
    return numbers
