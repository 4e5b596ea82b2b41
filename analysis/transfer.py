"""Whether a learning rate tuned at the smallest size holds at the largest, by parametrisation.

Reads the cells of `analysis.tuning`: a local quadratic in log rate for every size. For each parametrisation

    moved      log2 of the largest's optimal rate over the smallest's. Its interval joins those of the two
               optima, which share no run: each end is off by the root of the sum of their squares there
               (Zou & Donner 2008, "Construction of confidence limits about effect measures")
    excess     loss of the largest at the transferred rate over its lowest, a share: of the means over seeds
               at the rate that was run nearest to the tuned one. Beside it the bar: .3% and twice the
               standard error of the lowest mean
    holds      moved by less than a factor sqrt(2), or an interval that covers no move; and excess within
               its bar

An optimum at the edge of the rates tried is none: the move is then not known, and `why` says so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scaling.errors import UserError

MOVE = 0.5  # log2 of sqrt(2)
EXCESS = 0.003
FIELD = "parametrisation"


def transfer(content: dict[str, Any]) -> dict[str, Any]:
    """`content` of `analysis.tuning.tune`; strict JSON. Raises UserError where a name has only one size."""
    named: dict[str, list[dict[str, Any]]] = {}
    for cell in content["cells"]:
        if "lr" in cell["swept"] and cell["n"]:
            named.setdefault(_name(content, cell), []).append(cell)
    found = [_of_name(name, sorted(cells, key=lambda c: c["n"])) for name, cells in named.items()]
    if not found:
        raise UserError(f"{content['source']}: no cell has a sweep of learning rates; give a sweep of them.")
    return {"kind": "transfer", "source": content["source"], "name": content["name"], "found": found}


def _name(content: dict[str, Any], cell: dict[str, Any]) -> str:
    return str(cell["by"].get(FIELD, content.get("held", {}).get(FIELD, "all runs")))


def _of_name(name: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    small, large = cells[0], cells[-1]
    if not large["n"] > small["n"]:
        raise UserError(f"{name}: all runs are of one size; give a sweep of rates at two sizes or more.")
    moved, interval, why = _move(small, large)
    excess = _excess(small, large)
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
        "holds": bool(near and cheap) if moved is not None else None,
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


def _excess(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float] | None:
    """None where the smallest has no optimum or the largest diverged at its rate."""
    if not small["optimum"]:
        return None
    points = large["points"]
    tuned = math.log(small["optimum"]["lr"])
    here = min(points, key=lambda point: abs(math.log(point["lr"]) - tuned))
    known = [point for point in points if point["loss"] is not None]
    if here["loss"] is None or not known:
        return None
    best = min(known, key=lambda point: point["loss"])
    losses = np.asarray(best["losses"], float)
    error = float(losses.std(ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else 0.0
    return {
        "tuned_lr": small["optimum"]["lr"],
        "run_lr": here["lr"],
        "loss": here["loss"],
        "best_lr": best["lr"],
        "best_loss": best["loss"],
        "seed_error": error,
        "share": here["loss"] / best["loss"] - 1,
        "bar": EXCESS + 2 * error / best["loss"],
    }


def transfer_text(content: dict[str, Any]) -> str:
    """A block for each parametrisation."""
    lines = []
    for one in content["found"]:
        lines.append(f"{one['name']}")
        for size in one["sizes"]:
            lines.append(f"  N {size['n']:>10,.0f}   {_optimum(size)}")
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
        lines.append("the largest diverged at the tuned rate")
    return [*lines, "the rate transfers" if one["holds"] else "the rate does not transfer"]
