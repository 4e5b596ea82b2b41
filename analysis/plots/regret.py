"""What a size off the best one costs: in loss at equal cost, and in cost at equal loss, against N / N*."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.allocate import Demand, Plan
from analysis.law import Array
from analysis.plots import style
from analysis.regret import Regret, regret
from analysis.surfaces import Surface

MULTIPLES = np.geomspace(0.1, 10, 81)
_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_MOST = 2.0  # the share on top of the cost at which the right panel ends


def regret_figure(
    surface: Surface,
    demand: Demand,
    plan: Plan,
    stem: Path,
    *,
    interval: Sequence[float | None] | None = None,
    svg: bool = False,
) -> list[Path]:
    """Two panels over N / N*: nats per token lost for the same money, and the share of the money on top that
    the lowest loss takes. `interval`: the 90% of N*, parameters.

    Lines by the fit, bands the 90% of its resamples, each against its own best size; the bar at the bottom is
    the interval of N*. Writes stem.png, .pdf, .csv (n_over_optimum, n_params, loss_regret and extra_cost
    with their ends).
    """
    drawn, n = regret(surface, demand, plan, MULTIPLES), float(plan.n[0])
    with style.styled():
        drawing = style.figure(3.1)
        left, right = drawing.subplots(1, 2)
        tops = _panel(left, drawn.multiple_M, drawn.loss_M, drawn.loss_RM), _MOST
        _panel(right, drawn.multiple_M, drawn.cost_M, drawn.cost_RM)
        left.set_ylabel("loss above the best, nats/token")
        right.set_ylabel("cost on top for the same loss")
        for axes, top in zip((left, right), tops, strict=True):
            _frame(axes, top, n, interval)
        shares = np.arange(0, _MOST + 0.01, 0.5)
        right.set_yticks(shares, [f"+{100 * x:.0f}%" if x else "0%" for x in shares])
        n_count = style.count_name(surface.n_count)
        drawing.supxlabel(f"parameters N over the best N* = {style.human(n)} ({n_count})", fontsize=9)
        left.set_title("at equal cost")
        right.set_title("at equal loss")
        handles, names = left.get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside upper left", ncols=3, columnspacing=1.4)
        return style.save(drawing, stem, _numbers(drawn, n), svg)


def _panel(axes: Axes, multiple_M: Array, line_M: Array, draws_RM: Array) -> float:
    """The line and its band; where the line ends."""
    if len(draws_RM):
        low, high = (np.quantile(draws_RM, q, axis=0, method="inverted_cdf") for q in (0.05, 0.95))
        high = np.where(np.isfinite(high), high, 1e9)
        axes.fill_between(
            multiple_M, low, high, color=style.BLUE, alpha=0.18, lw=0, label="90% of the resampled laws"
        )
    axes.plot(multiple_M, np.where(np.isfinite(line_M), line_M, 1e9), color=style.BLUE, lw=2, label="the fit")
    shown = line_M[np.isfinite(line_M) & (multiple_M >= 0.2) & (multiple_M <= 5)]
    return float(shown.max()) * 1.25


def _frame(axes: Axes, top: float, n: float, interval: Sequence[float | None] | None) -> None:
    axes.set_xscale("log")
    axes.set_xlim(MULTIPLES[0], MULTIPLES[-1])
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_ylim(-0.04 * top, top)
    axes.axvline(1, color=style.GREY, lw=0.9, ls=":")
    if interval is not None:
        low, high = (interval[0] or 0.0) / n, (interval[1] or np.inf) / n
        axes.plot(
            [max(low, MULTIPLES[0]), min(high, MULTIPLES[-1])],
            [-0.015 * top] * 2,
            color=style.VERMILION,
            lw=3.5,
            solid_capstyle="butt",
            label="90% interval of N*",
        )


def _numbers(drawn: Regret, n: float) -> Any:
    columns: dict[str, Any] = {
        "n_over_optimum": drawn.multiple_M,
        "n_params": drawn.multiple_M * n,
        "loss_regret": drawn.loss_M,
        "extra_cost": np.where(np.isfinite(drawn.cost_M), drawn.cost_M, np.nan),
    }
    for name, draws in (("loss_regret", drawn.loss_RM), ("extra_cost", drawn.cost_RM)):
        for end, q in (("low", 0.05), ("high", 0.95)):
            value = np.full(len(drawn.multiple_M), np.nan)
            if len(draws):
                value = np.quantile(draws, q, axis=0, method="inverted_cdf")
            columns[f"{name}_{end}"] = np.where(np.isfinite(value), value, np.nan)
    return style.series("regret", **columns)
