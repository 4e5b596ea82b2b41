"""Runs on a text of known entropy: losses against tokens, and the fitted E beside the true rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.plots import style


def truth_figure(
    runs: pd.DataFrame,
    law: dict[str, float],
    interval: tuple[float | None, float | None],
    truth: float,
    stem: Path,
    svg: bool = False,
) -> list[Path]:
    """stem.png, .pdf and .csv. `runs`: n (parameters), d (tokens), loss (nats per token); `law`: A, B, E,
    alpha, beta fitted to them; `interval`: of E, None where open; `truth`: entropy rate, nats per token.
    """
    sizes = np.unique(runs["n"].to_numpy(np.float64))
    with style.styled():
        drawing = style.figure(3.2, 0.72 * style.WIDTH)
        axes = drawing.subplots()
        left, right = style.padded(runs["d"], 1.35)
        d_P = np.geomspace(left, right, 200)
        for n, colour in zip(sizes, style.ordered_colours(len(sizes)), strict=True):
            mine = runs[runs["n"] == n]
            axes.plot(
                mine["d"], mine["loss"], "o", ms=4, color=colour, mec="white", mew=0.4, label=style.human(n)
            )
            curve_P = law["E"] + law["A"] / n ** law["alpha"] + law["B"] / d_P ** law["beta"]
            axes.plot(d_P, curve_P, color=colour, lw=1.1)
        low, high = (law["E"] if end is None else end for end in interval)
        axes.axhspan(low, high, color=style.VERMILION, alpha=0.22, lw=0, label="fitted E, 90%")
        axes.axhline(truth, color=style.BLACK, lw=1.1, ls="--", label="true entropy rate")
        style.log_axis(axes.xaxis, left, right, "tokens", 6)
        style.log_axis(axes.yaxis, *style.loss_limits([low, runs["loss"].max()]), "loss", 6)
        axes.set_xlabel("training tokens D")
        axes.set_ylabel("final loss (nats per token)")
        axes.legend(title="parameters N", ncols=2, loc="upper right", columnspacing=1)
        numbers = [
            style.series("run", n=runs["n"].to_numpy(), d=runs["d"].to_numpy(), loss=runs["loss"].to_numpy()),
            style.series("fitted E", loss=law["E"], low=low, high=high),
            style.series("true entropy rate", loss=truth),
        ]
        return style.save(drawing, stem, style.stack(numbers), svg)
