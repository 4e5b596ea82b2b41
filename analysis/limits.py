"""What there is in the world to train with, as others estimated it, each with its source and its date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaling.amounts import human


@dataclass(frozen=True)
class Estimate:
    """`interval`: 90%, null where none is given."""

    value: float
    interval: tuple[float, float] | None
    who: str
    source: str
    date: str


# Tokens of public text written by people, what is of no use or said twice taken off.
TEXT = Estimate(
    3e14,
    (1e14, 1e15),
    "Villalobos et al.",
    "Villalobos et al. 2024 (arXiv 2211.04325), the effective stock of public human text",
    "2024-06",
)
# MW of the chips and hosts of the largest site that is known.
POWER = Estimate(
    1092.0,
    None,
    "Epoch AI",
    "Epoch AI, Frontier Data Centers (epoch.ai/data/ai-data-centers), IT power of the largest site",
    "2026-06",
)


def text_warnings(tokens: float, high: float | None) -> list[dict[str, Any]]:
    """Where `tokens` of new text (`high`: end of their interval) pass the estimate of what there is."""
    stock, (low, most) = TEXT.value, TEXT.interval or (TEXT.value, TEXT.value)
    if tokens > stock:
        said = f"{human(tokens)} tokens of new text are {tokens / stock:.3g} times"
    elif tokens > low:
        said = f"{human(tokens)} tokens of new text lie within the interval of"
    elif high is not None and high > stock:
        said = f"the interval of the tokens reaches {human(high)}, {high / stock:.3g} times"
    else:
        return []
    return [
        {
            "kind": "text",
            "factor": tokens / stock,
            "sentence": f"{said} the {human(stock)} ({human(low)} to {human(most)}) of public human text "
            f"that {TEXT.source.partition(',')[0]} estimate",
            "source": TEXT.source,
            "date": TEXT.date,
        }
    ]


def power_warnings(megawatts: float | None, devices: int, chip: str) -> list[dict[str, Any]]:
    """Where chips draw more than the largest site."""
    most = POWER.value
    if megawatts is None or megawatts <= most:
        return []
    return [
        {
            "kind": "power",
            "factor": megawatts / most,
            "sentence": f"{devices:,} {chip} draw {megawatts:,.0f} MW, {megawatts / most:.3g} times the "
            f"{most:,.0f} MW of the largest site known ({POWER.who}, {POWER.date})",
            "source": POWER.source,
            "date": POWER.date,
        }
    ]


def range_warnings(fitted: dict[str, list[float]], asked: dict[str, float]) -> list[dict[str, Any]]:
    """Where compute, size, tokens or their ratio lie outside the rows fitted: by what factor."""
    words = {"c": "FLOPs", "n": "parameters", "d": "tokens", "d/n": "tokens per parameter"}
    found = []
    for name, value in asked.items():
        low, high = fitted[name]
        if value > high * (1 + 1e-9):
            side, factor = f"{value / high:.3g} times the most of any fitted run", value / high
        elif value < low * (1 - 1e-9):
            side, factor = f"{value / low:.3g} times the least of any fitted run", value / low
        else:
            continue
        sentence = f"{human(value)} {words[name]}: {side}"
        found.append({"kind": "range", "what": name, "factor": factor, "sentence": sentence})
    return found


def fitted_ranges(rows: list[dict[str, Any]], n_name: str) -> dict[str, list[float]]:
    """Least and most of the rows of a fit file; empty without rows."""
    if not rows or any(name not in rows[0] for name in (n_name, "d")):
        return {}
    columns = {"n": [row[n_name] for row in rows], "d": [row["d"] for row in rows]}
    if "c" in rows[0]:
        columns["c"] = [row["c"] for row in rows]
    columns["d/n"] = [d / n for n, d in zip(columns["n"], columns["d"], strict=True)]
    return {name: [min(values), max(values)] for name, values in columns.items()}
