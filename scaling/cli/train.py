"""`scaling train`: one run from one config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from scaling.config import RunConfig


def register(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    config: Annotated[
        Path, typer.Argument(help="A RunConfig as JSON, as `scaling predict --run-config` writes.")
    ],
    out: Annotated[Path, typer.Option(help="Where run folders go; this run's is OUT/<run_id>.")] = Path(
        "runs/single"
    ),
    data: Annotated[str | None, typer.Option(help="Folder written by `scaling data prepare`.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set optimizer.lr=3e-3.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or tpu.")] = "auto",
    threads: Annotated[
        int, typer.Option(help="XLA CPU threads; 1 makes a resume exact, 0 uses all cores.")
    ] = 1,
    microbatches: Annotated[
        int, typer.Option(help="Split each batch; above 1 logs the gradient noise scale.")
    ] = 1,
    wandb: Annotated[str, typer.Option(help="Mirror to wandb: off, offline or online.")] = "off",
    place: Annotated[
        list[str] | None,
        typer.Option(help="How it is run: --place mesh.fsdp=4, slices.data=2, remat=dots, loss_chunks=8."),
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="One of several processes, as Slurm or the TPU pod says.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first process, where no cluster says it.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="With --coordinator: how many.")] = None,
    process: Annotated[int | None, typer.Option(help="With --coordinator: which this is, from 0.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Write a profiler's trace of a few steps to this folder.")
    ] = None,
    profile_steps: Annotated[
        str, typer.Option(help="Which: FIRST:LAST, counted from this start of the run; step 1 compiles.")
    ] = "3:7",
    as_json: JsonFlag = False,
) -> None:
    """Train one run, or go on with it from its last checkpoint.

    Exits with 0 when the run has ended, diverged or not, now or before; with 42 for "start me again":
    Ctrl-C or SIGTERM, and saved (a second Ctrl-C does not wait for that), or hung, with the last
    checkpoint left (--place hang_seconds=300); with 1 when somebody must mend something first (a full
    disk, another process at it); with 2 for input to be mended. The same command goes on.

    Several processes run the same command, each with its devices, and train one run: --cluster under
    Slurm or on a TPU pod, else --coordinator with --processes and --process.

    --profile takes a trace that TensorBoard and ui.perfetto.dev open.

    Example: scaling predict quickstart --flops 1e11 --run-config run.json && scaling train run.json
    """
    import os

    from scaling.config import Placement, from_dict, nested, override
    from scaling.data.text import cache_folder
    from scaling.device_lock import clear_stale_locks
    from scaling.environment import training_environment
    from scaling.runs import EXIT_RESTART, RunFolder

    run_config = override(_read(config), _assignments(set_ or []))
    said = {"device": device, "threads": threads, "microbatches": microbatches, "wandb": wandb}
    placement = from_dict(
        Placement, nested(said | {"data_path": data} | _assignments(place or [])), "placement"
    )
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder() / "xla")
    os.environ.update(training_environment(placement, compiled))
    for remark in clear_stale_locks():
        note(remark)

    from scaling import processes as several
    from scaling.cli.progress import run_progress
    from scaling.tracing import Profile
    from scaling.train import Interrupted
    from scaling.train import train as run_training
    from scaling.watchdog import end_process

    if cluster or coordinator:
        several.start(coordinator, processes, process)
    folder = RunFolder(out / run_config.run_id)
    traced = Profile(profile, *_steps(profile_steps)) if profile else None
    if several.first():
        note(f"run {run_config.run_id} in {folder.path}")
    try:
        with run_progress(run_config, several.first()) as (show, should_stop):
            summary = run_training(run_config, placement, folder, show, should_stop, traced, end_process)
    except Interrupted as stop:
        if several.first():
            note(f"{stop}; run the same command again to go on")
        sys.exit(EXIT_RESTART)
    if several.first():
        _report(run_config.run_id, folder.path, summary, as_json)


def _read(path: Path) -> RunConfig:
    from scaling.config import load_run_config
    from scaling.errors import UserError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {str(path)!r} cannot be read ({error}); give a RunConfig as JSON.") from None
    return load_run_config(text, str(path))


def _report(run_id: str, path: Path, summary: dict[str, Any], as_json: bool) -> None:
    for remark in summary["notes"]:
        note(remark)
    if speed := _speed(summary):
        note(speed)
    if as_json:
        emit_json({"run_id": run_id, "folder": str(path), **summary})
    elif summary["status"] == "diverged":
        print(f"{run_id}  diverged at step {summary['diverged_step']}  {path}")
    else:
        print(
            f"{run_id}  loss {summary['loss']:.4f} ± {summary['loss_se']:.4f} nats/token"
            f"  {summary['tokens']:,} tokens  {summary['seconds']:.1f} s  {path}"
        )


def _speed(summary: dict[str, Any]) -> str | None:
    """Where a step's time went, on one line; None for a run too short to tell."""
    parts = summary.get("step_seconds", {})
    if not parts.get("step"):
        return None
    shares = {name: f"{seconds / parts['step']:.1%}" for name, seconds in parts.items()}
    said = [
        f"{1e3 * parts['step']:.3g} ms a step: host waiting {shares['wait']}, data {shares['data']}, "
        f"dispatch {shares['dispatch']}, log {shares['log']}"
    ]
    if summary["mfu"] is not None:
        said.append(f"MFU {summary['mfu']:.1%}")
    if summary["memory_peak_bytes"] is not None:
        said.append(f"{summary['memory_peak_bytes'] / 1e9:.2f} GB at most on a device")
    return "; ".join(said)


def _steps(text: str) -> tuple[int, int]:
    from scaling.errors import UserError

    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise UserError(f"--profile-steps is {text!r}; give FIRST:LAST, as 3:7.")
    return int(first), int(last)


def _assignments(items: list[str]) -> dict[str, Any]:
    import json

    from scaling.errors import UserError

    out: dict[str, Any] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"{item!r} has no '='; write FIELD=VALUE, for example --set optimizer.lr=3e-3.")
        try:
            out[name] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON: the text itself
            out[name] = value
    return out
