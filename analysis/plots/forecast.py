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
_RUNS, _BEST, _LAW = "fitted runs", "best at its compute", "law, compute-optimal"
_LINE, _FORECAST, _MEASURED = "straight line in log-log", "registered forecast, 90%", "measured"


@dataclass(frozen=True)
class Reach:
    """A law carried along `c` (FLOPs): `loss` nats/token and its 90% band (lower, upper)."""

    c: np.ndarray
    loss: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Target:
    """A registered forecast at `c` FLOPs, nats/token. `measured` is None until the run has landed."""

    c: float
    loss: float
    interval: Interval
    straight: float | None = None
    straight_interval: Interval | None = None
    measured: float | None = None


@dataclass(frozen=True)
class Scene:
    """`rows`: fitted runs (columns c, loss). `envelope`: (C, loss) of the best runs, through which the
    straight line goes. Without a surface `law` is None, before a forecast `target` is None."""

    rows: pd.DataFrame
    envelope: tuple[np.ndarray, np.ndarray]
    law: Reach | None = None
    straight: Reach | None = None
    target: Target | None = None

    @property
    def seen(self) -> list[float]:
        """Losses that the figure must show: not the straight line's end, nor runs far above the best."""
        losses, best = self.rows["loss"].to_numpy(float), self.envelope[1]
        top = best.max() if len(best) else np.median(losses)
        return [*losses[losses <= 1.25 * top], *best, *(self.law.loss if self.law else ()), *self.at_target]

    @property
    def at_target(self) -> list[float]:
        if self.target is None:
            return []
        values = (self.target.loss, *self.target.interval, self.target.measured)
        return [value for value in values if value is not None]


def forecast_figure(scene: Scene, stem: Path, *, c_name: str = "matmul", svg: bool = False) -> list[Path]:
    """Loss against compute up to the target, with a second panel that looks at the target closely.

    Writes stem.png, .pdf, .csv (columns series, c_flops, loss, lower, upper).
    """
    with style.styled():
        drawing = style.figure(3.9)
        axes = drawing.subplots(1, 2, width_ratios=(1.9, 1)) if scene.target else [drawing.subplots()]
        main = axes[0]
        _draw(main, scene)
        reaches = [reach.c for reach in (scene.law, scene.straight) if reach is not None]
        style.log_axis(
            main.xaxis, *style.padded(np.concatenate([scene.rows["c"], *reaches]), 1.3), "flops", 6
        )
        style.log_axis(main.yaxis, *style.loss_limits(scene.seen), "loss")
        main.set_xlabel(f"training compute C, FLOPs ({style.count_name(c_name)})")
        main.set_ylabel("final validation loss, nats/token")
        named = dict(zip(*reversed(main.get_legend_handles_labels()), strict=True))
        order = [n for n in (_RUNS, _BEST, _LAW, _LINE, _FORECAST, _MEASURED) if n in named]
        main.legend([named[n] for n in order], order, loc="lower left")
        if scene.target:
            _zoom(main, axes[1], scene, scene.target)
        return style.save(drawing, stem, _numbers(scene), svg)


def _draw(axes: Axes, scene: Scene) -> None:
    axes.plot(scene.rows["c"], scene.rows["loss"], "o", ms=3.2, color="#b3b3b3", mec="none", label=_RUNS)
    axes.plot(*scene.envelope, "o", ms=5, color=style.BLACK, mec="white", mew=0.6, zorder=4, label=_BEST)
    lines = ((scene.straight, style.GREEN, (0, (5, 2)), _LINE), (scene.law, style.BLUE, "-", _LAW))
    for reach, colour, dashes, name in lines:
        if reach is None:
            continue
        if reach.band is not None:
            axes.fill_between(reach.c, *reach.band, color=colour, alpha=0.15, lw=0)
        axes.plot(reach.c, reach.loss, color=colour, ls=dashes, lw=1.5, zorder=3, label=name)
    if scene.target:
        _draw_target(axes, scene.target)


def _draw_target(axes: Axes, target: Target) -> None:
    low, high = target.interval
    arms = [[target.loss - low], [high - target.loss]]
    square: dict[str, Any] = {"fmt": "s", "ms": 6, "mec": "white", "mew": 0.8, "capsize": 4, "lw": 1.8}
    axes.errorbar(target.c, target.loss, arms, color=style.BLUE, zorder=5, label=_FORECAST, **square)
    if target.measured is not None:
        star: dict[str, Any] = {"ms": 13, "mec": "white", "mew": 0.8, "zorder": 6}
        axes.plot(target.c, target.measured, "*", color=style.VERMILION, label=_MEASURED, **star)


def _zoom(main: Axes, zoom: Axes, scene: Scene, target: Target) -> None:
    """The target alone, with the registered straight line's loss (diamond), framed in `main`."""
    _draw(zoom, scene)
    seen = scene.at_target
    if target.straight is not None:
        seen = [*seen, target.straight]  # its interval is the line's band
        zoom.plot(target.c, target.straight, "D", ms=5.5, color=style.GREEN, mec="white", mew=0.7, zorder=6)
    y_low, y_high = style.loss_limits(seen, 0.15)
    x_low, x_high = target.c / 1.45, target.c * 1.45
    style.log_axis(zoom.xaxis, x_low, x_high, "flops", 3)
    style.log_axis(zoom.yaxis, y_low, y_high, "loss", 7)
    zoom.set_title("at the target")
    zoom.set_xlabel("C, FLOPs")
    frame = Rectangle((x_low, y_low), x_high - x_low, y_high - y_low)
    frame.set(fill=False, edgecolor=style.GREY, linewidth=0.9, zorder=7)
    main.add_patch(frame)


def _numbers(scene: Scene) -> pd.DataFrame:
    rows, (flops, best), target = scene.rows, scene.envelope, scene.target
    parts = [
        style.series("fitted run", c_flops=rows["c"].to_numpy(), loss=rows["loss"].to_numpy()),
        style.series("envelope", c_flops=flops, loss=best),
    ]
    for name, reach in (("law", scene.law), ("straight line", scene.straight)):
        if reach is not None:
            lower, upper = reach.band or (np.nan, np.nan)
            parts.append(style.series(name, c_flops=reach.c, loss=reach.loss, lower=lower, upper=upper))
    if target:
        points: list[tuple[str, float, Interval | None]] = []
        points.append(("registered forecast", target.loss, target.interval))
        if target.straight is not None:
            points.append(("registered straight line", target.straight, target.straight_interval))
        if target.measured is not None:
            points.append(("measured", target.measured, None))
        for name, loss, interval in points:
            low, high = interval or (np.nan, np.nan)
            parts.append(style.series(name, c_flops=target.c, loss=loss, lower=low, upper=high))
    return style.stack(parts)
