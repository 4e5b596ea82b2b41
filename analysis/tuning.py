"""Optimal learning rate and batch of every size and horizon of a sweep, and their laws (`scaling tune`).

A cell is what shares N and D (and the columns of --by). It is read by what was swept in it:

    lr          rates at one batch; the batch joins what names the cell where several were tried apart
    batch       batches at one rate, or at a rate that goes with the batch
    lr, batch   both, crossed: one surface, and the interval of each lets the other be anything

Result (strict JSON): kind "tuning"; level; conventions {n, c}; noise {sigma, df, how} or null; held, what all
runs of ours share (weight decay, schedule, ...); `cells`, each

    label, n, d, c, batch, lr     null where the table has none; `batch` or `lr` where it is held
    swept         ["lr"], ["batch"] or ["lr", "batch"]
    rows, used, diverged          runs, those in the local quadratic, those that diverged
    optimum       {lr, lr_interval, batch, batch_interval, loss} of what was swept, or null
    refused       why there is none, or null
    next          rows to run next, {lr, batch}; `seeds`: under another seed
    points        [{lr, batch, loss (mean of seeds, null: diverged), runs, used}]
    curve         {x: [...], loss: [...]} of a cell of one coordinate, else null

then `laws` (analysis.tuning_laws), `rules` (published ones beside the cells) and `notes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import LEVEL
from analysis.law import Array
from analysis.minima import budgets
from analysis.tuning_laws import laws_of
from analysis.tuning_next import Bracket, Level, bracket, refine
from analysis.tuning_rows import SweepTable
from analysis.tuning_rules import beside
from analysis.valley import Noise, Rows, Valley, noise_of, valley
from scaling.amounts import human
from scaling.errors import UserError

REACH = 8.0 * 1.01  # a factor from the lowest loss: what lies further says little of the optimum
# Rows so far above the lowest loss (a share) are a side, not numbers of the quadratic: the first of these
# that leaves `ENOUGH` places, by the number of coordinates.
EXCESS = (0.03, 0.05, 0.1)
ENOUGH = {1: 5, 2: 30}
NEIGHBOUR = 0.3  # the same for the values beside the lowest, without which there is no quadratic
SAME = 0.02  # rates and batches closer than this (a share) are one
Held = Literal["lr", "batch"] | None


@dataclass(frozen=True)
class Cell:
    """Rows of one size and horizon, and the coordinates swept in them."""

    label: str
    key: dict[str, Any]
    swept: tuple[str, ...]
    table: pd.DataFrame
    refused: str | None = None

    @property
    def finished(self) -> pd.DataFrame:
        """Runs with a loss at values where none diverged: the mean of survivors would flatter the others."""
        lost = self.places[self.table["diverged"].to_numpy(bool)]
        bad = (self.places[:, None] == lost[None]).all(2).any(1)
        return self.table[~bad]

    @property
    def places(self) -> Array:
        """P x K: logs of the swept coordinates, those within `SAME` made equal."""
        return np.stack([_merged(np.log(self.table[name].to_numpy(float))) for name in self.swept], 1)


def _merged(x_P: Array) -> Array:
    """Values closer than `SAME` take the mean of their group."""
    order = np.argsort(x_P, kind="stable")
    group = np.concatenate([[0], np.cumsum(np.diff(x_P[order]) > math.log1p(SAME))])
    mean = np.bincount(group, x_P[order]) / np.bincount(group)
    out = np.empty_like(x_P)
    out[order] = mean[group]
    return out


def tune(sweep: SweepTable, hold: Held = None, noise: float | None = None) -> dict[str, Any]:
    """See the module. `hold`: read a crossed sweep at each value of this; `noise`: standard error of one
    run's loss, nats per token, where it is known from elsewhere.

    Raises UserError when no cell has three values of a rate or batch, and for a noise that is none.
    """
    if noise is not None and not 0 < noise < math.inf:
        raise UserError(f"--noise is {noise}; give the standard error of one run's loss in nats per token.")
    cells = split(sweep, hold)
    if all(cell.refused for cell in cells):
        raise UserError(
            f"{sweep.source}: no size and horizon has three learning rates or batches ({cells[0].label}: "
            f"{cells[0].refused}); give a sweep of them."
        )
    chosen = {i: rows for i, cell in enumerate(cells) if not cell.refused and (rows := _chosen(cell))}
    known = Noise(noise, math.inf, "given") if noise else noise_of([rows.rows for rows in chosen.values()])
    described = [_describe(cell, chosen.get(i), known) for i, cell in enumerate(cells)]
    notes = [*sweep.notes]
    if known is None:
        notes.append("no run is to spare, so optima have no intervals: give seeds, a fourth rate or --noise")
    return {
        "kind": "tuning",
        "source": sweep.source,
        "name": sweep.name,
        "level": LEVEL,
        "conventions": {"n": sweep.n_name, "c": sweep.c_name},
        "by": list(sweep.by),
        "held": sweep.held,
        "noise": None if known is None else _noise(known),
        "cells": described,
        "laws": laws_of(described),
        "rules": beside(described, sweep.own),
        "notes": notes,
    }


def held(name: str | None) -> Held:
    """`name` if it can be held. Raises UserError if it cannot."""
    known: dict[str, Held] = {"lr": "lr", "batch": "batch"}
    if name is None or name in known:
        return known.get(name or "")
    raise UserError(f"--hold is {name!r}; give batch or lr.")


def _noise(noise: Noise) -> dict[str, Any]:
    return {
        "sigma": noise.sigma,
        "df": None if math.isinf(noise.df) else noise.df,
        "how": noise.how,
    }


def split(sweep: SweepTable, hold: Held = None) -> list[Cell]:
    """The cells of a sweep, by N, then D, then --by; horizons within 6% of each other are one."""
    table = sweep.table
    keys = ["n"] if "n" in table else []
    if "d" in table:
        table = table.assign(horizon=_horizons(table))
        keys.append("horizon")
    keys += list(sweep.by)
    found = []
    for values, rows in table.groupby(keys, sort=True, dropna=False):
        found += _cells(dict(zip(keys, values, strict=True)), rows, hold)
    return found


def _horizons(table: pd.DataFrame) -> Array:
    """D of each row's group: whole steps of different batches do not end on one token."""
    d_P = table["d"].to_numpy(np.float64)
    n_P = table["n"].to_numpy(np.float64) if "n" in table else np.zeros(len(d_P))
    out = np.empty(len(d_P))
    for n in np.unique(n_P):
        places = np.flatnonzero(n_P == n)
        for group in budgets(d_P[places]):
            out[places[group]] = float(np.median(d_P[places[group]]))
    return out


