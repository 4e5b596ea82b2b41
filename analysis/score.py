"""Registered forecasts on disk, and how they are scored once the run has landed.

    forecasts/<time>-<run_id>.json
        registered_at, code_version, fit_fingerprint, target, forecast, straight_line, ...   sealed
        seal       SHA-256 of the canonical JSON of all that was registered
        measured   null, or the outcome; the only part that is ever rewritten

A forecast is kept for ever. Several may stand for one target: the first one counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import write_json
from scaling.runs import RunFolder

FOLDER = "forecasts"
_NOT_SEALED = ("seal", "measured")
_EXPECTED = ("registered_at", "fit_fingerprint", "target", "forecast", "straight_line", "seal", "measured")


def seal(record: dict[str, Any]) -> str:
    """SHA-256 of the registered part: sorted keys, no white space, `seal` and `measured` left out."""
    registered = {name: value for name, value in record.items() if name not in _NOT_SEALED}
    text = json.dumps(registered, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Forecast:
    """One registered forecast: its file and the whole record as it stands there."""

    path: Path
    record: dict[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.record["target"]["run_id"])

    @property
    def registered_at(self) -> str:
        """UTC, ISO 8601; sorts as text."""
        return str(self.record["registered_at"])

    @property
    def fingerprint(self) -> str:
        return str(self.record["fit_fingerprint"])

    @property
    def loss(self) -> float:
        """The median forecast, nats per token."""
        return float(self.record["forecast"]["loss"])

    @property
    def interval(self) -> tuple[float, float]:
        """Central 90%, nats per token."""
        quantiles = self.record["forecast"]["quantiles"]
        return float(quantiles["0.05"]), float(quantiles["0.95"])

    @property
    def straight_line(self) -> dict[str, Any]:
        """`loss` and 90% `interval` of the straight line in log-log, nats per token; or null."""
        return dict(self.record["straight_line"])

    @property
    def measured(self) -> dict[str, Any] | None:
        return self.record["measured"]

    @property
    def intact(self) -> bool:
        """Whether what was registered still reads as it did."""
        return bool(self.record["seal"] == seal(self.record))


def read_forecast(path: str | Path) -> Forecast:
    """Raises UserError when the file is missing or is not a forecast."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a file of {FOLDER}/.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, its forecast cannot be scored.") from None
    missing = [name for name in _EXPECTED if not isinstance(record, dict) or name not in record]
    if missing:
        raise UserError(f"{path} has no {missing[0]!r}; give a file that `scaling forecast` wrote.")
    return Forecast(path, record)


def load_forecasts(
    folder: str | Path = FOLDER, run_ids: Collection[str] | None = None, notes: list[str] | None = None
) -> list[Forecast]:
    """Forecasts of these targets (None: of all) in the order of registration.

    A file that cannot be read is left out and one whose seal is broken stays in (see `intact`);
    each is named in `notes`.
    """
    notes = [] if notes is None else notes
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            forecast = read_forecast(path)
        except UserError as error:
            notes.append(str(error))
            continue
        if run_ids is not None and forecast.run_id not in run_ids:
            continue
        if not forecast.intact:
            notes.append(broken_seal(forecast))
        found.append(forecast)
    return sorted(found, key=lambda f: (f.registered_at, f.path.name))


def broken_seal(forecast: Forecast) -> str:
    return f"{forecast.path} was changed after it was registered (its seal does not match)"


def score(folder: str | Path, run: RunFolder, now: datetime | None = None) -> list[Forecast]:
    """Write the outcome of `run` into every forecast of it; returns them, the one that counts first.

    `measured` gets the run's status; of a run that is done also its loss with standard error, and
    the errors (measured - forecast, nats per token). Scoring the same outcome twice changes nothing.
    Raises UserError when no forecast of the run is registered or a seal is broken; nothing is written then.
    """
    forecasts = load_forecasts(folder, {run.run_id})
    if not forecasts:
        raise UserError(f"{folder} holds no forecast of run {run.run_id}; `scaling forecast` registers one.")
    for forecast in forecasts:
        if not forecast.intact:
            raise UserError(f"{broken_seal(forecast)}; restore it, a changed forecast is not scored.")
    if run.config().run_id != run.run_id:
        raise UserError(f"{run.path}/config.json is not the config of run {run.run_id}; restore it.")
    if run.status() not in ("done", "diverged", "failed"):
        raise UserError(f"run {run.run_id} is {run.status()}; `scaling verify {run.run_id}` finishes it.")
    summary = {"status": run.status(), **{k: v for k, v in run.summary().items() if k != "status"}}
    time = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    scored = []
    for place, forecast in enumerate(forecasts):
        block = {**measured_block(forecast, summary), "counts": place == 0}
        before = dict(forecast.measured or {})
        when = before.pop("verified_at", time)
        block["verified_at"] = when if before == block else time
        record = {**forecast.record, "measured": block}
        if record != forecast.record:
            write_json(forecast.path, record)
        scored.append(Forecast(forecast.path, record))
    return scored


def measured_block(forecast: Forecast, summary: dict[str, Any]) -> dict[str, Any]:
    """The score of one forecast, given a run's summary (`status`, `loss`, `loss_se`, ...).

    error             measured - forecast, nats per token
    relative_error    error / measured
    error_over_drop   |error| / (loss of the best fitted run - measured); null without a drop
    inside_90         measured lies in the 90% interval
    straight_line     the same four for the straight line
    """
    if summary["status"] != "done":
        named = {name: summary[name] for name in ("diverged_step", "error") if summary.get(name) is not None}
        return {"status": summary["status"], **named}
    loss = float(summary["loss"])
    drop = float(forecast.record["best_fitted_loss"]) - loss
    line = forecast.straight_line
    ours = errors(forecast.loss, forecast.interval, loss, drop)
    straight = errors(line["loss"], line["interval"], loss, drop) if line["loss"] is not None else None
    return {
        "status": "done",
        "loss": loss,
        "loss_se": summary.get("loss_se"),
        **ours,
        "straight_line_error": straight and straight["error"],
        "straight_line": straight,
    }


def errors(forecast: float, interval: Sequence[float] | None, measured: float, drop: float) -> dict[str, Any]:
    error = measured - forecast
    return {
        "error": error,
        "relative_error": error / measured,
        "error_over_drop": abs(error) / drop if drop > 0 else None,
        "inside_90": bool(interval[0] <= measured <= interval[1]) if interval else None,
    }
