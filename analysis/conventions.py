"""Accounting made visible: the same runs under every count of N and C that their table allows.

One model counts 1.7 times as many FLOPs by one convention as by another, and leaving out the head alone
moved a published exponent from .71 to .84 (Porian et al. 2024, section 3.2). Here the surface
L = E + A/N^alpha + B/D^beta is fitted once for each count of N, and the best run for a budget is read off
it for each count of C, so that a reader sees which conclusions depend on how things were counted.

    a          exponent of N* ~ C^a between the smallest budget and the one asked about
    n, d, loss N*, D* and the loss at `beyond` times the largest budget measured, in that count of C
Tokens and losses mean the same under every count and are compared with the first line's; so is a. N* is
in its own count and is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.bootstrap import interval
from analysis.columns import Reading, canonical
from analysis.fit import Measured, Settings, fit_law
from analysis.law import Array
from analysis.laws import LAWS
from analysis.newton import Objective
from analysis.optimum import SURFACE, Cost, cost_curve, optimum
from analysis.roles import convert
from analysis.table import Runs, load, read
from scaling.accounting import C_CONVENTIONS, N_CONVENTIONS
from scaling.errors import UserError

SIX_ND = "6ND"
# A column holds another count of the same thing where it is within this factor of it in the median row ...
_WITHIN = 30.0
# ... and is called so.
_NAMED = {"n": ("n", "param", "model_size", "size"), "c": ("c", "flop", "compute", "budget")}
_COMPARED = {"a": "a", "d": "D*", "loss": "loss"}


@dataclass(frozen=True)
class Counts:
    """Columns of the same rows: N and C by the name of their count; those that are equal stand once, all
    their names together."""

    n: dict[str, Array]
    c: dict[str, Array]


def table(
    source: str,
    reading: Reading | None = None,
    objective: Objective | None = None,
    resamples: int = 400,
    seed: int = 0,
    beyond: float = 10.0,
) -> dict[str, Any]:
    """Fit `source` (as `analysis.table.load` reads it) under each of its counts.

    {source, rows, law, objective, resamples, beyond, lines}; a line is {n_count, c_count, flops, a, n, d,
    loss and <name>_interval of each, objective, rms, certified, moved}: moved names what lies outside the
    first line's interval. C = 6ND is always among a stranger's counts.
    Raises UserError as `load` does, and where there is only one way to count.
    """
    reading = reading or Reading()
    runs = load(source, reading)
    counts = own_counts(runs) if runs.own else column_counts(_raw(source), reading, source)
    how = Settings(objective or Objective(), resamples, seed)
    lines: list[dict[str, Any]] = []
    for n_name, n_P in counts.n.items():
        fitted = _surface(runs, n_P, how)
        c = counts.c if runs.own else _with_six(counts.c, 6 * n_P * runs.column("d"), "c" in reading.columns)
        lines += [_line(runs, n_name, n_P, c_name, c_P, fitted, beyond) for c_name, c_P in c.items()]
    if len(lines) < 2:
        raise UserError(
            f"{source} has one count of N and none of C but 6ND; give a table with columns of other counts "
            "(named n_..., params_..., flops_...), or runs of this project."
        )
    for line in lines:
        line["moved"] = [
            word for name, word in _COMPARED.items() if _outside(line[name], lines[0][f"{name}_interval"])
        ]
    return {
        "source": source, "rows": len(runs.runs), "law": SURFACE, "objective": how.objective.describe(),
        "resamples": resamples, "beyond": beyond, "lines": lines,
    }  # fmt: skip


def own_counts(runs: Runs) -> Counts:
    """Every convention of `scaling.accounting`; those that the runs were read with first."""
    n: dict[str, Array] = {name: runs.column(f"n_{name}") for name in _first(runs.n_name, N_CONVENTIONS)}
    c: dict[str, Array] = {name: runs.column(f"c_{name}") for name in _first(runs.c_name, C_CONVENTIONS)}
    return Counts(_merged(n), _merged(c))


def _first(name: str, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda other: other != name)


def _raw(source: str) -> pd.DataFrame:
    if source.startswith("wandb:"):
        from analysis.wandb_source import load_project  # wandb takes a second to import

        return load_project(source.removeprefix("wandb:"))
    return read(Path(source))


def column_counts(raw: pd.DataFrame, reading: Reading, source: str) -> Counts:
    """The N and C that were read, and further columns of the table that hold another count of them."""
    used = canonical(raw, reading, source)
    rows = raw.iloc[used.table["row"].to_numpy() - 1]
    found: dict[str, dict[str, Array]] = {}
    for role in ("n", "c"):
        known = used.table[role].to_numpy(np.float64)
        mine = used.columns.get(role)
        found[role] = {mine or "6ND / 6D": known} if role == "n" or mine else {}
        for name in rows.columns:
            values = _numbers(rows[name])
            if (
                name == mine
                or name in used.columns.values()
                or values is None
                or not _called(str(name), role)
            ):
                continue
            values = convert(role, reading.unit(role), values)
            if 1 / _WITHIN < np.median(values / known) < _WITHIN:
                found[role][str(name)] = values
    return Counts(_merged(found["n"]), _merged(found["c"]))


def _with_six(columns: dict[str, Array], six_P: Array, named: bool) -> dict[str, Array]:
    """C = 6ND beside the table's own counts of C: after the one that was named, else first."""
    return _merged(columns | {SIX_ND: six_P} if named else {SIX_ND: six_P} | columns)


