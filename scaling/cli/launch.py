"""`scaling launch` and `scaling status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from launch.drive import Outcome
    from launch.executor import Job
    from launch.status import SweepStatus

SweepArgument = Annotated[
    str, typer.Argument(help="A study in experiments/, a sweep JSON file, or the name of a launched sweep.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("launch")(launch)
    app.command("status")(status)


def launch(
    sweep: SweepArgument,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; by default one for each core or accelerator.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of every run, for a study that takes one.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder written by `scaling data prepare`.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Setting of a study that has several: cpu (minutes) or pod.")
    ] = None,
    wandb: Annotated[str, typer.Option(help="Mirror every run to wandb: off, offline or online.")] = "off",
    runs: RunsOption = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Train every run of a sweep that is not finished, the longest first.

    A run that begins as a longer one does waits for that one's checkpoint and starts from it.

    Launching again goes on where it stopped: finished and diverged runs are never repeated, stopped
    and failed ones resume from their last checkpoint, runs held by another process are waited for.
    Ctrl-C saves every run and stops; a second Ctrl-C kills.

    Exit code 0: every run is done or diverged; 1: some failed, each named with its error;
    130: Ctrl-C; 42: terminated, saved, start me again.

    Example: scaling launch quickstart --workers 2
    """
    from launch.local import run_sweep
    from scaling.config import Placement, from_dict
    from sweeps.sweep import find_sweep

    found = find_sweep(sweep, runs, seed=seed, data=data, size=size)
    placement = from_dict(Placement, {"data_path": data, "wandb": wandb}, "placement")
    if dry_run:
        from launch.jobs import sweep_jobs

        _show_jobs(found.name, sweep_jobs(found, runs / found.name, placement), json_output)
        return
    outcome = run_sweep(found, runs, workers=workers, placement=placement)
    if json_output:
        emit_json({"sweep": found.name, "folder": str(runs / found.name), **outcome.to_json()})
    else:
        _show_outcome(outcome, runs / found.name)
    if outcome.interrupted:
        note(f"interrupted; `scaling launch {sweep}` again goes on from here.")
    raise typer.Exit(outcome.exit_code)


def status(sweep: SweepArgument, runs: RunsOption = Path("runs"), json_output: JsonFlag = False) -> None:
    """Show where every run of a sweep stands: also while it runs, and before it is launched.

    Takes a folder of runs as well. `loss` is the final validation loss of a run that ended, else
    the last training loss, in nats per token.

    Example: scaling status quickstart
    """
    from launch.status import sweep_status

    found = sweep_status(sweep, runs)
    if json_output:
        emit_json(found.to_json())
    else:
        _show_status(found)


def _show_jobs(name: str, jobs: list[Job], json_output: bool) -> None:
    statuses = [job.folder.status() for job in jobs]
    if json_output:
        rows = [
            {"run_id": j.run_id, "label": j.label, "status": s, "flops": j.flops, "tokens": j.config.tokens,
             "trunk": j.trunk.run_id if j.trunk else None, "first_step": j.first_step,
             "command": list(j.argv)}
            for j, s in zip(jobs, statuses, strict=True)
        ]  # fmt: skip
        emit_json({"sweep": name, "runs": rows})
        return
    from launch.view import short

    left_out = {"done": "done, left out", "diverged": "diverged, left out"}
    for job, state in zip(jobs, statuses, strict=True):
        size = f"{short(job.config.tokens):>6} tokens  {job.flops:.2e} FLOPs"
        after = f", from step {job.first_step} of {job.trunk.run_id}" if job.trunk else ""
        print(f"{job.run_id}  {job.label:<24} {size}  {left_out.get(state, state)}{after}")
    todo = [job for job, state in zip(jobs, statuses, strict=True) if state not in left_out]
    print(f"{name}: {len(todo)} of {len(jobs)} runs to train, {sum(job.flops for job in todo):.3g} FLOPs")


def _show_outcome(outcome: Outcome, folder: Path) -> None:
    from launch.view import duration

    parts = {
        "done": len(outcome.done),
        "diverged": len(outcome.diverged),
        "failed": len(outcome.failed),
        "finished before": len(outcome.skipped),
        "stopped": len(outcome.stopped),
    }
    said = ", ".join(f"{count} {word}" for word, count in parts.items() if count) or "nothing to do"
    took = f"{duration(outcome.wall_seconds)}, {outcome.cpu_seconds:.0f} CPU seconds of workers"
    print(f"{folder}: {said}; {took}")
    for run_id, problem in outcome.failed.items():
        print(f"failed: {run_id}: {problem['error']} (see {problem['where']})")


def _show_status(found: SweepStatus) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from launch.view import STYLES, short

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "shape"):
        table.add_column(name)
    for name in ("N", "tokens", "of", "loss"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for run in found.runs:
        loss = f"{run.loss:.4f}" if run.loss is not None else ""
        table.add_row(
            run.run_id, run.label, short(run.n_total), short(run.tokens), short(run.tokens_planned), loss,
            Text(run.status, style=STYLES.get(run.status, "")),
        )  # fmt: skip
    Console(soft_wrap=True).print(table)
    for run in found.runs:
        if run.error:
            print(f"failed: {run.run_id}: {run.error}")
    counts = ", ".join(f"{count} {word}" for word, count in found.totals().items() if count)
    others = f"; {found.others} other run folders beside them" if found.others else ""
    share = f"{100 * found.fraction:.0f}% of the FLOPs"
    print(f"{found.folder}: {counts} of {len(found.runs)} runs; {share}{others}")
