"""`scaling import`: other people's logs become a runs table, with the map of its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("import")(import_runs)


def import_runs(
    source: Annotated[
        str,
        typer.Argument(
            help="wandb:ENTITY/PROJECT, a folder of offline wandb runs, of TensorBoard event files or of "
            "JSONL logs, or a table."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The table to write: .csv or .parquet.")] = Path("runs.csv"),
    curves: Annotated[
        bool, typer.Option("--curves", help="A row for each logged step, not the last values of each run.")
    ] = False,
    n: Annotated[str | None, typer.Option(help="Column of parameters.")] = None,
    d: Annotated[str | None, typer.Option(help="Column of training tokens.")] = None,
    c: Annotated[str | None, typer.Option(help="Column of training FLOPs.")] = None,
    loss: Annotated[str | None, typer.Option(help="Column of the final loss per token.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="ROLE=COLUMN for any other: lr=config.lr; repeat it.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="ROLE=UNIT: n=M, d=B, loss=bits, c=PF-days; repeat it.")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Turn runs that others logged into a table that every command reads, one row per run.

    Columns stay as they were logged. Which of them is N, D, the loss and so on is shown and saved beside the
    table as NAME.columns.json, and `scaling fit` goes by it. Logs that were cut short are read up to the cut
    and named. Event files and wandb logs are read without TensorFlow, and without a server.

    Example: scaling import logs/tensorboard --out runs.csv --n n_params --loss val/loss

    scaling import wandb:lab/ladder --out ladder.parquet --unit n=M

    scaling fit runs.csv
    """
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out is {out}; give a name that ends in .csv or .parquet.")
    from analysis.columns import Reading
    from analysis.importing import column_map, gather, save
    from scaling.cli.fit import _pairs

    named: dict[str, Any] = {"n": n, "d": d, "c": c, "loss": loss} | _pairs("column", column)
    reading = Reading(units=_pairs("unit", unit), **named)
    table, kind, notes = gather(source, curves)
    columns = column_map(table, reading, source, kind, notes)
    for remark in notes:
        note(remark)
    files = save(table, columns, out)
    if json_output:
        emit_json(columns | {"files": [str(file) for file in files]})
        return
    print(f"{source} ({kind}): {columns['rows']:,} rows, {len(table.columns)} columns")
    for name, entry in columns["roles"].items():
        found = "named" if entry["by"] == "flag" else "found by its name"
        print(f"  {name:10} {entry['column']} ({entry['unit']}), {found}")
    for name, candidates in columns["undecided"].items():
        few = ", ".join(candidates[:8]) + (", ..." if len(candidates) > 8 else "")
        print(f"  {name:10} not decided: name it with --{name}" + (f"; it may be {few}" if few else ""))
    print("wrote " + ", ".join(str(file) for file in files))
