"""Where the runs of a ranking come from: a table read with flags, or the rows of a fit file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.columns import SURFACE, Reading
from analysis.design import needs
from analysis.fit import load_fit
from analysis.law import Law
from analysis.predictive import runs_of
from analysis.roles import role
from analysis.table import Runs, load, read
from scaling.errors import UserError

_EXTRA = ("unique", "steps", "experts", "granularity")  # what some laws of the loss read beside the sizes


def open_source(source: str, how: Mapping[str, Any], laws: Sequence[Law] = ()) -> Runs:
    """The runs of a folder, table or wandb project, or of a fit file (by path or name under fits/).

    `how`: arguments of `analysis.columns.Reading`. Without `laws` every column that a law of the loss reads
    is taken where the table has it. Raises UserError as `analysis.table.load` does.
    """
    path = Path(source)
    named = [name for name, value in how.items() if value and name != "units"]
    if _is_fit(path):
        if named:
            raise UserError(f"{source} is a fit, whose columns are known; leave out --{named[0]}.")
        return runs_of(load_fit(source))
    reading = Reading(**how)
    if laws:
        return load(source, reading, needs(laws))
    wanted = dict(SURFACE) | {name: "" for name in _EXTRA if reading.columns.get(name)}
    if "epochs" in reading.columns:
        wanted["unique"] = ""
    if path.is_file():
        wanted |= {name: "" for name in _found(path)}
    return load(source, reading, wanted)


def _is_fit(path: Path) -> bool:
    if (Path("fits") / f"{path}.json").exists() and not path.exists():
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open(errors="replace") as file:
        return '"kind": "fit"' in file.read(200)


def _found(path: Path) -> list[str]:
    """Roles beside the sizes whose usual names the table has."""
    names = {str(name).strip().lower() for name in read(path).columns}
    return [name for name in _EXTRA if names & set(role(name).common)]
