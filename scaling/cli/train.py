"""`scaling train`: one run from one config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note


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
    as_json: JsonFlag = False,
) -> None:
    """Train one run, or go on with it from its last checkpoint.

    Ctrl-C (or SIGTERM) saves and exits with 42: run the same command again to go on. A finished run is
    not trained again. Exits with 0 when the run ended, diverged or not; with 1 when it cannot go on now
    (a full disk, another process at it) and can be started again; with 2 for input to be mended.

    Example: scaling predict quickstart --flops 1e11 --run-config run.json && scaling train run.json
    """
    import os

    from scaling.config import Placement, from_dict, load_run_config, override
    from scaling.data.text import cache_folder
    from scaling.environment import training_environment
    from scaling.errors import UserError
    from scaling.runs import EXIT_RESTART, RunFolder

    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"config {str(config)!r} cannot be read ({error}); give a RunConfig as JSON."
        ) from None
    run_config = override(load_run_config(text, str(config)), _assignments(set_ or []))
    placement = from_dict(
        Placement,
        {
            "device": device,
            "threads": threads,
            "microbatches": microbatches,
            "wandb": wandb,
            "data_path": data,
        },
        "placement",
    )
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder() / "xla")
    os.environ.update(training_environment(placement, compiled))

    from scaling.cli.progress import run_progress
    from scaling.train import Interrupted
    from scaling.train import train as run_training

    folder = RunFolder(out / run_config.run_id)
    note(f"run {run_config.run_id} in {folder.path}")
    try:
        with run_progress(run_config) as (show, should_stop):
            summary = run_training(run_config, placement, folder, show, should_stop)
    except Interrupted as stop:
        note(f"{stop}; run the same command again to go on")
        sys.exit(EXIT_RESTART)
    for remark in summary["notes"]:
        note(remark)
    if as_json:
        emit_json({"run_id": run_config.run_id, "folder": str(folder.path), **summary})
    elif summary["status"] == "diverged":
        print(f"{run_config.run_id}  diverged at step {summary['diverged_step']}  {folder.path}")
    else:
        print(
            f"{run_config.run_id}  loss {summary['loss']:.4f} ± {summary['loss_se']:.4f} nats/token"
            f"  {summary['tokens']:,} tokens  {summary['seconds']:.1f} s  {folder.path}"
        )


def _assignments(items: list[str]) -> dict[str, object]:
    import json

    from scaling.errors import UserError

    out: dict[str, object] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(
                f"--set {item!r} has no '='; write --set FIELD=VALUE, for example optimizer.lr=3e-3."
            )
        try:
            out[name] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON: the text itself
            out[name] = value
    return out
