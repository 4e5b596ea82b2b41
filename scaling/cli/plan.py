"""`scaling plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.config import RunConfig
    from scaling.rate import Rates


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("plan")(plan)


def plan(
    sweep: Annotated[
        str,
        typer.Argument(help="A study in experiments/, a .py or sweep JSON file, or a launched sweep's name."),
    ],
    target: Annotated[
        float | None, typer.Option(help="Budget in training FLOPs (matmul) that the grid is to forecast.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every run, for a study that takes one.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder written by `scaling data prepare`.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Setting of a study that has several: cpu (minutes) or pod.")
    ] = None,
    prior: Annotated[
        Path | None, typer.Option(help="JSON of a fit: simulate under its law, not the study's prior.")
    ] = None,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Relative spread of a run's loss over seeds, for the simulation.")
    ] = 0.005,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; by default one for each core or accelerator.")
    ] = None,
    measure: Annotated[
        bool | None,
        typer.Option(help="Time a few steps now (15 s or so), or never; by default once for each machine."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the sweep here as JSON, to read, edit, compare or launch.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")] = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Show what a sweep would train, what it costs here, and how sharp its answer would be.

    Nothing is trained. Cells that cannot be met are refused by name. The price comes from a rate
    measured once on this machine. The intervals come from simulating the grid under a prior law
    and refitting it: what run-to-run noise alone would leave, so a floor.

    Example: scaling plan quickstart
    """
    from sweeps.plan import prior_of, recipe_of, report
    from sweeps.prior import read_prior
    from sweeps.show import show
    from sweeps.sweep import find_sweep, study_options

    own = {"target": target} if "target" in study_options(sweep) else {}
    found = find_sweep(sweep, runs, seed=seed, data=data, size=size, **own)
    if target is not None and not 0 < target < float("inf"):
        raise UserError(f"--target is {target}; give a positive number of FLOPs.")
    goal = target or found.design.get("target")
    law = read_prior(prior) if prior else prior_of(found)
    if goal and law is None:
        note("no intervals: the sweep has no prior; give --prior with the JSON of a fit")
    if goal and recipe_of(found) is None:
        note("no intervals: the sweep's design names no recipe of this project")
    if not goal:
        note("no intervals: the sweep has no target; give --target in FLOPs")
    count, rates = rates_here(found.runs, measure, workers, runs)
    plan = report(found, goal, law, noise, rates, count)
    if out:
        found.write(out)
        note(f"sweep written to {out}")
    if json_output:
        emit_json(plan)
    else:
        show(plan)


def rates_here(
    configs: tuple[RunConfig, ...], measure: bool | None, workers: int | None, runs: Path
) -> tuple[int, Rates | None]:
    """Number of workers, and this machine's rates: kept, or measured now, or read off finished runs."""
    from launch.devices import slots
    from scaling.config import Placement
    from scaling.data.text import cache_folder
    from scaling.rate import (
        measure_all,
        rates_of_runs,
        rates_path,
        read_rates,
        shapes_to_measure,
        timed,
        write_rates,
    )

    placement = Placement()
    environments = [slot.environment for slot in slots(placement, workers)]
    here = timed(configs, environments[0].get("JAX_PLATFORMS", ""))
    if not here:
        note("no price in time: no step of these runs is small enough to time on this CPU; "
             "`scaling preflight` prices them for a slice")  # fmt: skip
        return len(environments), None
    path = rates_path(cache_folder(), placement, len(environments))
    kept = read_rates(path)
    if kept and kept.covers(here) and not measure:
        return len(environments), kept
    if measure is not False:
        note("timing a few steps of three shapes, for this plan and the next")
        try:
            for environment in environments:
                environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # the price of shapes never compiled here
            measured = measure_all(shapes_to_measure(here), placement, environments)
            if measured.crowded:
                note("others use this machine too, so the rate is too slow a one; it is not kept")
            else:
                write_rates(path, measured)
            return len(environments), measured
        except RuntimeError as error:
            note(f"this machine's rate could not be measured ({error})")
    rates = kept or rates_of_runs(runs)
    if rates is None:
        note("no price in time: no rate is known here; plan without --no-measure times a few steps")
    return len(environments), rates
