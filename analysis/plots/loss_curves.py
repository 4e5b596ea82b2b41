"""Training loss against compute, one line a run, with final validation losses and their envelope."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.plots import style
from scaling.accounting import counts
from scaling.runs import RunFolder

SMOOTHING = 0.05  # half-window as a share of the position: even in log compute
POINTS = 240  # a line drawn a few inches wide shows no more


@dataclass(frozen=True)
class Curve:
    """One run: `c` training FLOPs so far (matmul count) and training `loss`, nats/token, smoothed."""

    run: str
    n: float  # parameters, total
    c: np.ndarray
    loss: np.ndarray
    status: str
    final_c: float  # FLOPs of the whole run
    final_loss: float | None  # validation, nats/token; None when the run did not finish


def read_curve(folder: RunFolder) -> tuple[Curve, list[str]]:
    """The smoothed curve of a run folder, and notes on log lines that were dropped."""
    config = folder.config()
    count = counts(config.model, config.seq_len)
    per_token = count.flops_per_token["matmul"]
    rows, notes = folder.metrics()
    summary = folder.summary()
    status = str(folder.status())
    tokens, loss = _smooth_rows(rows)
    final = summary.get("loss") if status == "done" else None
    curve = Curve(
        run=folder.run_id,
        n=float(count.n["total"]),
        c=per_token * tokens,
        loss=loss,
        status=status,
        final_c=per_token * config.tokens,
        final_loss=float(final) if final else None,
    )
    return curve, notes


def _smooth_rows(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and smoothed training loss; NaN between segments, so that no line bridges a gap."""
    clean = [r for r in rows if r.get("loss") is not None and r.get("tokens")]
    if not clean:
        return np.empty(0), np.empty(0)
    step = np.array([r["step"] for r in clean], dtype=float)
    tokens = np.array([r["tokens"] for r in clean], dtype=float)
    loss = np.array([r["loss"] for r in clean], dtype=float)
    clock = np.array([r.get("seconds", np.nan) for r in clean], dtype=float)
    cuts = segment_starts(step, clock)
    starts = [0, *cuts]
    pieces = [smooth(part, before=int(at)) for part, at in zip(np.split(loss, cuts), starts, strict=True)]
    keep = [_log_spaced(part) for part in np.split(tokens, cuts)]
    gap = np.array([np.nan])
    out_tokens = [np.append(t[k], gap) for t, k in zip(np.split(tokens, cuts), keep, strict=True)]
    out_loss = [np.append(x[k], gap) for x, k in zip(pieces, keep, strict=True)]
    return np.concatenate(out_tokens)[:-1], np.concatenate(out_loss)[:-1]


