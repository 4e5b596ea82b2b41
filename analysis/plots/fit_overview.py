"""One figure for `scaling fit`: the losses with the law through them, and what it leaves unexplained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.bootstrap import array
from analysis.law import Law
from analysis.laws import LAWS
from analysis.minima import budgets
from analysis.optimum import SURFACE
from analysis.plots import style, views
from analysis.plots.approaches import approaches_figure
from analysis.plots.law import law_figure
from analysis.plots.surface import residuals

_QUANTITIES: dict[str, style.Quantity] = {"n": "params", "d": "tokens", "c": "flops"}


def fit_figures(fit: dict[str, Any], laws: Sequence[Law], stem: Path) -> list[Path]:
    """A figure of each of `laws`: the first as stem.*, others as stem-NAME.*; without laws one of the fit.

    With a surface and isoFLOP profiles also stem-approaches.*, where the approaches part.
    """
    written = [] if laws else fit_figure(fit, stem)
    for number, law in enumerate(laws):
        path = stem if number == 0 else stem.with_name(f"{stem.name}-{law.name}")
        written += fit_figure(fit, path) if law.name == SURFACE else _one(fit, law, path)
    if SURFACE in fit["laws"]:
        written += approaches_figure(fit, stem.with_name(f"{stem.name}-approaches")) or []
    return written


def fit_figure(fit: dict[str, Any], stem: Path, *, svg: bool = False) -> list[Path]:
    """Draw a fit file's surface, or its first law where there is no surface (`analysis.plots.law`).

    Left, by what the runs are: equal budgets (loss against N, a colour for each C), a grid (loss against
    N, a colour for each D), else loss against C with the compute-optimal frontier. Right: residuals in
    percent. Writes stem.png, .pdf, .csv (columns series, run, n_params, d_tokens, c_flops, loss, ...).
    """
    if SURFACE not in fit["laws"]:
        return _one(fit, LAWS[next(iter(fit["laws"]))], stem, svg)
    with style.styled():
        drawing = style.figure(3.6)
        left, right = drawing.subplots(1, 2, width_ratios=(1.6, 1), gridspec_kw={"wspace": 0.04})
        numbers, residual = _surface(drawing, left, fit)
        left.set_ylabel("final loss, nats/token")
        residuals(right, residual["loss"].to_numpy(float), residual["residual_percent"].to_numpy(float))
        return style.save(drawing, stem, numbers, svg)


def _one(fit: dict[str, Any], law: Law, stem: Path, svg: bool = False) -> list[Path]:
    return law_figure(
        law, fit["laws"][law.name], pd.DataFrame(fit["rows"]), array(fit["resamples"][law.name]), stem,
        conventions=fit["conventions"], space=fit["objective"]["space"], svg=svg,
    )  # fmt: skip


def _surface(drawing: Figure, axes: Axes, fit: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = views.rows_of(fit)
    rows = rows.assign(residual_percent=100 * np.log(rows["loss"] / rows["predicted"]))
    by_budget, by_tokens = _groups(rows, "c", 1.25), _groups(rows, "d", 1.03)
    # An even grid has rows of equal C on its diagonals and equal budgets may share D: the design is
    # what covers most runs in fewest groups.
    choices = [
        (_share(part, rows), -len(part), column) for part, column in ((by_budget, "c"), (by_tokens, "d"))
    ]
    share, _, column = max(choices)
    if share >= 0.8:
        curves = _families(drawing, axes, fit, by_budget if column == "c" else by_tokens, column)
    else:
        curves = [_cloud(drawing, axes, fit, rows)]
    names = {"n": "n_params", "d": "d_tokens", "c": "c_flops"}
    runs = rows.rename(columns=names)
    return style.stack([style.series("run", **{str(c): runs[c].to_numpy() for c in runs}), *curves]), rows


def _groups(rows: pd.DataFrame, column: str, widest: float) -> list[pd.DataFrame]:
    """Rows that share a budget (or a number of tokens) up to a factor `widest`, three sizes or more."""
    parts = [rows.iloc[group].sort_values("n") for group in budgets(rows[column].to_numpy(float))]
    parts = [part for part in parts if part[column].max() <= widest * part[column].min()]
    return [part for part in parts if len(np.unique(np.round(np.log(part["n"]), 3))) >= 3]


def _share(groups: list[pd.DataFrame], rows: pd.DataFrame) -> float:
    return sum(map(len, groups)) / len(rows) if len(groups) >= 2 else 0.0


def _families(
    drawing: Figure, axes: Axes, fit: dict[str, Any], groups: list[pd.DataFrame], column: str
) -> list[pd.DataFrame]:
    """Loss against N, the law through each group along the D that its runs have."""
    curves = []
    values = [float(np.exp(np.log(group[column]).mean())) for group in groups]
    norm, cmap = style.log_colours(np.array(values))
    for group, value in zip(groups, values, strict=True):
        colour = cmap(norm(value))
        n = np.geomspace(group["n"].min(), group["n"].max(), 60)
        slope, at = np.polyfit(np.log(group["n"]), np.log(group["d"]), 1)
        loss = views.loss_at(fit, n, np.exp(at + slope * np.log(n)))
        text = style.power(value) if column == "c" else style.human(value)
        axes.plot(n, loss, color=colour, lw=1.3, label=text)
        axes.plot(group["n"], group["loss"], "o", ms=3.6, color=colour, mec="white", mew=0.5, zorder=3)
        shared = {"c": "c_flops", "d": "d_tokens"}[column]
        curves.append(style.series("law", n_params=n, loss=loss, **{shared: value}))
    rows = pd.concat(groups)
    style.log_axis(axes.xaxis, *style.padded(rows["n"]), "params", 5)
    style.log_axis(axes.yaxis, *style.loss_limits([*rows["loss"], *pd.concat(curves)["loss"]]), "loss")
    axes.set_xlabel(_name(fit, "n"))
    if len(groups) > style.MOST_LEGEND:
        style.colour_bar(drawing, axes, norm, cmap, _QUANTITIES[column], _name(fit, column))
    else:
        handles, names = axes.get_legend_handles_labels()
        drawing.legend(
            handles, names, title=_name(fit, column), loc="outside upper center", ncols=len(groups),
            columnspacing=1.2, handlelength=1.2,
        )  # fmt: skip
    axes.set_title("runs and the fitted law")
    return curves


def _cloud(drawing: Figure, axes: Axes, fit: dict[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """Loss against C, coloured by N, above the compute-optimal frontier."""
    low, high = style.padded(rows["c"], 1.6)
    frontier = views.frontier_of(fit, low, high)
    assert frontier is not None  # the fit has a surface
    norm, cmap = style.log_colours(rows["n"].to_numpy(float))
    axes.fill_between(frontier.c, *frontier.loss_band, color=style.VERMILION, alpha=0.2, lw=0)
    name = "law, compute-optimal (90% band)"
    axes.plot(frontier.c, frontier.loss, color=style.VERMILION, lw=1.8, label=name)
    look = {"norm": norm, "cmap": cmap, "s": 16, "edgecolors": "white", "linewidths": 0.4, "zorder": 3}
    axes.scatter(rows["c"], rows["loss"], c=rows["n"], **look)
    style.log_axis(axes.xaxis, low, high, "flops", 6)
    style.log_axis(axes.yaxis, *style.loss_limits([*rows["loss"], *frontier.loss]), "loss")
    axes.set_xlabel(_name(fit, "c"))
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper left")
    style.colour_bar(drawing, axes, norm, cmap, "params", _name(fit, "n"))
    lower, upper = frontier.loss_band
    sizes = {"n_params": frontier.n, "d_tokens": frontier.d}
    return style.series(
        "law, compute-optimal", c_flops=frontier.c, loss=frontier.loss, lower=lower, upper=upper, **sizes
    )


def _name(fit: dict[str, Any], column: str) -> str:
    """Axis label of column n, d or c with the counting convention that the fit used."""
    conventions = fit["conventions"]
    if column == "d":
        return "training tokens D"
    if column == "n":
        return f"parameters N ({style.count_name(conventions['n'])})"
    return f"training compute C, FLOPs ({style.count_name(conventions['c'])})"
