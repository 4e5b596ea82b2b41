"""`scaling exponents`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("exponents")(exponents)


def exponents(
    runs: Annotated[
        Path | None, typer.Argument(help="Folder of a launched study of steps (kaplan_vs_chinchilla).")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Instead: the losses of Porian et al. 2024.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="With --published: folder of your copy [default: SCALING_PUBLISHED_DATA]."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals of runs.")] = 1000,
    out: Annotated[Path, typer.Option(help="Folder for the numbers and the figure.")] = Path(
        "reports/exponents"
    ),
    json_output: JsonFlag = False,
) -> None:
    """Find which habits move the exponent of the best size, from Kaplan's to Chinchilla's.

    Of each step (FLOPs counted whole, warmup by size, decay matched, rate and batch tuned) the a of
    N* ~ C^a with its interval. Minima at the edge of the sizes tried are refused by name.

    Example: scaling exponents --published --data ~/published

    scaling launch kaplan_vs_chinchilla && scaling exponents runs/kaplan_vs_chinchilla
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if published == (runs is not None):
        raise UserError("give a folder of runs, or --published, one of the two.")
    if bootstrap < 20:
        raise UserError(f"--bootstrap is {bootstrap}; give at least 20 resamples.")
    from analysis.exponents import exponents_text, of_published, of_runs
    from analysis.plots.exponents import exponents_figure
    from analysis.published import folder_of
    from analysis.show import console
    from scaling.files import write_json

    content = of_published(folder_of(data)) if runs is None else of_runs(runs, bootstrap)
    for remark in content["notes"]:
        note(remark)
    stem = out / ("published" if runs is None else runs.name)
    write_json(stem.with_name(f"{stem.name}.json"), content)
    files = [stem.with_name(f"{stem.name}.json"), *exponents_figure(content, stem)]
    if json_output:
        emit_json(content | {"files": [str(file) for file in files]})
        return
    console().print(exponents_text(content), width=100)
    print("wrote " + ", ".join(str(file) for file in files))
