"""Fit laws to runs, and the fit file that prediction, forecast and report read.

The file (`fits/<name>.json`, strict JSON; N in parameters, D in tokens, C in FLOPs, loss in nats
per token, intervals 90% by resampling runs):

    kind, version       "fit", 2
    name, source        what names the file; where the rows came from
    own                 true for runs of this project, whose counts are known by every convention
    rows_used           number of rows; rows_dropped [{run, reason}]; notes [text]
    conventions         {n, d, c}: names of the columns n, d, c of `rows`
    objective           {name, delta, space, residual}
    fingerprint         12 hex digits of the rows and the objective
    setting             own folders: {data, seq_len, vocab_size, recipe} that every run shares; else null
    bootstrap           {resamples, seed, unit, level, runs}
    noise               {sigma, interval, degrees, settings, rows, power, at} of what was measured where rows
                        differ in their seed alone (analysis.repeats), and {used: true} where residuals were
                        divided by it; null where no setting repeats
    laws                name -> {formula, source, inputs, output, n_count, rows, rows_used, parameters, units,
                        meanings, fixed, intervals, profile, not_determined, objective, rms, certificate,
                        resampling, derived, derived_intervals}. parameters are plain numbers, intervals
                        [low, high] with null on an open side, profile the same by analysis.profile,
                        not_determined {parameter: words to print in place of its number}, objective the
                        value at the optimum summed over rows, rms of the residual
    skipped             law -> reason
    approaches          envelope, isoflop, parametric -> see analysis.approaches; {skipped: reason}
    straight_line       the line through the envelope, log loss against log C; see analysis.approaches
    optimum             [{flops, n, d, loss, n_interval, d_interval, loss_interval}] at the measured
                        budgets' decades and beyond; null without the surface
    cost                own: {excess, power, n: [...], flops_per_token: [...]}, a token costs
                        6N (1 + excess N^-power) FLOPs (excess < 0: 6N / (1 + |excess| N^-power)), and
                        what it cost in the rows; null: 6N
    resamples           name -> {columns, values}: law parameters (a row of nulls: no answer), and
                        isoflop, envelope, straight_line
    rows                [{run, n, d, c, loss, ...}]: every role that the laws read, n_<convention> where known
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import approaches, bootstrap, optimum
from analysis.bootstrap import LEVEL, Resampling, array, interval, table
from analysis.design import unseen
from analysis.determined import intervals
from analysis.family import family
from analysis.frontier import frontier
from analysis.law import Array, Law, Values, take
from analysis.laws import LAWS
from analysis.newton import Objective
from analysis.profile import Rows, profiles
from analysis.repeats import ENOUGH, Noise, seed_noise, with_noise
from analysis.resample import resample
from analysis.scatter import objective_of
from analysis.solver import LARGE
from analysis.table import Runs
from scaling.accounting import N_CONVENTIONS
from scaling.errors import UserError
from scaling.files import write_whole

VERSION = 2
# Fitted where none is named: laws of the final loss that need no more than N, D and C.
DEFAULT = ("kaplan_n", "kaplan_d", "kaplan_c", "chinchilla")


@dataclass(frozen=True)
class Settings:
    """How laws are fitted, whatever the law.

    resampling  wild: about the fitted law, for laws of every row (frontier laws always draw pairs) · pairs
    fixed       constants held at given values, by name, in every law that has them
    seed_noise  divide residuals by the noise that repeated seeds show: it becomes the rows' column `noise`;
                one that they have counts without asking
    """

    objective: Objective = field(default_factory=Objective)
    resamples: int = 1000
    seed: int = 0
    resampling: Resampling = "wild"
    fixed: Mapping[str, float] = field(default_factory=dict)
    seed_noise: bool = False


def fit(
    runs: Runs,
    laws: Sequence[str | Law] | None = None,
    objective: Objective | None = None,
    resamples: int = 1000,
    seed: int = 0,
    resampling: Resampling = "wild",
    fixed: Mapping[str, float] | None = None,
    seed_noise: bool | None = None,
) -> dict[str, Any]:
    """Fit `laws` (names, or laws of your own; default `DEFAULT`); the result is the fit file, see above.

    The further arguments are those of `Settings`; without an objective it is `analysis.scatter`'s. Seed noise
    is used without asking (None) for our own runs where `analysis.repeats.ENOUGH` degrees of freedom tell it.
    Raises UserError for an unknown law, a constant in `fixed` that no law has, a column that a law needs and
    the table lacks, seed noise where no setting repeats, and when there are too few rows for any law.
    """
    wanted = [find(law) for law in laws or DEFAULT]
    _check_fixed(wanted, fixed or {})
    noise = _noise(runs, wanted, bool(seed_noise))
    weighed = (
        noise is not None
        and not runs.has("noise")
        and (runs.own and noise.degrees >= ENOUGH if seed_noise is None else seed_noise)
    )
    if noise is not None and weighed:
        runs = with_noise(runs, noise, wanted[0].output)
    how = Settings(objective or objective_of(runs), resamples, seed, resampling, dict(fixed or {}), weighed)
    content = _heading(runs, wanted, how, noise)
    for law in wanted:
        data = Measured.of(law, runs, how)
        reason = too_few(law, data, how.fixed) or unseen(law, runs)
        if reason:
            content["skipped"][law.name] = reason
        else:
            content["laws"][law.name], draws = fit_law(law, data, how)
            content["resamples"][law.name] = table(list(law.names), draws)
    if not content["laws"]:
        raise UserError(
            f"{runs.source} has too few points for any law: "
            + "; ".join(f"{name} {reason}" for name, reason in content["skipped"].items()) + "."
        )  # fmt: skip
    return content | _approaches(runs, content, how)


def _heading(runs: Runs, laws: list[Law], how: Settings, noise: Noise | None) -> dict[str, Any]:
    rows = _rows(runs, laws)
    return {
        "kind": "fit",
        "version": VERSION,
        "name": runs.name,
        "source": runs.source,
        "own": runs.own,
        "rows_used": len(runs.runs),
        "rows_dropped": runs.dropped,
        "notes": runs.notes,
        "conventions": {"n": runs.n_name, "d": "tokens", "c": runs.c_name},
        "objective": how.objective.describe(),
        "fingerprint": _fingerprint(rows, how),
        "setting": runs.setting,
        "bootstrap": {
            "resamples": how.resamples, "seed": how.seed, "unit": "run", "level": LEVEL,
            "runs": len(set(runs.runs)),
        },
        "noise": None if noise is None else noise.plain() | {"used": how.seed_noise},
        "laws": {},
        "skipped": {},
        "cost": optimum.cost_curve(runs) if runs.has("n") and runs.has("d") and runs.has("c") else None,
        "resamples": {},
        "rows": rows,
    }  # fmt: skip


def _approaches(runs: Runs, content: dict[str, Any], how: Settings) -> dict[str, Any]:
    """What needs N, D, C and the loss: the approaches, the straight line and the table of optima."""
    missing = [name for name in ("n", "d", "c", "loss") if not runs.has(name)]
    if missing:
        skipped = {"skipped": f"needs {missing[0]}, which the table does not have"}
        names = ("envelope", "isoflop", "parametric")
        return {"approaches": dict.fromkeys(names, skipped), "straight_line": skipped, "optimum": None}
    if len(runs.table) >= LARGE:
        found, drawn = approaches.of_many(runs, content, how.resamples, how.seed)
    else:
        draws_RP = bootstrap.pairs(bootstrap.clusters(runs.runs), how.resamples, how.seed)
        found, drawn = approaches.all_of(runs, content, draws_RP)
    content = content | found | {"resamples": content["resamples"] | drawn}
    return found | {"resamples": content["resamples"], "optimum": optimum.standard_table(content)}


def find(law: str | Law) -> Law:
    """A law by its name. Raises UserError for one that is not in the table."""
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise UserError(f"--law is {law!r}; choose from {', '.join(LAWS)}.")
    return LAWS[law]


def _check_fixed(laws: list[Law], fixed: Mapping[str, float]) -> None:
    for name in fixed:
        if not any(name in law.names for law in laws):
            known = ", ".join(f"{law.name} has {', '.join(law.names)}" for law in laws)
            raise UserError(f"{name!r} is held at a value, but no law has it: {known}.")


def _noise(runs: Runs, laws: list[Law], asked: bool) -> Noise | None:
    found = seed_noise(runs.table, laws[0].output) if runs.has(laws[0].output) else None
    if asked and (found is None or not found.sigma > 0):
        raise UserError(
            f"{runs.source} has no two rows that differ in their seed alone, so the noise of a run is not "
            "known; repeat some runs with another seed, or give a column of noise."
        )
    return found if found is not None and found.sigma > 0 else None


@dataclass(frozen=True)
class Measured:
    """What a law is fitted to: its inputs and output, each row's run, known noise, and the rows it is of."""

    x: Values
    y_P: Array
    runs: list[str]
    n_name: str | None
    sigma_P: Array | None
    used_P: NDArray[np.bool_]

    @classmethod
    def of(cls, law: Law, runs: Runs, how: Settings) -> Measured:
        """The law's columns of the table. Raises UserError for one that the table lacks."""
        x, n_name = inputs(law, runs)
        y_P = runs.column(law.output)
        sigma_P = runs.column("noise") if runs.has("noise") else None
        if sigma_P is not None and how.objective.space == "log":
            sigma_P = sigma_P / y_P
        used = np.ones(len(y_P), dtype=bool)
        if law.rows == "frontier":
            used = frontier(np.asarray(x[law.inputs[0]]), y_P)[0] > 0
        return cls(x, y_P, runs.runs, n_name, sigma_P, used)

    def rows(self, mask_P: NDArray[np.bool_]) -> Rows:
        names = [run for run, keep in zip(self.runs, mask_P, strict=True) if keep]
        sigma_P = None if self.sigma_P is None else self.sigma_P[mask_P]
        return Rows(take(self.x, mask_P), self.y_P[mask_P], bootstrap.clusters(names), sigma_P)


