"""Every number of a report's page, unrounded, in one long table beside it: numbers.csv."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.report_next import Candidate
from analysis.report_study import Answer, Study, budget_groups

# Of a fit: what the page shows. Rows, resamples and the points of each approach have files of their own.
_SHOWN = (
    "rows_used", "conventions", "objective", "noise", "bootstrap", "laws", "approaches", "cost",
    "straight_line", "why",
)  # fmt: skip


def numbers(study: Study, answers: Sequence[Answer], following: Sequence[Candidate]) -> pd.DataFrame:
    """Columns `where` (a path such as fit.laws.chinchilla.parameters.alpha) and `value`, in the page's units:
    nats per token, parameters, tokens, FLOPs, seconds, shares as fractions."""
    fit = study.fit or {}
    flops = [row["c"] for row in fit.get("rows", [])]
    content: dict[str, Any] = {
        "budgets": [
            answer.optimum
            | {"run_interval": list(answer.run_interval), "parts": answer.parts}
            | {"over_largest_fitted": answer.flops / max(flops)}
            for answer in answers
        ],
        "next": [asdict(each) for each in following],
        "fit": {name: fit[name] for name in _SHOWN if name in fit},
        "forecasts": [forecast.record for forecast in study.forecasts],
        "spent": study.spent(),
        "counts": {
            "runs": len(study.runs),
            "forecasts": len(study.forecasts),
            "rows_dropped": len(fit.get("rows_dropped", [])),
        },
    }
    if flops:
        content["fitted"] = {
            name: {
                "least": min(row[name] for row in fit["rows"]),
                "most": max(row[name] for row in fit["rows"]),
            }
            for name in ("n", "d", "c")
        } | {"budgets": len(budget_groups(fit)), "decades": math.log10(max(flops) / min(flops))}
        content["fitted"]["rows_of_law"] = {name: len(law["rows_used"]) for name, law in fit["laws"].items()}
        content["fitted"]["points"] = {
            name: len(entry.get("points", [])) for name, entry in fit["approaches"].items()
        }
    return pd.DataFrame(list(_flat("", content)), columns=["where", "value"])


def _flat(where: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _flat(f"{where}.{name}" if where else str(name), each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _flat(f"{where}.{index}", each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, value
