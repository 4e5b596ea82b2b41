"""The runs table, the only thing analysis reads: one row per run, whatever it came from.

A folder of runs, a wandb project, a CSV, parquet or JSON file becomes `Runs`. Columns of its table:

    run     name of the run (run_id, the --run column, or "row 7")
    n       parameters, by the convention in `n_name` ("given" for a stranger's table)
    d       training tokens
    c       training FLOPs, by the convention in `c_name` ("given", or "6nd" where computed)
    loss    final validation loss, nats per token
    ...     further roles that a law reads (see analysis.roles), where the table has them: unique, lr, ...

Tables of our own runs have unique, lr, batch (tokens) and steps, and add every convention (n_total, ...,
c_matmul, ...), tokens, loss_se, batch_tokens, d_model, n_layers, seed, data, unique_tokens, status, b2,
schedule, warmup_steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.checks import Rows, examine
from analysis.columns import SIZES, SURFACE, Reading, canonical, named
from analysis.folders import curves, split
from analysis.importing import kind_of, map_path, read_runs, stored_map
from analysis.newton import Array
from analysis.roles import role
from scaling.accounting import C_CONVENTIONS, N_CONVENTIONS
from scaling.config import RunConfig, from_dict, to_dict
from scaling.errors import UserError
from scaling.runs import RunFolder, run_folders

_OWN = {"n_total", "tokens", "c_matmul", "loss"}  # columns that mark a table as ours
_OWN_ROLES = {"unique": "unique_tokens", "batch": "batch_tokens"}  # roles that our columns name otherwise


@dataclass(frozen=True)
class Runs:
    """Finished runs ready to fit. `own` tables know every convention of N and C."""

    source: str
    name: str  # names the fit's files
    table: pd.DataFrame
    n_name: str
    c_name: str
    own: bool
    dropped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    setting: dict[str, Any] | None = None  # own folders: what every run shares (data, seq_len, recipe)
    fixed_n: bool = False  # --n-count, or a stranger's N: the same for every law

    def has(self, name: str) -> bool:
        """Whether every run has a number in this role."""
        return name in self.table and bool(np.isfinite(self.table[name].to_numpy(np.float64)).all())

    def column(self, name: str) -> Array:
        """float64 of a role. Raises UserError naming the flag where the table does not have it."""
        if not self.has(name):
            raise UserError(
                f"{self.source} gives no {name} ({role(name).meaning}) for every run; "
                f"name its column with {role(name).flag}."
            )
        return self.table[name].to_numpy(np.float64)

    def n(self, convention: str) -> tuple[Array, str]:
        """N by a law's convention where the table knows it, else the N it has; and its name."""
        if not self.fixed_n and f"n_{convention}" in self.table:
            return self.column(f"n_{convention}"), convention
        return self.column("n"), self.n_name

    @property
    def runs(self) -> list[str]:
        return [str(run) for run in self.table["run"]]


def load(source: str, reading: Reading | None = None, needs: Mapping[str, str] | None = None) -> Runs:
    """Read runs from a folder of runs, `wandb:entity/project`, a CSV / parquet / JSON / JSON-lines file, or
    the logs of others (`analysis.importing`). A table with a column map beside it is read by that.

    `needs`: the roles that the laws to be fitted read, see `analysis.columns.canonical`. Raises UserError
    when the source is missing, empty or unreadable, when a column is missing, when a row that counts
    holds something else than positive numbers, and for rows that must not be fitted together.
    """
    reading = reading or Reading()
    if source.startswith("wandb:"):
        from analysis.wandb_source import load_project  # wandb takes a second to import

        notes: list[str] = []
        raw = load_project(source.removeprefix("wandb:"), notes)
        return _noted(from_frame(raw, reading, source, source.rsplit("/", 1)[-1], needs), notes)
    path = Path(source)
    if not path.exists() and (Path("runs") / source).is_dir():
        path = Path("runs") / source
    if not path.exists():
        raise UserError(
            f"{source} does not exist; give a CSV, parquet or JSON file, a folder of runs or logs, or "
            "wandb:ENTITY/PROJECT."
        )
    kind = kind_of(path) if path.is_file() or not is_ours(path) else None
    if kind in ("wandb", "tensorboard", "jsonl"):
        return _of_logs(path, reading, source, needs)
    if path.is_dir():
        return from_folder(path, reading)
    stored = None if reading.names_columns else stored_map(path)
    if stored is None:
        return from_frame(read(path), reading, source, path.stem, needs)
    said = ", ".join(f"{entry['column']} as {name}" for name, entry in stored["roles"].items())
    mapped = reading.by_map(stored["roles"])
    return _noted(
        from_frame(read(path), mapped, source, path.stem, needs),
        [f"columns by {map_path(path).name}: {said}"],
    )


