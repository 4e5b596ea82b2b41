"""`scaling branches`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from analysis.branches import Study


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("branches")(branches)


def branches(
    runs: Annotated[str, typer.Argument(help="Folder of runs, or the name of a launched sweep.")],
    out: Annotated[Path, typer.Option(help="Folder for the figure and its numbers.")] = Path(
        "reports/branches"
    ),
    json_output: JsonFlag = False,
) -> None:
    """Show what branches of a trunk saved, and compare schedules at equal horizons.

    A run at a constant rate with a cooldown starts from the state of a longer one wherever that is there
    (docs/sweeps.md). FLOPs are counted from the logs, steps that runs share once. Schedules are compared
    each at its best rate; intervals come from seeds, where the sweep has some.

    Example: scaling branches runs/schedules
    """
    from analysis.branches import read_study
    from scaling.errors import UserError

    study = read_study(runs)
    files: list[Path] = []
    try:
        from analysis.plots.branches import branches_figure

        files = branches_figure(study, out / Path(study.source).name)
    except UserError as error:
        note(f"no figure: {error}")
    if json_output:
        emit_json(study.to_json() | {"files": [str(path) for path in files]})
        return
    _show(study)
    if files:
        print(f"figure   {files[0]}")


def _show(study: Study) -> None:
    from scaling.amounts import human

    count = sum(bool(run.started_from) for run in study.runs)
    print(f"{study.source}: {len(study.runs)} runs, {count} of them branches")
    print(
        f"FLOPs    {study.flops_trained:.3g} trained, {study.flops:.3g} as separate runs: "
        f"{study.saved:.1%} saved"
    )
    print(f"{'N':>7} {'D':>7}  {'schedule':<16} {'rate':>8} {'loss':>7}  against the cosine, 90% interval")
    for line in study.lines:
        against = "" if line.difference is None else f"{line.difference:+.2%}"
        if line.interval:
            against += f", {line.interval[0]:+.2%} to {line.interval[1]:+.2%}"
        rate = f"{line.lr:.3g}{'*' if line.edge else ' '}"
        print(
            f"{human(line.n):>7} {human(line.tokens):>7}  {line.schedule:<16} {rate:>8} {line.loss:>7.4f}  "
            f"{against}"
        )
    if any(line.edge for line in study.lines):
        print("* the best rate is the least or the greatest of those tried: a better one may lie outside")
    if study.noise:
        print(
            f"one run's loss differs by {study.noise:.2%} between seeds, {study.freedom} degrees of freedom"
        )
    for one in study.dropped:
        print(f"left out: {one['run']}: {one['reason']}")
