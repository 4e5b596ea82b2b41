"""`scaling data`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError

data_app = typer.Typer(help="Text to train on: prepare your own, show what is there.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.add_typer(data_app, name="data")


@data_app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(help="A .txt, .md, .jsonl or .jsonl.gz file, a folder of them, or tfds:NAME of TFDS."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; one prepared before is replaced.")],
    val_fraction: Annotated[float, typer.Option(help="Share of the bytes kept for validation.")] = 0.05,
    text_field: Annotated[str, typer.Option(help="Field of a JSON line that holds the text.")] = "text",
    tokenizer: Annotated[
        str, typer.Option(help="bytes, bpe:N (trained on the text), or a tokenizers .json or .model file.")
    ] = "bytes",
    name: Annotated[str | None, typer.Option(help="Name in configs; default: the source's.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="tfds: where the sets lie; default: ~/tensorflow_datasets.")
    ] = None,
    documents: Annotated[int, typer.Option(help="tfds: training documents to take; 0: all.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Turn your own text into tokens, split by document.

    Tokens are bytes unless --tokenizer says otherwise. A file is a document, or each line of a .jsonl file
    is. A document that is long beside the whole is cut between paragraphs. The text must be UTF-8. The same
    text gives the same split and the same fingerprint everywhere. Nothing is written unless all of it can be.

    tfds:NAME is a set of TensorFlow Datasets (tfds:lm1b, tfds:c4/en, tfds:wiki40b/en): read in --data-dir
    when it was prepared there in the array_record format, else downloaded. Its own validation or test split
    is kept.

    Example:

        scaling data prepare essays/ --out prepared/essays

        scaling quickstart --data prepared/essays

        scaling data prepare essays/ --out prepared/essays-bpe --tokenizer bpe:4096

        scaling data prepare tfds:lm1b --out prepared/lm1b --documents 1000000
    """
    from scaling.data import named
    from scaling.data.prepare import prepare as prepare_text

    if not source.startswith(named.PREFIX) and (data_dir or documents):
        raise UserError(f"--data-dir and --documents go with tfds:NAME, but the source is {source}.")
    with _progress() as progress:
        prepared, notes = (
            named.prepare_named(
                source, out, data_dir=data_dir, documents=documents, val_fraction=val_fraction,
                text_field=text_field, name=name, tokenizer=tokenizer, progress=progress,
            )
            if source.startswith(named.PREFIX)
            else prepare_text(
                source, out, val_fraction=val_fraction, text_field=text_field, name=name,
                tokenizer=tokenizer, progress=progress,
            )
        )  # fmt: skip
    for remark in notes:
        note(remark)
    _print(_describe(prepared.path) | {"notes": notes}, json)


@data_app.command()
def mix(
    sources: Annotated[list[str], typer.Argument(help="FOLDER=WEIGHT, prepared folders; two or more.")],
    out: Annotated[Path, typer.Option(help="Folder to write; one prepared before is replaced.")],
    name: Annotated[str | None, typer.Option(help="Name in configs; default: the folder's.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make one text of several prepared ones, each drawn from by its weight.

    Weights are shares of the tokens trained on, of any sum. Each source goes through epochs of its own. All
    need the same tokenizer. The final loss is the mean over sources by weight; summary.json has each
    source's own too.

    Example:

        scaling data mix prepared/essays=0.7 prepared/lm1b=0.3 --out prepared/mixed
    """
    from scaling.data.mixture import mix as mix_texts

    weights: dict[str | Path, float] = {}
    for given in sources:
        folder, _, weight = given.rpartition("=")
        try:
            weights[folder] = float(weight)
        except ValueError:
            raise UserError(f"{given!r} is no FOLDER=WEIGHT; give one like prepared/essays=0.7.") from None
        if not folder:
            raise UserError(f"{given!r} names no folder; give one like prepared/essays=0.7.")
    _print(_describe(mix_texts(weights, out, name=name).path), json)


@data_app.command()
def hierarchy(
    out: Annotated[Path, typer.Option(help="Folder to write; one prepared before is replaced.")],
    tokens: Annotated[float, typer.Option(help="Training tokens, at least.")] = 6.5e6,
    symbols: Annotated[int, typer.Option(help="Symbols of every level.")] = 16,
    rules: Annotated[int, typer.Option(help="Productions of every symbol.")] = 16,
    levels: Annotated[int, typer.Option(help="Levels; a sample has 2^levels letters.")] = 2,
    zipf: Annotated[
        float, typer.Option(help="The k-th production is drawn as k^-zipf; 0: all evenly, learnt in steps.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of productions and samples.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Write text of the random hierarchy model, whose entropy rate is known: what a fitted E must meet.

    Example:

        scaling data hierarchy --out prepared/hierarchy

        scaling launch known_entropy --data prepared/hierarchy
    """
    from scaling.data.hierarchy import Hierarchy, write_hierarchy

    source = Hierarchy(symbols, rules, levels, seed, zipf)
    found = _describe(write_hierarchy(source, out, tokens).path)
    _print(found | {"entropy": source.entropy, "sample_tokens": source.sample_tokens}, json)


@data_app.command()
def show(
    folder: Annotated[Path | None, typer.Argument(help="Prepared folder; default: embedded text.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show a text: fingerprint, counts, origin.

    Example:

        scaling data show

        scaling data show prepared/essays --json
    """
    _print(_describe(folder), json)


def _describe(folder: Path | None) -> dict[str, Any]:
    import dataclasses

    from scaling.data.text import provenance, text_info

    found = text_info(folder)
    info = dataclasses.asdict(found) | {"epoch_tokens": found.epoch_tokens}
    info["path"] = None if folder is None else str(folder)
    if folder is None:
        info["sources"] = provenance()["sources"]
    return info


def _print(info: dict[str, Any], json: bool) -> None:
    from scaling.data.text import WEIGHT_PARTS

    if json:
        emit_json(info)
        return
    print(f"{info['name']}  (fingerprint {info['fingerprint']})")
    print(f"  tokenizer   {info['tokenizer']}, vocabulary {info['vocab_size']}")
    print(f"  training    {info['train_tokens']:>13,} tokens in {info['train_documents']:,} documents")
    print(f"  validation  {info['val_tokens']:>13,} tokens in {info['val_documents']:,} documents")
    for name, of in info["mixture"].items():
        print(f"    {of['parts'] / WEIGHT_PARTS:>9.4g}  {of['train_tokens']:>13,} tokens of {name}")
    if info["mixture"]:
        print(f"  one epoch   {info['epoch_tokens']:>13,} tokens, before a source repeats")
    print(f"  bytes       {info['train_bytes'] / info['train_tokens']:>13.3f} per training token")
    print(f"  source      {info['source']}")
    if info["path"]:
        print(f"  folder      {info['path']}")
    for source in info.get("sources", []):
        print(f"\n{source['name']}: {source['package']} {source['version']}")
        print(f"  {source['rights']}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr when someone is looking; it goes away when the work is done."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {what: bar.add_task(what, total=None) for what in ("reading", "writing")}
        yield lambda what, done, total: bar.update(tasks[what], completed=done, total=total)
