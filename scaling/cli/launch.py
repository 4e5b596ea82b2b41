"""`scaling launch`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from launch.drive import Outcome
    from launch.estimate import Budget, Estimate
    from launch.executor import Job
    from launch.prepare import Prepared
    from scaling.config import Placement
    from sweeps.sweep import Sweep

SweepArgument = Annotated[
    str, typer.Argument(help="A study in experiments/, a sweep JSON file, or the name of a launched sweep.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")]
ProfileOption = Annotated[
    str | None,
    typer.Option(help="Profile of the cluster: a name in ~/.config/scaling/profiles, or a TOML file."),
]
BudgetOption = Annotated[
    str | None, typer.Option(help="Submit nothing that costs more: 50usd, 200chip-hours or 1e20flops.")
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Submit to a cluster without asking.")]
WaitFlag = Annotated[bool, typer.Option("--wait", help="Follow a cluster's runs to the end.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("launch")(launch)


def launch(
    sweep: SweepArgument,
    on: Annotated[str, typer.Option("--on", help="Engine: local, slurm or gke.")] = "local",
    profile: ProfileOption = None,
    budget: BudgetOption = None,
    yes: YesFlag = False,
    wait: WaitFlag = False,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes in all; by default one for each core or accelerator.")
    ] = None,
    per_gpu: Annotated[
        int | None, typer.Option("--per-gpu", help="So many workers on each GPU, sharing its memory.")
    ] = None,
    pack: Annotated[
        str, typer.Option(help="Runs of one shape in one program: auto (measured here), off, or how many.")
    ] = "auto",
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
    """Train every run of a sweep that is not finished: here, or on a cluster with --on.

    Here the longest run goes first and the command stays until all have ended. --on slurm or gke submits
    what is neither finished nor live, the smallest first, says what it costs, asks, and returns; look with
    `scaling status`, stop with `scaling cancel`. What the cluster is stands in a profile (docs/launching.md).
    With --dry-run the whole submission is printed; no Slurm or Kubernetes has to be here for it.

    A run that begins as a longer one does waits for that one's checkpoint and starts from it.

    Launching again goes on where it stopped: finished and diverged runs are never repeated, stopped
    and failed ones resume from their last checkpoint, runs held by another process are waited for.
    Ctrl-C saves every run and stops; a second Ctrl-C kills. On a cluster the runs go on.

    Exit code 0: every run is done or diverged, or submitted; 1: some failed, each named with its error;
    2: bad input, nothing submitted; 130: Ctrl-C; 42: terminated, saved, start me again.

    Example: scaling launch quickstart --workers 2

    scaling launch quickstart --on slurm --dry-run
    """
    from launch.engines import LOCAL
    from launch.estimate import parse_budget
    from launch.packing import check_wish
    from scaling.config import Placement, from_dict
    from sweeps.sweep import find_sweep

    limit = parse_budget(budget) if budget else None
    check_wish(pack)
    here, there = {"--workers": workers, "--per-gpu": per_gpu}, {"--profile": profile, "--wait": wait}
    _refuse(there if on == LOCAL else here, on)
    found = find_sweep(sweep, runs, seed=seed, data=data, size=size)
    if on != LOCAL:
        data = str(Path(data).absolute()) if data else None
    placement = from_dict(Placement, {"data_path": data, "wandb": wandb}, "placement")
    if on == LOCAL:
        pool = {"workers": workers, "per_device": per_gpu, "pack": pack}
        _locally(sweep, found, runs, placement, pool, limit, dry_run, json_output)
    else:
        on_cluster(on, found, runs, placement, profile, limit, dry_run, yes, wait, json_output)


def _refuse(others: Mapping[str, object], on: str) -> None:
    """Options of the other kind of engine are not passed over in silence."""
    from scaling.errors import UserError

    for name, value in others.items():
        if value:
            kind = (
                "a cluster: give --on slurm or gke"
                if on == "local"
                else "this machine: set it in the profile"
            )
            raise UserError(f"{name} is for {kind}, or leave it out.")


def _locally(
    named: str,
    sweep: Sweep,
    runs: Path,
    placement: Placement,
    pool: dict[str, Any],
    limit: Budget | None,
    dry_run: bool,
    json_output: bool,
) -> None:
    from launch.estimate import check_budget
    from launch.jobs import sweep_jobs
    from launch.local import run_sweep
    from launch.selection import check_version, live, stale_folders

    check_version(run.numerics_version for run in sweep.runs)
    folder = runs / sweep.name
    jobs = sweep_jobs(sweep, folder, placement)
    timed = limit is not None and limit.unit == "chip_hours"  # by a few steps, where no rate is kept
    estimate = _estimate(jobs, pool["workers"], runs, timed)
    if limit:
        check_budget(estimate, limit)
    _note_stale(stale_folders(folder, set(sweep.run_ids)))
    for remark in live(folder)[1]:
        note(f"what a cluster has of this sweep is not known: {remark}")
    if dry_run:
        _show_jobs(sweep.name, jobs, estimate, json_output)
        return
    if estimate.runs and not json_output:
        note(_price_line(estimate))
    outcome = run_sweep(sweep, runs, placement=placement, **pool)
    if json_output:
        emit_json({"sweep": sweep.name, "folder": str(folder), **outcome.to_json()})
    else:
        _show_outcome(outcome, folder)
    if outcome.interrupted:
        note(f"interrupted; `scaling launch {named}` again goes on from here.")
    raise typer.Exit(outcome.exit_code)


def on_cluster(
    engine: str,
    sweep: Sweep,
    runs: Path,
    placement: Placement,
    profile: str | None,
    limit: Budget | None,
    dry_run: bool,
    yes: bool,
    wait: bool,
    json_output: bool,
) -> None:
    """Submit to an engine that keeps the runs, or say what would be submitted."""
    from launch.estimate import check_budget
    from launch.prepare import prepare
    from launch.submit import submit

    prepared = prepare(engine, sweep, runs, placement, profile, dry_run=dry_run)
    for remark in prepared.selection.notes:
        note(remark)
    _note_stale(prepared.stale)
    if limit:
        check_budget(prepared.estimate, limit)
    if dry_run:
        if json_output:
            emit_json({**prepared.to_json(), "rendered": prepared.render() if prepared.now else ""})
        else:
            print(prepared.render() if prepared.now else "", end="")
            _show_prepared(prepared, sys.stderr)
        return
    if not json_output:
        _show_prepared(prepared, sys.stdout)
    submission = None
    if prepared.now:
        prepared.cluster.check()
        _confirm(len(prepared.now), engine, yes)
        submission = submit(prepared, prepared.now, prepared.selection)
    sent = [job.run_id for job in submission.jobs] if submission else []
    if json_output and not wait:
        emit_json({**prepared.to_json(), "submitted": sent})
    elif prepared.now:
        note(f"{len(sent)} runs submitted; `scaling status {sweep.name}` shows them")
    if wait:
        _follow(prepared, set(sent), json_output)


def _follow(prepared: Prepared, sent: set[str], json_output: bool) -> None:
    from launch.submit import follow

    ended = follow(prepared, sent, note)
    if json_output:
        emit_json({**prepared.to_json(), "submitted": sorted(sent), **vars(ended)})
    else:
        print(f"{prepared.folder}: {len(ended.done)} done or diverged, {len(ended.unfinished)} unfinished")
        for run_id, problem in ended.unfinished.items():
            print(f"unfinished: {run_id}: {problem}")
    raise typer.Exit(1 if ended.unfinished else 0)


def _confirm(count: int, engine: str, yes: bool) -> None:
    from scaling.errors import UserError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"submitting {count} runs to {engine} needs a yes; there is no terminal: give --yes.")
    if not typer.confirm(f"Submit {count} runs to {engine}?", err=True):
        raise UserError("not confirmed; nothing was submitted.")


def _estimate(jobs: list[Job], workers: int | None, runs: Path, timed: bool) -> Estimate:
    from launch.estimate import kept_rates, on_this_machine
    from scaling.cli.plan import rates_here

    left = [job for job in jobs if not job.folder.finished()]
    rates = kept_rates(workers)
    if rates is None and left and timed:
        rates = rates_here(tuple(job.config for job in left), None, workers, runs)[1]
    return on_this_machine(left, rates)


def _price_line(estimate: Estimate) -> str:
    from launch.view import duration

    parts = [f"{estimate.runs} runs to train, {estimate.flops:.3g} FLOPs"]
    if estimate.seconds is not None:
        parts.append(f"{estimate.seconds:,.0f} s of one worker ({duration(estimate.seconds)})")
    if estimate.chip_hours is not None:
        parts.append(f"{estimate.chip_hours:.3g} chip-hours")
    if estimate.dollars is not None:
        parts.append(f"${estimate.dollars:,.2f}")
    return f"estimate: {', '.join(parts)} ({estimate.source})"


def _note_stale(stale: list[str]) -> None:
    if stale:
        named = ", ".join(stale[:3]) + (", ..." if len(stale) > 3 else "")
        note(f"{len(stale)} run folders of an older numerics_version are stale and are not used: {named}")


def _show_jobs(name: str, jobs: list[Job], estimate: Estimate, json_output: bool) -> None:
    statuses = [job.folder.status() for job in jobs]
    if json_output:
        rows = [
            {"run_id": j.run_id, "label": j.label, "status": s, "flops": j.flops, "tokens": j.config.tokens,
             "trunk": j.trunk.run_id if j.trunk else None, "first_step": j.first_step,
             "command": list(j.argv)}
            for j, s in zip(jobs, statuses, strict=True)
        ]  # fmt: skip
        emit_json({"sweep": name, "runs": rows, "estimate": estimate.to_json()})
        return
    from scaling.amounts import human

    left_out = {"done": "done, left out", "diverged": "diverged, left out"}
    for job, state in zip(jobs, statuses, strict=True):
        size = f"{human(job.config.tokens):>6} tokens  {job.flops:.2e} FLOPs"
        after = f", from step {job.first_step} of {job.trunk.run_id}" if job.trunk else ""
        print(f"{job.run_id}  {job.label:<24} {size}  {left_out.get(state, state)}{after}")
    todo = [job for job, state in zip(jobs, statuses, strict=True) if state not in left_out]
    print(f"{name}: {len(todo)} of {len(jobs)} runs to train, {sum(job.flops for job in todo):.3g} FLOPs")
    if todo:
        print(_price_line(estimate))


def _show_prepared(prepared: Prepared, stream: TextIO) -> None:
    """What goes where, what does not, and what it costs."""
    selection = prepared.selection
    counts = {
        "to submit": len(prepared.now),
        "done": len(selection.done),
        "live": len(selection.live),
        "held": len(prepared.held),
    }
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    print(f"{prepared.sweep.name} on {prepared.engine}: {said}; profile {prepared.profile_path}", file=stream)
    for run_id, why in prepared.held.items():
        print(f"held: {run_id} {why}; launch again then, or --wait", file=stream)
    if prepared.now:
        print(_price_line(prepared.estimate), file=stream)


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
