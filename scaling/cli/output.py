"""How commands speak: results on stdout (text or JSON), everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def note(message: str) -> None:
    """A remark that is not the result: what was dropped, skipped, assumed."""
    print(f"note: {message}", file=sys.stderr)


def emit_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))
