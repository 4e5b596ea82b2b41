"""`scaling transfer`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note


def register(app: typer.Typer) -> None:
    """Add the command of this file to `app`."""
    app.command("transfer")(transfer)


def transfer(
    source: Annotated[
        str,
        typer.Argument(
            help="Runs of a sweep of learning rates at several sizes: a folder, CSV, parquet or JSON.",
            metavar="RUNS",
        ),
    ],
    n: Annotated[str | None, typer.Option(help="Of a table: column of the size; a width will do.")] = None,
    d: Annotated[str | None, typer.Option(help="Of a table: column of training tokens.")] = None,
    lr: Annotated[str | None, typer.Option(help="Of a table: column of the (peak) learning rate.")] = None,
    batch: Annotated[str | None, typer.Option(help="Of a table: column of the batch.")] = None,
    loss: Annotated[str | None, typer.Option(help="Of a table: column of the final loss.")] = None,
    seed: Annotated[str | None, typer.Option(help="Of a table: column of the seed.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE: only these rows; repeat it.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Of a table: the column that names the parametrisation.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the numbers and the figure.")] = Path("fits"),
    json_output: JsonFlag = False,
) -> None:
    """Does the learning rate tuned at the smallest size hold at the largest?

    For each parametrisation: the optimal rate of every size (as `scaling tune` finds it), how far it moves
    from the smallest to the largest, and what the largest loses at the rate tuned at the smallest. Sizes
    with several horizons or batches are compared at each. It
    transfers where the optimum moves by less than a factor of 1.41, or by no more than its 90% interval
    covers, and the loss is within .3% and twice the seeds' error of the best. Writes OUT/NAME-transfer.json
    and a figure.

    Example: scaling launch mup_transfer && scaling transfer runs/mup_transfer

    scaling transfer sweep.csv --n width --lr peak_lr --loss val_loss --by parametrisation
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small problems
    from analysis.columns import Reading
    from analysis.plots.transfer import transfer_figure
    from analysis.transfer import FIELD, transfer_text
    from analysis.transfer import transfer as transferred
    from analysis.tuning import tune
    from analysis.tuning_rows import load_sweep
    from scaling.files import write_json

    reading = Reading(n=n, d=d, lr=lr, batch=batch, loss=loss, where=where or [])
    sweep = load_sweep(source, reading, [by] if by else [], seed)
    tuned = tune(sweep)
    if by:
        tuned["cells"] = [cell | {"by": {FIELD: cell["by"].get(by)}} for cell in tuned["cells"]]
    for remark in tuned["notes"]:
        note(remark)
    content = transferred(tuned | {"held": sweep.held})
    stem = out / f"{content['name']}-transfer"
    write_json(stem.with_name(f"{stem.name}.json"), content)
    files = [stem.with_name(f"{stem.name}.json"), *transfer_figure(content, stem)]
    if json_output:
        emit_json(content | {"files": [str(file) for file in files]})
        return
    print(transfer_text(content))
    print("wrote " + ", ".join(str(file) for file in files))