def segment_starts(step: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Indices where a new stretch begins: the run's clock went back (a restart) or steps are missing.

    A smoothing window must not cross a restart: the steps lost there would leak into the line.
    """
    if len(step) < 2:
        return np.empty(0, dtype=int)
    stride = np.diff(step)
    with np.errstate(invalid="ignore"):
        breaks = (stride > 2 * np.median(stride)) | (np.diff(clock) < 0)
    return np.flatnonzero(breaks) + 1


def smooth(loss: np.ndarray, share: float = SMOOTHING, before: int = 0) -> np.ndarray:
    """The line fitted to a window of +-`share` of the position, read at its middle.

    A line and not a mean: where the window is cut off by an end of the stretch it is not centred, and a
    mean would lag behind a falling loss. `before`: rows of the run that precede this stretch.
    """
    rows = np.arange(len(loss))
    half = (share * (before + rows)).astype(int)
    low, high = np.maximum(rows - half, 0), np.minimum(rows + half, len(loss) - 1) + 1
    count = high - low
    sums = [np.concatenate([[0.0], np.cumsum(values)]) for values in (loss, rows * loss)]
    mean, product = ((total[high] - total[low]) / count for total in sums)
    middle, spread = (low + high - 1) / 2, (count**2 - 1) / 12  # of consecutive row numbers
    slope = (product - middle * mean) / np.where(spread > 0, spread, 1.0)
    return mean + slope * (rows - middle)


def _log_spaced(tokens: np.ndarray) -> np.ndarray:
    """Indices of at most POINTS rows, evenly spaced in log tokens, first and last kept."""
    if len(tokens) <= POINTS:
        return np.arange(len(tokens))
    places = np.geomspace(tokens[0], tokens[-1], POINTS)
    return np.unique(np.clip(np.searchsorted(tokens, places), 0, len(tokens) - 1))


def envelope(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """(C, loss) corners of the lower convex hull of the final losses in log-log, as far as it falls.

    A hull and not a running minimum: runs of one budget differ by a little compute, and a running
    minimum would step through all of them.
    """
    hull: list[tuple[float, float]] = []
    for point in sorted(
        (np.log(c.final_c), np.log(c.final_loss)) for c in curves if c.final_loss is not None
    ):
        while len(hull) > 1 and _turn(hull[-2], hull[-1], point) <= 0:
            hull.pop()
        if not hull or point[0] > hull[-1][0]:
            hull.append(point)
    falling = [p for i, p in enumerate(hull) if i == 0 or p[1] < hull[i - 1][1]]
    falling = [
        p for p, after in itertools.zip_longest(falling, falling[1:]) if not after or after[0] > p[0] + 0.05
    ]
    points = np.exp(np.array(falling, dtype=float).reshape(-1, 2))
    return points[:, 0], points[:, 1]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive when the path a -> b -> c turns left, as a lower hull must."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def loss_curves_figure(
    curves: Sequence[Curve], stem: Path, *, target: str | None = None, svg: bool = False
) -> list[Path]:
    """Draw `curves`; the run named `target` (the forecast's) is drawn in its own colour.

    Writes stem.png, .pdf, .csv (columns series, run, n_params, c_flops, loss); returns the paths.
    """
    with style.styled():
        drawing = style.figure(4.0)
        axes = drawing.subplots()
        norm, cmap = style.log_colours(np.array([c.n for c in curves if c.run != target] or [1.0]))
        for curve in sorted(curves, key=lambda c: c.n):
            colour = style.VERMILION if curve.run == target else cmap(norm(curve.n))
            _draw_curve(axes, curve, colour, curve.run == target)
        flops, loss = envelope([c for c in curves if c.run != target])
        if len(flops) > 1:
            axes.plot(
                flops,
                loss,
                color=style.BLACK,
                lw=1.4,
                ls=(0, (4, 2)),
                zorder=4,
                label="envelope of final losses",
            )
        _limits(axes, curves)
        axes.set_xlabel("training compute C, FLOPs (matmul)")
        axes.set_ylabel("loss, nats/token")
        style.colour_bar(drawing, axes, norm, cmap, "params", "parameters N (total)")
        axes.legend(handles=_legend(axes, curves, target), loc="lower left")
        return style.save(drawing, stem, _numbers(curves, target), svg)


def _draw_curve(axes: Axes, curve: Curve, colour: Any, is_target: bool) -> None:
    dead = curve.status == "diverged"
    axes.plot(
        curve.c,
        curve.loss,
        color=colour,
        lw=1.6 if is_target else 1.0,
        alpha=0.95 if is_target else 0.75,
        ls=":" if dead else "-",
        zorder=3 if is_target else 2,
    )
    if dead and len(curve.c):
        axes.plot(curve.c[-1], curve.loss[-1], "x", color=colour, ms=6, mew=1.6, zorder=5)
    if curve.final_loss is not None:
        axes.plot(
            curve.final_c,
            curve.final_loss,
            "*" if is_target else "o",
            ms=11 if is_target else 4.2,
            color=colour,
            mec="white",
            mew=0.6,
            zorder=6,
        )


def _limits(axes: Axes, curves: Sequence[Curve]) -> None:
    """Leave out the start of training: the drop from the uniform loss would flatten the rest."""
    finals = np.array([c.final_loss for c in curves if c.final_loss is not None])
    ends = np.array([c.final_c for c in curves])
    left = ends.min() / 30
    shown = [c.loss[(c.c >= left) & np.isfinite(c.loss)] for c in curves if c.status != "diverged"]
    heights = np.concatenate([*shown, finals]) if shown else finals
    if not len(heights):
        heights = np.concatenate([c.loss[np.isfinite(c.loss)] for c in curves] + [np.array([1.0])])
    low = finals.min() if len(finals) else heights.min()
    top = np.quantile(heights, 0.97)
    if len(finals):
        top = min(top, 1.6 * finals.max())
    style.log_axis(axes.xaxis, left, ends.max() * 1.5, "flops")
    style.log_axis(axes.yaxis, *style.loss_limits([low, max(top, low * 1.2)]), "loss")


def _legend(axes: Axes, curves: Sequence[Curve], target: str | None) -> list[Any]:
    grey = style.GREY
    handles = [Line2D([], [], color=grey, lw=1.0, label="training loss, smoothed")]
    if any(c.final_loss is not None and c.run != target for c in curves):
        handles.append(Line2D([], [], color=grey, marker="o", ls="", ms=4.5, label="final validation loss"))
    handles += [line for line in axes.get_lines() if str(line.get_label()).startswith("envelope")]
    if any(c.run == target for c in curves):
        handles.append(Line2D([], [], color=style.VERMILION, marker="*", ms=9, label="held-out target run"))
    if any(c.status == "diverged" for c in curves):
        handles.append(Line2D([], [], color=grey, ls=":", marker="x", label="diverged (not fitted)"))
    return handles


def _numbers(curves: Sequence[Curve], target: str | None) -> pd.DataFrame:
    parts = []
    for curve in curves:
        seen = np.isfinite(curve.loss)
        who = {"run": curve.run, "n_params": curve.n}
        parts.append(style.series("training loss", **who, c_flops=curve.c[seen], loss=curve.loss[seen]))
        if curve.final_loss is not None:
            name = "target, final validation loss" if curve.run == target else "final validation loss"
            parts.append(style.series(name, **who, c_flops=curve.final_c, loss=curve.final_loss))
    flops, loss = envelope([c for c in curves if c.run != target])
    parts.append(style.series("envelope", run="", n_params=np.nan, c_flops=flops, loss=loss))
    return style.stack(parts)
