"""Fit laws to runs, and the fit file that prediction, forecast and report read.

The file (`fits/<name>.json`, strict JSON; N in parameters, D in tokens, C in FLOPs, loss in nats
per token, intervals 90% by bootstrap over runs):

    kind, version       "fit", 1
    name, source        what names the file; where the rows came from
    own                 true for runs of this project, whose counts are known by every convention
    rows_used           number of rows; rows_dropped [{run, reason}]; notes [text]
    conventions         {n, d, c}: names of the columns n, d, c of `rows`
    objective           {name, delta, residual}
    fingerprint         12 hex digits of the rows and the objective
    setting             own folders: {data, seq_len, vocab_size, recipe} that every run shares; else null
    bootstrap           {resamples, seed, unit, level}
    laws                name -> {formula, source, inputs, n_count, rows, rows_used, parameters, units,
                        intervals, not_determined, objective_value, rms, certificate, derived,
                        derived_intervals}; rms is of the log residual, parameters are plain numbers
    skipped             law -> reason
    approaches          envelope, isoflop, parametric -> see analysis.approaches; {skipped: reason}
    straight_line       the line through the envelope, log loss against log C; see analysis.approaches
    optimum             [{flops, n, d, loss, n_interval, d_interval, loss_interval}] at the measured
                        budgets' decades and beyond; null without the surface
    cost                own: {excess, power, n: [...], flops_per_token: [...]}, a token costs
                        6N (1 + excess N^-power) FLOPs, and what it cost in the rows; null: 6N
    resamples           name -> {columns, values}: law parameters (a row of nulls: no answer), and
                        isoflop, envelope, straight_line
    rows                [{run, n, d, c, loss}] with n_<convention> where known
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from analysis import approaches, optimum
from analysis.bootstrap import LEVEL, array, interval, not_determined, table, weights
from analysis.laws import LAWS, Law, frontier
from analysis.newton import Array, Objective
from analysis.table import Runs
from scaling.accounting import N_CONVENTIONS
from scaling.errors import UserError
from scaling.files import write_whole

VERSION = 1


def fit(
    runs: Runs,
    laws: list[str] | None = None,
    objective: Objective | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit `laws` (default: all) to `runs`; the result is the fit file's content, see above.

    Raises UserError for an unknown law and when there are too few rows for any.
    """
    objective = objective or Objective()
    wanted = [_law(name) for name in laws] if laws else list(LAWS.values())
    draws_RP = weights(len(runs.runs), resamples, seed)
    fitted: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    stored: dict[str, dict[str, Any]] = {}
    for law in wanted:
        reason = too_few(law, runs)
        if reason:
            skipped[law.name] = reason
        else:
            fitted[law.name], draws = fit_law(law, runs, objective, draws_RP)
            stored[law.name] = table(list(law.names), draws)
    if not fitted:
        raise UserError(
            f"{runs.source} has too few points for any law: "
            + "; ".join(f"{name} {reason}" for name, reason in skipped.items()) + "."
        )  # fmt: skip
    content = {
        "kind": "fit",
        "version": VERSION,
        "name": runs.name,
        "source": runs.source,
        "own": runs.own,
        "rows_used": len(runs.runs),
        "rows_dropped": runs.dropped,
        "notes": runs.notes,
        "conventions": {"n": runs.n_name, "d": "tokens", "c": runs.c_name},
        "objective": objective.describe(),
        "fingerprint": _fingerprint(runs, objective),
        "setting": runs.setting,
        "bootstrap": {"resamples": resamples, "seed": seed, "unit": "run", "level": LEVEL},
        "laws": fitted,
        "skipped": skipped,
        "cost": optimum.cost_curve(runs),
        "resamples": stored,
        "rows": _rows(runs),
    }
    found, more = approaches.all_of(runs, content, draws_RP)
    content |= found
    stored |= more
    content["optimum"] = optimum.standard_table(content)
    return content


def _law(name: str) -> Law:
    if name not in LAWS:
        raise UserError(f"--law is {name!r}; choose from {', '.join(LAWS)}.")
    return LAWS[name]


def inputs(law: Law, runs: Runs) -> tuple[Array, str | None]:
    """The law's columns as I x P, and the convention of N in them (None for a law without N)."""
    columns, n_name = [], None
    for name in law.inputs:
        if name == "n" and law.n_count:
            column, n_name = runs.n(law.n_count)
            columns.append(column)
        else:
            columns.append(runs.column(name))
    return np.stack(columns), n_name


def _used(law: Law, x_IP: Array, loss_P: Array) -> Array:
    if law.rows == "all":
        return np.ones(len(loss_P), dtype=bool)
    return frontier(x_IP[0], loss_P)[0] > 0


def too_few(law: Law, runs: Runs) -> str | None:
    """Why the rows cannot carry this law; None when they can."""
    x_IP, _ = inputs(law, runs)
    rows = int(_used(law, x_IP, runs.column("loss")).sum())
    if rows < law.minimum_rows:
        kind = "rows" if law.rows == "all" else "frontier rows"
        return f"needs {law.minimum_rows} {kind}, has {rows}"
    for name, x_P in zip(law.inputs, x_IP, strict=True):
        distinct = len(np.unique(np.round(np.log(x_P), 9)))
        if distinct < 3:
            return f"needs 3 different {name.upper()}, has {distinct}"
    return None


