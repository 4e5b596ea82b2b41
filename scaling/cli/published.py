"""`scaling published`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.output import JsonFlag, emit_json, note
from scaling.errors import UserError

if TYPE_CHECKING:
    from analysis.published import PublishedSet


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    app.command("published")(published)


def published(
    sets: Annotated[
        list[str] | None, typer.Argument(metavar="[SET]...", help="Sets to refit; all without one.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of your copies of the sets; by default the one SCALING_PUBLISHED_DATA names."
        ),
    ] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Show the sets, their sources and licences, and stop.")
    ] = False,
    ranking: Annotated[
        bool,
        typer.Option(
            "--ranking", help="Instead: rank laws on the sets, the top decade of compute of each held out."
        ),
    ] = False,
    bootstrap: Annotated[
        int | None, typer.Option(help="Resamples behind the intervals [default: 400; 200 to rank].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the numbers and the figure.")] = Path(
        "reports/published"
    ),
    json_output: JsonFlag = False,
) -> None:
    """Refit published scaling data: printed constants beside ours on the same rows, and why they differ.

    Sets that are one plain file upstream are downloaded once, at a commit and with a checksum; the others
    are read from a folder of yours, and --list says what to put there. Each is fitted as its paper says
    it was. The objective is printed at their constants, at the best that rounds to them, and at ours.

    Example: scaling published --list && scaling published epoch_chinchilla --data ~/published

    scaling published --ranking --data ~/published
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the solver uses the cores itself
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    from analysis.published import choose, folder_of, registry
    from analysis.reproduce import listed, listing, reproduce, text
    from analysis.show import console

    chosen = choose(list(sets or ()), registry())
    if only_list:
        if json_output:
            emit_json({"sets": listed(chosen)})
        else:
            console().print(listing(chosen), soft_wrap=True)  # addresses stay whole
        return
    if bootstrap is not None and bootstrap < 20:
        raise UserError(f"--bootstrap is {bootstrap}; give at least 20 resamples.")
    if ranking:
        _ranking(
            {item.name: item for item in chosen}, folder_of(data), bootstrap or 200, seed, out, json_output
        )
        return
    content = reproduce(chosen, folder_of(data), bootstrap or 400, seed, insist=bool(sets), say=note)

    from analysis.plots.published import published_figure
    from scaling.files import write_json

    write_json(out / "published.json", content)
    files = [out / "published.json", *published_figure(content, out / "published")]
    if json_output:
        emit_json(content | {"files": [str(file) for file in files]})
        return
    console().print(text(content))
    print("wrote " + ", ".join(str(file) for file in files))


def _ranking(
    chosen: dict[str, PublishedSet],
    folder: Path | None,
    resamples: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    from analysis.ranking_published import published_ranking_text, rank_published
    from analysis.show import console
    from scaling.files import write_json

    content = rank_published(chosen, folder, resamples=resamples, seed=seed, say=note)
    for name, why in content["missing"].items():
        note(f"{name} is not ranked on: {why}")
    path = out / "ranking.json"
    write_json(path, content)
    if as_json:
        emit_json(content | {"files": [str(path)]})
        return
    console().print(published_ranking_text(content))
    print(f"wrote {path}")
