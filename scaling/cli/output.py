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


def emit_rows(value: dict[str, Any], rows: str) -> None:
    """One JSON object whose list `rows` has an item a line: readable, and quick for 10,000 of them."""
    encode = json.JSONEncoder(allow_nan=False).encode
    head = {name: item for name, item in value.items() if name != rows}
    body = ",\n".join(f"    {encode(item)}" for item in value[rows])
    text = "".join(f"  {encode(name)}: {encode(item)},\n" for name, item in head.items())
    print(f"{{\n{text}  {encode(rows)}: [\n{body}\n  ]\n}}")