def _called(name: str, role: str) -> bool:
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return any(
        word == key or (len(key) > 1 and word.startswith(key)) for word in words for key in _NAMED[role]
    )


def _numbers(column: pd.Series) -> Array | None:
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    return values if np.isfinite(values).all() and (values > 0).all() else None


def _merged(columns: dict[str, Array]) -> dict[str, Array]:
    """Equal columns under one name: dense models have as many active parameters as total ones."""
    merged: dict[str, Array] = {}
    for name, values in columns.items():
        same = next((other for other, kept in merged.items() if np.allclose(kept, values, rtol=1e-9)), None)
        if same is not None:
            merged = {f"{k} = {name}" if k == same else k: v for k, v in merged.items()}
        else:
            merged[name] = values
    return merged


@dataclass(frozen=True)
class _Surface:
    best_K: Array
    draws_RK: Array
    objective: float
    rms: float
    certified: bool


def _surface(runs: Runs, n_P: Array, how: Settings) -> _Surface:
    law = LAWS[SURFACE]
    counted = replace(runs, table=runs.table.assign(n=n_P), fixed_n=True)
    entry, draws_RK = fit_law(law, Measured.of(law, counted, how), how)
    best_K = np.array([entry["parameters"][name] for name in law.names])
    return _Surface(
        best_K, draws_RK[np.isfinite(draws_RK).all(1)], entry["objective"], entry["rms"],
        entry["certificate"]["converged"],
    )  # fmt: skip


def _line(
    runs: Runs, n_name: str, n_P: Array, c_name: str, c_P: Array, fitted: _Surface, beyond: float
) -> dict[str, Any]:
    cost = _cost(runs, n_P, c_P)
    ends = float(c_P.min()), beyond * float(c_P.max())
    params_RK = np.concatenate([fitted.best_K[None], fitted.draws_RK])
    with np.errstate(all="ignore"):
        small, large = (optimum(params_RK, flops, cost) for flops in ends)
        a_R = np.log(large.n_R / small.n_R) / np.log(ends[1] / ends[0])
    line: dict[str, Any] = {"n_count": n_name, "c_count": c_name, "flops": ends[1]}
    for name, values_R in (("a", a_R), ("n", large.n_R), ("d", large.d_R), ("loss", large.loss_R)):
        line[name] = float(values_R[0])
        line[f"{name}_interval"] = interval(values_R[1:])
    return line | {"objective": fitted.objective, "rms": fitted.rms, "certified": fitted.certified}


def _cost(runs: Runs, n_P: Array, c_P: Array) -> Cost:
    """What a token costs at size N, through the rows as `cost_curve` takes it."""
    counted = replace(runs, table=runs.table.assign(n=n_P, c=c_P), fixed_n=True, own=True)
    stored = cost_curve(counted) or {"excess": 0.0, "power": 0.0}
    return Cost(stored["excess"], stored["power"])


def _outside(value: float, known: list[float] | None) -> bool:
    return known is not None and not known[0] <= value <= known[1]


def text(found: dict[str, Any]) -> RenderableType:
    """One line for each way to count; a star marks what lies outside the first line's interval."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    at = f"{found['beyond']:g}C"
    for column, right in (
        ("N", False), ("C", False), ("a", True), ("90%", False), (f"D*({at})", True), ("90%", False),
        (f"L({at})", True), ("90%", False), (f"N*({at})", True),
    ):  # fmt: skip
        shown.add_column(column, no_wrap=True, justify="right" if right else "left")
    for line in found["lines"]:
        star = {word: "*" if word in line["moved"] else " " for word in _COMPARED.values()}
        shown.add_row(
            *(line[key].replace("non_embedding", "non-emb.") for key in ("n_count", "c_count")),
            f"{line['a']:.3f}{star['a']}", _span(line["a_interval"], ".3f"),
            f"{line['d']:.3g}{star['D*']}", _span(line["d_interval"], ".3g"),
            f"{line['loss']:.3f}{star['loss']}", _span(line["loss_interval"], ".3f"), f"{line['n']:.3g}",
        )  # fmt: skip
    ways = f"{found['source']}: {found['rows']} runs under {len(found['lines'])} ways to count"
    return Group(Text(ways, style="bold"), shown, Text(_conclusion(found), style="bold"))


def _span(interval: list[float] | None, digits: str) -> str:
    return "open" if interval is None else f"{interval[0]:{digits}}-{interval[1]:{digits}}"


def _conclusion(found: dict[str, Any]) -> str:
    first, others = found["lines"][0], found["lines"][1:]
    moved = {word: sum(word in line["moved"] for line in others) for word in _COMPARED.values()}
    said = [f"{word} moves beyond it in {count} of {len(others)}" for word, count in moved.items() if count]
    stay = [word for word, count in moved.items() if not count]
    if stay:
        said.append(f"{', '.join(stay)} stay{'s' if len(stay) == 1 else ''} inside")
    return f"Against the 90% interval of N {first['n_count']}, C {first['c_count']}: {'; '.join(said)}."
