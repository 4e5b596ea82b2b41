"""Critical batches from tables of the steps to a target loss at several batches.

At each size (and target) steps and examples trade as (S/S_min - 1)(E/E_min - 1) = 1 with E = S B (McCandlish
et al. 2018, arXiv 1812.06162, eq. 2.11; Kaplan et al. 2020, eq. 5.1), which is S = S_min + E_min / B. It is
fitted by least squares of log steps. Two critical batches follow:

    B_crit   E_min / S_min: where steps and examples are both twice their least
    B*       where the examples are `excess` times those at the batch `reference` (Zhang et al. 2024,
             arXiv 2410.21676: 1.2 and 256 sequences; reference 0 means of E_min)

Laws by least squares of logs, with intervals by making the steps of every size anew about its fit:

    B* = k N^v     where the sizes differ (N in millions with `per_million`, as Zhang et al. print it)
    B_crit(L) = B L^(-1/w)     where one size has several targets (Kaplan et al. 2020, eq. 1.4: w .21)

Result (strict JSON): kind "critical-batch", source, level, reference, excess, cells [{label, n, target,
batches, points, s_min, e_min, b_crit, b_star, *_interval, refused}], laws [{formula, output, constants,
intervals}], unit ("tokens" of our own runs, "as given").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import LEVEL, interval, slopes, wild
from analysis.columns import named
from analysis.family import family
from analysis.forms.hyperparameters import critical_batch
from analysis.law import Array, Values
from analysis.laws import LAWS
from analysis.newton import Objective, parse_objective
from analysis.roles import ROLES, amount, plain
from analysis.table import read
from scaling.amounts import human
from scaling.errors import UserError

_LEAST = 3  # batches: S_min and E_min and one to spare


@dataclass(frozen=True)
class Definition:
    """B* is where the examples are `excess` times those at the batch `reference`."""

    reference: float = 0.0
    excess: float = 1.2

    def __post_init__(self) -> None:
        if not 1 < self.excess < math.inf:
            raise UserError(f"--excess is {self.excess}; give a factor above 1, for example 1.2.")
        if not 0 <= self.reference < math.inf:
            raise UserError(f"--reference is {self.reference}; give a batch, or 0 for the smallest.")


@dataclass(frozen=True)
class Traded:
    """S_min and E_min of one size, best and resampled (R)."""

    s_min: float
    e_min: float
    s_min_R: Array
    e_min_R: Array


def trade(batch_P: Array, steps_P: Array, resamples: int = 400, seed: int = 0) -> Traded:
    """Fit S = S_min + E_min / B to the steps of one size; for the resamples steps are made anew about the
    fit (`analysis.bootstrap.wild`): batches are too few to be drawn."""
    law, objective = LAWS["steps_batch"], _objective()
    x = Values(batch=batch_P)
    best_K, _ = family(law).fit(x, steps_P, objective)
    fitted_P = best_K[0] + best_K[1] / batch_P
    bends_PK = slopes(law, best_K, x, log=True)
    noise_RP = wild(np.log(steps_P / fitted_P), bends_PK, np.arange(len(steps_P)), resamples, seed)
    drawn_RK = family(law).refit(x, fitted_P * np.exp(noise_RP), None, best_K, objective)
    return Traded(float(best_K[0]), float(best_K[1]), drawn_RK[:, 0], drawn_RK[:, 1])


def _objective() -> Objective:
    return parse_objective("lsq")


def critical_batches(
    table: pd.DataFrame,
    source: str,
    definition: Definition | None = None,
    per_million: bool = False,
    resamples: int = 400,
    seed: int = 0,
    unit: str = "as given",
) -> dict[str, Any]:
    """`table`: columns batch (in `unit`), steps and, where there are several, n (parameters) and target.

    Raises UserError when no size has three batches.
    """
    definition = definition or Definition()
    keys = [name for name in ("n", "target") if name in table]
    groups = table.groupby(keys, sort=True) if keys else [((), table)]
    cells, traded = [], []
    for number, (key, rows) in enumerate(groups):
        named = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        cell, found = _cell(named, rows, definition, resamples, seed + number)
        cells.append(cell)
        traded.append(found)
    if not any(traded):
        raise UserError(
            f"{source}: no size has a critical batch ({cells[0]['label']}: {cells[0]['refused']})."
        )
    return {
        "kind": "critical-batch",
        "source": source,
        "level": LEVEL,
        "reference": definition.reference,
        "excess": definition.excess,
        "unit": unit,
        "cells": cells,
        "laws": _laws(cells, traded, definition, per_million),
    }


def _cell(
    key: dict[str, Any], rows: pd.DataFrame, definition: Definition, resamples: int, seed: int
) -> tuple[dict[str, Any], Traded | None]:
    batch, steps = rows["batch"].to_numpy(np.float64), rows["steps"].to_numpy(np.float64)
    words = {"n": "N", "target": "loss"}
    cell: dict[str, Any] = {
        "label": ", ".join(f"{words[name]} {_shown(name, float(value))}" for name, value in key.items())
        or "all rows",
        "n": float(key["n"]) if "n" in key else None,
        "target": float(key["target"]) if "target" in key else None,
        "batches": len(np.unique(batch)),
        "points": [{"batch": b, "steps": s} for b, s in zip(batch.tolist(), steps.tolist(), strict=True)],
        "refused": None,
    }
    if cell["batches"] < _LEAST:
        return cell | {
            "refused": f"{cell['batches']} batches reached the target, {_LEAST} are the least"
        }, None
    found = trade(batch, steps, resamples, seed)
    if not found.s_min > 1e-6 * steps.min():
        return cell | {"refused": "steps fall as 1/B to the largest batch: try larger ones"}, None
    if not found.e_min > 1e-6 * (batch * steps).min():
        return cell | {"refused": "steps do not fall with the batch: try smaller ones"}, None
    values = {
        "s_min": (found.s_min, found.s_min_R),
        "e_min": (found.e_min, found.e_min_R),
        "b_crit": (found.e_min / found.s_min, _ratio(found)),
        "b_star": (
            _star(found.s_min, found.e_min, definition),
            _star(found.s_min_R, found.e_min_R, definition),
        ),
    }
    for name, (value, drawn) in values.items():
        cell |= {name: float(value), f"{name}_interval": interval(drawn)}
    return cell, found


def _shown(name: str, value: float) -> str:
    return human(value, 4) if name == "n" else f"{value:.4g}"


def _ratio(found: Traded) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):  # draws without a floor have no critical batch
        return np.asarray(found.e_min_R / found.s_min_R)


def _star(s_min: Any, e_min: Any, definition: Definition) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return critical_batch(s_min, e_min, definition.reference, definition.excess)


def _laws(
    cells: list[dict[str, Any]], traded: list[Traded | None], definition: Definition, per_million: bool
) -> list[dict[str, Any]]:
    used = [(cell, found) for cell, found in zip(cells, traded, strict=True) if found is not None]
    laws = []
    sizes = {cell["n"] for cell, _ in used if cell["n"] is not None}
    if len(sizes) >= 2 and len(sizes) == len(used):
        unit = 1e6 if per_million else 1.0
        x = np.array([cell["n"] / unit for cell, _ in used])
        drawn = np.stack([_star(f.s_min_R, f.e_min_R, definition) for _, f in used], 1)
        law = power(x, np.array([cell["b_star"] for cell, _ in used]), drawn)
        formula = "B* = k (N / 1e6)^v" if per_million else "B* = k N^v"
        laws.append({"formula": formula, "output": "b_star"} | law)
    for n in sorted(sizes) or [None]:
        part = [(cell, found) for cell, found in used if cell["n"] == n and cell["target"] is not None]
        if len({cell["target"] for cell, _ in part}) < 3:
            continue
        drawn = np.stack([_ratio(found) for _, found in part], 1)
        law = power(np.array([c["target"] for c, _ in part]), np.array([c["b_crit"] for c, _ in part]), drawn)
        where = "" if n is None else f" at N {human(n, 4)}"
        laws.append(
            {"formula": f"B_crit = k L^v{where} (v = -1/w; Kaplan et al.: w .21)", "output": "b_crit"} | law
        )
    return laws


def power(x_P: Array, y_P: Array, y_RP: Array) -> dict[str, Any]:
    """{constants {k, v}, intervals} of y = k x^v by least squares of logs; draws that are not finite are left
    out."""
    usable = (np.isfinite(y_RP) & (y_RP > 0)).all(1)
    log_x = np.log(x_P)
    X = np.stack([np.ones(len(log_x)), log_x], 1)
    inverse = np.linalg.pinv(X)
    log_k, v = inverse @ np.log(y_P)
    drawn = np.log(y_RP[usable]) @ inverse.T
    return {
        "constants": {"k": float(np.exp(log_k)), "v": float(v)},
        "intervals": {
            "k": interval(np.exp(drawn[:, 0])) if len(drawn) else None,
            "v": interval(drawn[:, 1]) if len(drawn) else None,
        },
    }


_NAMES = {
    "batch": (*ROLES["batch"].common, "batch_seqs"),
    "steps": (*ROLES["steps"].common, "steps_to_target"),
    "n": (*ROLES["n"].common, "model", "size"),
    "target": ("target", "target_loss"),
}


def read_steps(source: str, columns: dict[str, str | None]) -> tuple[pd.DataFrame, list[str]]:
    """The table of `critical_batches` from a file, and notes on it; sizes may be written 85M.

    Rows without a number of steps did not reach their target: they are left out. A target that is the same in
    every row of a size says nothing and is left out, as is a size that is none. Raises UserError for a column
    that is missing or could be one of several, and for values that are not positive numbers.
    """
    raw = read(Path(source)).rename(columns=lambda column: str(column).strip())
    chosen = {name: _column(raw, name, given, source) for name, given in columns.items()}
    steps = raw[chosen["steps"]].map(amount).to_numpy(np.float64)
    reached = np.isfinite(steps)
    notes = []
    if not reached.all():
        notes.append(
            f"{int((~reached).sum())} of {len(raw)} rows have no {chosen['steps']}: they did not reach the "
            "target and are left out"
        )
    raw = raw.assign(_row=np.arange(1, len(raw) + 1))[reached]
    table = pd.DataFrame(
        {name: _numbers(raw, name, column, source) for name, column in chosen.items() if column is not None}
    )
    if "target" in table and "n" in table and (table.groupby("n")["target"].nunique() == 1).all():
        table = table.drop(columns="target")
    if "n" not in table and table.duplicated([name for name in ("batch", "target") if name in table]).any():
        notes.append(
            "batches were tried more than once and no column is the size: all rows are read as one size"
        )
    return table, notes


def _column(raw: pd.DataFrame, name: str, given: str | None, source: str) -> str | None:
    """The column of a quantity, named or found by its usual names; None for a size or target that is not
    there. One of several sizes is asked for: rows of different sizes must not be fitted as one."""
    if given is not None:
        return named(raw, name, given, source)
    hits = [str(column) for column in raw.columns if plain(column) in _NAMES[name]]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise UserError(f"{source}: {name} could be {' or '.join(hits)}; say which by --{name}.")
    if name in ("batch", "steps"):
        have = ", ".join(map(str, raw.columns[:20]))
        raise UserError(f"{source}: which column is {name}? Give --{name}; it has {have}.")
    return None


def _numbers(raw: pd.DataFrame, name: str, column: str, source: str) -> Array:
    values = raw[column].map(amount).to_numpy(np.float64)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        what = (
            "write parameters, 85000000 or 85M, or name another column by --n"
            if name == "n"
            else ("mend it or remove the row")
        )
        raise UserError(
            f"{source}: row {raw['_row'].iloc[row]} has {column} = {raw[column].iloc[row]}, which is no "
            f"positive number; {what}."
        )
    return np.asarray(values)
