"""The report of `scaling preflight` as text, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from scaling.amounts import human

COLUMNS = 100
HEADER = ("N", "batch", "runs", "fits", "layout", "remat", "held", "step's", "seconds a step", "hours")
_LEFT = {"layout", "remat", "seconds a step", "fits"}


def lines(report: dict[str, Any]) -> Iterator[str]:
    grid = " x ".join(map(str, report["grid"]))
    yield (
        f"{report['sweep']} on {report['target']}: {report['chips']} x {report['chip']} ({grid}), "
        f"{_size(report['memory_available'])} of each for a program"
    )
    yield ""
    yield from _table([HEADER, *(_cells(row) for row in report["shapes"])])
    yield "N: parameters, total; batch: tokens; held: parameters, moments, tokens; step's: all else of a step"
    for row in report["shapes"]:
        if not row["fits"]:
            yield from textwrap.wrap(_refused(row), COLUMNS, subsequent_indent="  ")
    yield ""
    cost = report["sweep_cost"]
    if cost is None:
        yield "no hours or price: not every shape fits"
        return
    dollars = "no list price" if cost["dollars"] is None else f"${cost['dollars']:,.2f}"
    rate = cost["dollars_per_chip_hour"]
    at = "" if rate is None else f" at ${rate:.2f} a chip-hour"
    yield (
        f"sweep: {cost['runs']} runs, {_hours(cost['hours'])} on the slice, {cost['chip_hours']:,.3g} "
        f"chip-hours ({cost['busy_chip_hours'] / cost['chip_hours']:.0%} busy), {dollars}{at}"
    )
    yield (
        f"  {cost['flops']:.3g} FLOPs (matmul), {cost['utilisation']:.1%} of peak over the whole; products "
        f"at {report['utilisation']:.0%}"
    )
    yield "  a roofline, not a measurement; compiling, loading and evaluating not in it"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= COLUMNS else " "
    for row in rows:
        cells = zip(row, widths, HEADER, strict=True)
        yield gap.join(c.ljust(w) if name in _LEFT else c.rjust(w) for c, w, name in cells).rstrip()


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    held = row["bytes"]
    mesh = " ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1)
    return (
        human(row["n_total"]),
        human(row["batch_size"] * row["seq_len"]),
        f"{len(row['runs'])}",
        "yes" if row["fits"] else "NO",
        mesh or "one to a chip",
        row["remat"],
        _size(held["arguments"]),
        _size(held["temporaries"]),
        f"{_time(row['step_seconds'])} {row['bound']}",
        _hours(row["hours"]),
    )


def _refused(row: dict[str, Any]) -> str:
    batch = row["largest_batch"]
    advice = (
        f"the largest batch that fits has {batch} sequences (or give --microbatches)" if batch
        else "no batch fits: take a larger slice"
    )  # fmt: skip
    over = row["bytes"]["total"] - row["bytes"]["available"]
    layouts = len(row["compiled"])
    return (
        f"{row['n_total']:,} parameters at {row['batch_size']} x {row['seq_len']} tokens: "
        f"{_size(max(0.0, over))} too much on each chip in the best of {layouts} "
        f"layout{'s' * (layouts > 1)}; {advice}"
    )


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.3g} days"
    return f"{hours:.3g} h" if hours >= 0.1 else f"{hours * 3600:.3g} s"
