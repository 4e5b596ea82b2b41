"""The approaches side by side: profiles with their minima, N*(C), and what each has against the surface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.bootstrap import array
from analysis.law import Array
from analysis.optimum import Cost, cost_of, optimum, surface
from analysis.plots import style
from analysis.plots.optimum import LOOKS, NAMES

MOST_BUDGETS = 7  # profiles drawn: more cannot be told apart at column width
PLACES = 40
BEYOND = 30.0  # times the largest budget: as far as `why` compares
TAILS = (0.05, 0.95)
_READINGS = ("isoflop", "isoflop_surface", "isoflop_akima")
_MARKS = {"isoflop": "D", "isoflop_surface": "o", "isoflop_akima": "^"}
_CURVES = {"isoflop": ("--", 1.0), "isoflop_surface": ("-", 1.3)}


@dataclass(frozen=True)
class Growth:
    """N* of one approach along C, in parameters; 90% of its resamples; what it would be without noise."""

    name: str
    c: Array
    n: Array
    band: tuple[Array, Array] | None
    noise_free: Array | None


def growths_of(fit: dict[str, Any], c: Array) -> list[Growth]:
    """Every approach that has an answer along `c` FLOPs, the surface first."""
    found = []
    best, draws = surface(fit) if "skipped" not in fit["approaches"]["parametric"] else (None, None)
    if best is not None and draws is not None:
        cost = cost_of(fit)
        n = np.array([optimum(best[None], flops, cost).n_R[0] for flops in c])
        spread = np.array([np.quantile(optimum(draws, flops, cost).n_R, TAILS) for flops in c])
        found.append(Growth("parametric", c, n, (spread[:, 0], spread[:, 1]) if len(draws) else None, None))
    compared = fit.get("why", {}).get("approaches", {})
    for name, entry in fit["approaches"].items():
        if "skipped" in entry or name == "parametric":
            continue
        n = np.exp(entry["log_n_at_1"] + entry["a"] * np.log(c))
        exact = None
        rows = compared.get(name, {}).get("at", [])
        if found and len(rows) == 2 and all(row["noise_free"] is not None for row in rows):
            # Shifts of log N* at two budgets; where C = 6ND they are straight in log C.
            x = np.log([row["c"] for row in rows])
            slope = (rows[1]["noise_free"] - rows[0]["noise_free"]) / (x[1] - x[0])
            exact = found[0].n * np.exp(rows[0]["noise_free"] + slope * (np.log(c) - x[0]))
        found.append(Growth(name, c, n, _band(fit["resamples"].get(name), c), exact))
    return found


def _band(stored: dict[str, Any] | None, c: Array) -> tuple[Array, Array] | None:
    if stored is None:
        return None
    columns = [stored["columns"].index(name) for name in ("log_n_at_1", "a")]
    draws = array(stored)[:, columns]
    draws = draws[np.isfinite(draws).all(1)]
    if len(draws) < 2:
        return None
    lower, upper = np.quantile(np.exp(draws[:, :1] + draws[:, 1:] * np.log(c)), TAILS, axis=0)
    return lower, upper


def approaches_figure(fit: dict[str, Any], stem: Path, *, svg: bool = False) -> list[Path] | None:
    """Left: loss against N at each budget with the parabola, the surface-shaped profile and the minima of
    each reading. Right: N* against C by every approach, and as a ratio to the surface's with 90% bands;
    thin dots are what the approach would say without noise.

    Writes stem.png, .pdf, .csv (columns series, approach, c_flops, n_params, loss, lower, upper, run);
    None where the fit has neither profiles nor an approach to draw.
    """
    shown = _shown(fit)
    flops = [row["c"] for row in fit["rows"]]
    growths = growths_of(fit, np.geomspace(min(flops), BEYOND * max(flops), PLACES))
    if not shown or not growths:
        return None
    with style.styled():
        drawing = style.figure(4.4)
        grid = drawing.add_gridspec(2, 2, width_ratios=(1.1, 1), height_ratios=(1, 1.15))
        left = drawing.add_subplot(grid[:, 0])
        top, low = drawing.add_subplot(grid[0, 1]), drawing.add_subplot(grid[1, 1])
        parts = _profiles(left, fit, shown)
        _growth(top, growths, fit)
        _ratios(low, growths, max(flops))
        _legend(drawing, growths, shown)
        return style.save(drawing, stem, style.stack([*parts, *_numbers(growths)]), svg)


def _shown(fit: dict[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """Budgets to draw, each as reading -> its entry: those of most runs, ascending in C."""
    entries = {name: fit["approaches"].get(name, {}).get("budgets", []) for name in _READINGS}
    found = [
        {name: budgets[i] for name, budgets in entries.items() if i < len(budgets)}
        for i in range(len(entries["isoflop"]))
        if entries["isoflop"][i]["rows"] >= 3
    ]
    found = sorted(found, key=lambda each: -each["isoflop"]["rows"])[:MOST_BUDGETS]
    return sorted(found, key=lambda each: each["isoflop"]["c"])


def _profiles(axes: Axes, fit: dict[str, Any], shown: list[dict[str, dict[str, Any]]]) -> list[pd.DataFrame]:
    rows = pd.DataFrame(fit["rows"])
    law = fit["laws"].get("chinchilla")
    own = f"n_{law['n_count']}" if law else "n"
    rows = rows.assign(n=rows[own] if own in rows else rows["n"]).set_index("run")
    parts, cost = [], cost_of(fit)
    for each, colour in zip(shown, style.ordered_colours(len(shown)), strict=True):
        c = each["isoflop"]["c"]
        part = rows[rows.index.isin(each["isoflop"]["runs"])]
        part = part[np.abs(np.log(part["c"] / c)) < 0.25].sort_values("n")
        sizes, losses = part["n"].to_numpy(np.float64), part["loss"].to_numpy(np.float64)
        axes.plot(sizes, losses, "o", ms=3, color=colour, alpha=0.55, mec="none", zorder=2)
        n = np.geomspace(sizes[0], sizes[-1], 60)
        parts.append(style.series("run", c_flops=c, n_params=sizes, loss=losses, run=list(part.index)))
        for name, entry in each.items():
            if "refused" in entry:
                continue
            if name in _CURVES:
                loss, (dashes, width) = _curve(entry, n, c, cost), _CURVES[name]
                axes.plot(n, loss, color=colour, ls=dashes, lw=width, zorder=3)
                parts.append(style.series("profile", approach=name, c_flops=c, n_params=n, loss=loss))
            mark, face = _MARKS[name], LOOKS[name]["color"]
            axes.plot(entry["n"], entry["loss"], mark, ms=4.5, color=face, mec="white", mew=0.6, zorder=5)
            parts.append(
                style.series("minimum", approach=name, c_flops=c, n_params=entry["n"], loss=entry["loss"])
            )
        axes.annotate(
            style.power(float(f"{c:.2g}")), (sizes[-1], losses[-1]), xytext=(4, 0),
            textcoords="offset points", fontsize=7.5, color=colour, va="center",
        )  # fmt: skip
    drawn = pd.concat(parts)
    low, high = style.padded(drawn["n_params"], 1.3)
    style.log_axis(axes.xaxis, low, high * 2.2, "params", 5)
    style.log_axis(axes.yaxis, *style.loss_limits(drawn["loss"]), "loss")
    axes.set_xlabel(f"parameters N ({style.count_name(fit['conventions']['n'])})")
    axes.set_ylabel("final loss, nats/token")
    axes.set_title(f"profiles by C, FLOPs ({style.count_name(fit['conventions']['c'])})")
    return parts


def _curve(entry: dict[str, Any], n: Array, c: float, cost: Cost) -> Array:
    if "parabola" in entry:
        return np.polyval(entry["parabola"][::-1], np.log(n))
    k = entry["surface"]
    log_d = np.log(c) - cost.per_token(np.log(n))
    return np.asarray(k["E"] + k["P"] * n ** -k["alpha"] + k["Q"] * np.exp(-k["beta"] * log_d))


def _growth(axes: Axes, growths: list[Growth], fit: dict[str, Any]) -> None:
    for each in growths:
        look = LOOKS[each.name]
        axes.plot(each.c, each.n, color=look["color"], ls=look["ls"], lw=look["lw"])
    for name in _READINGS:
        points = fit["approaches"].get(name, {}).get("points", [])
        axes.plot(
            [p["c"] for p in points], [p["n"] for p in points], _MARKS[name], ms=3.5,
            color=LOOKS[name]["color"], mec="white", mew=0.5, zorder=4,
        )  # fmt: skip
    style.log_axis(axes.xaxis, *style.padded(growths[0].c, 1.4), "flops", 4)
    style.log_axis(axes.yaxis, *style.padded(np.concatenate([g.n for g in growths]), 1.4), "params", 4)
    axes.set_ylabel("N*, parameters")


def _ratios(axes: Axes, growths: list[Growth], largest: float) -> None:
    base = growths[0].n
    heights = [np.array([0.8, 1.25])]
    for each in growths:
        look = LOOKS[each.name]
        if each.band is not None:
            lower, upper = (edge / base for edge in each.band)
            alpha = 0.2 if each.name == "parametric" else 0.1
            axes.fill_between(each.c, lower, upper, color=look["color"], alpha=alpha, lw=0)
            heights.append(np.clip(np.concatenate([lower, upper]), 0.4, 2.5))
        axes.plot(each.c, each.n / base, color=look["color"], ls=look["ls"], lw=look["lw"])
        if each.noise_free is not None and each.name != "isoflop_surface":
            axes.plot(each.c, each.noise_free / base, color=look["color"], ls=":", lw=1.1)
        heights.append(np.clip(each.n / base, 0.4, 2.5))
    axes.axvline(largest, color=style.GREY, lw=0.8)
    axes.text(
        largest * 1.1, 0.02, "beyond the runs", transform=axes.get_xaxis_transform(), color=style.GREY,
        fontsize=7.5,
    )  # fmt: skip
    style.log_axis(axes.xaxis, *style.padded(growths[0].c, 1.4), "flops", 4)
    style.log_axis(axes.yaxis, *style.padded(np.concatenate(heights), 1.06), "ratio", 5)
    axes.set_xlabel("training compute C, FLOPs")
    against = "the surface's" if growths[0].name == "parametric" else f"{growths[0].name}'s"
    axes.set_ylabel(f"N* / {against}")


def _legend(drawing: Figure, growths: list[Growth], shown: list[dict[str, dict[str, Any]]]) -> None:
    order = ["envelope", "isoflop", "isoflop_akima", "isoflop_surface", "parametric"]
    handles = []
    for each in sorted(growths, key=lambda g: order.index(g.name)):
        look = LOOKS[each.name]
        mark = _MARKS.get(each.name, "")
        handles.append(
            Line2D(
                [], [], color=look["color"], ls=look["ls"], lw=look["lw"], marker=mark, ms=4.5, mec="white",
                mew=0.5, label=NAMES[each.name],
            )
        )  # fmt: skip
    if any(each.noise_free is not None for each in growths):
        handles.append(Line2D([], [], color=style.GREY, ls=":", lw=1.1, label="without noise (bias alone)"))
    drawing.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=2.4)


def _numbers(growths: list[Growth]) -> list[pd.DataFrame]:
    parts = []
    for each in growths:
        none = np.full(len(each.c), np.nan)
        lower, upper = each.band or (none, none)
        columns = {"c_flops": each.c, "n_params": each.n, "lower": lower, "upper": upper}
        parts.append(style.series("line", approach=each.name, **columns))
        if each.noise_free is not None:
            parts.append(
                style.series("without noise", approach=each.name, c_flops=each.c, n_params=each.noise_free)
            )
    return parts