def _cells(key: dict[str, Any], rows: pd.DataFrame, hold: Held) -> list[Cell]:
    """One cell, or one for each batch (rate) where these are not crossed or `hold` asks for it."""
    have = [name for name in ("lr", "batch") if name in rows]
    values = {name: _merged(np.log(rows[name].to_numpy(float))) for name in have}
    counts = {name: len(np.unique(values[name])) for name in have}
    if have == ["lr", "batch"] and hold is None:
        each = pd.Series(values["lr"]).groupby(values["batch"]).nunique()
        if counts["batch"] >= 3 and counts["lr"] >= 3 and float(each.median()) >= 3:
            return [_cell(key, ("lr", "batch"), rows)]
        if counts["batch"] >= 3 and int(each.max()) <= 2 and float(each.mean()) < 1.5:
            return [_cell(key, ("batch",), rows)]
    swept = "batch" if hold == "lr" or "lr" not in have else "lr"
    apart = "batch" if swept == "lr" else "lr"
    if apart not in have or counts[apart] == 1:
        return [_cell(key, (swept,), rows)]
    return [
        _cell(key | {apart: float(np.exp(value))}, (swept,), rows[values[apart] == value])
        for value in np.unique(values[apart])
    ]


def _cell(key: dict[str, Any], swept: tuple[str, ...], rows: pd.DataFrame) -> Cell:
    cell = Cell(_label(key), key, swept, rows.reset_index(drop=True))
    for k, name in enumerate(swept):
        count = len(np.unique(cell.places[:, k]))
        if count < 3:
            one, many = ("learning rate", "learning rates") if name == "lr" else ("batch", "batches")
            return replace(cell, refused=f"{count} {one if count == 1 else many} tried, three are the least")
    if not len(cell.finished):
        return replace(cell, refused="every value tried diverged")
    return cell


def _label(key: dict[str, Any]) -> str:
    words = {"n": "N", "horizon": "D", "batch": "B", "lr": "lr"}
    parts = []
    for name, value in key.items():
        shown = f"{value:.3g}" if isinstance(value, float | np.floating) else f"{value}"
        shown = human(float(value)) if name in ("n", "horizon", "batch") else shown
        parts.append(f"{words.get(name, name.rsplit('.', 1)[-1])} {shown}")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Chosen:
    """Rows of a cell that the local quadratic takes, by position in the cell's finished rows."""

    rows: Rows
    keep: NDArray[np.bool_]


