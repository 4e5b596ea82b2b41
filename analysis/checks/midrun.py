"""Points in the middle of a run passed as finished runs, and one run given twice."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.checks.rows import PLANNED_STEPS, PLANNED_TOKENS, SCHEDULE, SHORT, STEPS, Rows
from analysis.roles import RUN_NAMES
from scaling.errors import UserError

_PEAK = ("peak_lr", "lr_peak", "max_lr", "lr_max", "peak_learning_rate", "max_learning_rate")
_RATE = ("lr", "learning_rate", "final_lr", "current_lr", "last_lr")
_UNDECAYED = ("constant", "none", "inverse", "rsqrt", "sqrt", "no")


def repeated(rows: Rows) -> list[str]:
    """A run that stands in several rows: points along its training, or the same result twice."""
    frame = rows.frame
    column = rows.column(RUN_NAMES)
    if column is not None and not frame[column].is_unique:
        return _repeated_name(rows, column)
    notes = []
    sizes = [rows.values[name] for name in ("n", "d", "loss") if name in rows.values]
    same = pd.DataFrame(np.stack(sizes, 1)).duplicated(keep=False).to_numpy() if sizes else np.zeros(0, bool)
    if "loss" in rows.values and same.any():
        notes.append(
            f"{rows.named(same)} have the same sizes and the same loss to the last digit: "
            "if they are one run, remove all but one"
        )
    if {"n", "d"} <= rows.values.keys():
        notes += _even(rows)
    return notes


def _repeated_name(rows: Rows, column: str) -> list[str]:
    frame = rows.frame.assign(_place=np.arange(len(rows.frame)))
    part = frame[frame[column].duplicated(keep=False)]
    step = rows.column(STEPS)
    length = rows.values.get("d", rows.values.get("c", rows.numbers(step) if step else None))
    along = twice = 0
    example = ""
    for name, group in part.groupby(column, sort=False):
        place = group["_place"].to_numpy()
        if "n" in rows.values and np.ptp(np.log(rows.values["n"][place])) > 1e-6:
            continue  # a name of several sizes is not a run
        if length is not None and np.ptp(length[place]) > 0:
            along += 1
        elif "loss" in rows.values:
            twice += 1
            example = example or f"{name} in rows {', '.join(map(str, group['_row'].head(3)))}"
    if along:
        raise UserError(
            f"{rows.source} has {len(frame)} rows of {frame[column].nunique()} runs (column {column!r}), "
            "points along their training: a point in the middle of a schedule is no point of a law of "
            f"finished runs; give --run {column}, which keeps the last row of each."
        )
    if twice:
        raise UserError(
            f"{rows.source} has {twice} run{'s' if twice > 1 else ''} twice ({example}) with different "
            "losses; keep one row, give repeats with other seeds names of their own, or take the last by "
            f"--run {column}."
        )
    return [
        f"column {column!r} repeats and every row is taken as a run of its own; "
        f"--run {column} keeps the last row of each"
    ]


def _even(rows: Rows) -> list[str]:
    """Rows that look like logged curves: most stand at even steps of D for one N, where grids of finished
    runs space D by factors. Sure, and refused, where a step count or a falling rate runs along."""
    n, d = rows.values["n"], rows.values["d"]
    step, rate = rows.column([name for name in STEPS if name != "steps"]), rows.column(_RATE)
    numbers = rows.numbers(rate) if rate else None
    even, falls = 0, False
    order = np.lexsort((d, n))
    starts = np.flatnonzero(np.diff(n[order], prepend=np.nan) != 0)
    ends = np.append(starts[1:], len(n))
    for start, end in zip(starts[ends - starts >= 8], ends[ends - starts >= 8], strict=True):
        place = order[start:end]
        gaps = np.diff(d[place])
        if gaps.min() <= 0 or np.std(gaps[:-1]) > 0.02 * np.mean(gaps[:-1]):
            continue
        even += len(place)
        if numbers is not None:
            lr = numbers[place][len(place) // 4 :]
            falls = falls or bool(np.all(np.diff(lr) <= 0) and lr[-1] < 0.5 * lr.max())
    if 2 * even < len(n):
        return []
    what = f"{even} of {len(n)} rows stand at even steps of D for one N" + (f" while {rate} falls" * falls)
    if not (step or falls):
        return [
            f"{what}: if they are points along runs, keep the last of each (--run), for no law holds midway"
        ]
    raise UserError(
        f"{rows.source}: {what}, as points along a run are; a point in the middle of a schedule is no point "
        "of a law of finished runs: name the run's column with --run, or keep the last row of each."
    )


def ended(rows: Rows) -> None:
    """Refuse rows short of their planned length, and rows whose learning rate has not come down."""
    schedule = rows.column(SCHEDULE)
    kinds = (
        rows.frame[schedule].astype(str).str.lower() if schedule else pd.Series("", index=rows.frame.index)
    )
    decays = ~kinds.str.startswith(_UNDECAYED).to_numpy()
    step = rows.column(STEPS)
    done = {
        PLANNED_TOKENS: rows.numbers(rows.columns["d"]) if "d" in rows.columns else None,
        PLANNED_STEPS: rows.numbers(step) if step else None,
    }
    for names, length in done.items():
        planned = rows.column(names)
        if planned is None or length is None or planned in rows.columns.values():
            continue
        with np.errstate(all="ignore"):
            share = length / rows.numbers(planned)
        # A ratio of thousands is another unit, not another length.
        short = decays & (share < SHORT) & (share > 1e-3)
        if short.any() and (share > 0.01).all():
            at = float(share[short].min())
            raise UserError(
                f"{rows.source}: {rows.named(short)} stopped short of {planned} (at {at:.0%}), in the middle "
                "of the schedule, where no law of finished runs holds; remove them, or give a status column."
            )
    rate, peak = rows.column(_RATE), rows.column(_PEAK)
    if rate and peak and rate != peak:
        high = decays & (rows.numbers(rate) > 0.5 * rows.numbers(peak))
        if high.any() and (schedule is not None or not high.all()):
            raise UserError(
                f"{rows.source}: {rows.named(high)} have {rate} above half of {peak}, so the schedule had "
                "not ended; a law of finished runs does not hold there: keep the last row of each run."
            )
