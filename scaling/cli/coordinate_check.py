"""`scaling coordinate-check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import JsonFlag, emit_json, note

if TYPE_CHECKING:
    from analysis.activations import Slope
    from scaling.config import RunConfig


def register(app: typer.Typer) -> None:
    """Add the command of this file to `app`."""
    app.command("coordinate-check")(coordinate_check)


def coordinate_check(
    config: Annotated[
        Path | None,
        typer.Argument(help="A RunConfig as JSON whose model is checked; without one a small decoder."),
    ] = None,
    parametrization: Annotated[
        str | None,
        typer.Option(
            "--parametrization", "--parametrisation",
            help="standard, mup or completep; the config's own, or mup for the small decoder.",
        ),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(help="width, depth or both; width alone, for completep both."),
    ] = None,
    widths: Annotated[str, typer.Option(help="Model widths, the smallest first.")] = "64,128,256,512",
    depths: Annotated[str, typer.Option(help="Numbers of layers.")] = "2,4,8,16",
    seeds: Annotated[int, typer.Option(help="Seeds of each shape.")] = 3,
    steps: Annotated[int, typer.Option(help="Updates made before the sizes are judged.")] = 4,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set optimizer.name=muon.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figure and the sizes.")] = Path(
        "reports/coordinate-check"
    ),
    as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Do activations keep their size as the model grows? Learning rates transfer only if they do.

    Trains the model at several widths or depths for a few steps on the embedded text, from a readout of
    zero, at a constant rate (the config's peak), and fits the slope of log2 mean |activation| against
    log2 width or depth for each layer type. Below .2 both ways passes. Needs no data and about a minute;
    a model with a large vocabulary is checked with one of 256.

    Exits with 0 when every slope passes, 1 when one does not, 2 for input to be mended. Passing is not
    proof that rates transfer: a sweep over widths is.

    Example: scaling coordinate-check --parametrization mup
    """
    import os

    from scaling.config import Placement
    from scaling.data.text import cache_folder
    from scaling.environment import training_environment
    from scaling.errors import UserError

    given = {"width": _sizes("--widths", widths), "depth": _sizes("--depths", depths)}
    for name, value in (("--seeds", seeds), ("--steps", steps)):
        if value < 1:
            raise UserError(f"{name} is {value}; give a whole number of at least 1.")
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder() / "xla")
    os.environ.update(training_environment(Placement(threads=0), compiled))

    run, name = _run(config, set_ or [], parametrization)
    axes = _axes(axis, name)

    from analysis.activations import slopes
    from analysis.plots.activations import activations_figure
    from scaling.coordinates import measure

    rows: list[dict[str, Any]] = []
    for along in axes:
        rows += measure(run, name, along, given[along], seeds=seeds, steps=steps, show=note)
    found = slopes(rows)
    optimizer = run.optimizer.name
    stem = out / f"{name}-{optimizer}"
    title = f"{name}, {optimizer}, {seeds} seeds"
    files = [str(path) for path in activations_figure(rows, found, title, stem)]
    passed = all(slope.flat for slope in found)
    if as_json:
        emit_json(_as_json(run, name, found, rows, passed) | {"files": files})
    else:
        _print(found, name, passed, files)
    raise typer.Exit(0 if passed else 1)


def _run(path: Path | None, changes: list[str], name: str | None) -> tuple[RunConfig, Any]:
    from scaling.cli.train import _assignments, _read
    from scaling.config import override
    from scaling.errors import UserError
    from scaling.parametrisation import TABLE

    if name and name not in TABLE:
        raise UserError(f"--parametrization is {name!r}; choose from {', '.join(TABLE)}.")
    if path is not None:
        run = override(_read(path), _assignments(changes))
        return run, name or run.parametrisation
    from scaling.coordinates import default_config

    return override(default_config(), _assignments(changes)), name or "mup"


def _axes(axis: str | None, name: str) -> tuple[str, ...]:
    from scaling.errors import UserError

    asked = axis or ("both" if name == "completep" else "width")
    if asked not in ("width", "depth", "both"):
        raise UserError(f"--axis is {asked!r}; choose from width, depth, both.")
    return ("width", "depth") if asked == "both" else (asked,)


def _sizes(option: str, text: str) -> list[int]:
    from scaling.errors import UserError

    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"{option} is {text!r}; give whole numbers with commas, like 64,128,256.") from None


def _as_json(
    run: RunConfig, name: str, found: list[Slope], rows: list[dict[str, Any]], passed: bool
) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.activations import BAR
    from scaling.config import to_dict

    return {
        "parametrization": name,
        "passed": passed,
        "bar": BAR,
        "slopes": [asdict(slope) for slope in found],
        "sizes": rows,
        "config": to_dict(run),
    }


def _print(found: list[Slope], name: str, passed: bool, files: list[str]) -> None:
    from analysis.activations import BAR

    print(f"{'axis':<6}  {'layer type':<17}{'slope':>7}   ± se")
    for one in found:
        if one.slope is None:
            print(f"{one.axis:<6}  {one.layer:<17}{'':>7}          FAIL  {one.why}")
        else:
            error = "     " if one.error is None else f"{one.error:.3f}"
            print(f"{one.axis:<6}  {one.layer:<17}{one.slope:>+7.3f}  {error}   {'' if one.flat else 'FAIL'}")
    worst = sum(not one.flat for one in found)
    said = "passes" if passed else f"fails: {worst} of {len(found)} slopes reach {BAR}"
    print(f"{name} {said}")
    print("wrote " + ", ".join(files))
