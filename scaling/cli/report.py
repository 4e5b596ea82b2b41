"""`scaling report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from analysis.score import Forecast

SweepArgument = Annotated[
    str, typer.Argument(help="Name of a launched sweep or of a fit, or a folder of runs.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("report")(report)


def report(
    sweep: SweepArgument,
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default reports/<name>.")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")] = Path("runs"),
    fits: Annotated[Path, typer.Option("--fits", help="Folder of the fit files.")] = Path("fits"),
    forecasts: Annotated[
        Path, typer.Option("--forecasts", help="Folder of the registered forecasts.")
    ] = Path("forecasts"),
    json_output: JsonFlag = False,
) -> None:
    """Write a study's report: the answer, whether its forecast held, figures, laws and every run.

    One HTML file that opens offline and prints; beside it every figure as PNG, PDF, SVG and the CSV of
    its numbers, and runs.csv. A saved fit of exactly these runs is used, else they are fitted now; a table's
    report is that of its fit. What is missing (no law yet, no forecast) is said in the report.

    Example: scaling report quickstart

    scaling fit losses.csv --n params --d tokens --loss val_loss && scaling report losses
    """
    from analysis.fit import load_fit
    from analysis.report import build, find_folder, fit_for, forecasts_of

    found = find_folder(sweep, runs, fits)
    fit: dict[str, Any] | None
    known: list[Forecast] = []
    if found.is_file():
        fit = load_fit(found)
        page = build(None, fit, out_dir=out)
    else:
        fit, why = fit_for(found, fits)
        known, unread = forecasts_of(found, forecasts)
        for remark in [*why, *unread]:
            note(remark)
        page = build(found, fit, known, out, [*([] if fit else why), *unread])
    files = sorted(str(path) for path in page.parent.rglob("*") if path.is_file() and path != page)
    if json_output:
        emit_json({"report": str(page), "files": files, "forecasts": [str(f.path) for f in known],
                   "fit_fingerprint": fit["fingerprint"] if fit else None})  # fmt: skip
    else:
        print(f"report    {page}")
        print(f"beside it {len(files)} files: figures, their numbers, numbers.csv and runs.csv")