def _of_logs(path: Path, reading: Reading, source: str, needs: Mapping[str, str] | None) -> Runs:
    """Another's logs, see `analysis.importing`."""
    raw, notes = read_runs(path, reading.every_row)
    if reading.every_row and not reading.run:
        reading = reading.of_run("run", reading.step)
    return _noted(from_frame(raw, reading, source, path.resolve().name, needs), notes)


def _noted(runs: Runs, notes: list[str]) -> Runs:
    return replace(runs, notes=[*notes, *runs.notes])


def is_ours(path: Path) -> bool:
    """Whether a folder holds run folders of this project, one or two levels down."""
    if (path / "sweep.json").exists():
        return True
    for pattern in ("*/config.json", "*/*/config.json"):
        found = next(path.glob(pattern), None)
        if found is None:
            continue
        try:
            stored = json.loads(found.read_text(errors="replace"))
        except (OSError, ValueError):
            return (found.parent / "placement.json").exists()
        if isinstance(stored, dict) and {"model", "data", "optimizer"} <= stored.keys():
            return True
    return False


def read(path: Path) -> pd.DataFrame:
    """A CSV (comma, semicolon or tab), parquet, JSON or JSON-lines file. Raises UserError when it is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a CSV, parquet, JSON or JSON-lines file.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".jsonl", ".ndjson"):
            return pd.read_json(path, lines=True)
        if path.suffix == ".json":
            return pd.read_json(path)
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text; give a CSV, parquet, JSON or JSON-lines file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    except Exception as error:  # pyarrow and pandas raise many kinds for a file that is not theirs
        raise UserError(f"{path} cannot be read as {path.suffix[1:]} ({error}); check the file.") from None
    if not text.strip():
        raise UserError(f"{path} is empty; give a table with a header line and one row per run.")
    if "\0" in text:
        raise UserError(f"{path} is not text; give a CSV, parquet, JSON or JSON-lines file.")
    header = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    if not header.count(separator):
        raise UserError(f"{path} is not a table: its first line has no comma, semicolon or tab.")
    from io import StringIO

    try:
        return pd.read_csv(StringIO(text), sep=separator, skipinitialspace=True, index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path} cannot be read as CSV ({str(error).strip()}); check the file.") from None


def from_frame(
    raw: pd.DataFrame, reading: Reading, source: str, name: str, needs: Mapping[str, str] | None = None
) -> Runs:
    """A DataFrame as runs: one of ours where it has our columns and no flag says otherwise."""
    if set(raw.columns) >= _OWN and not reading.names_columns:
        n_name, c_name = _conventions(reading)
        columns: dict[str, Any] = {"n": f"n_{n_name}", "d": "tokens", "c": f"c_{c_name}", "loss": "loss"}
        columns |= {part: name for part, name in _OWN_ROLES.items() if part in (needs or {}) and name in raw}
        own = Reading(where=reading.where, **(columns | reading.columns))
        read = canonical(raw, own, source, dict.fromkeys(SURFACE, "") | dict(needs or {}))
        _one_text(raw.iloc[read.table["row"].to_numpy() - 1], source)
        extra = raw.reset_index(drop=True).iloc[read.table["row"].to_numpy() - 1].reset_index(drop=True)
        known = [column for column in read.table.columns if column in extra.columns]
        return Runs(
            source=source, name=name, table=pd.concat([read.table, extra.drop(columns=known)], axis=1),
            n_name=n_name, c_name=c_name, own=True, dropped=read.dropped, notes=read.notes,
            fixed_n=reading.n_count is not None,
        )  # fmt: skip
    for flag in ("n_count", "c_count"):
        if getattr(reading, flag) is not None:
            raise UserError(
                f"--{flag.replace('_', '-')} is for runs of this project, whose counts are known; "
                f"{source} has one N and one C: choose them with --n and --c."
            )
    read = canonical(raw, reading, source, needs)
    return Runs(
        source=source, name=name, table=read.table, n_name="given", c_name=read.c_name, own=False,
        dropped=read.dropped, notes=read.notes, fixed_n=True,
    )  # fmt: skip


def _conventions(reading: Reading) -> tuple[str, str]:
    n_name, c_name = reading.n_count or "total", reading.c_count or "matmul"
    if n_name not in N_CONVENTIONS:
        raise UserError(f"--n-count is {n_name!r}; choose from {', '.join(N_CONVENTIONS)}.")
    if c_name not in C_CONVENTIONS:
        raise UserError(f"--c-count is {c_name!r}; choose from {', '.join(C_CONVENTIONS)}.")
    return n_name, c_name


def from_folder(path: Path, reading: Reading) -> Runs:
    """Every finished run of a folder; where it has a sweep.json, only the runs that it names.

    Runs that diverged, failed or have not finished are dropped by name; so are, beside runs that cooled down,
    those that did not: before and after the cooldown lie different laws (Hägele et al. 2024).
    Raises UserError when nothing is finished or the runs were trained on different texts.
    """
    if reading.names_columns or reading.where:
        raise UserError(
            f"{path} is a folder of runs, whose columns are known; leave out --n, --d, --where and such."
        )
    folders = run_folders(path)
    if not folders:
        inner = sorted({p.parent.parent.name for p in path.glob("*/*/config.json")})
        hint = f"it holds {', '.join(inner)}: give one of them" if inner else "run `scaling launch` first"
        raise UserError(f"{path} has no run folders; {hint}.")
    n_name, c_name = _conventions(reading)
    chosen, left_out, design = _members(path, folders)
    finished, dropped = split(chosen, cooled=not reading.every_row)
    rows = curves(finished) if reading.every_row else [one.row() for one in finished]
    if not rows:
        raise UserError(f"{path} has no finished run, {len(dropped)} are not done; see `scaling status`.")
    table = pd.DataFrame(rows)
    _one_text(table, str(path))
    notes = [f"left out of {path}, not of its sweep: {_some(left_out)}"]
    table.insert(0, "c", table[f"c_{c_name}"])
    table.insert(0, "d", table["tokens"])
    table.insert(0, "n", table[f"n_{n_name}"])
    table.insert(0, "run", table["run_id"])
    roles = _OWN_ROLES | {part: named(table, part, name, str(path)) for part, name in reading.columns.items()}
    table = table.assign(**{part: table[column] for part, column in roles.items()})
    said = notes if left_out else []
    if reading.every_row:
        said = [*said, "losses along a run are training losses, as logged"]
    else:
        said = said + _examine(table, str(path))
    return Runs(
        source=str(path), name=path.name, table=table, n_name=n_name, c_name=c_name, own=True,
        dropped=dropped, notes=said, setting=_setting(finished[0].config, design),
        fixed_n=reading.n_count is not None,
    )  # fmt: skip


def _examine(table: pd.DataFrame, source: str) -> list[str]:
    """What our own runs say of each other; their texts and schedules are known, their units too."""
    frame = table.assign(_row=np.arange(1, len(table) + 1), _run=table["run"])
    values = {name: table[name].to_numpy(np.float64) for name in (*SIZES, "loss")}
    return examine(Rows(frame, values, {"n": "n", "d": "d", "c": "c", "loss": "loss"}, source))


def _one_text(table: pd.DataFrame, source: str) -> None:
    for column in ("fingerprint", "data.fingerprint", "config.data.fingerprint"):  # a folder's, wandb's
        texts = sorted({str(text) for text in table[column].dropna()}) if column in table else []
        if len(texts) > 1:
            raise UserError(
                f"{source} mixes runs on {len(texts)} texts ({', '.join(texts)}), whose losses do not "
                "compare; give runs on one, or in a folder a sweep.json that names the runs to use."
            )


def _members(path: Path, folders: list[RunFolder]) -> tuple[list[RunFolder], list[str], dict[str, Any]]:
    """The folders that the sweep names (all without a sweep.json), the others' names, the design."""
    sweep = path / "sweep.json"
    if not sweep.exists():
        return folders, [], {}
    try:
        stored = json.loads(sweep.read_text())
        wanted = set(stored.get("run_ids") or [from_dict(RunConfig, run).run_id for run in stored["runs"]])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{sweep} is not a sweep ({error}); launch the sweep again to rewrite it.") from None
    chosen = [folder for folder in folders if folder.run_id in wanted]
    if not chosen:
        raise UserError(f"{path} holds none of the {len(wanted)} runs of its sweep.json; launch it first.")
    return chosen, [f.run_id for f in folders if f.run_id not in wanted], stored.get("design") or {}


def _setting(config: RunConfig, design: dict[str, Any]) -> dict[str, Any]:
    """What a larger run of the same study shares with these; names the recipe where the design did."""
    return {
        "data": to_dict(config.data),
        "seq_len": config.seq_len,
        "vocab_size": config.model.vocab_size,
        "recipe": design.get("recipe"),
    }


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
