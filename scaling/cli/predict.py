"""`scaling predict`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError

if TYPE_CHECKING:
    from analysis.question import Model, Question


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("predict")(predict)


def predict(
    fit: Annotated[
        str,
        typer.Argument(
            help="Fit file, or its name under fits/; a folder of runs or a table; chinchilla, sardana, "
            "besiroglu, gadre or muennighoff for printed constants, or A=..,B=..,E=..,alpha=..,beta=.. of "
            "your own."
        ),
    ],
    flops: Annotated[
        str | None,
        typer.Option("--flops", "--budget", help="Training FLOPs, counted as the fit counts them."),
    ] = None,
    cost: Annotated[str | None, typer.Option(help="Budget in dollars: 50000, 2M.")] = None,
    chip_hours: Annotated[str | None, typer.Option(help="Budget in hours of one chip of --hardware.")] = None,
    loss: Annotated[
        float | None, typer.Option(help="Loss to reach, nats per token, for as little as it takes.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="N, or N,TOKENS (13B, 13B,577B), a model's name (llama3-8b) or a config.json: its loss, and "
            "what reaches it for less. Without tokens: those of --flops, of --loss, or the best for its size."
        ),
    ] = None,
    infer_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens that the model will serve in its life; a budget then pays for them too."),
    ] = None,
    decode_share: Annotated[
        float, typer.Option(help="Share of the served tokens that are generated; the others are read.")
    ] = 0.5,
    token_price: Annotated[
        float | None,
        typer.Option(help="Dollars for each new training token, e.g. 1e-6; repeating it is free."),
    ] = None,
    unique_tokens: Annotated[
        str | None, typer.Option(help="All the text there is, in tokens; more are had by repeating it.")
    ] = None,
    hardware: Annotated[str, typer.Option(help="Chip that trains: h100, v5p, ...; `scaling cost`.")] = "h100",
    hardware_file: Annotated[
        Path | None, typer.Option(help="TOML over the hardware table, as for `scaling cost`.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Row of the chip's peak: bf16 (default where listed), fp8, ...")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Chips; default: the fewest that take 30 days or less.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", "--mfu", help="Model FLOPs over peak FLOPs of training, 0 to 1.")
    ] = 0.4,
    price: Annotated[float | None, typer.Option(help="Dollars per chip-hour; default: list price.")] = None,
    pue: Annotated[float, typer.Option(help="Power of the building per watt of chips.")] = 1.1,
    serve_hardware: Annotated[str | None, typer.Option(help="Chip that serves; default: --hardware.")] = None,
    serve_price: Annotated[float | None, typer.Option(help="Dollars per hour of a serving chip.")] = None,
    prefill_utilisation: Annotated[
        float | None, typer.Option(help="Of reading prompts; default: that of training.")
    ] = None,
    decode_utilisation: Annotated[
        float | None, typer.Option(help="Of generating, often .01 to .1; default: that of training.")
    ] = None,
    tuning: Annotated[
        Path | None,
        typer.Option(help="File of `scaling tune`: its laws set the learning rate and the batch."),
    ] = None,
    law: Annotated[
        str | None, typer.Option(help="Which law of the fit answers; default: its L(N, D).")
    ] = None,
    at: Annotated[
        Path | None,
        typer.Option(help="Table with two of n, d, c: the loss of each row. Other columns are kept."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="With --at: ROLE=COLUMN where it has another name, e.g. n=params; repeat it."),
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="With --at: ROLE=UNIT, e.g. n=M, d=B, c=PF-days; repeat it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --at: write the table with the predictions beside it, as CSV.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Write what a size off the best one costs, as FILE.png, .pdf and .csv."),
    ] = None,
    run_config: Annotated[
        Path | None,
        typer.Option(help="Write the run to train here, for `scaling preflight`, `launch` and `train`."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run in --run-config.")] = 0,
    json_output: JsonFlag = False,
) -> None:
    """Answer for a budget, a loss or a model: how large, on how many tokens, at what loss, how sure.

    A budget is in FLOPs, dollars or chip-hours. The interval of the loss is that of one new run. With a fit
    of this project's own runs the answer names the run to build, and --run-config writes it. Numbers may be
    written 300B, 1.4T or 6e10.

    Example: scaling predict quickstart --flops 1e13 --run-config target.json

    scaling predict losses --cost 2M --hardware v5p --unique-tokens 500B

    scaling predict sardana --model 13B --infer-tokens 2T

    scaling predict losses --at points.csv --out predicted.csv
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the solver uses the cores itself
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sought = (flops, cost, chip_hours, loss, model)
    asked = any(value is not None for value in sought)
    _check(asked, at, {"--out": out, "--column": column, "--unit": unit},
           {"--run-config": run_config, "--figure": figure, "--infer-tokens": infer_tokens,
            "--token-price": token_price, "--unique-tokens": unique_tokens, "--tuning": tuning})  # fmt: skip
    from analysis.question import Question, Terms
    from scaling.cost.models import number
    from scaling.hardware import find

    def amount(value: str | None, flag: str) -> float | None:
        return None if value is None else number(value, flag)

    from analysis.predict import open_fit

    content, said = open_fit(fit)
    for remark in said:
        note(remark)
    result: dict[str, Any] = {}
    if asked:
        chip = find(hardware, hardware_file)
        listed = chip.flops_per_second
        terms = Terms(
            hardware=chip, precision=precision or ("bf16" if "bf16" in listed else next(iter(listed))),
            utilisation=utilisation, dollars_per_hour=price, devices=devices, pue=pue,
            serve_hardware=None if serve_hardware is None else find(serve_hardware, hardware_file),
            serve_dollars_per_hour=serve_price, prefill_utilisation=prefill_utilisation,
            decode_utilisation=decode_utilisation,
        )  # fmt: skip
        question = Question(
            terms=terms, flops=amount(flops, "--flops"), dollars=amount(cost, "--cost"),
            chip_hours=amount(chip_hours, "--chip-hours"), loss=loss,
            model=None if model is None else _model(model, content, law),
            infer_tokens=amount(infer_tokens, "--infer-tokens"), decode_share=decode_share,
            token_price=token_price, unique_tokens=amount(unique_tokens, "--unique-tokens"),
        )  # fmt: skip
        result |= _answer(content, question, law, seed, tuning, run_config, figure, json_output)
    if at is not None:
        result |= _points(content, at, law, column, unit, out, json_output)
    if json_output:
        emit_json(result)


