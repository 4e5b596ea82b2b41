"""`scaling status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.output import JsonFlag, emit_rows
from scaling.errors import UserError

if TYPE_CHECKING:
    from launch.status import Reader, SweepStatus

WATCH_SECONDS = 2.0
PIPE_ROWS = 40  # where there is no screen to measure


def register(app: typer.Typer) -> None:
    """Add the command of this file to `app`."""
    app.command("status")(status)


def status(
    sweep: Annotated[
        str,
        typer.Argument(help="A study, a sweep JSON file, the name of a launched sweep, or a folder of runs."),
    ],
    only: Annotated[
        str | None,
        typer.Option(
            help="Runs in these states alone: done, diverged, failed, running, queued, stopped, pending, "
            "stale; or live, waiting, ended. Several with commas."
        ),
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Runs of this shape or run id alone, with * and ?.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run, not only what fits on a screen.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 2 s until nothing is left to run, or Ctrl-C.")
    ] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")] = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Show where every run of a sweep stands: also while it runs, and before it is launched.

    First what runs, then what failed, then the rest; below it the sweep as a whole: runs by state, rate,
    cost so far, time left. `loss` is the final validation loss of a run that ended, else the last training
    loss, in nats per token. Rate and time are those of the last rows logged.

    States: pending, nobody has it; queued, a cluster has it waiting; running; done; diverged; failed and
    stopped, both of which the next launch resumes; stale, of another numerics_version, never reused.

    Example: scaling status quickstart

    scaling status quickstart --only failed,running --match 'd64*'
    """
    from launch.status import Reader
    from launch.status_view import choose

    if watch and json_output:
        raise UserError("--watch redraws a screen and --json prints one object; give one of them.")
    reader = Reader(sweep, runs)
    choose(reader.read(), only, match) if watch else None  # a wrong word is said at once
    if watch:
        _watch(reader, only, match, every)
        return
    found = reader.read()
    chosen = choose(found, only, match)
    if json_output:
        emit_rows({**found.to_json(), "runs": [dict(vars(run)) for run in chosen.runs]}, "runs")
        return
    _print(found, chosen, every)


def _print(found: SweepStatus, chosen: SweepStatus, every: bool) -> None:
    from rich.console import Console

    from launch.status_view import headline, table

    console = Console()
    for text, style in table(chosen.runs, _room(console.height if console.is_terminal else None, every)):
        console.out(text, style=style, highlight=False)
    for line in headline(found):
        console.out(line, highlight=False)


def _room(height: int | None, every: bool) -> int | None:
    if every:
        return None
    return PIPE_ROWS if height is None else max(5, height - 8)


def _watch(reader: Reader, only: str | None, match: str | None, every: bool) -> None:
    """Redraw in place on a terminal; elsewhere a headline, whenever it has changed."""
    import contextlib
    import time

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from launch.status_view import choose, headline, table

    console, said = Console(), ""

    def picture(found: SweepStatus) -> Group:
        chosen = choose(found, only, match)
        lines = table(chosen.runs, _room(console.height, every)) + [
            (line, "bold") for line in headline(found)
        ]
        return Group(*(Text(text, style, no_wrap=True, overflow="ellipsis") for text, style in lines))

    with contextlib.suppress(KeyboardInterrupt):
        found = reader.read()
        if console.is_terminal:
            with Live(picture(found), console=console, auto_refresh=False) as live:
                while _moves(found):
                    time.sleep(WATCH_SECONDS)
                    found = reader.read()
                    live.update(picture(found), refresh=True)
            return
        while True:
            line = headline(found)[0]
            if line != said:
                print(line, flush=True)
            said = line
            if not _moves(found):
                return
            time.sleep(WATCH_SECONDS)
            found = reader.read()


def _moves(found: SweepStatus) -> bool:
    """Whether something is left that runs or may be started by somebody."""
    return any(run.status in ("running", "queued", "pending") for run in found.runs)
