"""Logs of others as the runs table: what lies in a folder, one row per run, and which column is what.

    wandb       `wandb:ENTITY/PROJECT` through the API, or the folder of offline (and synced) runs
    tensorboard a folder of event files
    jsonl       a folder of JSON-lines logs: RUN.jsonl, or a folder for each run with one log in it. A run's
                settings are read from config.json, hparams.json, params.json or args.json beside its log, or
                from RUN.json
    table       a CSV, parquet, JSON or JSON-lines file, taken as it is

The table keeps the columns as they were logged. Which of them is N, D, the loss and so on is the column map,
saved beside it as NAME.columns.json and used by whatever reads the table later:

    {kind: "column map", source, from, rows, roles: {role: {column, unit, by}}, undecided: {role: [columns]},
     notes}, by: "flag" where it was named, "name" where its name is usual
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import tensorboard, wandb_files
from analysis.columns import Reading, found_by_name, named
from analysis.metrics import early_losses, last_values, read_logs, scalars
from analysis.roles import ROLES, role
from scaling.errors import UserError
from scaling.files import whole, write_json

_SETTINGS = ("config.json", "hparams.json", "params.json", "args.json")
_STEPS = ("step", "_step", "steps", "global_step", "iteration", "iter")


def kind_of(path: Path) -> str | None:
    """What a path holds: wandb, tensorboard, jsonl, table; None for what none of them reads."""
    if path.is_file():
        if path.suffix == ".wandb":
            return "wandb"
        return "tensorboard" if path.match(tensorboard.PATTERN) else "table"
    for kind, pattern in (("wandb", "*.wandb"), ("tensorboard", tensorboard.PATTERN), ("jsonl", "*.jsonl")):
        if next(path.rglob(pattern), None) is not None:
            return kind
    return None


def read_runs(path: Path, curves: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """The runs of a folder or file of another's logs, and notes; `curves`: a row for each logged step.

    Columns `run`, what was logged and the run's settings. Raises UserError where nothing is found to read.
    """
    kind = kind_of(path)
    if kind == "wandb":
        logs = [path] if path.is_file() else wandb_files.find_logs(path)
        table, notes = wandb_files.read_logs(logs, curves)
        return table.rename(columns={"run_id": "run"}), notes
    if kind == "tensorboard":
        return _events(path, curves)
    if kind == "jsonl":
        return _logs(path, curves)
    raise UserError(
        f"{path} holds no runs: neither run folders nor .wandb logs, TensorBoard event files or .jsonl logs; "
        "give the folder that holds them."
    )


def gather(source: str, curves: bool = False) -> tuple[pd.DataFrame, str, list[str]]:
    """A table of the runs at `source`, what they were read from, and notes.

    Raises UserError for a source that does not exist or holds nothing to read.
    """
    if source.startswith("wandb:"):
        if curves:
            raise UserError(
                "--curves reads logs on this machine; wandb:... gives the last values of each run: copy the "
                "runs' wandb folders here, or leave it out."
            )
        from analysis.wandb_source import load_project  # wandb takes a second to import

        notes: list[str] = []
        table = load_project(source.removeprefix("wandb:"), notes)
        return table.rename(columns={"run_id": "run"}), "wandb", notes
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source} does not exist; give a folder of logs, a table or wandb:ENTITY/PROJECT.")
    from analysis.table import from_folder, is_ours, read

    if path.is_dir() and is_ours(path):
        runs = from_folder(path, Reading(every_row=curves))
        dropped = [f"{row['run']} is left out: {row['reason']}" for row in runs.dropped]
        return runs.table, "runs", [*runs.notes, *dropped]
    if (kind := kind_of(path)) == "table":
        return read(path), "table", []
    table, said = read_runs(path, curves)  # which refuses what is of no kind
    return table, str(kind), said


def _events(path: Path, curves: bool) -> tuple[pd.DataFrame, list[str]]:
    files = [path] if path.is_file() else tensorboard.event_files(path)
    rows, settings, notes = tensorboard.read_events(files, path.parent if path.is_file() else path)
    if not len(rows):
        raise UserError(
            f"{path}: its {len(files)} event files hold no scalar{_why(notes)}; give runs that logged some."
        )
    rows["run"] = rows["run"].astype("category")
    if curves:
        return _beside(rows, settings), notes
    return _beside(last_values(rows, "step"), settings), [*notes, *early_losses(rows, "step")]


def _logs(path: Path, curves: bool) -> tuple[pd.DataFrame, list[str]]:
    files = sorted(path.rglob("*.jsonl"))
    alone = {folder for folder in {file.parent for file in files} if folder != path}
    alone -= {file.parent for i, file in enumerate(files) if i and files[i - 1].parent == file.parent}
    names = [
        (file.parent if file.parent in alone else file.with_suffix("")).relative_to(path).as_posix()
        for file in files
    ]
    rows, notes = read_logs(files, names)
    if not len(rows):
        raise UserError(
            f"{path}: its {len(files)} .jsonl logs hold no row{_why(notes)}; give logs with a line per step."
        )
    settings = pd.DataFrame(
        [
            {"run": name, **_settings(file, file.parent in alone)}
            for file, name in zip(files, names, strict=True)
        ]
    )
    step = next((name for name in _STEPS if name in rows.columns), None)
    if curves:
        return _beside(rows, settings), notes
    return _beside(last_values(rows, step), settings), [*notes, *early_losses(rows, step)]


def _why(notes: list[str]) -> str:
    return f" ({notes[0]})" if notes else ""


def _settings(log: Path, alone: bool) -> dict[str, Any]:
    places = [log.with_suffix(".json"), *(log.parent / name for name in _SETTINGS if alone)]
    for place in places:
        try:
            stored = json.loads(place.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{place} is damaged ({error}); mend or remove it.") from None
        if isinstance(stored, dict):
            return scalars(stored)
    return {}


def _beside(rows: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """Settings as columns of every row of their run; what was logged counts where both have a name."""
    rows = rows.astype({"run": str})
    settings = settings.drop(columns=[name for name in settings if name in rows and name != "run"])
    if "run" not in settings or len(settings.columns) < 2:
        return rows
    return rows.merge(settings.drop_duplicates("run"), on="run", how="left")


def column_map(
    table: pd.DataFrame, reading: Reading, source: str, kind: str, notes: list[str]
) -> dict[str, Any]:
    """Which column is what; see the top of the module. Raises UserError for a column that is not there."""
    roles: dict[str, dict[str, str]] = {}
    for name, given in reading.columns.items():
        roles[name] = {"column": named(table, name, given, source), "unit": reading.unit(name), "by": "flag"}
    taken = {entry["column"] for entry in roles.values()}
    for name in ROLES:
        column = None if name in roles else found_by_name(table, role(name).common)
        if column is not None and column not in taken and pd.api.types.is_numeric_dtype(table[column]):
            roles[name] = {"column": column, "unit": reading.unit(name), "by": "name"}
            taken.add(column)
    # Of N, D and C two give the third, and N and D are asked for first.
    sizes = [name for name in ("n", "d") if name not in roles]
    missing = sizes if len(sizes) == 2 or "c" not in roles else []
    missing += [] if "loss" in roles else ["loss"]
    return {
        "kind": "column map", "source": source, "from": kind, "rows": len(table), "roles": roles,
        "undecided": {name: _candidates(table, name) for name in missing}, "notes": notes,
    }  # fmt: skip


def _candidates(table: pd.DataFrame, name: str) -> list[str]:
    """Columns of numbers that might be meant: those called a loss for the loss, the others for sizes."""
    numbers = [str(c) for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]
    return [c for c in numbers if ("loss" in c.lower()) == (name == "loss")]


def save(table: pd.DataFrame, columns: dict[str, Any], out: Path) -> list[Path]:
    """Write the table (.csv or .parquet) and the map beside it. Raises UserError for another ending."""
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out is {out}; give a name that ends in .csv or .parquet.")
    with whole(out) as temporary:
        if out.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
    write_json(map_path(out), columns)
    return [out, map_path(out)]


def map_path(table: Path) -> Path:
    return table.with_name(f"{table.stem}.columns.json")


def stored_map(table: Path) -> dict[str, Any] | None:
    """The column map beside a table, if there is one. Raises UserError when it is damaged."""
    path = map_path(table)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content["kind"] != "column map":
            return None
        dict(content["roles"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); import the runs again or remove it.") from None
    return dict(content)
