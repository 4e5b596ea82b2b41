"""Laws ranked on published sets: the top decade of compute of each hidden, the rest fitted, the hidden
forecast.

The sets are read from the folder that SCALING_PUBLISHED_DATA names, or downloaded where they are one file;
what is kept are scores, no row of any set. `scaling published --ranking` prints the same as a table.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from analysis.published import folder_of, registry
from analysis.ranking_published import rank_published


def missing() -> str | None:
    if os.environ.get("SCALING_PUBLISHED_DATA"):
        return None
    return (
        "It ranks on published sets, of which several are no plain file: name a folder of your copies in "
        "SCALING_PUBLISHED_DATA."
    )


def rows() -> list[dict[str, Any]]:
    return of(rank_published(registry(), folder_of(None), say=lambda text: print(text, file=sys.stderr)))


def of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for each law with a score in every set, a value for each set; the whole ranking in the first."""
    found: list[dict[str, Any]] = []
    for part, what in (("all", "every hidden run"), ("frontier", "hidden runs of the frontier")):
        overall = content["overall"][part]
        for law in [each["law"] for each in overall["laws"]] if overall else []:
            scores = [each["laws"][law][part] for each in content["sets"]]
            name = f"{law}, {what}"
            found += [
                {"what": name, "unit": "nats a run", "values": [score["log_score"] for score in scores]},
                {"what": name, "unit": "in the 90% interval", "values": [s["coverage_90"] for s in scores]},
            ]
    found[0]["ranking"] = content
    return found
