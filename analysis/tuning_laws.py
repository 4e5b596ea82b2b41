"""Power laws of optimal learning rates and batches in N, D and C, from the optima of a sweep's cells.

    log y* = log k + u log N + v log D + ...,   y the learning rate or the batch

by least squares of logs, each optimum weighted by 1 / (its standard error^2 + scatter^2): its interval gives
the error, and the scatter, what optima do beyond their intervals, is where the weighted squares add up to
their degrees of freedom (Paule and Mandel 1982). Intervals are Student's t with these degrees of freedom; a
prediction's holds the optimum of a new cell, scatter included.

Which inputs: N and D where both vary apart, else the one that varies; where N and D move along one line their
exponents cannot be told apart, and the law is in C. The batch joins where cells differ in it.

A law (strict JSON): {output, inputs, formula, constants {k, u, ...}, intervals, centre {input: log},
cov, df, scatter (a factor), cells, range {input: [low, high]}, fixed}. `fixed` says what the exponents hold
for: an exponent of D with the batch held is another than with the batch at its optimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from analysis.bootstrap import LEVEL
from analysis.law import Array
from scaling.amounts import human

APART = 0.2  # of log N or log D: what a cell must differ by, alone, for an exponent of its own
_LETTERS = {"n": "N", "d": "D", "c": "C", "batch": "B"}
_LARGEST = 700.0  # of a logarithm: what `exp` still writes as a number
_EXPONENTS = {"n": "u", "d": "v", "c": "w", "batch": "s"}


@dataclass(frozen=True)
class Optima:
    """Optima of one output: logs, their standard errors (0 where unknown), logs of the inputs by name."""

    y_P: Array
    error_P: Array
    inputs: dict[str, Array]


def laws_of(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Laws by output and inputs: {"lr": law, "lr_c": law, "batch": law, ...}; "skipped": why one is not."""
    found: dict[str, Any] = {}
    skipped = {}
    for output in ("lr", "batch"):
        chosen = [c for c in cells if c["optimum"] and output in c["swept"]]
        if not any(output in c["swept"] for c in cells):
            continue
        optima = _optima(chosen, output)
        inputs = _varying(optima)
        if len(chosen) < 2 or not inputs:
            skipped[output] = _too_little(chosen)
            continue
        fixed = _fixed(chosen, output, inputs)
        if len(chosen) > len(inputs):
            found[output] = power_law(optima, output, inputs, fixed)
        # Of one input that varies, C is another name.
        others = [] if inputs in (["n"], ["d"]) else ["n", "d", "c"]
        for name in (name for name in others if [name] != inputs and name in _single(optima)):
            held = _fixed(chosen, output, [name])
            found[f"{output}_{name}"] = power_law(optima, output, [name], held)
    return found | ({"skipped": skipped} if skipped else {})


def _too_little(cells: Sequence[dict[str, Any]]) -> str:
    if len(cells) < 2:
        return "no cell has an optimum" if not cells else "one cell alone has an optimum"
    if all(cell[name] is None for cell in cells for name in ("n", "d", "c")):
        return "the table has no size; name one by --n (a width will do), --d or --c"
    return "N, D and C do not vary"


def _optima(cells: Sequence[dict[str, Any]], output: str) -> Optima:
    from scipy.special import ndtri

    width = 2 * float(ndtri((1 + LEVEL) / 2))
    y, error = [], []
    for cell in cells:
        optimum = cell["optimum"]
        y.append(math.log(optimum[output]))
        interval = optimum[f"{output}_interval"]
        error.append(math.log(interval[1] / interval[0]) / width if interval else 0.0)
    inputs = {}
    for name in ("n", "d", "c", "batch"):
        values = [cell[name] for cell in cells]
        if values and all(value is not None for value in values) and name != output:
            inputs[name] = np.log(np.array(values, np.float64))
    return Optima(np.array(y), np.array(error), inputs)


def _single(optima: Optima) -> list[str]:
    return [name for name, x in optima.inputs.items() if len(x) > 2 and np.ptp(x) > APART]


def _varying(optima: Optima) -> list[str]:
    """Inputs whose exponents the cells tell apart."""
    x = optima.inputs
    found: list[str] = []
    for name in ("n", "d"):
        if name in x and len(x[name]) and np.ptp(x[name]) > APART:
            if found and _alone(x[name], [x[other] for other in found]) < APART:
                return ["c"] if "c" in x else found
            found.append(name)
    if not found and "c" in x and len(x["c"]) and np.ptp(x["c"]) > APART:
        found = ["c"]
    if "batch" in x and len(x["batch"]) and _alone(x["batch"], [x[other] for other in found]) > APART:
        found.append("batch")
    return found


def _alone(x_P: Array, others: list[Array]) -> float:
    """The range of what the others leave of x."""
    X = np.stack([np.ones(len(x_P)), *others], 1)
    return float(np.ptp(x_P - X @ np.linalg.lstsq(X, x_P, rcond=None)[0]))


def _fixed(cells: Sequence[dict[str, Any]], output: str, inputs: Sequence[str]) -> str:
    """What the exponents hold for."""
    parts = []
    other = "batch" if output == "lr" else "lr"
    words = {"batch": "the batch", "lr": "the rate"}[other]
    if other in inputs:
        parts.append(f"{words} is that of each cell")
    elif all(other in cell["swept"] for cell in cells):
        parts.append(f"{words} moves to its own optimum")
    else:
        values = [cell[other] for cell in cells if cell[other] is not None]
        if not values:
            parts.append(f"{words} is not known" if other == "batch" else f"{words} goes with the {output}")
        elif np.ptp(np.log(values)) < 0.05:
            parts.append(f"{words} is held at {float(np.median(values)):.4g}")
        else:
            parts.append(f"{words} moves from {min(values):.3g} to {max(values):.3g} with the cells")
    for name, letter in (("n", "N"), ("d", "D")):
        values = [cell[name] for cell in cells if cell[name] is not None]
        if name in inputs or not values:
            continue
        if np.ptp(np.log(values)) < 0.07:
            parts.append(f"{letter} is held at {human(float(np.median(values)))}")
        else:
            parts.append(f"{letter} moves along, {human(min(values))} to {human(max(values))}")
    return "; ".join(parts)


