"""Whether a learning rate tuned at the smallest size holds at the largest, by parametrisation.

Reads the cells of `analysis.tuning`: a local quadratic in log rate for every size. For each parametrisation

    moved      log2 of the largest's optimal rate over the smallest's. Its interval joins those of the two
               optima, which share no run: each end is off by the root of the sum of their squares there
               (Zou & Donner 2008, "Construction of confidence limits about effect measures")
    excess     loss of the largest at the transferred rate over its lowest, a share: of the means over seeds
               at the rate that was run nearest to the tuned one, within a factor 2. Beside it the bar: .3%
               and twice the standard error of the lowest mean
    holds      moved by less than a factor sqrt(2), or an interval that covers no move; and excess within
               its bar; null where one of both is not known

Sizes are compared at one horizon, batch and other setting: where a size has several, each is a block of its
own.

An optimum at the edge of the rates tried is none: the move is then not known, and `why` says so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.minima import budgets
from scaling.amounts import human
from scaling.errors import UserError

MOVE = 0.5  # log2 of sqrt(2)
EXCESS = 0.003
FARTHEST = 2.0 * 1.01  # a factor: a rate that was run farther off does not stand for the tuned one
FIELD = "parametrisation"
NO_RATE = "the smallest has no optimal rate"
NOT_RUN = "the largest was not run near the tuned rate"
DIVERGED = "the largest diverged at the tuned rate"


def transfer(content: dict[str, Any]) -> dict[str, Any]:
    """`content` of `analysis.tuning.tune`; strict JSON. Raises UserError where a name has only one size."""
    rates = [cell for cell in content["cells"] if "lr" in cell["swept"]]
    if not rates:
        raise UserError(f"{content['source']}: no cell has a sweep of learning rates; give a sweep of them.")
    if not any(cell["n"] for cell in rates):
        raise UserError(f"{content['source']}: which column is the size? Give --n; a width will do.")
    named: dict[str, list[dict[str, Any]]] = {}
    for cell in rates:
        if cell["n"]:
            named.setdefault(_name(content, cell), []).append(cell)
    found = [
        _of_name(block, sorted(part, key=lambda c: c["n"]))
        for name, cells in named.items()
        for block, part in _comparable(name, cells).items()
    ]
    return {"kind": "transfer", "source": content["source"], "name": content["name"], "found": found}


def _comparable(name: str, cells: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Cells that differ in size alone. Where every size has one cell these are all of them: horizons that
    grow with the size are compared as they are. Raises UserError where no two sizes share a setting."""
    if len({cell["n"] for cell in cells}) == len(cells):
        return {name: cells}
    horizon = np.array([cell["d"] or 1.0 for cell in cells])
    for group in budgets(horizon):
        horizon[group] = np.median(horizon[group])
    keys = [_setting(cell, d) for cell, d in zip(cells, horizon.tolist(), strict=True)]
    varying = [field for field in keys[0] if len({str(key.get(field)) for key in keys}) > 1]
    blocks: dict[str, list[dict[str, Any]]] = {}
    for cell, key in zip(cells, keys, strict=True):
        block = ", ".join([name, *(f"{field} {key.get(field)}" for field in varying)])
        blocks.setdefault(block, []).append(cell)
    found = {block: part for block, part in blocks.items() if len({cell["n"] for cell in part}) > 1}
    if not found:
        raise UserError(
            f"{name}: no two sizes were run at the same {' and '.join(varying)}; choose rows that were by "
            "--where."
        )
    return found


def _setting(cell: dict[str, Any], horizon: float) -> dict[str, str]:
    """What a cell has besides its size, as it is printed."""
    batch = {"B": human(cell["batch"])} if cell["batch"] and "batch" not in cell["swept"] else {}
    return {"D": human(horizon), **batch, **{k: str(v) for k, v in cell["by"].items() if k != FIELD}}


def _name(content: dict[str, Any], cell: dict[str, Any]) -> str:
    return str(cell["by"].get(FIELD, content.get("held", {}).get(FIELD, "all runs")))


