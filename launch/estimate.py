"""What the runs of a launch will cost, and whether that is within a budget. Nothing is compiled for it.

On this machine: steps at the rate measured on it, in seconds of its workers. On a cluster: training FLOPs
(`matmul`) at the profile's share of the chip's dense peak, in chip-hours and dollars. What a run has behind
it in a checkpoint is not counted again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from launch.devices import slots
from launch.executor import Job
from launch.profiles import Profile
from scaling.config import Placement
from scaling.data.text import cache_folder
from scaling.errors import UserError
from scaling.hardware import find
from scaling.rate import Rates, rates_path, read_rates
from sweeps.plan import run_seconds

UNITS = {
    "usd": "dollars",
    "dollars": "dollars",
    "chip-hours": "chip_hours",
    "chip-hour": "chip_hours",
    "flops": "flops",
    "flop": "flops",
}


@dataclass(frozen=True)
class Estimate:
    """Of the runs that are to be submitted. None where nobody states a rate or a price.

    `flops`: training, `matmul`. `seconds`: summed over runs, one after another; on a CPU, CPU seconds.
    `chip_hours`: every chip that a run holds, while it holds it; of this machine, worker hours.
    """

    runs: int
    flops: float
    seconds: float | None
    chip_hours: float | None
    dollars: float | None
    source: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    amount: float
    unit: str  # a field of Estimate
    text: str  # as given


def parse_budget(text: str) -> Budget:
    """`50usd`, `$50`, `200chip-hours`, `1e20 flops`. Raises UserError for anything else."""
    plain = text.strip().lower().replace(" ", "").replace(",", "")
    plain = f"{plain[1:]}usd" if plain.startswith("$") else plain
    match = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?)([a-z-]+)", plain)
    try:
        amount = float(match[1]) if match else 0.0
    except ValueError:
        amount = 0.0
    if not match or match[2] not in UNITS or not 0 < amount < float("inf"):
        raise UserError(
            f"--budget is {text!r}; give a number and a unit, as 50usd, 200chip-hours or 1e20flops."
        )
    return Budget(amount, UNITS[match[2]], text.strip())


def check_budget(estimate: Estimate, budget: Budget) -> None:
    """Raises UserError when the runs cost more, or when their cost in the budget's unit is not known."""
    cost = getattr(estimate, budget.unit)
    said = budget.unit.replace("_", "-")
    if cost is None:
        raise UserError(
            f"--budget is {budget.text}, but the runs have no price in {said} here ({estimate.source}); "
            "give the budget in another unit."
        )
    if cost > budget.amount:
        raise UserError(
            f"the {estimate.runs} runs to submit cost {cost:.4g} {said}, over --budget {budget.text} "
            f"({estimate.source}); nothing was submitted."
        )


def kept_rates(workers: int | None) -> Rates | None:
    """This machine's rates where `scaling plan` or a budget had them measured; nothing is timed here."""
    return read_rates(rates_path(cache_folder(), Placement(), len(slots(Placement(), workers))))


def on_this_machine(jobs: Iterable[Job], rates: Rates | None) -> Estimate:
    """Of `jobs` on the local pool; without rates only the FLOPs are known."""
    jobs = list(jobs)
    flops = sum(_flops_left(job) for job in jobs)
    if rates is None:
        return Estimate(len(jobs), flops, None, None, None, "no rate of this machine is known")
    shapes = {(job.config.model, job.config.batch_size, job.config.seq_len) for job in jobs}
    seconds = sum(run_seconds(job.config, rates.step_seconds, _first(job)) for job in jobs)
    seconds += rates.compile_seconds * len(shapes)
    return Estimate(len(jobs), flops, seconds, seconds / 3600, None, f"this machine's rate, {rates.source}")


def on_chips(jobs: Iterable[Job], profile: Profile) -> Estimate:
    """Of `jobs` on a cluster, at the profile's share of its chip's peak and its price for an hour of one.

    Raises UserError when the profile names a chip that no table has.
    """
    jobs = list(jobs)
    flops = sum(_flops_left(job) for job in jobs)
    if not profile.chip:
        return Estimate(len(jobs), flops, None, None, None, "the profile names no chip")
    hardware = find(profile.chip)
    precision = "bf16" if "bf16" in hardware.flops_per_second else "fp32"
    speed = hardware.peak(precision) * profile.utilisation
    hours = flops / speed / 3600 + len(jobs) * profile.start_seconds * profile.chips / 3600
    rate = profile.dollars_per_chip_hour
    rate = hardware.dollars_per_hour if rate is None else rate
    price = "no price for an hour of it" if rate is None else f"{rate:g} $ an hour"
    source = (
        f"{hardware.name} at {profile.utilisation:.0%} of {hardware.peak(precision):.3g} FLOP/s and "
        f"{profile.start_seconds:g} s to start, {price}"
    )
    seconds = hours * 3600 / profile.chips
    return Estimate(len(jobs), flops, seconds, hours, None if rate is None else rate * hours, source)


def _first(job: Job) -> int:
    """Steps that are behind the run, in a checkpoint of its own or of its trunk."""
    try:
        names = [path.name for path in job.folder.checkpoints.iterdir()]
    except OSError:
        names = []
    return min(job.config.steps, max([job.first_step, *(int(name) for name in names if name.isdigit())]))


def _flops_left(job: Job) -> float:
    trained = job.config.steps - job.first_step
    return job.flops * (job.config.steps - _first(job)) / trained if trained else 0.0
