"""`scaling quickstart`: the whole chain on one machine."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from analysis.score import Forecast
    from scaling.config import Placement, RunConfig
    from scaling.runs import RunFolder
    from sweeps.sweep import Sweep

STEPS = ("plan", "train", "fit", "forecast", "verify", "report")


def register(app: typer.Typer) -> None:
    app.command("quickstart")(quickstart)


def quickstart(
    seed: Annotated[
        int, typer.Option(help="What the seeds of all runs are made from; another is another set of runs.")
    ] = 0,
    data: Annotated[str | None, typer.Option(help="Folder written by `scaling data prepare`.")] = None,
    target: Annotated[
        float | None,
        typer.Option(help="FLOPs of the run to forecast, at least 10 times the grid's largest budget."),
    ] = None,
    allow_epochs: Annotated[
        bool, typer.Option("--allow-epochs", help="Allow a target of more than one epoch of the text.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; by default one for each core or accelerator.")
    ] = None,
    wandb: Annotated[str, typer.Option(help="Mirror every run to wandb: off, offline or online.")] = "off",
    as_json: JsonFlag = False,
) -> None:
    """Train a grid of small transformers, fit the laws, forecast a larger run, train it, score, report.

    Six to eight minutes on two CPU cores, on the English text that ships with the package. Everything
    lands in runs/quickstart, fits, forecasts and reports/quickstart of the current folder. Ctrl-C saves;
    the same command goes on from there, and once all is done it only draws the report again.

    Example: scaling quickstart
    """
    from experiments.quickstart import sweep as make_sweep
    from scaling.config import Placement, from_dict
    from scaling.data.text import open_prepared

    clock = time.perf_counter()
    found = make_sweep(seed=seed, data=data, target=target)
    placement: Placement = from_dict(Placement, {"data_path": data, "wandb": wandb}, "placement")
    _check_text(found, allow_epochs)
    open_prepared(data)
    with Steps(quiet=as_json) as steps:
        steps.start("plan", _planned(found))
        _train(found, placement, workers, steps)
        fit, fit_path = _fit(found, steps)
        forecast, config = _forecast(fit, found, placement, seed, allow_epochs, steps)
        scored, run = _verify(forecast, config, found, placement, steps)
        steps.start("report")
        from analysis.report import build

        page = build(Path("runs") / found.name, fit, scored, Path("reports") / found.name)
    result = {
        "sweep": found.name,
        "runs": [config.run_id for config in found.runs],
        "target": run.run_id,
        "fit": str(fit_path),
        "forecast": str(scored[0].path),
        "report": str(page),
        "laws": fit["laws"],
        "optimum": fit["optimum"],
        "measured": scored[0].measured,
        "registered": scored[0].record["forecast"],
        "seconds": time.perf_counter() - clock,
        **steps.resources(),
    }
    if as_json:
        emit_json(result)
    else:
        _show(result, fit, scored, run)


class Steps:
    """Headings as the chain goes on, and what it cost: CPU seconds and peak memory of the process tree."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __enter__(self) -> Steps:
        from launch.memory import PeakMemory

        self._memory = PeakMemory()
        self._memory.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.stop()

    def start(self, step: str, remark: str = "") -> None:
        if not self._quiet:
            number = f"[{STEPS.index(step) + 1}/{len(STEPS)}]"
            print(f"{number} {step:<9}{remark}", flush=True)

    def resources(self) -> dict[str, float]:
        """CPU seconds of this process and of every worker it waited for; peak resident bytes."""
        import resource

        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return {"cpu_seconds": cpu, "peak_memory_bytes": float(self._memory.peak_bytes)}


def _check_text(sweep: Sweep, allow_epochs: bool) -> None:
    """Refuse a target that the text is too short for before anything is trained, by the study's prior."""
    from scaling.errors import UserError
    from sweeps.plan import prior_of, recipe_of, target_run

    prior, recipe, target = prior_of(sweep), recipe_of(sweep), sweep.design["target"]
    if allow_epochs or prior is None or recipe is None:
        return
    tokens, held = target_run(sweep, prior, recipe, target).tokens, sweep.design["unique_tokens"]
    if tokens > held:
        raise UserError(
            f"the target of {target:.3g} FLOPs would train on about {tokens:,} tokens and the text holds "
            f"{held:,}; give a longer text or a nearer --target, or repeat the text with --allow-epochs."
        )