def _of_name(name: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    small, large = cells[0], cells[-1]
    if not large["n"] > small["n"]:
        raise UserError(f"{name}: all runs are of one size; give a sweep of rates at two sizes or more.")
    moved, interval, why = _move(small, large)
    excess, unknown = _excess(small, large)
    near = moved is not None and (
        abs(moved) < MOVE or (interval is not None and interval[0] <= 0 <= interval[1])
    )
    cheap = excess is not None and excess["share"] <= excess["bar"]
    return {
        "name": name,
        "sizes": [_size(cell) for cell in cells],
        "moved": moved,
        "moved_interval": interval,
        "excess": excess,
        "excess_why": unknown,
        "holds": None if moved is None or (near and unknown == NOT_RUN) else bool(near and cheap),
        "why": why,
    }


def _size(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: cell[name] for name in ("label", "n", "optimum", "refused", "points", "curve")}


def _move(
    small: dict[str, Any], large: dict[str, Any]
) -> tuple[float | None, list[float] | None, str | None]:
    for cell in (small, large):
        if not cell["optimum"]:
            return None, None, f"{cell['label']}: {cell['refused']}"
    at = [math.log2(cell["optimum"]["lr"]) for cell in (small, large)]
    moved = at[1] - at[0]
    intervals = [cell["optimum"]["lr_interval"] for cell in (small, large)]
    if any(one is None for one in intervals):
        return moved, None, None
    (low_s, high_s), (low_l, high_l) = ([math.log2(end) for end in one] for one in intervals)
    low = moved - math.hypot(at[1] - low_l, high_s - at[0])
    high = moved + math.hypot(high_l - at[1], at[0] - low_s)
    return moved, [low, high], None


def _excess(small: dict[str, Any], large: dict[str, Any]) -> tuple[dict[str, float] | None, str | None]:
    """What the tuned rate costs the largest; else None and why it is not known."""
    if not small["optimum"]:
        return None, NO_RATE
    points = large["points"]
    tuned = math.log(small["optimum"]["lr"])
    known = [point for point in points if point["loss"] is not None]
    away = {point["lr"]: abs(math.log(point["lr"]) - tuned) for point in points}
    if min(away.values()) > math.log(FARTHEST):
        return None, NOT_RUN
    here = [point for point in known if away[point["lr"]] <= min(away.values()) + 1e-9]
    if not here:
        return None, DIVERGED
    lowest = min(here, key=lambda point: point["loss"])  # of a crossed sweep, at its best batch
    best = min(known, key=lambda point: point["loss"])
    losses = np.asarray(best["losses"], float)
    error = float(losses.std(ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else 0.0
    return {
        "tuned_lr": small["optimum"]["lr"],
        "run_lr": lowest["lr"],
        "loss": lowest["loss"],
        "best_lr": best["lr"],
        "best_loss": best["loss"],
        "seed_error": error,
        "share": lowest["loss"] / best["loss"] - 1,
        "bar": EXCESS + 2 * error / best["loss"],
    }, None


def transfer_text(content: dict[str, Any]) -> str:
    """A block for each parametrisation."""
    lines = []
    for one in content["found"]:
        lines.append(f"{one['name']}")
        wide = max(10, *(len(f"{size['n']:,.0f}") for size in one["sizes"]))
        for size in one["sizes"]:
            lines.append(f"  N {size['n']:>{wide},.0f}   {_optimum(size)}")
        lines += [f"  {line}" for line in _verdict(one)]
    return "\n".join(lines)


def _optimum(size: dict[str, Any]) -> str:
    optimum = size["optimum"]
    if not optimum:
        return f"no optimum: {size['refused']}"
    said = f"rate {optimum['lr']:.4g}"
    if optimum["lr_interval"]:
        low, high = optimum["lr_interval"]
        said += f" ({low:.4g} to {high:.4g})"
    return f"{said}   loss {optimum['loss']:.4f}"


def _verdict(one: dict[str, Any]) -> list[str]:
    if one["moved"] is None:
        return [f"move not known: {one['why']}"]
    interval = one["moved_interval"]
    span = f" ({2 ** interval[0]:.3g} to {2 ** interval[1]:.3g})" if interval else ""
    lines = [f"optimum moves by a factor {2 ** one['moved']:.3g}{span} from smallest to largest"]
    if one["excess"]:
        e = one["excess"]
        lines.append(
            f"at the tuned rate ({e['run_lr']:.4g} was run) the largest is {e['share']:.2%} above its best "
            f"(bar {e['bar']:.2%})"
        )
    else:
        lines.append(str(one["excess_why"]))
    words = {None: "whether the rate transfers is not known", True: "the rate transfers"}
    return [*lines, words.get(one["holds"], "the rate does not transfer")]
