"""Resampling by run: points of one run are not independent, so a run is drawn or left out whole.

Pairs bootstrap: each resample draws as many runs as there are, with replacement, and every law
and approach is fitted again to the same draws. A run's count in a resample is its weight.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.laws import Law
from analysis.newton import Array

LEVEL = 0.9


def weights(runs: int, resamples: int, seed: int = 0) -> Array:
    """How often each run is drawn: resamples x runs, whole numbers, rows sum to `runs`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples).astype(np.float64)


def interval(values: Array, level: float = LEVEL) -> list[float] | None:
    """Central interval of the finite values (percentiles); None when fewer than half are finite."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) < max(2, 0.5 * len(values)):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def not_determined(
    law: Law, intervals: dict[str, list[float] | None], at_bounds: list[str], top: float
) -> list[str]:
    """Parameters that the rows do not determine: their interval is open or spans too much.

    scale: more than a factor 1,000 · exponent: more than a factor 3, or it crosses 0 · floor: reaches
    0, or wider than half of the lowest measured loss (`top`).
    """
    names = []
    for parameter in law.parameters:
        bounds = intervals[parameter.name]
        if bounds is None or parameter.name in at_bounds:
            names.append(parameter.name)
            continue
        low, high = bounds
        loose = {
            "scale": low <= 0 or high > 1e3 * low,
            "exponent": low <= 0 or high > 3 * low,
            "floor": low <= 1e-6 * top or high - low > 0.5 * top,
        }
        if loose[parameter.kind]:
            names.append(parameter.name)
    return names


def table(columns: list[str], values_RK: Array) -> dict[str, Any]:
    """Resamples as plain data: rows with a value that is not finite hold nulls (strict JSON)."""
    return {
        "columns": columns,
        "values": [
            row if all(map(math.isfinite, row)) else [None] * len(columns) for row in values_RK.tolist()
        ],
    }


def array(stored: dict[str, Any]) -> Array:
    """The inverse of `table`: R x K, NaN where a resample had no answer."""
    return np.array(
        [[np.nan if value is None else value for value in row] for row in stored["values"]], np.float64
    ).reshape(len(stored["values"]), len(stored["columns"]))
