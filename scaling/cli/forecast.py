"""`scaling forecast` and `scaling verify`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError

if TYPE_CHECKING:
    from analysis.score import Forecast
    from scaling.config import RunConfig
    from scaling.runs import RunFolder

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")]
FolderOption = Annotated[Path, typer.Option("--forecasts", help="Folder of the registered forecasts.")]
DataOption = Annotated[str | None, typer.Option(help="Folder written by `scaling data prepare`.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("forecast")(forecast)
    app.command("verify")(verify)


def forecast(
    fit: Annotated[str, typer.Argument(help="A fit file, or its name under fits/.")],
    config: Annotated[
        Path | None, typer.Argument(help="The target as a RunConfig in JSON, instead of --flops.")
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="Training FLOPs (matmul); the best run for them is the target.")
    ] = None,
    allow_epochs: Annotated[
        bool, typer.Option("--allow-epochs", help="Allow several epochs of the text; sets data.epochs.")
    ] = False,
    sweep: Annotated[
        str | None, typer.Option(help="Folder under runs/ for the target's run; by default the fitted one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run chosen by --flops.")] = 0,
    data: DataOption = None,
    runs: RunsOption = Path("runs"),
    forecasts: FolderOption = Path("forecasts"),
    json_output: JsonFlag = False,
) -> None:
    """Write down the final loss of a run that does not exist yet, 10 times the largest fitted one or more.

    The forecast goes to forecasts/<time>-<run_id>.json with its quantiles, the fit's fingerprint and a
    seal, before the run is trained. All are kept; the first of a target counts. Refused: a nearer
    target, one that repeats its text, one that was already trained. `scaling verify` trains and scores.

    Example: scaling forecast quickstart --flops 3.9e12
    """
    from analysis.fit import load_fit
    from analysis.forecast import register as register_forecast
    from analysis.score import load_forecasts

    fitted = load_fit(fit)
    folder = sweep or _sweep_of(fitted)
    text = data or _text_of(runs / folder)
    target = _target_of(fitted, config, flops, seed)
    unique = _unique_tokens(target, text)
    if allow_epochs:
        target = _with_epochs(target, unique)
    notes: list[str] = []
    before = {found.path for found in load_forecasts(forecasts, {target.run_id}, notes)}
    for remark in notes:
        note(remark)
    found = register_forecast(
        fitted, target, unique_tokens=unique, allow_epochs=allow_epochs, sweep=folder, folder=forecasts,
        runs=runs,
    )  # fmt: skip
    new = found.path not in before
    if not new:
        note(f"registered before with this fit, in {found.path}; nothing is written")
    elif before:
        note(f"run {found.run_id} has {len(before)} earlier forecasts; the first counts")
    if json_output:
        emit_json({"path": str(found.path), "new": new, **found.record})
    else:
        _show_forecast(found)


def verify(
    target: Annotated[
        str | None,
        typer.Argument(help="A forecast file, a run_id or a sweep's name; by default the latest target."),
    ] = None,
    data: DataOption = None,
    runs: RunsOption = Path("runs"),
    forecasts: FolderOption = Path("forecasts"),
    json_output: JsonFlag = False,
) -> None:
    """Train the run that was forecast, or find it trained, and score every forecast of it.

    The outcome is written beside the forecast; what was registered stays as it was, and a file whose
    seal is broken is refused. Ctrl-C saves the run: the same command goes on from there.

    Exit code 0: scored; 1: the run diverged or failed; 130 or 42: interrupted, saved.

    Example: scaling verify quickstart
    """
    from analysis.forecast import find_run
    from analysis.score import broken_seal, load_forecasts, score
    from scaling.config import RunConfig, from_dict
    from scaling.runs import RunFolder

    notes: list[str] = []
    everything = load_forecasts(forecasts, None, notes)
    for remark in notes:
        note(remark)
    chosen = _choose(everything, target, forecasts)
    for found in (f for f in everything if f.run_id == chosen.run_id):
        if not found.intact:
            raise UserError(f"{broken_seal(found)}; restore it, a changed forecast is not scored.")
    config = from_dict(RunConfig, chosen.record["target"]["config"])
    run = find_run(runs, chosen.run_id) or RunFolder(
        runs / (chosen.record["target"]["sweep"] or "targets") / chosen.run_id
    )
    if run.status() not in ("done", "diverged"):
        _train(config, run, data)
    scored = score(forecasts, run)
    if json_output:
        emit_json(
            {"run_id": run.run_id, "run": str(run.path),
             "forecasts": [{"path": str(f.path), **f.record} for f in scored]}
        )  # fmt: skip
    else:
        show_score(scored, run)
    if run.status() != "done":
        raise typer.Exit(1)


def _target_of(fit: dict[str, Any], config: Path | None, flops: float | None, seed: int) -> RunConfig:
    from analysis.predict import buildable
    from scaling.config import load_run_config

    if flops is not None and config is None:
        return buildable(fit, flops, seed=seed)
    if flops is not None or config is None:
        raise UserError("the target is not one run; give either --flops or the file of a RunConfig.")
    try:
        return load_run_config(config.read_text(), str(config))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config} cannot be read ({error}); give a RunConfig as JSON.") from None


def _sweep_of(fit: dict[str, Any]) -> str:
    """The folder of runs that the fit is of."""
    source = Path(fit["source"])
    return source.name if source.is_dir() else str(fit["name"])


def _text_of(folder: Path) -> str | None:
    """The text that the runs of `folder` were given; None for the embedded one."""
    for path in sorted(folder.glob("*/placement.json")):
        try:
            given = json.loads(path.read_text()).get("data_path")
        except (json.JSONDecodeError, AttributeError):
            continue
        return str(given) if given else None
    return None


def _with_epochs(target: RunConfig, unique_tokens: int | None) -> RunConfig:
    """The target allowed as many epochs as it makes: training refuses more than data.epochs."""
    import math

    from scaling.config import override

    if unique_tokens is None:
        note(f"the text {target.data.name!r} is not here; training it refuses more than data.epochs")
        return target
    needed = math.ceil(target.tokens / unique_tokens)
    if needed <= target.data.epochs:
        return target
    raised = override(target, {"data.epochs": needed})
    note(f"data.epochs is set to {needed}, from {target.data.epochs}: the target is run {raised.run_id}")
    return raised


def _unique_tokens(config: RunConfig, text: str | None) -> int | None:
    """Tokens of one epoch of the target; None when the text at hand is another one."""
    from scaling.data.text import text_info

    if config.data.unique_tokens:
        return config.data.unique_tokens
    found = text_info(text)
    return found.epoch_tokens if found.fingerprint == config.data.fingerprint else None


def _choose(everything: list[Forecast], target: str | None, folder: Path) -> Forecast:
    """The first forecast of the target meant; of several targets the one registered last."""
    if target and target.endswith(".json"):
        from analysis.score import read_forecast

        wanted = {read_forecast(target).run_id}
    else:
        wanted = {f.run_id for f in everything if target in (None, f.run_id, f.record["target"]["sweep"])}
    first: dict[str, Forecast] = {}
    for found in everything:
        if found.run_id in wanted:
            first.setdefault(found.run_id, found)
    if not first:
        of = f" of {target!r}" if target else ""
        raise UserError(f"{folder} holds no forecast{of}; `scaling forecast` registers one.")
    return list(first.values())[-1]


def _train(config: RunConfig, run: RunFolder, data: str | None) -> None:
    """Train the target where its sweep is, one process, one XLA thread; exits when it is interrupted."""
    from launch.local import run_configs
    from scaling.config import Placement

    placement = Placement(data_path=data or _text_of(run.path.parent))
    outcome = run_configs([config], run.path.parent, workers=1, placement=placement)
    if outcome.interrupted or run.status() not in ("done", "diverged", "failed"):
        note(f"run {run.run_id} is saved; `scaling verify {run.run_id}` goes on from there")
        raise typer.Exit(outcome.exit_code or 1)


def _show_forecast(found: Forecast) -> None:
    target, forecast = found.record["target"], found.record["forecast"]
    model = target["config"]["model"]
    epochs = f", {target['epochs']:.2f} epochs" if target["epochs"] else ""
    shape = f"{model['n_layers']} layers x {model['d_model']}, N = {target['n']:.4g}"
    print(f"target    run {found.run_id}: {shape}, {target['tokens']:.4g} tokens{epochs}")
    ratio = target["flops_over_largest_fitted"]
    print(f"          {target['flops']:.4g} FLOPs, {ratio:.3g} times the largest fitted run")
    print(f"forecast  {found.loss:.4f} nats/token, 90% {_between(found.interval)}")
    line = found.straight_line
    if line["loss"] is None:
        print(f"straight  none: {line['skipped']}")
    else:
        print(f"straight  {line['loss']:.4f} nats/token, 90% {_between(line['interval'])}")
    print(f"interval  {_parts(forecast)}")
    print(f"written   {found.path}")


def show_score(scored: list[Forecast], run: RunFolder) -> None:
    from rich.console import Console
    from rich.table import Table

    outcome = scored[0].measured or {}
    if outcome["status"] != "done":
        why = outcome.get("error") or f"at step {outcome.get('diverged_step')}"
        print(f"run {run.run_id} {outcome['status']} ({why}): its forecasts stay unscored; see {run.path}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("loss", "90% interval", "error", "of the drop", "inside"):
        table.add_column(name, justify="right")
    error = f" ± {outcome['loss_se']:.4f}" if outcome.get("loss_se") is not None else ""
    table.add_row("measured", f"{outcome['loss']:.4f}{error}", "", "", "", "")
    for found in scored:
        measured = found.measured or {}
        which = "forecast" if measured["counts"] else f"later, fit {found.fingerprint}"
        table.add_row(which, f"{found.loss:.4f}", *_score_cells(found.interval, measured))
        if measured["counts"] and measured["straight_line"]:
            line = found.straight_line
            cells = _score_cells(line["interval"], measured["straight_line"])
            table.add_row("straight line", f"{line['loss']:.4f}", *cells)
    Console(soft_wrap=True).print(table)
    print(f"{scored[0].path}: registered {scored[0].registered_at}, the one that counts; run {run.path}")


def _parts(forecast: dict[str, Any]) -> str:
    """What makes the interval wide: the 90% half-width of each part, in per cent of the loss."""
    widths, trials = forecast["half_widths_90_log_loss"], len(forecast["backtest"]["trials"])
    said = f"law ±{100 * widths['law']:.1f}%, a run's scatter ±{100 * widths['scatter']:.1f}%, "
    if widths["drift"] is None:
        return said + "the law's drift unknown: the grid is too small to hide its larger runs"
    return said + f"the law's drift ±{100 * widths['drift']:.1f}% ({trials} of the grid's own runs forecast)"


def _between(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "not determined"


def _score_cells(interval: Sequence[float] | None, errors: dict[str, Any]) -> list[str]:
    drop = errors["error_over_drop"]
    return [
        _between(interval),
        f"{errors['error']:+.4f}",
        f"{100 * drop:.1f}%" if drop is not None else "",
        {True: "yes", False: "no", None: ""}[errors["inside_90"]],
    ]
