"""What else a fit says of a budget: the other approaches' N and D, and the line that needs no law."""

from __future__ import annotations

import math
from typing import Any

from analysis.approaches import straight_line
from analysis.question import Question


def approaches(content: dict[str, Any], question: Question) -> dict[str, dict[str, float]]:
    """N and D by each approach that has an answer, for a plain budget of training FLOPs."""
    if question.flops is None or question.model or question.extras:
        return {}
    log_c = math.log(question.flops)
    return {
        name: {
            "n": math.exp(entry["log_n_at_1"] + entry["a"] * log_c),
            "d": math.exp(entry["log_d_at_1"] + entry["b"] * log_c),
        }
        for name, entry in content["approaches"].items()
        if "skipped" not in entry and name != "parametric"
    }


def line(content: dict[str, Any], flops: float) -> dict[str, Any] | None:
    """Loss and interval by the straight line through the envelope; None where the fit has none."""
    return None if "skipped" in content["straight_line"] else straight_line(content, flops)