def inputs(law: Law, runs: Runs) -> tuple[Values, str | None]:
    """The law's columns, and the convention of N in them (None for a law without N)."""
    columns: dict[str, Any] = {}
    n_name = None
    for name in law.inputs:
        if name == "n":
            columns[name], n_name = runs.n(law.n_count) if law.n_count else (runs.column("n"), runs.n_name)
        else:
            columns[name] = runs.column(name)
    if law.prepare:
        return law.prepare(Values(run=bootstrap.clusters(runs.runs), **columns)), n_name
    return Values(**columns), n_name


def too_few(law: Law, data: Measured, fixed: Mapping[str, float]) -> str | None:
    """Why the rows cannot carry this law; None when they can."""
    rows, needed = int(data.used_P.sum()), law.minimum_rows - sum(name in fixed for name in law.names)
    if rows < needed:
        kind = "rows" if law.rows == "all" else "frontier rows"
        return f"needs {needed} {kind}, has {rows}"
    for name in () if law.prepare else law.inputs:
        column = np.asarray(data.x[name], np.float64)
        least = 3 if name in ("n", "d", "c") else 2
        distinct = len(np.unique(np.round(np.log(column), 9) if (column > 0).all() else column))
        if distinct < least:
            return f"needs {least} different {name.upper() if len(name) == 1 else name}, has {distinct}"
    return None