def fit_law(law: Law, runs: Runs, objective: Objective, draws_RP: Array) -> tuple[dict[str, Any], Array]:
    """One law's entry of the fit file, and its resamples R x K in the order of its parameters."""
    x_IP, n_name = inputs(law, runs)
    loss_P = runs.column("loss")
    used = _used(law, x_IP, loss_P)
    best_K, certificate = law.family.fit(x_IP[:, used], loss_P[used], objective)
    draws_RK = law.family.refit(x_IP, loss_P, draws_RP, best_K, objective)
    residual = np.log(law.family.predict(best_K[None], x_IP[:, used])[0] / loss_P[used])
    intervals = {name: interval(draws_RK[:, i]) for i, name in enumerate(law.names)}
    entry = {
        "formula": law.formula,
        "source": law.source,
        "inputs": list(law.inputs),
        "n_count": n_name,
        "rows": law.rows,
        "rows_used": [run for run, keep in zip(runs.runs, used, strict=True) if keep],
        "parameters": dict(zip(law.names, best_K.tolist(), strict=True)),
        "units": {parameter.name: parameter.unit for parameter in law.parameters},
        "intervals": intervals,
        "not_determined": not_determined(law, intervals, certificate.at_bounds, float(loss_P.min())),
        "objective_value": float(objective.rho(residual).sum()),
        "rms": float(np.sqrt(np.mean(residual**2))),
        "certificate": certificate.plain(),
    }
    return entry | derived(law, best_K, draws_RK), draws_RK


def derived(law: Law, best_K: Array, draws_RK: Array) -> dict[str, Any]:
    """Chinchilla: a = beta / (alpha + beta) of N* ~ C^a, b = 1 - a of D* ~ C^b (C = 6ND)."""
    if law.name != "chinchilla":
        return {"derived": {}, "derived_intervals": {}}
    a = best_K[4] / (best_K[3] + best_K[4])
    a_R = draws_RK[:, 4] / (draws_RK[:, 3] + draws_RK[:, 4])
    return {
        "derived": {"a": float(a), "b": float(1 - a)},
        "derived_intervals": {"a": interval(a_R), "b": interval(1 - a_R)},
    }


def _rows(runs: Runs) -> list[dict[str, Any]]:
    known = [f"n_{name}" for name in N_CONVENTIONS if runs.own and f"n_{name}" in runs.table]
    names = ["run", "n", "d", "c", "loss", *known]
    frame = runs.table[names]
    return [
        {name: value if name == "run" else float(value) for name, value in zip(names, row, strict=True)}
        for row in frame.itertuples(index=False)
    ]


def _fingerprint(runs: Runs, objective: Objective) -> str:
    rows = sorted(zip(*(runs.column(name).tolist() for name in ("n", "d", "c", "loss")), strict=True))
    text = json.dumps([rows, objective.describe()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save(content: dict[str, Any], folder: str | Path = "fits") -> Path:
    """Write `<folder>/<name>.json`. Resamples stand one to a line: full precision, a fifth of the size."""
    path = Path(folder) / f"{content['name']}.json"
    light = {key: value for key, value in content.items() if key not in ("resamples", "rows")}
    text = json.dumps(light, indent=2, allow_nan=False).removesuffix("\n}")
    resamples = ",\n".join(
        f'    {json.dumps(name)}: {{"columns": {json.dumps(part["columns"])}, "values": [\n'
        + ",\n".join(f"      {json.dumps(row, allow_nan=False)}" for row in part["values"]) + "\n    ]}"
        for name, part in content["resamples"].items()
    )  # fmt: skip
    rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in content["rows"])
    write_whole(path, f'{text},\n  "resamples": {{\n{resamples}\n  }},\n  "rows": [\n{rows}\n  ]\n}}\n')
    return path


def load_fit(path: str | Path) -> dict[str, Any]:
    """Read a fit file, by path or by its name under fits/.

    Raises UserError when it is missing or not a fit file of this version.
    """
    path = Path(path)
    if not path.exists() and (Path("fits") / f"{path}.json").exists():
        path = Path("fits") / f"{path}.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a fit file, written by `scaling fit`.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(f"{path} is not a fit file; give a JSON file written by `scaling fit`.") from None
    needed = ("laws", "rows", "resamples", "conventions", "fingerprint", "cost")
    if not isinstance(content, dict) or content.get("kind") != "fit" or any(k not in content for k in needed):
        raise UserError(f"{path} is not a fit file; give a JSON file written by `scaling fit`.")
    if content.get("version") != VERSION:
        raise UserError(f"{path} is of version {content.get('version')}, not {VERSION}; fit again.")
    return content


def resamples(content: dict[str, Any], law: str) -> Array:
    """Finite resamples of a law, R x K in the order of its parameters."""
    draws = array(content["resamples"][law])
    return draws[np.isfinite(draws).all(1)]
