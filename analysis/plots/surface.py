"""The fitted surface L(N, D): contours with the runs on it, and what it leaves unexplained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from analysis.plots import style
from analysis.plots.optimum import Line

ABOVE, BELOW = style.VERMILION, style.BLUE


def surface_figure(
    rows: pd.DataFrame,
    loss_at: Callable[[np.ndarray, np.ndarray], np.ndarray],
    frontier: Line,
    stem: Path,
    *,
    n_name: str = "total",
    svg: bool = False,
) -> list[Path]:
    """`rows`: run, n, d, c, loss, predicted. `loss_at(n, d)` in nats/token; `frontier`: the optimum along C.

    Left: contours of the law, isoFLOP lines, the frontier, runs by the sign of their residual (of the mean
    where several share N and D).
    Right: residual in percent against measured loss. Writes stem.png, .pdf, .csv (the rows and residuals).
    """
    residual = 100 * (np.log(rows["loss"].to_numpy(float)) - np.log(rows["predicted"].to_numpy(float)))
    with style.styled():
        drawing = style.figure(3.7)
        left, right = drawing.subplots(1, 2, width_ratios=(1.55, 1), gridspec_kw={"wspace": 0.04})
        _contours(left, rows, loss_at, frontier)
        _runs(left, rows, residual)
        left.set_xlabel(f"parameters N ({style.count_name(n_name)})")
        left.set_ylabel("training tokens D")
        left.set_title("L(N, D), nats/token")
        left.legend(loc="lower left", handlelength=2, framealpha=0.85, frameon=True, edgecolor="none")
        residuals(right, rows["loss"].to_numpy(float), residual)
        return style.save(drawing, stem, rows.assign(residual_percent=residual), svg)


def residuals(axes: Axes, loss: np.ndarray, residual: np.ndarray) -> None:
    """Residuals in percent of the loss against the measured loss, with the rms as a band."""
    rms = float(np.sqrt(np.mean(residual**2)))
    axes.axhspan(-rms, rms, color="#eeeeee", zorder=0)
    axes.axhline(0, color="#444444", lw=0.8)
    for sign, colour, name in ((1, ABOVE, "measured above the law"), (-1, BELOW, "measured below")):
        part = residual * sign > 0
        axes.scatter(
            loss[part],
            residual[part],
            s=20,
            color=colour,
            edgecolors="white",
            linewidths=0.5,
            label=name,
            zorder=3,
        )
    top = max(1.25 * float(np.abs(residual).max()), 0.1)
    style.log_axis(axes.xaxis, *style.loss_limits(loss), "loss", 5)
    style.linear_ticks(axes.yaxis, -top, top)
    axes.set_xlabel("measured loss, nats/token")
    axes.set_ylabel("residual, % of loss")
    axes.set_title(f"residuals, rms {rms:.2f}%")


def _runs(axes: Axes, rows: pd.DataFrame, residual: np.ndarray) -> None:
    """One mark for each N and D: of repeated seeds the last would hide the others."""
    places = rows.assign(residual=residual).groupby(["n", "d"], as_index=False)["residual"].mean()
    for mark, colour, part in (
        ("^", ABOVE, places[places["residual"] > 0]),
        ("v", BELOW, places[places["residual"] <= 0]),
    ):
        axes.plot(part["n"], part["d"], mark, ms=6, color=colour, mec="white", mew=0.6, zorder=4)


def _contours(
    axes: Axes, rows: pd.DataFrame, loss_at: Callable[[np.ndarray, np.ndarray], np.ndarray], frontier: Line
) -> None:
    n_low, n_high = style.padded(rows["n"], 1.6)
    d_low, d_high = style.padded(rows["d"], 1.6)
    n, d = np.geomspace(n_low, n_high, 90), np.geomspace(d_low, d_high, 90)
    grid_n, grid_d = np.meshgrid(n, d)
    loss = loss_at(grid_n, grid_d)
    # Even steps in log loss over what the runs reached; above that the corner would eat the scale.
    levels = np.geomspace(float(loss.min()) * 1.005, float(np.quantile(loss, 0.93)), 9)
    levels = np.unique([float(f"{x:.3g}") for x in levels])
    axes.contourf(
        grid_n,
        grid_d,
        loss,
        levels=[loss.min() * 0.99, *levels, loss.max() * 1.01],
        cmap="cividis_r",
        norm="log",
        alpha=0.33,
    )
    lines = axes.contour(grid_n, grid_d, loss, levels=levels, colors="#555555", linewidths=0.6)
    # Gaps in the lines would be cut for the layout of this moment, which is not the final one: an
    # outline of light clears the label instead.
    places = _label_places(grid_n, grid_d, loss, levels)
    for text in axes.clabel(lines, fmt="%.3g", fontsize=8, inline=False, manual=places, colors=style.BLACK):
        text.set_path_effects([withStroke(linewidth=2.5, foreground="#ededed")])
    for number, flops in enumerate(_budgets(rows)):
        part = rows.loc[np.isclose(rows["c"], flops, rtol=0.05)].sort_values("n")
        axes.plot(
            part["n"],
            part["d"],
            ls=":",
            lw=0.9,
            color=style.BLACK,
            alpha=0.7,
            zorder=2,
            label="equal compute" if number == 0 else None,
        )
    inside = (frontier.n > n_low) & (frontier.n < n_high) & (frontier.d > d_low) & (frontier.d < d_high)
    axes.plot(
        frontier.n[inside], frontier.d[inside], color=style.BLACK, lw=1.8, zorder=3, label="compute-optimal"
    )
    axes.grid(False)
    style.log_axis(axes.xaxis, n_low, n_high, "params", 5)
    style.log_axis(axes.yaxis, d_low, d_high, "tokens", 6)


def _label_places(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, levels: np.ndarray
) -> list[tuple[float, float]]:
    """Where each contour meets a line near the right edge, or one near the top: clear of runs and frame."""
    column, row, first = int(0.92 * n.shape[1]), int(0.94 * n.shape[0]), n.shape[0] // 20
    places = []
    for level in levels:
        down, across = (
            loss[first : row + 1, column],
            loss[row, first : column + 1],
        )  # both fall along their axis
        if down.min() <= level <= down.max():
            places.append((float(n[0, column]), float(np.interp(-level, -down, d[first : row + 1, 0]))))
        elif across.min() <= level <= across.max():
            places.append((float(np.interp(-level, -across, n[0, first : column + 1])), float(d[row, 0])))
    return places


def _budgets(rows: pd.DataFrame) -> list[float]:
    """Budgets that at least three runs share within 5%, as an isoFLOP design does."""
    flops = np.sort(rows["c"].to_numpy(float))
    if len(flops) < 3:
        return []
    groups = np.split(flops, np.flatnonzero(np.diff(np.log(flops)) > 0.05) + 1)
    return [float(np.median(g)) for g in groups if len(g) >= 3 and g[-1] / g[0] < 1.1]
