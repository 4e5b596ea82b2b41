"""Forecasts written down before the run: what a fit says of a larger run, registered and sealed.

The interval is the spread of log loss from three sources, drawn independently (docs/forecasting.md):

    law      the law refitted to resampled runs, at the target
    scatter  a run's own distance from the law: the fit's residuals, widened by sqrt(P / (P - 5)); where the
             noise of each run is known, residuals over it, times that of the fit's largest runs
    drift    the law being the wrong curve: the root mean square rate of error of this grid's own
             extrapolations (analysis.backtest) times log(C / largest C fitted), times Student's t
             with as many degrees of freedom as there were trials

and it is centred on the law fitted to every run, which is what `scaling predict` prints.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from analysis.approaches import straight_line
from analysis.backtest import Backtest, backtest
from analysis.chinchilla import PARAMETERS, predict
from analysis.newton import Array, Objective
from analysis.optimum import surface
from analysis.score import FOLDER, Forecast, load_forecasts, seal
from scaling.accounting import counts
from scaling.config import RunConfig, to_dict
from scaling.errors import UserError
from scaling.files import write_json
from scaling.runs import RunFolder

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEAST_RATIO = 10.0  # below it, a prediction is an interpolation with a margin: `scaling predict`
DRAWS = 20_000
_DRIFT = (
    "the law refitted to resampled runs, plus its residuals (sqrt(P / (P - 5)) times), plus drift: the rms "
    "error per e-fold of compute of {trials} forecasts of this grid's own larger runs from its smaller "
    "ones, times log(C / largest C fitted), times Student's t with {trials} degrees of freedom"
)
_NO_DRIFT = (
    "the law refitted to resampled runs, plus its residuals (sqrt(P / (P - 5)) times); the grid is too "
    "small to forecast its own larger runs, so that the law may be the wrong curve is NOT in the interval"
)


@dataclass(frozen=True)
class Spread:
    """Loss at one target, nats per token, by quantile; half-widths of each part in log loss (90%)."""

    quantiles: dict[str, float]
    parts: dict[str, float | None]
    backtest: Backtest

    @property
    def method(self) -> str:
        trials = len(self.backtest.trials)
        return _DRIFT.format(trials=trials) if trials else _NO_DRIFT


@dataclass(frozen=True)
class _Rows:
    n_P: Array
    d_P: Array
    c_P: Array
    loss_P: Array
    sigma_P: Array | None  # noise of log loss


def history(fit: dict[str, Any]) -> Backtest:
    """How far off the fit's own grid was about its larger runs: the same for every target."""
    rows = _rows(fit)
    return backtest(rows.n_P, rows.d_P, rows.c_P, rows.loss_P, _objective(fit), rows.sigma_P)


def spread(
    fit: dict[str, Any], n: float, tokens: float, flops: float, past: Backtest | None = None
) -> Spread:
    """Quantiles of the final loss of one new run, from the fit's Chinchilla law.

    n and flops by the conventions of the fit's law and rows; `past` is `history(fit)`, given where
    many targets are asked about. Same fit, same numbers. Raises UserError when the fit holds no
    Chinchilla law.
    """
    best_K, draws_RK = surface(fit)
    rows = _rows(fit)
    target = np.array([n]), np.array([tokens])
    log_law = float(np.log(predict(best_K, *target)[0, 0]))
    log_law_R = np.log(predict(draws_RK, *target)[:, 0])
    residual_P = np.log(rows.loss_P / predict(best_K, rows.n_P, rows.d_P)[0])
    if rows.sigma_P is not None:
        residual_P *= rows.sigma_P[np.argmax(rows.c_P)] / rows.sigma_P
    past = past or history(fit)

    rng = np.random.default_rng(0)
    count = len(residual_P)
    parts = {
        "law": rng.choice(log_law_R, DRAWS),
        "scatter": rng.choice(residual_P, DRAWS) * np.sqrt(count / (count - len(PARAMETERS))),
    }
    if past.rate is not None:
        distance = max(0.0, float(np.log(flops / rows.c_P.max())))
        parts["drift"] = past.rate * distance * rng.standard_t(len(past.trials), DRAWS)
    total = np.sum(list(parts.values()), axis=0)
    values = np.exp(log_law + np.quantile(total, QUANTILES) - np.median(total))
    return Spread(
        quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, values, strict=True)},
        parts={"drift": None} | {name: _half_width(draws) for name, draws in parts.items()},
        backtest=past,
    )


def _line(fit: dict[str, Any], flops: float) -> dict[str, Any]:
    """The baseline that needs no law; `loss` and `interval` are null where the fit has no line."""
    method = "lines through the envelopes of resampled runs, plus the envelope's scatter about its line"
    try:
        return {**straight_line(fit, flops), "interval_method": method}
    except UserError as error:
        return {"loss": None, "interval": None, "skipped": str(error)}


def _half_width(draws: Array) -> float:
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(high - low) / 2


def _rows(fit: dict[str, Any]) -> _Rows:
    """Columns of the fit's rows, N by the convention that its Chinchilla law was fitted with."""
    rows = fit["rows"]
    n_name = f"n_{fit['laws']['chinchilla']['n_count']}"
    n_name = n_name if n_name in rows[0] else "n"
    n_P, d_P, c_P, loss_P = (
        np.array([row[name] for row in rows], np.float64) for name in (n_name, "d", "c", "loss")
    )
    noise_P = [row.get("noise") for row in rows]
    known = fit["objective"]["space"] == "log" and None not in noise_P
    return _Rows(n_P, d_P, c_P, loss_P, np.array(noise_P, np.float64) / loss_P if known else None)


def _objective(fit: dict[str, Any]) -> Objective:
    stated = fit["objective"]
    return Objective(stated["name"], stated["delta"] or 0.0, stated["space"])