def _planned(sweep: Sweep) -> str:
    from scaling.accounting import run_flops

    flops = [run_flops(config) for config in sweep.runs]
    for refusal in sweep.refused:
        note(f"left out {refusal.label}: {refusal.reason}")
    budgets = len({cell["budget"] for cell in sweep.design["cells"]})
    return (
        f"{len(flops)} runs over {budgets} budgets, {min(flops):.2g} to {max(flops):.2g} FLOPs,"
        f" {sum(flops):.2g} in all; target {sweep.design['target']:.3g}"
    )


def _train(sweep: Sweep, placement: Placement, workers: int | None, steps: Steps) -> None:
    from launch.local import run_sweep
    from scaling.runs import RunFolder

    waiting = [c for c in sweep.runs if not (Path("runs") / sweep.name / c.run_id / "DONE").exists()]
    steps.start("train", f"{len(waiting)} of {len(sweep.runs)} runs" if waiting else "every run is finished")
    outcome = run_sweep(sweep, workers=workers, placement=placement)
    for run_id, problem in outcome.failed.items():
        note(f"run {run_id} failed: {problem['error']} (see {problem['where']})")
    if outcome.exit_code:
        note("unfinished; `scaling quickstart` with the same options goes on from here")
        raise typer.Exit(outcome.exit_code)
    for config in sweep.runs:
        folder = RunFolder(Path("runs") / sweep.name / config.run_id)
        for remark in folder.summary().get("notes", []):
            note(f"run {config.run_id}: {remark}")


def _fit(sweep: Sweep, steps: Steps) -> tuple[dict[str, Any], Path]:
    from analysis.fit import fit, save
    from analysis.table import load

    steps.start("fit", "Kaplan and Chinchilla laws, three approaches, 1,000 resamples by run")
    runs = load(str(Path("runs") / sweep.name))
    for dropped in runs.dropped:
        note(f"left out of the fit: {dropped['run']}: {dropped['reason']}")
    fitted = fit(runs)
    return fitted, save(fitted)


def _forecast(
    fit: dict[str, Any], sweep: Sweep, placement: Placement, seed: int, allow_epochs: bool, steps: Steps
) -> tuple[Forecast, RunConfig]:
    from analysis.forecast import register as register_forecast
    from analysis.predict import buildable
    from scaling.config import override
    from scaling.data.text import text_info

    config = buildable(fit, sweep.design["target"], seed=seed)
    held = text_info(placement.data_path).epoch_tokens
    if allow_epochs and config.tokens > held:
        config = override(config, {"data.epochs": math.ceil(config.tokens / held)})
    forecast = register_forecast(
        fit,
        config,
        unique_tokens=held,
        allow_epochs=allow_epochs,
        sweep=sweep.name,
        folder=Path("forecasts"),
        runs=Path("runs"),
    )
    low, high = forecast.interval
    steps.start("forecast", f"{forecast.loss:.4f} nats/token, 90% {low:.4f} to {high:.4f}; {forecast.path}")
    return forecast, config


def _verify(
    forecast: Forecast, config: RunConfig, sweep: Sweep, placement: Placement, steps: Steps
) -> tuple[list[Forecast], RunFolder]:
    from analysis.score import score
    from launch.local import run_configs
    from scaling.runs import RunFolder

    run = RunFolder(Path("runs") / sweep.name / config.run_id)
    finished = (run.path / "DONE").exists()
    target = forecast.record["target"]
    size = f"N {target['n']:.3g}, {target['tokens']:.3g} tokens, {target['flops']:.3g} FLOPs"
    steps.start("verify", f"run {run.run_id}: {size}{', finished' if finished else ''}")
    if not finished:
        outcome = run_configs([config], run.path.parent, workers=1, placement=placement)
        if run.status() not in ("done", "diverged"):
            note(f"target {run.run_id} is unfinished; `scaling quickstart` with the same options goes on")
            raise typer.Exit(outcome.exit_code or 1)
    return score(Path("forecasts"), run), run


def _show(result: dict[str, Any], fit: dict[str, Any], scored: list[Forecast], run: RunFolder) -> None:
    from analysis.show import console, fit_text
    from scaling.cli.forecast import show_score

    print()
    console().print(fit_text(fit))
    print()
    show_score(scored, run)
    print()
    print(f"report    {result['report']}")
    print(
        f"took      {result['seconds']:.0f} s by the clock, {result['cpu_seconds']:.0f} CPU s in all"
        f" processes, {result['peak_memory_bytes'] / 1e9:.2f} GB of memory at most"
    )
