"""`scaling cancel`, `scaling resume`, `scaling logs`: what is done about runs that were launched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.launch import BudgetOption, ProfileOption, RunsOption, WaitFlag, YesFlag
from scaling.cli.output import JsonFlag, emit_json, note

LaunchedArgument = Annotated[str, typer.Argument(help="Name of a launched sweep.")]
RunsArgument = Annotated[
    list[str] | None, typer.Argument(help="Run ids, or their first digits; none: every run of the sweep.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("cancel")(cancel)
    app.command("resume")(resume)
    app.command("logs")(logs)


def cancel(
    sweep: LaunchedArgument,
    run_ids: RunsArgument = None,
    runs: RunsOption = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Stop runs, wherever they are: queued ones leave the queue, training ones save and end.

    Nothing is lost: `scaling resume` goes on from the last checkpoints. Runs that ended are left alone.

    Example: scaling cancel quickstart
    """
    from launch.control import cancel as stop
    from launch.control import launched

    folder = launched(sweep, runs)
    stopped = stop(folder, run_ids or [])
    if json_output:
        emit_json({"sweep": folder.name, "cancelled": stopped})
        return
    for run_id, where in stopped.items():
        print(f"{run_id}  {where}")
    print(f"{folder}: {len(stopped)} runs told to save and stop; `scaling resume {sweep}` goes on from there")


def resume(
    sweep: LaunchedArgument,
    on: Annotated[str | None, typer.Option("--on", help="Engine; by default the one used last.")] = None,
    profile: ProfileOption = None,
    budget: BudgetOption = None,
    yes: YesFlag = False,
    wait: WaitFlag = False,
    runs: RunsOption = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Launch what is not finished of a launched sweep once more, on the engine it was launched on last.

    The same as `scaling launch` of the sweep as it was stored: every run goes on from its last checkpoint.

    Example: scaling resume quickstart
    """
    from launch.control import last_engine, launched
    from scaling.cli.launch import launch

    folder = launched(sweep, runs)
    engine, named = (on, profile) if on else last_engine(folder, profile)
    note(f"on {engine}" + (f" with profile {named}" if named else ""))
    launch(
        str(folder / "sweep.json"), on=engine, profile=named, budget=budget, yes=yes, wait=wait, runs=runs,
        json_output=json_output,
    )  # fmt: skip


def logs(
    sweep: LaunchedArgument,
    run_ids: RunsArgument = None,
    lines: Annotated[int, typer.Option(min=1, help="Lines of each run, from the end.")] = 20,
    runs: RunsOption = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Show the last lines of what runs printed, and their error where they failed.

    Without run ids: of the failed ones, or of all where none failed.

    Example: scaling logs quickstart --lines 5
    """
    from launch.control import launched, read_logs

    folder = launched(sweep, runs)
    found = read_logs(folder, run_ids or [], lines)
    if json_output:
        emit_json({"sweep": folder.name, "logs": found})
        return
    for run_id, text in found.items():
        print(f"== {run_id}")
        print(text or "(nothing printed)")
