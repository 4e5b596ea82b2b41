"""What a sweep does now, has cost, and has left: sums over the statuses of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError

if TYPE_CHECKING:
    from launch.status import RunStatus


@dataclass(frozen=True)
class Sums:
    """Of a whole sweep. Rates are those of the last rows that the running runs have logged."""

    tokens_per_second: float
    flops_per_second: float  # model FLOPs, `matmul` convention
    device_hours: dict[str, float]  # by kind of device; of CPUs, hours of one core
    dollars: float | None  # of runs on engines whose profile or chip has a price
    seconds_left: float | None  # of what runs or waits, at the rate of what runs; None where nothing runs


def sums(runs: Sequence[RunStatus], folder: Path) -> Sums:
    """Rate, cost and time left. Time goes by the FLOP/s of the running runs, and is no less than the longest
    of them has left; failed and stopped runs are not going to run by themselves and are left out."""
    running = [run for run in runs if run.status == "running" and run.tokens_per_second]
    rate = sum(run.tokens_per_second or 0.0 for run in running)
    speed = sum((run.tokens_per_second or 0.0) * _flops_per_token(run) for run in running)
    left = sum(run.flops * (1 - run.share) for run in runs if run.status in ("running", "queued", "pending"))
    longest = max((run.seconds_left or 0.0 for run in running), default=0.0)
    return Sums(
        tokens_per_second=rate,
        flops_per_second=speed,
        device_hours=_hours(runs),
        dollars=_dollars(runs, folder),
        seconds_left=max(left / speed, longest) if speed else None,
    )


def _flops_per_token(run: RunStatus) -> float:
    trained = run.tokens_planned - run.start_tokens
    return run.flops / trained if trained else 0.0


def _own_seconds(run: RunStatus) -> float:
    """Of its own steps: a branch's clock goes on from its trunk's."""
    return (run.seconds or 0.0) * run.trained


def _hours(runs: Sequence[RunStatus]) -> dict[str, float]:
    hours: dict[str, float] = {}
    # A run that trains has no CPU seconds yet: its clock counts as the clocks of those that ended did.
    ended = [run for run in runs if run.device == "cpu" and run.cpu_seconds is not None and run.seconds]
    busy = (
        sum(run.cpu_seconds or 0.0 for run in ended) / sum(run.seconds or 0.0 for run in ended)
        if ended
        else 1.0
    )
    for run in runs:
        if not run.seconds:
            continue
        kind = run.device or "unknown"
        if kind == "cpu":
            own = run.cpu_seconds * run.trained if run.cpu_seconds is not None else busy * _own_seconds(run)
        else:
            own = _own_seconds(run) * max(1, run.devices)
        hours[kind] = hours.get(kind, 0.0) + own / 3600
    return hours


def _dollars(runs: Sequence[RunStatus], folder: Path) -> float | None:
    """Hours that the runs held their devices, at the price of the profile that they were submitted by."""
    if not (folder / "submissions").is_dir():
        return None
    prices = _prices(folder)
    paid = [
        _own_seconds(run) / 3600 * max(1, run.devices) * prices[run.run_id]
        for run in runs
        if run.run_id in prices
    ]
    return sum(paid) if paid else None


def _prices(folder: Path) -> dict[str, float]:
    """Dollars for an hour of a device, by run; the latest submission of a run counts."""
    from launch.claims import records

    found: dict[str, float] = {}
    for record in records(folder).values():
        price = _price(record.profile)
        if price is not None:
            found |= dict.fromkeys(record.runs, price)
    return found


def _price(profile: dict[str, Any]) -> float | None:
    from scaling.hardware import find

    if profile.get("dollars_per_chip_hour") is not None:
        return float(profile["dollars_per_chip_hour"])
    try:
        return find(str(profile["chip"])).dollars_per_hour if profile.get("chip") else None
    except UserError:
        return None
