"""`scaling tune` and `scaling critical-batch`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("tune")(tune)
    app.command("critical-batch")(critical_batch)


def tune(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Folder of runs, CSV, parquet, JSON or JSONL file: a run a row.", metavar="TABLE"
        ),
    ] = None,
    rules: Annotated[
        bool,
        typer.Option("--rules", help="Instead: the published rules, their sources, what each holds fixed."),
    ] = False,
    n: Annotated[str | None, typer.Option(help="Column of parameters.")] = None,
    d: Annotated[str | None, typer.Option(help="Column of training tokens.")] = None,
    c: Annotated[str | None, typer.Option(help="Column of training FLOPs.")] = None,
    lr: Annotated[str | None, typer.Option(help="Column of the (peak) learning rate.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Column of the batch, in tokens (see --batch-unit).")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Column of the final loss per token.")] = None,
    seed: Annotated[str | None, typer.Option(help="Column of the seed [default: found by name].")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column that makes runs different (width, depth, weight decay); repeat it."),
    ] = None,
    hold: Annotated[
        str | None, typer.Option(help="batch: optimal rates at each batch of a crossed sweep; or lr.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Standard error of one run's loss, nats, where it is known.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE: only these rows; repeat it.")] = None,
    n_unit: Annotated[str, typer.Option(help="Its unit: 1, k, M, B, T or a number.")] = "1",
    d_unit: Annotated[str, typer.Option(help="Its unit: 1, k, M, B, T or a number.")] = "1",
    batch_unit: Annotated[
        str,
        typer.Option(help="Tokens that one of it stands for: the sequence's length if it counts sequences."),
    ] = "1",
    loss_unit: Annotated[str, typer.Option(help="Its unit: nats, bits or perplexity.")] = "nats",
    n_count: Annotated[
        str | None, typer.Option(help="Own runs: total, non_embedding, active or kaplan N.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the tuning and its figure.")] = Path("fits"),
    json_output: JsonFlag = False,
) -> None:
    """Find the optimal learning rate and batch of every size and horizon of a sweep, and their laws.

    Of each N and D: a local quadratic in the log of what was swept, its lowest point with a 90% interval.
    An optimum at the edge of what was tried is refused, with what to run next; a run that diverged (status
    diverged, or no finite loss) is a bad side, not a number. Then power laws of the optima in N, D and C,
    what they hold fixed, and published rules beside them. Writes OUT/NAME-tuning.json and a figure.

    Example: scaling tune sweep.csv --n params --d tokens --lr peak_lr --loss val_loss

    scaling tune grid.csv --n N --d D --lr lr --batch bs --loss loss --where optimizer=adamw

    scaling tune runs/rates

    scaling tune --rules
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small problems
    if rules:
        _rules(json_output)
        return
    if source is None:
        raise UserError("what to tune is not said; give a table or a folder of runs, or --rules.")
    from analysis.columns import Reading
    from analysis.plots.tuning import tuning_figure
    from analysis.show import console
    from analysis.tuning import held
    from analysis.tuning import tune as tuned
    from analysis.tuning_rows import load_sweep
    from analysis.tuning_show import tuning_text
    from scaling.files import write_json

    reading = Reading(
        n=n, d=d, c=c, lr=lr, batch=batch, loss=loss, where=where or [], n_count=n_count,
        units={"n": n_unit, "d": d_unit, "batch": batch_unit, "loss": loss_unit},
    )  # fmt: skip
    content = tuned(load_sweep(source, reading, by or [], seed), held(hold), noise)
    for remark in content["notes"]:
        note(remark)
    stem = out / f"{content['name']}-tuning"
    write_json(stem.with_name(f"{stem.name}.json"), content)
    files = [stem.with_name(f"{stem.name}.json"), *tuning_figure(content, stem)]
    if json_output:
        emit_json(content | {"files": [str(file) for file in files]})
        return
    console().print(tuning_text(content), width=100)
    print("wrote " + ", ".join(str(file) for file in files))