def _chosen(cell: Cell) -> _Chosen | None:
    """Rows near the lowest loss; None where they are too few for a quadratic."""
    table = cell.finished
    u = np.stack([_merged(np.log(table[name].to_numpy(float))) for name in cell.swept], 1)
    y = table["loss"].to_numpy(float)
    places, which = np.unique(u.round(9), axis=0, return_inverse=True)
    which = which.reshape(-1)
    mean = np.bincount(which, y) / np.bincount(which)
    best = int(mean.argmin())
    away = np.abs(places - places[best])
    reach = (away <= math.log(REACH)).all(1)
    for excess in EXCESS:
        near = reach & (mean <= mean[best] * (1 + excess))
        if near.sum() >= ENOUGH[len(cell.swept)]:
            break
    if len(cell.swept) == 1:
        x = places[:, 0]
        for beside_ in (x[x < x[best]].max(initial=-np.inf), x[x > x[best]].min(initial=np.inf)):
            near |= (x == beside_) & (mean <= mean[best] * (1 + NEIGHBOUR))
    keep = near[which]
    rows = Rows(u[keep], y[keep], _seeds(table["seed"].to_numpy(str)[keep], which[keep]))
    levels = [len(np.unique(rows.u_PK[:, k])) for k in range(len(cell.swept))]
    if min(levels) < 3 or len(np.unique(which[keep])) < rows.fixed - rows.seed_P.max():
        return None
    return _Chosen(rows, keep)


def _seeds(seed_P: NDArray[np.str_], which_P: NDArray[np.intp]) -> NDArray[np.intp]:
    """An intercept for each seed where every seed ran three values or more, else one for all."""
    names, number = np.unique(seed_P, return_inverse=True)
    runs = [len(np.unique(which_P[number == i])) for i in range(len(names))]
    return number if len(names) > 1 and min(runs) >= 3 else np.zeros(len(seed_P), np.intp)


def _describe(cell: Cell, chosen: _Chosen | None, noise: Noise | None) -> dict[str, Any]:
    rows = cell.table
    out: dict[str, Any] = {
        "label": cell.label,
        **{name: _mean(rows, name) for name in ("n", "d", "c")},
        "lr": None if "lr" in cell.swept else _one(rows, "lr"),
        "batch": None if "batch" in cell.swept else _one(rows, "batch"),
        "by": {k: _plain(v) for k, v in cell.key.items() if k not in ("n", "horizon", "batch", "lr")},
        "swept": list(cell.swept),
        "rows": len(rows),
        "used": 0,
        "diverged": int(rows["diverged"].sum()),
        "optimum": None, "refused": cell.refused, "next": [], "seeds": False, "curve": None,
        "points": _points(cell, chosen),
    }  # fmt: skip
    if cell.refused:
        return out
    found = _brackets(cell)
    open_ = [b for b in found.values() if b.reason]
    if open_:
        out["refused"] = "; ".join(str(b.reason) for b in open_)
        out["next"] = _next(cell, found, None)
        return out
    if chosen is None:
        out["refused"] = "the losses beside the lowest are far above it: too coarse for a quadratic"
        out["next"] = _next(cell, {k: _finer(cell, k, None) for k in cell.swept}, None)
        return out
    out["used"] = len(chosen.rows.y_P)
    # Without an estimate the interval is left out; so small a noise lets the curve go through the rows.
    fitted = valley(chosen.rows, noise or Noise(1e-6 * float(chosen.rows.y_P.min()), math.inf, ""))
    return out | _answer(cell, chosen.rows, fitted, noise)


def _answer(cell: Cell, rows: Rows, fitted: Valley, noise: Noise | None) -> dict[str, Any]:
    """The optimum, or why the quadratic has none, with what to run next."""
    ends = {
        name: (
            math.exp(max(low, -700)) if np.isfinite(low) else 0.0,
            math.exp(high) if high < 700 else math.inf,
        )
        for name, low, high in zip(cell.swept, fitted.low_K, fitted.high_K, strict=True)
    }
    at = dict(zip(cell.swept, np.exp(fitted.at_K).tolist(), strict=True))
    curve = _curve(rows, fitted) if len(cell.swept) == 1 else None
    if not fitted.inside:
        finer = {name: _finer(cell, name, (0.0, math.inf)) for name in cell.swept}
        reason = "the quadratic has no lowest point among the values tried: noise hides the turn"
        return {
            "refused": reason,
            "next": _next(cell, finer, None),
            "seeds": _all_seeds(finer),
            "curve": curve,
        }
    intervals: dict[str, Any] = {name: None if noise is None else list(ends[name]) for name in cell.swept}
    finer = {name: _finer(cell, name, None if noise is None else ends[name]) for name in cell.swept}
    wide = [
        name for name, (low, high) in ends.items() if noise is not None and (low <= 0 or math.isinf(high))
    ]
    common = {"next": _next(cell, finer, at), "seeds": _all_seeds(finer), "curve": curve}
    if wide:
        sides = " and ".join(f"{'low' if ends[name][0] <= 0 else 'high'} {name}" for name in wide)
        return common | {"refused": f"noise hides the turn on the side of {sides}; the lowest point would be "
                                    + ", ".join(f"{k} {v:.3g}" for k, v in at.items())}  # fmt: skip
    optimum: dict[str, Any] = {"loss": fitted.loss}
    for name in cell.swept:
        optimum |= {name: at[name], f"{name}_interval": intervals[name]}
    return common | {"optimum": optimum}


