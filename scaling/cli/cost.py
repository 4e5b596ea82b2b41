"""`scaling cost`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("cost")(cost)


def cost(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="A published model (llama3-8b, gpt3, palm, ...), a config.json of Hugging Face or its "
            "folder, or a number of parameters such as 3B. Several are compared.",
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="One column per model, even for one.")] = False,
    layers: Annotated[
        int | None,
        typer.Option(help="Layers. This and the options to --window spell a model that has no name."),
    ] = None,
    d_model: Annotated[int | None, typer.Option(help="Width of the model.")] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads.")] = None,
    kv_heads: Annotated[
        int | None,
        typer.Option(help="Key/value heads; 1: multi-query; default: as many as --heads."),
    ] = None,
    head_dim: Annotated[
        int | None, typer.Option(help="Size of a head; default: --d-model / --heads.")
    ] = None,
    d_ff: Annotated[int | None, typer.Option(help="Hidden width of the MLP.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Rows of the token table.")] = None,
    tied: Annotated[
        bool | None,
        typer.Option("--tied/--untied", help="Whether the head reuses the token table."),
    ] = None,
    mlp: Annotated[str | None, typer.Option(help="swiglu (default), geglu, gelu or relu.")] = None,
    norm: Annotated[
        str | None,
        typer.Option(help="rms (default: a gain) or layer (gain and bias)."),
    ] = None,
    bias: Annotated[bool | None, typer.Option("--bias/--no-bias", help="Biases on every matrix.")] = None,
    positions: Annotated[int | None, typer.Option(help="Rows of a learned position table.")] = None,
    one_norm: Annotated[
        bool | None,
        typer.Option(
            "--one-norm/--two-norms",
            "--parallel/--serial",
            help="One norm for attention and MLP together, as in parallel blocks.",
        ),
    ] = None,
    experts: Annotated[int | None, typer.Option(help="Experts in place of each MLP.")] = None,
    experts_active: Annotated[int | None, typer.Option(help="Experts that a token meets; default 2.")] = None,
    window: Annotated[int | None, typer.Option(help="Sliding window of attention, tokens.")] = None,
    family: Annotated[
        str,
        typer.Option(help="Shape of a plain count: llama, llama3, gpt2, chinchilla."),
    ] = "llama",
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Training tokens: 300B, 1.4T, or 20x for 20 a parameter. Default: as published, else 20x."
        ),
    ] = None,
    flops: Annotated[str | None, typer.Option(help="Training FLOPs to price, such as 3.14e23.")] = None,
    count: Annotated[
        str,
        typer.Option(
            help="Convention of the FLOPs priced: matmul, matmul_full, 6n, kaplan, palm, chinchilla."
        ),
    ] = "matmul",
    seq_len: Annotated[
        int | None,
        typer.Option(help="Tokens of a training sequence; default: the model's, 8192 at most."),
    ] = None,
    hardware: Annotated[str, typer.Option(help="Chip: v5e, v5p, v6e, a100, h100, b200, cpu, ...")] = "h100",
    hardware_file: Annotated[
        Path | None,
        typer.Option(
            help="TOML over the table; default: $SCALING_HARDWARE, else ~/.config/scaling/hardware.toml."
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Row of the chip's peak: bf16 (default where listed), fp32, fp8, ...")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="Chips; default: the smallest slice that holds the training."),
    ] = None,
    utilisation: Annotated[
        float,
        typer.Option("--utilisation", "--mfu", help="Model FLOPs over peak FLOPs, 0 to 1."),
    ] = 0.4,
    price: Annotated[
        float | None,
        typer.Option(help="Dollars per chip-hour; default: list price."),
    ] = None,
    pue: Annotated[float, typer.Option(help="Power of the building per watt of chips.")] = 1.1,
    mesh: Annotated[str | None, typer.Option(help="Layout, as data=2,fsdp=8,tensor=4.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Sequences of a step over all chips; default: one on each shard."),
    ] = None,
    microbatches: Annotated[int, typer.Option(help="Gradient accumulation steps in it.")] = 1,
    remat: Annotated[
        str,
        typer.Option(help="What is kept for the backward pass: none, attention, dots, full."),
    ] = "full",
    recipe: Annotated[
        str,
        typer.Option(help="Bytes a parameter: engine (ours), plain (ours, scores written) or mixed (16)."),
    ] = "engine",
    context: Annotated[
        int | None,
        typer.Option(help="Tokens of context; default: the model's, 8192 at most."),
    ] = None,
    concurrent: Annotated[int, typer.Option(help="Sequences decoded at once.")] = 1,
    cache_bytes: Annotated[
        float | None,
        typer.Option(help="Bytes per element of the KV cache; default 2, 4 with fp32."),
    ] = None,
    plane: Annotated[
        bool,
        typer.Option("--plane", help="Draw published models on the N-D plane."),
    ] = False,
    fit: Annotated[
        str | None,
        typer.Option(help="Fit whose optimum is drawn, not Chinchilla's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the figure.")] = Path("figures"),
    json_output: JsonFlag = False,
) -> None:
    """What a model costs before it runs: parameters, FLOPs, memory, time, money, energy.

    Counts come from the shape and match published totals to the unit. Prices are list prices with a
    date, in a table that a file of yours overrides (docs/costs.md).

    Example: scaling cost llama3-8b

    scaling cost gpt3 --flops 3.14e23 --devices 256 --precision fp32 --utilisation 0.7 --price 2

    scaling cost --compare llama2-7b llama3-8b mistral-7b --hardware v5p --tokens 2T

    scaling cost --plane --out figures
    """
    from scaling.cost.models import Shape, budget, mesh_of, models_of, number
    from scaling.cost.report import Terms
    from scaling.cost.report import cost as cost_of
    from scaling.hardware import find

    if plane:
        _plane(models, fit, out, json_output)
        return
    if fit is not None:
        raise UserError(f"--fit is {fit!r}; it is drawn with --plane.")
    shape = Shape(
        layers=layers, d_model=d_model, heads=heads, kv_heads=kv_heads, head_dim=head_dim, d_ff=d_ff,
        vocab=vocab, tied=tied, mlp=mlp, norm=norm, bias=bias, positions=positions, one_norm=one_norm,
        experts=experts, experts_active=experts_active, window=window,
    )  # fmt: skip
    whole, per_parameter = budget(tokens)
    terms = Terms(
        hardware=find(hardware, hardware_file),
        tokens=whole,
        tokens_per_parameter=per_parameter,
        flops=None if flops is None else number(flops, "--flops"),
        count=count, seq_len=seq_len, batch=batch, microbatches=microbatches, precision=precision,
        devices=devices, utilisation=utilisation, dollars_per_hour=price, pue=pue, mesh=mesh_of(mesh),
        remat=remat, recipe=recipe, context=context, concurrent=concurrent, cache_bytes=cache_bytes,
    )  # fmt: skip
    reports = [cost_of(arch, terms) for arch in models_of(models or [], shape, family)]
    for report in reports:
        training = report["training"]
        if not training["fits"]:
            note(f"{report['name']} does not fit {training['devices']} {training['hardware']} in this layout")
    _print(reports, compare, json_output)


def _print(reports: list[dict[str, Any]], compare: bool, json_output: bool) -> None:
    if json_output:
        emit_json(reports[0] if len(reports) == 1 and not compare else {"models": reports})
        return
    from scaling.cost import text

    if len(reports) == 1 and not compare:
        text.show(reports[0])
    else:
        text.compare(reports)


def _plane(models: list[str] | None, fit: str | None, out: Path, json_output: bool) -> None:
    from analysis.plots.plane import draw

    drawn = draw(models or None, fit, out)
    for remark in drawn["notes"]:
        note(remark)
    if models and drawn["left_out"]:
        note(f"no published training tokens: {', '.join(drawn['left_out'])}")
    if json_output:
        emit_json(drawn)
        return
    from scaling.cost import text

    text.plane(drawn)