def power_law(optima: Optima, output: str, inputs: Sequence[str], fixed: str) -> dict[str, Any]:
    """One law; see the module. Intervals are null where there are as many cells as constants."""
    centre = {name: float(optima.inputs[name].mean()) for name in inputs}
    X = np.stack([np.ones(len(optima.y_P))] + [optima.inputs[name] - centre[name] for name in inputs], 1)
    df = len(X) - X.shape[1]
    scatter2 = _scatter(X, optima.y_P, optima.error_P, df)
    best, cov = _weighted(X, optima.y_P, optima.error_P**2 + scatter2)
    t = float(stdtrit(df, (1 + LEVEL) / 2)) if df > 0 else math.inf
    names = [_EXPONENTS[name] for name in inputs]
    # log k at inputs of 1: far outside the cells, printed because laws are written so.
    at_one = np.array([1.0, *(-centre[name] for name in inputs)])
    log_k, log_k_error = float(at_one @ best), math.sqrt(float(at_one @ cov @ at_one))
    constants = {"k": _exp(log_k)} | {name: float(best[i + 1]) for i, name in enumerate(names)}
    intervals: dict[str, Any] = dict.fromkeys(constants)
    if df > 0:
        intervals = {"k": [_exp(log_k - t * log_k_error), _exp(log_k + t * log_k_error)]}
        for i, name in enumerate(names):
            half = t * math.sqrt(cov[i + 1, i + 1])
            intervals[name] = [float(best[i + 1] - half), float(best[i + 1] + half)]
    return {
        "output": output,
        "inputs": list(inputs),
        "formula": f"{output} = k " + " ".join(f"{_LETTERS[x]}^{_EXPONENTS[x]}" for x in inputs),
        "constants": constants,
        "intervals": intervals,
        "centre": centre,
        "at_centre": best.tolist(),
        "cov": cov.tolist(),
        "df": df,
        "scatter": _exp(math.sqrt(scatter2)),
        "cells": len(X),
        "range": {name: np.exp([optima.inputs[name].min(), optima.inputs[name].max()]).tolist()
                  for name in inputs},
        "fixed": fixed,
    }  # fmt: skip


def _weighted(X: Array, y_P: Array, variance_P: Array) -> tuple[Array, Array]:
    root = 1 / np.sqrt(np.maximum(variance_P, 1e-16))
    cov = np.linalg.pinv((X * root[:, None]).T @ (X * root[:, None]))
    return np.asarray(cov @ (X.T @ (y_P * root**2))), np.asarray(cov)


def _scatter(X: Array, y_P: Array, error_P: Array, df: int) -> float:
    """Scatter^2 at which sum w r^2 is its degrees of freedom; 0 where the errors explain the residuals."""
    if df < 1:
        return 0.0

    def over(scatter2: float) -> float:
        variance = error_P**2 + scatter2
        best, _ = _weighted(X, y_P, variance)
        return float(((y_P - X @ best) ** 2 / np.maximum(variance, 1e-16)).sum() - df)

    low, high = 0.0, float(np.var(y_P)) * len(y_P) + 1e-12
    if over(low) <= 0:
        return 0.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if over(middle) > 0 else (low, middle)
    return high


def at(law: dict[str, Any], **sizes: float | None) -> dict[str, Any]:
    """A law at n, d, c and batch: {value, interval (of a new cell's optimum), extrapolation (a factor)}.

    Raises KeyError for an input that is not given.
    """
    x = np.array([1.0] + [math.log(_given(sizes, name)) - law["centre"][name] for name in law["inputs"]])
    log = float(x @ np.array(law["at_centre"]))
    variance = float(x @ np.array(law["cov"]) @ x) + math.log(law["scatter"]) ** 2
    interval = None
    if law["df"] > 0:
        half = float(stdtrit(law["df"], (1 + LEVEL) / 2)) * math.sqrt(variance)
        interval = [_exp(log - half), _exp(log + half)]
    beyond = [
        max(low / _given(sizes, name), _given(sizes, name) / high, 1.0)
        for name, (low, high) in law["range"].items()
    ]
    return {"value": _exp(log), "interval": interval, "extrapolation": max(beyond, default=1.0)}


def _exp(log: float) -> float:
    """The exponential, held to what a number can be: a steep law far from its cells says no more."""
    return math.exp(min(max(log, -_LARGEST), _LARGEST))


def _given(sizes: dict[str, float | None], name: str) -> float:
    value = sizes.get(name)
    if value is None:
        raise KeyError(name)
    return value


def horizon(laws: dict[str, Any]) -> dict[str, Any] | None:
    """The token horizon: lr ~ (T0/T)^p, p = -v of the law of the rate in D (with N where that varies). None
    where N moves with D: the exponent is then that of both."""
    law = next((laws[name] for name in ("lr", "lr_d") if name in laws and "d" in laws[name]["inputs"]), None)
    if law is None or "N moves along" in law["fixed"]:
        return None
    interval = law["intervals"]["v"]
    return {
        "p": -law["constants"]["v"],
        "interval": [-interval[1], -interval[0]] if interval else None,
        "fixed": law["fixed"],
    }
