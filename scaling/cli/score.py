"""`scaling score`: laws ranked by how they forecast runs they were not shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("score")(score)


def score(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of runs, CSV, parquet, JSON or JSONL file, wandb:ENTITY/PROJECT, or a fit."
        ),
    ],
    law: Annotated[
        list[str] | None,
        typer.Option(help="A name that `scaling fit --laws` lists, or FILE.py:NAME; repeat it. All without."),
    ] = None,
    hold_out: Annotated[str, typer.Option(help="Hide the runs of largest c, n or d.")] = "c",
    factor: Annotated[
        float, typer.Option(help="Hidden are the runs within this factor of the largest: 10, its top decade.")
    ] = 10.0,
    n: Annotated[str | None, typer.Option(help="Column of parameters.")] = None,
    d: Annotated[str | None, typer.Option(help="Column of training tokens.")] = None,
    c: Annotated[
        str | None, typer.Option(help="Column of training FLOPs; in place of --d, D = C / 6N.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Column of the final loss per token.")] = None,
    unique: Annotated[str | None, typer.Option(help="Column of unique training tokens.")] = None,
    epochs: Annotated[str | None, typer.Option(help="Column of passes over the data.")] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Column that names the run, where a run has many rows: the last counts."),
    ] = None,
    step: Annotated[str | None, typer.Option(help="With --run: column that orders a run's rows.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: only these rows, e.g. dataset=c4; repeat it.")
    ] = None,
    n_unit: Annotated[str, typer.Option(help="Its unit: 1, k, M, B, T or a number.")] = "1",
    d_unit: Annotated[str, typer.Option(help="Its unit: 1, k, M, B, T or a number.")] = "1",
    c_unit: Annotated[str, typer.Option(help="Its unit: FLOP, PF-days or a number.")] = "FLOP",
    loss_unit: Annotated[str, typer.Option(help="Its unit: nats, bits or perplexity.")] = "nats",
    objective: Annotated[
        str | None, typer.Option(help="huber:DELTA, l1 or lsq [default: as `scaling fit` chooses].")
    ] = None,
    space: Annotated[str, typer.Option(help="log or raw: of what residuals are.")] = "log",
    bootstrap: Annotated[int, typer.Option(help="Resamples by run behind each forecast.")] = 200,
    out: Annotated[Path, typer.Option(help="Folder for the numbers and the figure.")] = Path("reports/score"),
    json_output: JsonFlag = False,
) -> None:
    """Rank laws by extrapolation: hide the largest runs, fit the rest, score the forecasts of the hidden.

    The score is the mean log density that a law's forecast gives a hidden run: being near counts, and being
    as unsure as one is wrong. Beside it: how many hidden runs fell into the 50% and 90% intervals. Also
    named: single runs that move the forecast, and outliers, with the score with and without them.

    Example: scaling score losses.csv --n params --d tokens --loss val_loss

    scaling score runs/ladder --hold-out n --factor 4 --law chinchilla --law chinchilla_tied
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the solver uses the cores itself
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    if bootstrap < 20:
        raise UserError(f"--bootstrap is {bootstrap}; give at least 20 resamples.")
    from analysis.newton import parse_objective
    from analysis.plots.ranking import ranking_figure
    from analysis.ranking import rank
    from analysis.ranking_source import open_source
    from analysis.ranking_text import ranking_text
    from analysis.show import console
    from analysis.userlaw import find
    from scaling.files import write_json

    columns = {
        "n": n, "d": d, "c": c, "loss": loss, "unique": unique, "epochs": epochs, "run": run, "step": step,
        "where": where or [],
        "units": {"n": n_unit, "d": d_unit, "c": c_unit, "loss": loss_unit},
    }  # fmt: skip
    laws = [find(name) for name in law or []]
    runs = open_source(source, columns, laws)
    for remark in runs.notes:
        note(remark)
    for dropped in runs.dropped:
        note(f"{dropped['run']} is left out: {dropped['reason']}")
    asked = parse_objective(objective or "huber:1e-3", space) if objective or space != "log" else None
    content = rank(runs, laws or None, hold_out, factor, asked, resamples=bootstrap)
    stem = out / f"{runs.name}-score"
    write_json(stem.with_name(f"{stem.name}.json"), content)
    files = [stem.with_name(f"{stem.name}.json"), *ranking_figure(content, stem)]
    if json_output:
        emit_json(content | {"files": [str(file) for file in files]})
        return
    console().print(ranking_text(content))
    print("wrote " + ", ".join(str(file) for file in files))
