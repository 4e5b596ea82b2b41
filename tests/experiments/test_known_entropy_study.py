"""The study of a known entropy: its cells, its refusals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_quickstart_study import GOLDEN, table

from experiments import known_entropy
from scaling.data.hierarchy import Hierarchy, write_hierarchy
from scaling.errors import UserError


def test_the_cells_are_those_of_the_golden_table(tmp_path: Path) -> None:
    write_hierarchy(known_entropy.SOURCE, tmp_path / "h", 6.5e6)
    found, path = table(known_entropy.sweep(data=tmp_path / "h")), GOLDEN / "known_entropy.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.write_text(found)
    assert found == path.read_text()


def test_another_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="known_entropy needs a text"):
        known_entropy.sweep()
    write_hierarchy(Hierarchy(levels=1), tmp_path / "h", 1e4, val_tokens=1e4)
    with pytest.raises(UserError, match=r"is not a text of 0\.95\d+ nats"):
        known_entropy.sweep(data=tmp_path / "h")