def _rules(as_json: bool) -> None:
    from scaling.recipes import RULES

    names = ("name", "formula", "source", "n_count", "fixed", "schedule", "secondary")
    listed = [{name: getattr(rule, name) for name in names} | {"data": rule.data} for rule in RULES.values()]
    if as_json:
        emit_json({"rules": listed})
        return
    for rule in RULES.values():
        print(f"{rule.name}: {rule.formula}")
        spans = ", ".join(f"{k.upper()} {low:.3g} to {high:.3g}" for k, (low, high) in rule.data.items())
        for word, text in (("from", rule.source), ("holds fixed", rule.fixed), ("runs", spans),
                           ("schedule", rule.schedule), ("not from the paper", rule.secondary)):  # fmt: skip
            if text:
                print(f"    {word}: {text}")


def critical_batch(
    source: Annotated[
        str, typer.Argument(help="CSV, parquet, JSON or JSONL file, or a folder of runs.", metavar="TABLE")
    ],
    loss: Annotated[
        str | None,
        typer.Option(help="Of a folder of runs: target losses in nats per token, for example 2.2,2.1."),
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Column of the batch, in any unit.")] = None,
    steps: Annotated[str | None, typer.Option(help="Column of the steps to the target loss.")] = None,
    n: Annotated[
        str | None, typer.Option(help="Column of the size: parameters, or names such as 85M and 1.2B.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column of the target loss, where one size has several.")
    ] = None,
    reference: Annotated[
        float, typer.Option(help="Batch whose examples B* is measured by; 0: an infinitely small one.")
    ] = 0.0,
    excess: Annotated[float, typer.Option(help="B* is where it takes so many times those examples.")] = 1.2,
    per_million: Annotated[
        bool, typer.Option("--per-million", help="Print the law in N / 1e6, as Zhang et al. do.")
    ] = False,
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals.")] = 400,
    out: Annotated[Path, typer.Option(help="Folder for the figure and its numbers.")] = Path(
        "reports/critical-batch"
    ),
    json_output: JsonFlag = False,
) -> None:
    """Find the critical batch of every size from the steps that several batches took to a target loss.

    Steps and examples trade as (S/S_min - 1)(E/E_min - 1) = 1 (McCandlish et al. 2018). Printed are
    E_min / S_min, where both are twice their least, and B*, with a law of it in N, or of E_min / S_min in
    the loss, where the table has several. Of a folder of runs at constant rates, steps to each target are
    read from the smoothed training losses, the best rate of each batch counting; batches are in tokens.

    Example: scaling critical-batch steps.csv --batch batch --steps steps --n params

    scaling critical-batch cbs.csv --batch batch_seqs --steps steps_to_target --n model --reference 256
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if bootstrap < 20:
        raise UserError(f"--bootstrap is {bootstrap}; give at least 20 resamples.")
    from analysis.critical import Definition, critical_batches, read_steps
    from analysis.plots.critical import critical_figure
    from analysis.show import console
    from analysis.tuning_show import critical_text

    notes: list[str] = []
    unit = "as given"
    if Path(source).is_dir():
        from analysis.steps import steps_of_runs

        unit = "tokens"
        table, notes = steps_of_runs(source, _losses(loss))
    elif loss:
        raise UserError("--loss goes with a folder of runs; name the table's column of targets by --target.")
    else:
        table, notes = read_steps(source, {"batch": batch, "steps": steps, "n": n, "target": target})
    definition = Definition(reference, excess)
    content = critical_batches(table, source, definition, per_million, bootstrap, unit=unit)
    content["notes"] = notes
    files = critical_figure(content, out / Path(source).stem)
    if json_output:
        emit_json(content | {"files": [str(path) for path in files]})
        return
    console().print(critical_text(content), width=100)
    print(f"figure   {files[0]}")
    for line in notes:
        note(line)


def _losses(text: str | None) -> list[float]:
    """`2.2,2.1` as numbers. Raises UserError for a word that is none."""
    try:
        return [float(word) for word in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"--loss is {text!r}; give losses in nats per token, for example 2.2,2.1.") from None
