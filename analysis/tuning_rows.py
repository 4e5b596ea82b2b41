"""Sweeps of hyperparameters as one table: a run a row, diverged ones among them.

Columns: run, lr, batch (as given; tokens for our own runs), loss (nats per token, NaN where the run
diverged), diverged, seed, those of n, d, c (parameters, tokens, FLOPs) and of `--by` that there are, and
seq_len of our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.columns import NOT_DONE, STATUS_NAMES, Reading, canonical, found_by_name, named
from analysis.newton import Array
from analysis.roles import amount, convert, plain, role
from analysis.table import from_folder, read
from scaling.accounting import columns
from scaling.config import to_dict
from scaling.errors import UserError
from scaling.runs import RunFolder

SEED_NAMES = ("seed", "random_seed", "run_seed")
# What of a config of ours makes runs different besides size, rate, batch and seed: dotted fields.
OWN = (
    "parametrisation", "optimizer.name", "optimizer.weight_decay", "optimizer.b2", "schedule.name",
    "schedule.warmup", "schedule.decay", "seq_len", "model.n_layers",
)  # fmt: skip
_WIDTHS = ("width", "d_model", "hidden", "hidden_size", "dim", "model_dim", "n_embd")
_SIZES = ("n", "d", "c")
_SEQUENCES = 16_384  # batches below this are more often counted in sequences than in tokens
_BLOWN_UP = 1.5  # times the median loss of a table


@dataclass(frozen=True)
class SweepTable:
    """`by`: columns besides n and d whose values make a cell; `n_name`: convention of N; `own`: our runs;
    `held`: what of their configs all of ours share."""

    source: str
    name: str
    table: pd.DataFrame
    by: tuple[str, ...]
    n_name: str
    c_name: str
    own: bool
    notes: list[str] = field(default_factory=list)
    held: dict[str, Any] = field(default_factory=dict)


def load_sweep(source: str, reading: Reading, by: Sequence[str] = (), seed: str | None = None) -> SweepTable:
    """A folder of runs (or its name under runs/) or a CSV, parquet, JSON or JSON-lines file.

    Diverged: a status of that name, or a loss that is no finite number. Raises UserError as
    `analysis.columns.canonical` does, and for a table without a learning rate or a batch.
    """
    path = Path(source)
    if not path.exists() and (Path("runs") / source).is_dir():
        path = Path("runs") / source
    if path.is_dir():
        return _own(path, reading, by)
    return from_rows(read(path), reading, source, path.stem, by, seed)


def from_rows(
    raw: pd.DataFrame,
    reading: Reading,
    source: str,
    name: str,
    by: Sequence[str] = (),
    seed: str | None = None,
) -> SweepTable:
    """A stranger's table; see `load_sweep`."""
    raw = raw.rename(columns=lambda column: str(column).strip()).reset_index(drop=True)
    if not len(raw):
        raise UserError(f"{source} holds no rows; give a table with one row per run.")
    needs = {"loss": ""}
    for part in ("lr", "batch", *_SIZES):
        if part in reading.columns or found_by_name(raw, role(part).common) is not None:
            needs[part] = ""
    if not needs.keys() & {"lr", "batch"}:
        raise UserError(
            f"{source}: which column is the learning rate? Give --lr or --batch; it has {_few(raw)}."
        )
    group = [named(raw, "by", column, source) for column in by]
    if not (needs.keys() & set(_SIZES) or group):
        raise UserError(f"{source}: which column is N? Give --n, --d, --c or --by; it has {_few(raw)}.")
    raw = _written_out(raw, reading)
    _no_logarithm(raw, reading, source)
    lost, filled, loss = _stand_in(raw, reading, source)
    found = canonical(filled, reading, source, needs)
    rows = found.table["row"].to_numpy(int) - 1
    loss = convert("loss", reading.unit("loss"), loss)
    seeds = named(raw, "seed", seed, source) if seed else found_by_name(raw, SEED_NAMES)
    table = found.table.assign(
        diverged=lost[rows],
        loss=np.where(lost, np.nan, loss)[rows],
        seed=raw[seeds].iloc[rows].astype(str).to_numpy() if seeds else "",
        **{column: raw[column].iloc[rows].to_numpy() for column in group},
    )
    width = "n" in found.columns and plain(found.columns["n"]) in _WIDTHS
    notes = [text for text in found.notes if not _beside_the_point(text, width)]
    notes += _left_out(found.dropped) + _in_sequences(table, found.columns.get("batch"), reading)
    return SweepTable(source, name, table, tuple(group), "given", found.c_name, False, notes)


def _left_out(dropped: Sequence[dict[str, str]]) -> list[str]:
    """How many rows were left out, and why: by status, or pasted twice."""
    whys = Counter(entry["reason"] for entry in dropped)
    twice = sum(count for why, count in whys.items() if why.startswith("identical"))
    said = [f"{count} with {why}" for why, count in whys.items() if not why.startswith("identical")]
    said += [f"{twice} identical to an earlier one"] if twice else []
    return [f"rows left out: {', '.join(said)}"] if said else []


