"""A law's printed constants in place of a fit: what papers would answer, and constants of one's own.

`scaling predict chinchilla` answers by Hoffmann's printed constants, `scaling predict A=482,B=2085,...` by
those given. Such an answer has no interval: constants were printed, not the runs behind them.
"""

from __future__ import annotations

import math
from typing import Any

from analysis.bootstrap import LEVEL
from analysis.forms.printed import Printed
from analysis.laws import LAWS, PRINTED
from scaling.errors import UserError

SURFACES = ("chinchilla", "chinchilla_tied", "muennighoff")
# The name that the command line takes: whose constants, of which law.
_NAMED = {
    "chinchilla": ("Hoffmann 2022", "chinchilla"),
    "sardana": ("Sardana 2023", "chinchilla"),
    "besiroglu": ("Besiroglu 2024", "chinchilla"),
    "gadre": ("Gadre 2024", "chinchilla_tied"),
    "muennighoff": ("Muennighoff 2023", "muennighoff"),
}


def named() -> dict[str, Printed]:
    """Printed surfaces by the name that the command line takes."""
    printed = {(each.name, each.law): each for each in PRINTED}
    return {short: printed[whose] for short, whose in _NAMED.items()}


def content_of(text: str) -> dict[str, Any] | None:
    """What a fit file would hold of constants that `text` names or spells; None where it does neither.

    Raises UserError for constants that no surface has, and for one that is missing or no number.
    """
    if text in named():
        printed = named()[text]
        return _content(text, printed.law, dict(printed.parameters), printed.source)
    if "=" not in text or "/" in text:
        return None
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            given[name.strip()] = float(number)
        except ValueError:
            raise UserError(f"FIT is {text!r}; {part.strip()!r} gives a constant no number.") from None
    law = next((name for name in SURFACES if set(LAWS[name].names) == given.keys()), None)
    if law is None:
        known = " or ".join(f"{','.join(LAWS[name].names)}" for name in SURFACES[:2])
        raise UserError(f"FIT is {text!r}; a law by its constants needs {known}, each with =NUMBER.")
    for name, value in given.items():
        if not (math.isfinite(value) and (value >= 0 if name == "E" else value > 0)):
            raise UserError(f"FIT is {text!r}; {name} is to be a positive number.")
    return _content(text, law, given, "constants as given")


def _content(name: str, law: str, parameters: dict[str, float], source: str) -> dict[str, Any]:
    columns = list(LAWS[law].names)
    entry = {
        "formula": LAWS[law].formula, "source": source, "inputs": list(LAWS[law].inputs), "output": "loss",
        "n_count": "given", "rows": "all", "rows_used": [], "not_determined": {}, "intervals": {},
        "parameters": {column: parameters[column] for column in columns},
    }  # fmt: skip
    return {
        "kind": "constants", "name": name, "source": source, "own": False, "rows_used": 0, "notes": [],
        "rows_dropped": [], "conventions": {"n": "given", "d": "tokens", "c": "6nd"}, "fingerprint": None,
        "setting": None, "bootstrap": {"resamples": 0, "level": LEVEL}, "cost": None, "laws": {law: entry},
        "skipped": {}, "resamples": {law: {"columns": columns, "values": []}}, "rows": [], "approaches": {},
        "straight_line": {"skipped": "there are no runs"}, "optimum": None, "objective": None,
    }  # fmt: skip
