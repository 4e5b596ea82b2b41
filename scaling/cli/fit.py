"""`scaling fit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError

if TYPE_CHECKING:
    from analysis.newton import Objective


USUAL = "huber:1e-3"  # as published fits of losses have it


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("fit")(fit)


def _one_blas_thread() -> None:
    """The solver runs blocks of small problems on every core itself; BLAS threads only get in their way."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")


def fit(
    source: Annotated[
        str | None,
        typer.Argument(help="Folder of runs, CSV, parquet, JSON or JSONL file, or wandb:ENTITY/PROJECT."),
    ] = None,
    law: Annotated[
        list[str] | None,
        typer.Option(help="A name that --laws lists, or FILE.py:NAME of your own; repeat it for several."),
    ] = None,
    laws: Annotated[bool, typer.Option("--laws", help="List the laws, with the columns they read.")] = False,
    n: Annotated[str | None, typer.Option(help="Column of parameters.")] = None,
    d: Annotated[str | None, typer.Option(help="Column of training tokens.")] = None,
    c: Annotated[
        str | None, typer.Option(help="Column of training FLOPs; in place of --d, D = C / 6N.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Column of the final loss per token.")] = None,
    unique: Annotated[str | None, typer.Option(help="Column of unique training tokens.")] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Column of passes over the data; in place of --unique, U = D / epochs.")
    ] = None,
    experts: Annotated[str | None, typer.Option(help="Column of the number of experts.")] = None,
    granularity: Annotated[str | None, typer.Option(help="Column of the granularity of experts.")] = None,
    lr: Annotated[str | None, typer.Option(help="Column of the learning rate.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Column of the batch, in the unit the law is to be in.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Column of optimizer steps.")] = None,
    accuracy: Annotated[str | None, typer.Option(help="Column of a task's accuracy, from 0 to 1.")] = None,
    error: Annotated[str | None, typer.Option(help="Column of a task's error, from 0 to 1.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="ROLE=COLUMN, for what only a law of your own reads; repeat it.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Column that names the run, where a run has many rows: the last counts."),
    ] = None,
    step: Annotated[str | None, typer.Option(help="With --run: column that orders a run's rows.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: only these rows, e.g. dataset=c4; repeat it.")
    ] = None,
    n_unit: Annotated[str, typer.Option(help="Its unit: 1, k, M, B, T or a number.")] = "1",
    d_unit: Annotated[str, typer.Option(help="Its unit: 1, k, M, B, T or a number.")] = "1",
    c_unit: Annotated[str, typer.Option(help="Its unit: FLOP, PF-days or a number.")] = "FLOP",
    loss_unit: Annotated[str, typer.Option(help="Its unit: nats, bits or perplexity.")] = "nats",
    unit: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=UNIT for any other column: unique=B, accuracy=percent, batch=k; repeat it."),
    ] = None,
    n_count: Annotated[
        str | None, typer.Option(help="Own runs: total, non_embedding, active or kaplan N for every law.")
    ] = None,
    c_count: Annotated[
        str | None, typer.Option(help="Own runs: matmul, matmul_full, 6n, kaplan, palm or chinchilla.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="huber:DELTA, l1 or lsq: what is summed over the residuals. By default huber:1e-3, and for "
            "runs of ours huber of 1.345 times their scatter."
        ),
    ] = None,
    space: Annotated[
        str, typer.Option(help="log: residuals of the logarithm · raw: of the value itself.")
    ] = "log",
    noise: Annotated[
        str | None,
        typer.Option(
            help="Column or value of the standard error of what is fitted: residuals are divided by it."
        ),
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: hold a constant of the law, e.g. E=1.69; repeat it.")
    ] = None,
    conventions: Annotated[
        bool,
        typer.Option(
            "--conventions", help="Instead: the same runs under every count of N and C that the table has."
        ),
    ] = False,
    bootstrap: Annotated[
        int | None,
        typer.Option(help="Resamples by run behind the intervals [default: 1000; 100 for laws of curves]."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the fit file and the figures.")] = Path("fits"),
    json_output: JsonFlag = False,
) -> None:
    """Fit scaling laws to runs: constants with intervals, and the evidence that the fit is the optimum.

    Without --law: Kaplan's L(N), L(D), L(C) and Chinchilla's L(N, D), the three ways to the best size
    for a budget, and a table of compute-optimal runs. Writes OUT/<name>.json, which predict, forecast and
    report read, and a figure of each law asked for. Columns that no flag names are found by their usual
    names. Runs that diverged or did not finish are left out by name; rows that must not be fitted
    together (two tokenizers, points in the middle of a run) are refused.

    Example: scaling fit losses.csv --n params --d tokens --loss val_loss

    scaling fit repeats.csv --law muennighoff --n N --d D --unique U --loss loss

    scaling fit sweep.csv --law lr_nd --n N --d D --lr best_lr --objective lsq

    scaling fit losses.csv --n params --d tokens --conventions
    """
    _one_blas_thread()
    if laws:
        _list_laws(json_output)
        return
    if source is None:
        raise UserError("what to fit is not said; give a table or a folder of runs, or --laws to list laws.")
    if bootstrap is not None and bootstrap < 20:
        raise UserError(f"--bootstrap is {bootstrap}; give at least 20 resamples.")
    from analysis.asked import fit_asked
    from analysis.fit import save
    from analysis.newton import parse_objective

    roles = {
        "n": n, "d": d, "c": c, "loss": loss, "unique": unique, "epochs": epochs, "experts": experts,
        "granularity": granularity, "lr": lr, "batch": batch, "steps": steps, "accuracy": accuracy,
        "error": error,
    }  # fmt: skip
    units = {"n": n_unit, "d": d_unit, "c": c_unit, "loss": loss_unit}
    reading = {
        "run": run, "step": step, "where": where or [], "units": units | _pairs("unit", unit),
        "n_count": n_count, "c_count": c_count,
    }  # fmt: skip
    columns = {name: value for name, value in roles.items() if value} | _pairs("column", column)
    if conventions:
        _conventions(
            source,
            columns | reading,
            parse_objective(objective or USUAL, space),
            bootstrap or 400,
            out,
            json_output,
        )
        return
    asked = None if objective is None and space == "log" else parse_objective(objective or USUAL, space)
    content, fitted = fit_asked(
        source, law or [], columns, reading,
        noise, asked, bootstrap, _numbers("fix", fix),
    )  # fmt: skip
    for remark in content["notes"]:
        note(remark)
    for dropped in content["rows_dropped"]:
        note(f"{dropped['run']} is left out: {dropped['reason']}")

    for name, reason in content["skipped"].items():
        note(f"{name} is not fitted: it {reason}")

    from analysis.plots import fit_figures

    path = save(content, out)
    files = [path, *fit_figures(content, fitted if law else [], path.with_suffix(""))]
    if json_output:
        light = {key: value for key, value in content.items() if key not in ("resamples", "rows")}
        emit_json(light | {"files": [str(file) for file in files]})
        return
    from analysis.show import console, fit_text

    console().print(fit_text(content))
    print("wrote " + ", ".join(str(file) for file in files))


def _conventions(
    source: str, reading: dict[str, Any], objective: Objective, bootstrap: int, out: Path, as_json: bool
) -> None:
    from analysis.columns import Reading
    from analysis.conventions import table, text
    from analysis.plots.conventions import conventions_figure
    from analysis.show import console
    from scaling.files import write_json

    found = table(source, Reading(**reading), objective, bootstrap)
    stem = out / f"{Path(source).stem}-conventions"
    write_json(stem.with_name(f"{stem.name}.json"), found)
    files = [stem.with_name(f"{stem.name}.json"), *conventions_figure(found, stem)]
    if as_json:
        emit_json(found | {"files": [str(file) for file in files]})
        return
    console().print(text(found))
    print("wrote " + ", ".join(str(file) for file in files))


def _list_laws(as_json: bool) -> None:
    from analysis.laws import LAWS

    if as_json:
        names = ("name", "formula", "source", "inputs", "output")
        emit_json({"laws": [{key: getattr(law, key) for key in names} for law in LAWS.values()]})
        return
    from analysis.show import console, laws_text

    console().print(laws_text(LAWS.values()))


def _pairs(flag: str, given: list[str] | None) -> dict[str, str]:
    """`["a=b"]` as {"a": "b"}."""
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise UserError(f"--{flag} is {text!r}; give NAME=VALUE.")
        pairs[name.strip()] = value.strip()
    return pairs


def _numbers(flag: str, given: list[str] | None) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in _pairs(flag, given).items()}
    except ValueError:
        raise UserError(
            f"--{flag} is {' '.join(given or [])}; give NAME=NUMBER, for example E=1.69."
        ) from None