def fit_law(law: Law, data: Measured, how: Settings) -> tuple[dict[str, Any], Array]:
    """One law's entry of the fit file, and its resamples R x K in the order of its parameters."""
    fixed = {name: value for name, value in how.fixed.items() if name in law.names}
    rows, objective = data.rows(data.used_P), how.objective
    best_K, certificate = family(law).fit(rows.x, rows.y_P, objective, fixed=fixed, sigma_P=rows.sigma_P)
    resampling = "pairs" if law.rows == "frontier" else how.resampling
    everything = data.rows(np.ones_like(data.used_P))
    draws_RK = resample(
        law, everything, best_K, objective, how.resamples, how.seed, resampling, fixed, certificate.at_bounds
    )
    profile = profiles(law, rows, best_K, objective, fixed)
    found, words = intervals(law, best_K, draws_RK, profile, rows.y_P)
    residual = objective.residual(family(law).predict(best_K[None], rows.x)[0], rows.y_P)
    whitened = residual if rows.sigma_P is None else residual / rows.sigma_P
    entry = {
        "formula": law.formula,
        "source": law.source,
        "inputs": list(law.inputs),
        "output": law.output,
        "n_count": data.n_name,
        "rows": law.rows,
        "rows_used": [run for run, keep in zip(data.runs, data.used_P, strict=True) if keep],
        "parameters": dict(zip(law.names, best_K.tolist(), strict=True)),
        "units": {parameter.name: parameter.unit for parameter in law.parameters},
        "meanings": {parameter.name: parameter.meaning for parameter in law.parameters},
        "fixed": sorted(fixed),
        "intervals": found | {name: [value, value] for name, value in fixed.items()},
        "profile": {name: [each.low, each.high] for name, each in profile.items()},
        "not_determined": words,
        "objective": float(objective.rho(whitened).sum()),
        "rms": float(np.sqrt(np.mean(residual**2))),
        "certificate": certificate.plain(),
        "resampling": resampling,
    }
    return entry | derived(law, best_K, draws_RK), draws_RK


def derived(law: Law, best_K: Array, draws_RK: Array) -> dict[str, Any]:
    """What decisions use: the law's own functions of its constants, with intervals."""
    value, spread = {}, {}
    for name, function in (law.derived or {}).items():
        with np.errstate(all="ignore"):  # a resample whose term vanished has no ratio
            here, drawn = (
                np.asarray(function(Values(**dict(zip(law.names, params_RK.T, strict=True)))), np.float64)
                for params_RK in (best_K[None], draws_RK)
            )
        value[name], spread[name] = float(here[0]) if np.isfinite(here[0]) else None, interval(drawn)
    return {"derived": value, "derived_intervals": spread}


def _rows(runs: Runs, laws: list[Law]) -> list[dict[str, Any]]:
    read = [name for law in laws for name in (*law.inputs, law.output)]
    roles = dict.fromkeys(("n", "d", "c", "loss", *read, "noise"))
    known = [f"n_{name}" for name in N_CONVENTIONS if runs.own and f"n_{name}" in runs.table]
    names = ["run", *(name for name in roles if runs.has(name)), *known]
    return [
        {name: value if name == "run" else float(value) for name, value in zip(names, row, strict=True)}
        for row in runs.table[names].itertuples(index=False)
    ]


def _fingerprint(rows: list[dict[str, Any]], how: Settings) -> str:
    numbers = sorted([value for name, value in row.items() if name != "run"] for row in rows)
    text = json.dumps([numbers, how.objective.describe(), dict(how.fixed), how.seed_noise])
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