def _written_out(raw: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """Sizes and batches that are written 85M or 0.5B as numbers; what is no number stays."""
    out = raw.copy()
    for part in ("batch", *_SIZES):
        column = reading.columns.get(part) or found_by_name(raw, role(part).common)
        if column not in raw or pd.api.types.is_numeric_dtype(raw[column]):
            continue
        numbers = raw[column].map(amount)
        out[column] = numbers.where(numbers.notna(), raw[column])
    return out


def _no_logarithm(raw: pd.DataFrame, reading: Reading, source: str) -> None:
    """Raises UserError where every learning rate is below 0: a logarithm."""
    column = reading.columns.get("lr") or found_by_name(raw, role("lr").common)
    if column not in raw:
        return
    rates = pd.to_numeric(raw[column], errors="coerce")
    if (rates.dropna() < 0).all() and rates.notna().any():
        raise UserError(
            f"{source}: {column} is negative in every row ({rates.dropna().iloc[0]:g} in the first), as a "
            "logarithm is; write the rate itself into a column and name that by --lr."
        )


def _in_sequences(table: pd.DataFrame, column: str | None, reading: Reading) -> list[str]:
    """A note where batches look like sequences: rules and forecasts read them as tokens."""
    if column is None or reading.unit("batch") != "1" or "token" in column.lower():
        return []
    low, high = float(table["batch"].min()), float(table["batch"].max())
    if high > _SEQUENCES:
        return []
    return [
        f"batches of {low:,.0f} to {high:,.0f} are read as tokens; where {column} counts sequences, "
        "`scaling tune --batch-unit 1024` says how many tokens one has"
    ]


def _beside_the_point(text: str, width: bool) -> bool:
    """Remarks for fits of a loss's law, which a sweep of rates cannot heed; of a width, that it is small."""
    return text.startswith(("losses up to", "every run has lr", "the learning rate")) or (
        width and "it looks like" in text
    )


def _stand_in(
    raw: pd.DataFrame, reading: Reading, source: str
) -> tuple[NDArray[np.bool_], pd.DataFrame, Array]:
    """Which rows diverged; the table with an ordinary loss in place of theirs and of those that blew up, for
    checks that know no sweeps; and the losses as they are."""
    column = reading.columns.get("loss") or found_by_name(raw, role("loss").common)
    if column is None:
        return np.zeros(len(raw), bool), raw, np.full(len(raw), np.nan)  # `canonical` asks for it
    column = named(raw, "loss", column, source)
    loss = pd.to_numeric(raw[column], errors="coerce").to_numpy(np.float64)
    status = found_by_name(raw, STATUS_NAMES)
    said = raw[status].astype(str).str.strip().str.lower() if status else pd.Series("", index=raw.index)
    unfinished = said.isin(NOT_DONE - {"diverged"}).to_numpy(bool)
    lost = (said == "diverged").to_numpy(bool) | (~np.isfinite(loss) & ~unfinished)
    known = ~lost & np.isfinite(loss)
    if not known.any():
        raise UserError(f"{source}: none of {len(raw)} runs has a loss; try rates a factor of 16 lower.")
    middle = float(np.median(loss[known]))
    odd = lost | (known & (loss > _BLOWN_UP * middle))
    out = raw.copy()
    # Unlike each other, so that they do not look like one run given twice.
    out[column] = np.where(odd, middle * (1 + 1e-9 * np.arange(1, len(raw) + 1)), loss)
    if status:
        out[status] = said.where(~pd.Series(lost, index=raw.index), "done")
    return lost, out, loss


def _own(path: Path, reading: Reading, by: Sequence[str]) -> SweepTable:
    """Runs of this project: done ones as `analysis.table` reads them, and those that diverged."""
    runs = from_folder(path, reading)
    ids = [entry["run"] for entry in runs.dropped if entry["reason"].startswith("diverged")]
    configs = {name: RunFolder(path / name).config() for name in [*runs.runs, *ids]}
    lost = pd.DataFrame([{"run": name, **columns(configs[name])} for name in ids])
    table = pd.concat([runs.table.assign(diverged=False), lost.assign(diverged=True, loss=np.nan)])
    table = table.reset_index(drop=True)
    table["n"], table["d"] = table[f"n_{runs.n_name}"], table["tokens"]
    table["c"], table["batch"] = table[f"c_{runs.c_name}"], table["batch_tokens"]
    table["diverged"] = table["diverged"].astype(bool)
    group, held = [], {}
    for name in dict.fromkeys([*OWN, *by]):
        values = [_dotted(to_dict(configs[str(run)]), name, str(path)) for run in table["run"]]
        if len(set(map(str, values))) == 1:
            held[name] = values[0]
        if name in by or len(set(map(str, values))) > 1:
            table[name] = values
            group.append(name)
    table["seq_len"] = [configs[str(run)].seq_len for run in table["run"]]
    if "model.n_layers" in group and "model.n_layers" not in by:
        group.remove("model.n_layers")  # depth moves with N
    return SweepTable(
        str(path), path.name, table.assign(seed=table["seed"].astype(str)), tuple(group), runs.n_name,
        runs.c_name, True, list(runs.notes), held,
    )  # fmt: skip


def _dotted(config: dict[str, Any], name: str, source: str) -> Any:
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{source}: runs have no field {name!r} for --by; name one like optimizer.b2.")
        value = value[part]
    return value


def _few(raw: pd.DataFrame) -> str:
    return ", ".join(map(str, raw.columns[:20]))