def _levels(cell: Cell, name: str) -> list[Level]:
    """The values of one coordinate with the lowest mean loss that the other coordinate allows."""
    k = cell.swept.index(name)
    places, lost = cell.places, cell.table["diverged"].to_numpy(bool)
    loss = cell.table["loss"].to_numpy(float)
    distinct, which = np.unique(places, axis=0, return_inverse=True)
    which = which.reshape(-1)
    bad = np.bincount(which, lost) > 0
    mean = np.where(bad, np.inf, np.bincount(which, np.where(lost, 0.0, loss)) / np.bincount(which))
    out = []
    for value in np.unique(distinct[:, k]):
        least = float(mean[distinct[:, k] == value].min())
        out.append(Level(float(np.exp(value)), least if math.isfinite(least) else None))
    return out


def _brackets(cell: Cell) -> dict[str, Bracket]:
    words = {"lr": "rate", "batch": "batch"}
    return {name: bracket(_levels(cell, name), words[name], _least(cell, name)) for name in cell.swept}


def _least(cell: Cell, name: str) -> float:
    """The smallest value that can be run: of the batch a sequence, where the rows tell its tokens."""
    if name == "lr" or "seq_len" not in cell.table:
        return 0.0
    return float(cell.table["seq_len"].max())


def _finer(cell: Cell, name: str, interval: tuple[float, float] | None) -> Bracket:
    levels = _levels(cell, name)
    return refine(levels, bracket(levels).best, interval)


def _all_seeds(found: dict[str, Bracket]) -> bool:
    return any(b.seeds for b in found.values()) and not any(b.next and not b.seeds for b in found.values())


def _next(cell: Cell, found: dict[str, Bracket], at: dict[str, float] | None) -> list[dict[str, float]]:
    """What to run: each coordinate's proposals at the best value of the other."""
    best = {name: _levels(cell, name)[b.best].at for name, b in found.items()}
    rows = []
    for name, b in found.items():
        rows += [{**best, **(at or {}), name: float(value)} for value in b.next]
    return [{k: float(f"{v:.4g}") for k, v in row.items()} for row in rows]


def _points(cell: Cell, chosen: _Chosen | None) -> list[dict[str, Any]]:
    table = cell.table
    used = np.zeros(len(table), bool)
    if chosen is not None:
        used[cell.finished.index.to_numpy()[chosen.keep]] = True
    out: list[dict[str, Any]] = []
    places = cell.places
    for place in np.unique(places, axis=0):
        here = (places == place).all(1)
        lost = bool(table["diverged"].to_numpy(bool)[here].any())
        losses = [] if lost else table["loss"].to_numpy(np.float64)[here].tolist()
        point: dict[str, Any] = dict(zip(cell.swept, np.exp(place).tolist(), strict=True))
        point |= {
            "loss": None if lost else float(np.mean(losses)),
            "losses": losses,
            "runs": int(here.sum()),
            "used": bool(used[here].any()),
        }
        out.append(point)
    return out


def _curve(rows: Rows, fitted: Valley) -> dict[str, list[float]]:
    u = np.linspace(rows.u_PK.min(), rows.u_PK.max(), 61)
    return {"x": np.exp(u).tolist(), "loss": fitted.curve(u[:, None]).tolist()}


def _mean(rows: pd.DataFrame, name: str) -> float | None:
    return float(np.exp(np.log(rows[name].to_numpy(float)).mean())) if name in rows else None


def _one(rows: pd.DataFrame, name: str) -> float | None:
    """The value that all rows share, None where they do not."""
    if name not in rows:
        return None
    values = rows[name].to_numpy(float)
    return float(np.median(values)) if np.ptp(np.log(values)) < math.log1p(SAME) else None


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if plain is pd.NA or plain != plain else plain
