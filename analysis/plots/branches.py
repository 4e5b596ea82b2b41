"""A trunk and its branches: training loss against tokens, and what their cooldowns reach beside cosines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.branches import Ended, Line, Study, schedule_name
from analysis.plots import style
from analysis.plots.loss_curves import read_curve
from scaling.errors import UserError

COLOURS = (style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE)
MARKERS = ("o", "s", "^", "D")


def branches_figure(study: Study, stem: Path, svg: bool = False) -> list[Path]:
    """stem.png, .pdf and .csv: the trunk with most branches, each branch from where it leaves, the cosines of
    the same model and seed; beside them every schedule against the cosine of its horizon.

    Raises UserError where no run started from another.
    """
    trunk = _trunk(study)
    drawn = [run for run in study.runs if run.started_from.get("run_id") == trunk.folder.run_id]
    cosines = [run for run in study.runs if _beside(run, trunk, study)]
    kinds = sorted({schedule_name(run.config) for run in [*drawn, trunk]})
    compared = [line for line in study.lines if line.difference is not None]
    with style.styled():
        drawing = style.figure(3.3)
        ratio = [1.7, 1.0] if compared else [1.0]
        panels = np.atleast_1d(drawing.subplots(1, len(ratio), gridspec_kw={"width_ratios": ratio}))
        parts = _curves(panels[0], trunk, drawn, cosines, kinds)
        if compared:
            parts += _differences(panels[1], compared, kinds)
        panels[0].set_title(f"{study.saved:.0%} of the FLOPs of separate runs saved")
        return style.save(drawing, stem, style.stack(parts), svg)


def _trunk(study: Study) -> Ended:
    """Of the largest model with branches, the trunk that most leave; of these the first."""
    left = Counter(run.started_from["run_id"] for run in study.runs if run.started_from)
    trunks = [run for run in study.runs if run.folder.run_id in left]
    if not trunks:
        raise UserError(f"{study.source} has no branch: no run of it started from another's checkpoint.")
    best = {(line.n, line.schedule): line.lr for line in study.lines}
    return max(
        trunks,
        key=lambda run: (
            run.cell[0],
            left[run.folder.run_id],
            run.config.optimizer.lr == best[run.cell[0], run.cell[2]],
            -run.config.seed,
        ),
    )


def _beside(run: Ended, trunk: Ended, study: Study) -> bool:
    """Whether it is the cosine of the trunk's model, seed and batch at the rate best for its horizon."""
    if schedule_name(run.config) != "cosine" or run.config.model != trunk.config.model:
        return False
    rate = next(line.lr for line in study.lines if (line.n, line.tokens, line.schedule) == run.cell)
    return run.config.seed == trunk.config.seed and run.config.optimizer.lr == rate


def _curves(
    axes: Axes, trunk: Ended, drawn: list[Ended], cosines: list[Ended], kinds: list[str]
) -> list[pd.DataFrame]:
    """Cosines behind, the trunk, then each branch in the colour of its cooldown."""
    parts = []
    for run in cosines:
        parts.append(_line(axes, run, 0, style.GREY, (0, (3, 1.5)), 0.9, "cosine"))
        _final(axes, run, style.GREY, "v")
    for run in sorted([trunk, *drawn], key=lambda run: -run.config.tokens):
        kind = schedule_name(run.config)
        colour, marker = COLOURS[kinds.index(kind)], MARKERS[kinds.index(kind)]
        cooling = _cooling_from(run)
        if run is trunk:
            parts.append(_line(axes, run, 0, style.BLUE, "-", 1.4, "trunk", before=cooling))
        parts.append(_line(axes, run, cooling, colour, "-", 1.4, kind))
        _final(axes, run, colour, marker)
    tokens = [run.config.tokens for run in [trunk, *drawn, *cosines]]
    heights = np.concatenate([part["loss"] for part in parts])
    finals = np.array([run.loss for run in [trunk, *drawn, *cosines]])
    style.log_axis(axes.xaxis, min(tokens) / 6, max(tokens) * 1.2, "tokens", 5)
    top = min(float(np.quantile(heights, 0.95)), 1.35 * float(finals.max()))
    style.log_axis(axes.yaxis, *style.loss_limits([finals.min(), heights.min(), top]), "loss", 6)
    axes.set_xlabel("training tokens D")
    axes.set_ylabel("loss, nats/token: training, smoothed;\nmarks: final, validation")
    handles = [Line2D([], [], color=style.BLUE, lw=1.4, label="trunk, constant rate")]
    handles += [
        Line2D([], [], color=COLOURS[i], marker=MARKERS[i], ms=4.5, label=_said(kind))
        for i, kind in enumerate(kinds)
    ]
    if cosines:
        handles.append(
            Line2D([], [], color=style.GREY, ls=(0, (3, 1.5)), marker="v", ms=4.5, label="cosine, a run each")
        )
    axes.legend(handles=handles, loc="upper right")
    return parts