def _check(asked: bool, at: Path | None, of_points: dict[str, Any], of_answers: dict[str, Any]) -> None:
    if not asked and at is None:
        raise UserError(
            "what to predict is not said; give --flops, --cost, --chip-hours, --loss or --model, or --at "
            "with a table of n and d."
        )
    for flag, value in of_points.items():
        if value and at is None:
            raise UserError(f"{flag} is about the rows of a table; give --at.")
    for flag, value in of_answers.items():
        if value is not None and not asked:
            raise UserError(f"{flag} needs a budget; give --flops, --cost, --chip-hours, --loss or --model.")


def _answer(
    content: dict[str, Any],
    question: Question,
    law: str | None,
    seed: int,
    tuning: Path | None,
    run_config: Path | None,
    figure: Path | None,
    json_output: bool,
) -> dict[str, Any]:
    from analysis.answer import answer, solve
    from analysis.predict import need_own

    if run_config is not None:
        need_own(content)
    laws = None
    if tuning is not None:
        from analysis.settings import load_tuning

        laws = load_tuning(tuning)
    found, run = answer(content, question, law, seed, laws)
    files = []
    if run_config is not None and run is not None:
        from scaling.config import dump_run_config
        from scaling.files import write_whole

        write_whole(run_config, dump_run_config(run))
        found["run_config"] = str(run_config)
        files.append(str(run_config))
    if figure is not None:
        from analysis.plots.regret import regret_figure

        solved = solve(content, question, law)
        drawn = regret_figure(
            solved.surface, solved.demand, solved.plan, figure.with_suffix(""),
            interval=found["optimum"]["n_interval"],
        )  # fmt: skip
        found["figures"] = [str(path) for path in drawn]
        files += found["figures"]
    if not json_output:
        from analysis.predict_text import answer_lines

        print("\n".join(answer_lines(found)))
        if files:
            print("wrote " + ", ".join(files))
    return found


def _points(
    content: dict[str, Any],
    at: Path,
    law: str | None,
    column: list[str] | None,
    unit: list[str] | None,
    out: Path | None,
    json_output: bool,
) -> dict[str, Any]:
    from analysis.points import Columns, at_points

    points = at_points(content, str(at), law, Columns(_pairs("column", column), _pairs("unit", unit)))
    for remark in points.notes:
        note(remark)
    if out is not None:
        from scaling.files import write_whole

        write_whole(out, points.table.to_csv(index=False))
    if not json_output:
        from analysis.predict_text import points_lines

        print("\n".join(points_lines(points)))
        if out is not None:
            print(f"wrote {out}")
    found: dict[str, Any] = {
        "fit": content["name"], "points": points.rows, "points_law": points.law,
        "points_interval_method": points.method, "score": points.score,
    }  # fmt: skip
    return found | ({"out": str(out)} if out is not None else {})


def _model(text: str, content: dict[str, Any], law: str | None) -> Model:
    """`13B`, `13B,577B`, a name or a file as a model in the fit's counts."""
    from analysis.question import Model
    from scaling.cost.models import number

    path = Path(text)
    if path.exists():
        return _of_file(path, content, law)
    size, comma, tokens = text.partition(",")
    try:
        return Model(name=size, n=number(size, "--model"), d=number(tokens, "--model") if comma else None)
    except UserError:
        if comma:
            raise
    return _of_shape(text, content, law)


def _of_file(path: Path, content: dict[str, Any], law: str | None) -> Model:
    """A RunConfig of ours, with its tokens; else whatever `scaling cost` reads."""
    import json

    from analysis.predict import counted
    from scaling.config import load_run_config

    file = path / "config.json" if path.is_dir() else path
    try:
        text = file.read_text()
        values = json.loads(text)
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"--model is {str(path)!r}, which is no JSON; give a config.json, N or N,TOKENS."
        ) from None
    if isinstance(values, dict) and {"model", "optimizer", "seq_len"} <= values.keys():
        return counted(content, load_run_config(text, str(file)), path.stem, law)
    return _of_shape(str(path), content, law)


def _of_shape(name: str, content: dict[str, Any], law: str | None) -> Model:
    from analysis.question import Model
    from analysis.surfaces import surface_of
    from scaling.accounting import counts
    from scaling.cost.models import of_name

    arch = of_name(name)
    count = counts(arch, min(arch.context or 2048, 8192))
    known: dict[str, int] = dict(count.n)  # type: ignore[arg-type]
    n = known.get(surface_of(content, law).n_count, known["total"])
    return Model(name=arch.name, n=float(n))


def _pairs(flag: str, given: list[str] | None) -> dict[str, str]:
    """`["a=b"]` as {"a": "b"}."""
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise UserError(f"--{flag} is {text!r}; give ROLE=NAME.")
        pairs[name.strip()] = value.strip()
    return pairs