def register(
    fit: dict[str, Any],
    config: RunConfig,
    *,
    unique_tokens: int | None,
    allow_epochs: bool = False,
    sweep: str | None = None,
    folder: str | Path = FOLDER,
    runs: str | Path = "runs",
    now: datetime | None = None,
) -> Forecast:
    """Write down what `fit` says of the run `config`, before it exists; returns the file's content.

    `unique_tokens` is one epoch of the target's text (None: unknown), `sweep` the folder under `runs`
    that the run will go to. Registered before with the same fit: the earlier file is returned and
    nothing is written. With another fit a further file is written, and the first still counts.

    Raises UserError when the fit is of a foreign table or of another text, when the target is below
    `LEAST_RATIO` times the largest compute fitted or needs more than one epoch (unless allowed), and
    when the run was already trained, or begun, with no forecast of it registered.
    """
    earlier = load_forecasts(folder, {config.run_id})
    for forecast in earlier:
        if forecast.intact and forecast.fingerprint == fit["fingerprint"]:
            return forecast
    target = _target(fit, config, unique_tokens, allow_epochs) | {"sweep": sweep}
    begun = begun_run(runs, config.run_id)
    if begun and not earlier:
        raise UserError(
            f"run {config.run_id} was already trained or begun in {begun.path}, so this would not be a "
            "forecast; `scaling predict` compares a fit with runs that exist."
        )
    found = spread(fit, target["n"], target["tokens"], target["flops"])
    moment = now or datetime.now(UTC)
    record: dict[str, Any] = {
        "registered_at": moment.isoformat(timespec="milliseconds"),
        "registered_before_run": begun is None,
        "code_version": code_version(),
        "fit_fingerprint": fit["fingerprint"],
        "fit": {name: fit[name] for name in ("name", "source", "rows_used", "objective", "conventions")},
        "best_fitted_loss": min(row["loss"] for row in fit["rows"]),
        "target": target,
        "forecast": {
            "loss": found.quantiles["0.5"],
            "quantiles": found.quantiles,
            "interval_method": found.method,
            "half_widths_90_log_loss": found.parts,
            "backtest": found.backtest.to_json(),
        },
        "straight_line": _line(fit, target["flops"]),
    }
    record |= {"seal": seal(record), "measured": None}
    path = Path(folder) / f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z-{config.run_id}.json"
    write_json(path, record)
    return Forecast(path, record)


def _target(
    fit: dict[str, Any], config: RunConfig, unique_tokens: int | None, allow_epochs: bool
) -> dict[str, Any]:
    """The `target` block, with every rule checked that needs no look at the disk."""
    if not fit["own"]:
        raise UserError(
            f"fit {fit['name']} is of a table whose counts and text are not known here, so a RunConfig "
            "does not belong to it; `scaling predict` answers for such a fit."
        )
    shared = fit.get("setting")
    if shared and shared["data"]["fingerprint"] != config.data.fingerprint:
        raise UserError(
            f"the target's data.fingerprint is {config.data.fingerprint}, but fit {fit['name']} is of text "
            f"{shared['data']['fingerprint']}; losses on two texts do not compare."
        )
    law, c_name = fit["laws"].get("chinchilla", {}), fit["conventions"]["c"]
    flat = counts(config.model, config.seq_len).flat(config.tokens)
    n_name, flops = law.get("n_count") or "total", flat[f"c_{c_name}"]
    ratio = flops / max(row["c"] for row in fit["rows"])
    if ratio < LEAST_RATIO:
        raise UserError(
            f"the target takes {flops:.4g} FLOPs, {ratio:.3g} times the largest fitted run, where a forecast "
            f"reaches {LEAST_RATIO:g} times: give at least {flops / ratio * LEAST_RATIO:.4g}, or use "
            "`scaling predict`."
        )
    if not allow_epochs:
        _one_epoch(config, unique_tokens)
    return {
        "run_id": config.run_id,
        "config": to_dict(config),
        "n": flat[f"n_{n_name}"],
        "n_count": n_name,
        "tokens": config.tokens,
        "flops": flops,
        "c_count": c_name,
        "flops_over_largest_fitted": ratio,
        "unique_tokens": unique_tokens,
        "epochs": config.tokens / unique_tokens if unique_tokens else None,
    }


def _one_epoch(config: RunConfig, unique_tokens: int | None) -> None:
    if unique_tokens is None:
        raise UserError(
            f"how many tokens the text {config.data.name!r} has is not known here, so its epochs cannot be "
            "checked; give --data with its folder, or --allow-epochs."
        )
    if config.tokens > unique_tokens:
        raise UserError(
            f"the target trains on {config.tokens:.4g} tokens, {config.tokens / unique_tokens:.2f} epochs of "
            f"its {unique_tokens:.4g} unique ones, and the law knows no repetition; --allow-epochs forecasts "
            "it all the same."
        )


def find_run(runs: str | Path, run_id: str) -> RunFolder | None:
    """The folder of a run under any sweep of `runs`: a finished one first."""
    found = [RunFolder(path.parent) for path in sorted(Path(runs).glob(f"*/{run_id}/config.json"))]
    return next((run for run in found if run.status() in ("done", "diverged")), found[0] if found else None)


def begun_run(runs: str | Path, run_id: str) -> RunFolder | None:
    """As `find_run`, and None for a run that has trained no step."""
    run = find_run(runs, run_id)
    if run is None or run.status() in ("done", "diverged", "running"):
        return run
    return run if run.metrics()[0] else None


def code_version() -> str:
    """The package's version and, in a git checkout, its commit."""
    here = Path(__file__).resolve().parent
    name = version("scaling-experiments")
    try:
        git = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return name
    return f"{name}+g{git.stdout.strip()}"