def _cooling_from(run: Ended) -> float:
    """Tokens at which a run's cooldown begins."""
    schedule, steps = run.config.schedule, run.config.steps
    share = max(1, round(schedule.decay * steps)) / steps
    return run.config.tokens * (1 - share)


def _line(
    axes: Axes, run: Ended, after: float, colour: Any, dashes: Any, width: float, name: str,
    before: float = np.inf,
) -> pd.DataFrame:  # fmt: skip
    """The smoothed training loss between two numbers of tokens, drawn; its numbers."""
    curve, _ = read_curve(run.folder)
    tokens = curve.c * run.config.tokens / curve.final_c
    seen = (tokens >= after) & (tokens <= before) & np.isfinite(curve.loss)
    axes.plot(tokens[seen], curve.loss[seen], color=colour, ls=dashes, lw=width)
    return style.series(f"training loss, {name}", run=curve.run, tokens=tokens[seen], loss=curve.loss[seen])


def _final(axes: Axes, run: Ended, colour: Any, marker: str) -> None:
    axes.plot([run.config.tokens], [run.loss], marker, color=colour, ms=5.5, mec="white", mew=0.6, zorder=6)


def _said(kind: str) -> str:
    """`wsd linear 20%` as a legend has it."""
    return kind.replace("wsd ", "").replace("sqrt", "1 \N{MINUS SIGN} \N{SQUARE ROOT}") + " cooldown"


def _differences(axes: Axes, compared: list[Line], kinds: list[str]) -> list[pd.DataFrame]:
    """Mean final loss of each schedule over that of the cosine, percent, with 90% intervals."""
    axes.axhline(0, color=style.GREY, lw=0.9, ls=(0, (3, 1.5)))
    shown = sorted({line.schedule for line in compared})
    parts, heights = [], [0.0]
    for number, kind in enumerate(shown):
        lines = [line for line in compared if line.schedule == kind]
        shift = 1.05 ** (number - (len(shown) - 1) / 2)  # beside one another, not on top
        place = kinds.index(kind) if kind in kinds else number
        tokens = np.array([line.tokens for line in lines]) * shift
        middle = 100 * np.array([line.difference or 0.0 for line in lines])
        ends = 100 * np.array([line.interval or (np.nan, np.nan) for line in lines])
        axes.vlines(tokens, ends[:, 0], ends[:, 1], color=COLOURS[place], lw=1.4)
        axes.plot(tokens, middle, MARKERS[place], color=COLOURS[place], ms=5.5, mec="white", mew=0.6)
        heights += [*middle, *ends[np.isfinite(ends)]]
        parts.append(
            style.series(
                f"difference to the cosine, {kind}",
                tokens=[line.tokens for line in lines],
                percent=middle,
                low=ends[:, 0],
                high=ends[:, 1],
            )
        )
    every = [line.tokens for line in compared]
    style.log_axis(axes.xaxis, min(every) / 1.5, max(every) * 1.5, "tokens", 4)
    margin = 0.15 * (max(heights) - min(heights) or 0.1)
    style.linear_ticks(axes.yaxis, min(heights) - margin, max(heights) + margin, 6)
    axes.set_xlabel("training tokens D")
    axes.set_ylabel("final loss against the cosine's, %")
    return parts
