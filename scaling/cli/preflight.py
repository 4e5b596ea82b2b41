"""`scaling preflight`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("preflight")(preflight)


def preflight(
    sweep: Annotated[
        str,
        typer.Argument(
            help="A study in experiments/, a .py or sweep JSON file, a launched sweep's name, or the "
            "config.json of one run or its folder."
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            help="Slice, by the name it is rented under: v5p-128, v5litepod-16, v4-8, v6e-8, h100-8."
        ),
    ],
    mesh: Annotated[
        str | None, typer.Option(help="Layout, as data=2,fsdp=8,tensor=4; default: the quickest that fits.")
    ] = None,
    remat: Annotated[
        str | None,
        typer.Option(
            help="What is kept for the backward pass: none, attention, dots, full; default: likewise."
        ),
    ] = None,
    microbatches: Annotated[int, typer.Option(help="Gradient accumulation steps in a batch.")] = 1,
    utilisation: Annotated[
        float, typer.Option(help="Share of peak FLOPs that products reach, recomputed ones among them.")
    ] = 0.4,
    price: Annotated[float | None, typer.Option(help="Dollars per chip-hour; default: list price.")] = None,
    hardware_file: Annotated[
        Path | None, typer.Option(help="TOML over the hardware table, as for `scaling cost`.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every run, for a study that takes one.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder written by `scaling data prepare`.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Setting of a study that has several: pod (the default here) or cpu.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")] = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Compile every shape of a sweep for a slice that is not here: whether it fits, how, how long, how dear.

    Needs no accelerator: the TPU compiler is an extra, `pip install 'scaling-experiments[preflight]'`. A
    minute or less for each shape, nothing the second time. Runs too small to share a slice are given a
    chip each. Hours and dollars are of a roofline (docs/preflight.md), compilation and evaluation left out.

    Exit code 0: every shape fits; 1: some do not, each with the largest batch that would.

    Example: scaling preflight quickstart --target v5litepod-16
    """
    from launch.preflight import asked_of, open_sweep
    from launch.preflight import preflight as check
    from launch.preflight_cache import Cached
    from scaling.cost.models import mesh_of
    from sweeps.sweep import study_options

    asked = asked_of(
        target, mesh=mesh_of(mesh), remat=remat, microbatches=microbatches, utilisation=utilisation,
        dollars_per_hour=price, hardware_file=hardware_file,
    )  # fmt: skip
    size = size or ("pod" if "size" in study_options(sweep) else None)
    found = open_sweep(sweep, runs, seed=seed, data=data, size=size)
    with Cached() as compiler:
        report = check(found, asked, compiler, note, compiler.compiler.count)
        report["compilations"] = compiler.asked
    if json_output:
        emit_json(report)
    else:
        _show(report)
    raise typer.Exit(0 if report["fits"] else 1)


def _show(report: dict[str, Any]) -> None:
    from launch.preflight_text import lines

    for line in lines(report):
        print(line)
