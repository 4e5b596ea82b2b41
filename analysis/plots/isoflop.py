"""Loss against model size at each fixed budget, with the fitted profile and its minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.plots import style


@dataclass(frozen=True)
class Profile:
    """One budget: `c` FLOPs, the runs' `n` and `loss` (nats/token), the curve through them, its minimum."""

    c: float
    n: np.ndarray
    loss: np.ndarray
    curve_n: np.ndarray
    curve_loss: np.ndarray
    n_star: float | None = None
    loss_star: float | None = None
    interval: tuple[float, float] | None = None  # on n_star
    refused: str = ""  # why the minimum is not used, e.g. that it lies at the edge of the sizes tried
    runs: tuple[str, ...] = field(default=())


def isoflop_figure(
    profiles: Sequence[Profile],
    stem: Path,
    *,
    n_name: str = "total",
    c_name: str = "matmul",
    interval_name: str = "90% interval",
    svg: bool = False,
) -> list[Path]:
    """Draw one profile per budget, small budgets dark; refused minima are hollow and named.

    Writes stem.png, .pdf, .csv (columns series, c_flops, n_params, loss, lower, upper, run, note).
    """
    profiles = sorted(profiles, key=lambda p: p.c)
    norm, cmap = style.log_colours(np.array([p.c for p in profiles]))
    colours = [cmap(norm(p.c)) for p in profiles]
    with style.styled():
        drawing = style.figure(3.9)
        axes = drawing.subplots()
        for profile, colour in zip(profiles, colours, strict=True):
            axes.plot(profile.n, profile.loss, "o", ms=4, color=colour, mec="white", mew=0.5, zorder=3)
            axes.plot(profile.curve_n, profile.curve_loss, color=colour, lw=1.3, alpha=0.9, zorder=2)
            _draw_minimum(axes, profile, colour)
        sizes = np.concatenate([p.n for p in profiles])
        losses = np.concatenate([p.loss for p in profiles] + [p.curve_loss for p in profiles])
        style.log_axis(axes.xaxis, *style.padded(sizes), "params")
        style.log_axis(axes.yaxis, *style.loss_limits(losses), "loss")
        axes.set_xlabel(f"parameters N ({style.count_name(n_name)})")
        axes.set_ylabel("final validation loss, nats/token")
        key, title = _key(profiles, interval_name), f"C, FLOPs ({style.count_name(c_name)})"
        if len(profiles) > style.MOST_LEGEND:
            style.colour_bar(drawing, axes, norm, cmap, "flops", title)
            drawing.legend(handles=key, loc="outside upper left", ncols=2)
            return style.save(drawing, stem, _numbers(profiles), svg)
        budgets = [
            Line2D([], [], color=k, marker="o", ms=4, label=style.power(p.c))
            for p, k in zip(profiles, colours, strict=True)
        ]
        axes.legend(
            handles=[*budgets, *key],
            title=title,
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            alignment="left",
            borderaxespad=0,
            labelspacing=0.7,
        )
        return style.save(drawing, stem, _numbers(profiles), svg)


def _draw_minimum(axes: Axes, profile: Profile, colour: Any) -> None:
    if profile.n_star is None or profile.loss_star is None:
        return
    if profile.refused:
        axes.plot(
            profile.n_star, profile.loss_star, "D", ms=6, mfc="white", mec=style.VERMILION, mew=1.3, zorder=5
        )
        return
    if profile.interval:
        axes.plot(
            profile.interval,
            [profile.loss_star] * 2,
            color=style.VERMILION,
            lw=2.2,
            alpha=0.75,
            solid_capstyle="butt",
            zorder=4,
        )
    axes.plot(
        profile.n_star, profile.loss_star, "D", ms=5.5, color=style.VERMILION, mec="white", mew=0.7, zorder=5
    )


def _key(profiles: Sequence[Profile], interval_name: str) -> list[Line2D]:
    handles = []
    used = [p for p in profiles if p.n_star and not p.refused]
    if used:
        name = f"minimum,\n{interval_name}" if any(p.interval for p in used) else "minimum"
        handles.append(Line2D([], [], color=style.VERMILION, marker="D", ms=5.5, lw=2.2, label=name))
    if any(p.n_star and p.refused for p in profiles):
        handles.append(
            Line2D(
                [],
                [],
                ls="",
                marker="D",
                ms=6,
                mfc="white",
                mec=style.VERMILION,
                mew=1.3,
                label="at the edge:\nnot used",
            )
        )
    return handles


def _numbers(profiles: Sequence[Profile]) -> pd.DataFrame:
    parts = []
    for p in profiles:
        names = list(p.runs) or [""] * len(p.n)
        parts.append(style.series("run", c_flops=p.c, n_params=p.n, loss=p.loss, run=names))
        if p.n_star is not None:
            lower, upper = p.interval or (np.nan, np.nan)
            star = {"c_flops": p.c, "n_params": p.n_star, "loss": p.loss_star}
            parts.append(style.series("minimum", **star, lower=lower, upper=upper, note=p.refused))
        parts.append(style.series("profile", c_flops=p.c, n_params=p.curve_n, loss=p.curve_loss))
    return style.stack(parts)
