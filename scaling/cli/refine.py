"""`scaling refine`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from sweeps.refine import Step


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("refine")(refine)


def refine(
    sweep: Annotated[
        str, typer.Argument(help="Name of a launched sweep of rates or batches, or its folder.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Sweep JSON to write; by default refined.json in the sweep's folder.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")] = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Add to a sweep of rates or batches the runs that bracket or narrow its optima.

    Cell by cell: a step of 4 past an edge, the middle of wide gaps beside the best, then seeds. The sweep
    with the new runs is written as JSON; launching it trains the new runs alone, beside the old ones. Again
    until nothing is added: an optimum takes about four rates more than the steps to it.

    Example: scaling refine batch_size && scaling launch runs/batch_size/refined.json
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small problems
    from scaling.errors import UserError
    from sweeps.refine import refine as refined
    from sweeps.sweep import read_sweep

    folder = Path(sweep) if Path(sweep).is_dir() else runs / sweep
    if not (folder / "sweep.json").is_file():
        raise UserError(f"{folder} has no sweep.json; give the name of a sweep that was launched.")
    found, steps = refined(read_sweep(folder / "sweep.json"), folder)
    added = sum(len(step.runs) for step in steps)
    path = out or folder / "refined.json"
    if added:
        found.write(path)
    if json_output:
        emit_json(
            {
                "sweep": found.name,
                "added": added,
                "file": str(path) if added else None,
                "cells": [
                    {"cell": s.cell, "reason": s.reason, "run_ids": [run.run_id for run in s.runs]}
                    for s in steps
                ],
            }
        )
        return
    _show(steps)
    if added:
        note(f"{added} runs added; train them: scaling launch {path} --runs {folder.parent}")
    else:
        note("nothing to add")


def _show(steps: list[Step]) -> None:
    for step in steps:
        print(f"{step.cell}: {step.reason}")
        for run in step.runs:
            sequences = f"{run.batch_size} sequence{'' if run.batch_size == 1 else 's'}"
            print(
                f"    {run.run_id}  rate {run.optimizer.lr:.3g}, batch {sequences}, "
                f"{run.steps:,} steps, seed {run.seed}"
            )
