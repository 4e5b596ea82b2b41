"""Slopes of activation sizes in the width and the depth of a model, and whether they are flat enough.

Reads the plain rows of a coordinate check (scaling/coordinates.py): axis, width, depth, seed, step, layer,
size; a size of None is one that was not finite. The slope is of log2 size on log2 width or depth, by least
squares over every seed and shape of one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BAR = 0.2  # a right parametrisation stays within; what grows with a sum of coherent terms has slope 1


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Of one layer type along one axis. None: the sizes have no slope, `why` says so."""

    axis: str  # width or depth
    layer: str
    slope: float | None
    error: float | None  # standard error over seeds; None with one seed
    flat: bool
    why: str = ""


def slopes(rows: Sequence[dict[str, Any]], bar: float = BAR) -> list[Slope]:
    """One of each axis and layer type, after the last step that the rows have; order of the rows."""
    last = max(row["step"] for row in rows)
    found = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        for layer in dict.fromkeys(row["layer"] for row in rows):
            chosen = [r for r in rows if (r["axis"], r["layer"], r["step"]) == (axis, layer, last)]
            found.append(_slope(axis, layer, chosen, bar))
    return found


def _slope(axis: str, layer: str, rows: Sequence[dict[str, Any]], bar: float) -> Slope:
    if lost := [row for row in rows if row["size"] is None]:
        why = f"not finite at {axis} {lost[0][axis]}"
        return Slope(axis=axis, layer=layer, slope=None, error=None, flat=False, why=why)
    if any(row["size"] == 0 for row in rows):
        return Slope(axis=axis, layer=layer, slope=None, error=None, flat=False, why="zero: nothing learned")
    by_seed = [_least_squares(axis, [r for r in rows if r["seed"] == s]) for s in {r["seed"] for r in rows}]
    slope = float(np.mean(by_seed))  # every seed has every shape: the mean is the slope of all
    error = float(np.std(by_seed, ddof=1) / np.sqrt(len(by_seed))) if len(by_seed) > 1 else None
    return Slope(axis=axis, layer=layer, slope=slope, error=error, flat=abs(slope) < bar)


def _least_squares(axis: str, rows: Sequence[dict[str, Any]]) -> float:
    x = np.log2([row[axis] for row in rows])
    y = np.log2([row["size"] for row in rows])
    x = x - x.mean()
    return float(x @ y / (x @ x))
