"""The forecast: what was fitted, the law carried on to the target, and what the target run measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.plots import style

Interval = tuple[float, float]
_LEGEND = (
    "fitted runs",
    "best at its compute",
    "law, compute-optimal",
    "straight line in log–log",
    "registered forecast, 90%",
    "measured",
)


@dataclass(frozen=True)
class Reach:
    """A law carried along `c` (FLOPs): `loss` nats/token and its band (lower, upper)."""

    c: np.ndarray
    loss: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Target:
    """A registered forecast at `c` FLOPs. `measured` is None until the run has landed."""

    c: float
    loss: float
    interval: Interval
    straight: float | None = None
    straight_interval: Interval | None = None
    measured: float | None = None
    measured_se: float | None = None


def forecast_figure(
    rows: pd.DataFrame,
    envelope: tuple[np.ndarray, np.ndarray],
    law: Reach,
    stem: Path,
    *,
    straight: Reach | None = None,
    target: Target | None = None,
    c_name: str = "matmul",
    svg: bool = False,
) -> list[Path]:
    """`rows`: fitted runs (c, loss). `envelope`: the best loss at each C, the straight line's points.

    Writes stem.png, .pdf, .csv (columns series, c_flops, loss, lower, upper).
    """
    with style.styled():
        drawing = style.figure(3.9)
        axes, zoom = drawing.subplots(1, 2, width_ratios=(1.9, 1)) if target else (drawing.subplots(), None)
        _everything(axes, rows, envelope, law, straight, target)
        x_low, x_high = style.padded([*rows["c"], *law.c], 1.3)
        heights = [
            *envelope[1],
            *law.loss,
            *(rows["loss"].to_numpy(float)[rows["loss"].to_numpy(float) < envelope[1].max() * 1.25]),
        ]
        heights += [x for x in _extremes(target)]
        style.log_axis(axes.xaxis, x_low, x_high, "flops", 6)
        style.log_axis(axes.yaxis, *style.loss_limits(heights), "loss")
        axes.set_xlabel(f"training compute C, FLOPs ({c_name} count)")
        axes.set_ylabel("final validation loss, nats/token")
        handles, names = axes.get_legend_handles_labels()
        order = sorted(range(len(names)), key=lambda i: _LEGEND.index(names[i]))
        axes.legend([handles[i] for i in order], [names[i] for i in order], loc="lower left")
        if target and zoom is not None:
            _zoom(axes, zoom, rows, envelope, law, straight, target)
        return style.save(drawing, stem, _numbers(rows, envelope, law, straight, target), svg)


def _everything(
    axes: Axes,
    rows: pd.DataFrame,
    envelope: tuple[np.ndarray, np.ndarray],
    law: Reach,
    straight: Reach | None,
    target: Target | None,
) -> None:
    axes.plot(
        rows["c"], rows["loss"], "o", ms=3.2, color="#b3b3b3", mec="none", zorder=2, label="fitted runs"
    )
    axes.plot(
        *envelope, "o", ms=5, color=style.BLACK, mec="white", mew=0.6, zorder=4, label="best at its compute"
    )
    for reach, colour, ls, name in (
        (straight, style.GREEN, (0, (5, 2)), "straight line in log–log"),
        (law, style.BLUE, "-", "law, compute-optimal"),
    ):
        if reach is None:
            continue
        if reach.band is not None:
            axes.fill_between(reach.c, *reach.band, color=colour, alpha=0.15, lw=0)
        axes.plot(reach.c, reach.loss, color=colour, ls=ls, lw=1.5, zorder=3, label=name)
    if target:
        _draw_target(axes, target)


def _draw_target(axes: Axes, target: Target) -> None:
    low, high = target.interval
    axes.errorbar(
        target.c,
        target.loss,
        yerr=[[target.loss - low], [high - target.loss]],
        fmt="s",
        ms=6,
        color=style.BLUE,
        mec="white",
        mew=0.8,
        capsize=4,
        lw=1.8,
        zorder=5,
        label="registered forecast, 90%",
    )
    if target.measured is not None:
        axes.plot(
            target.c,
            target.measured,
            "*",
            ms=13,
            color=style.VERMILION,
            mec="white",
            mew=0.8,
            zorder=6,
            label="measured",
        )


def _extremes(target: Target | None) -> list[float]:
    if target is None:
        return []
    values = [target.loss, *target.interval, target.measured]
    return [v for v in values if v is not None]


def _zoom(
    axes: Axes,
    zoom: Axes,
    rows: pd.DataFrame,
    envelope: tuple[np.ndarray, np.ndarray],
    law: Reach,
    straight: Reach | None,
    target: Target,
) -> None:
    _everything(zoom, rows, envelope, law, straight, target)
    if target.straight is not None:
        if target.straight_interval:
            low, high = target.straight_interval
            zoom.plot([target.c * 1.05] * 2, [low, high], color=style.GREEN, lw=1.6, zorder=4)
        zoom.plot(
            target.c * 1.05, target.straight, "D", ms=5, color=style.GREEN, mec="white", mew=0.7, zorder=5
        )
    seen = _extremes(target) + ([target.straight] if target.straight is not None else [])
    y_low, y_high = style.loss_limits(seen, 0.25)
    x_low, x_high = target.c / 1.45, target.c * 1.45
    style.log_axis(zoom.xaxis, x_low, x_high, "flops", 3)
    style.log_axis(zoom.yaxis, y_low, y_high, "loss", 7)
    zoom.set_title("at the target")
    zoom.set_xlabel("C, FLOPs")
    frame: dict[str, Any] = {"fill": False, "edgecolor": style.GREY, "lw": 0.9, "zorder": 7}
    axes.add_patch(Rectangle((x_low, y_low), x_high - x_low, y_high - y_low, **frame))


def _numbers(
    rows: pd.DataFrame,
    envelope: tuple[np.ndarray, np.ndarray],
    law: Reach,
    straight: Reach | None,
    target: Target | None,
) -> pd.DataFrame:
    out = [
        {"series": "fitted run", "c_flops": c, "loss": x}
        for c, x in zip(rows["c"], rows["loss"], strict=True)
    ]
    out += [{"series": "envelope", "c_flops": c, "loss": x} for c, x in zip(*envelope, strict=True)]
    for name, reach in (("law", law), ("straight line", straight)):
        if reach is None:
            continue
        low, high = reach.band if reach.band is not None else (np.full(len(reach.c), np.nan),) * 2
        out += [
            {"series": name, "c_flops": c, "loss": x, "lower": a, "upper": b}
            for c, x, a, b in zip(reach.c, reach.loss, low, high, strict=True)
        ]
    if target:
        low, high = target.interval
        out.append(
            {
                "series": "registered forecast",
                "c_flops": target.c,
                "loss": target.loss,
                "lower": low,
                "upper": high,
            }
        )
        if target.straight is not None:
            low, high = target.straight_interval or (np.nan, np.nan)
            out.append(
                {
                    "series": "registered straight line",
                    "c_flops": target.c,
                    "loss": target.straight,
                    "lower": low,
                    "upper": high,
                }
            )
        if target.measured is not None:
            out.append({"series": "measured", "c_flops": target.c, "loss": target.measured})
    return pd.DataFrame(out, columns=["series", "c_flops", "loss", "lower", "upper"])
