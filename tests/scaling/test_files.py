"""Files written whole: a failure at any moment leaves what was there before, and nothing beside it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from scaling.files import whole, write_json, write_whole


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def write_half() -> None:
        with whole(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("the plot failed")

    with pytest.raises(RuntimeError):
        write_half()
    assert os.listdir(tmp_path) == ["figure.png"]
    assert path.read_bytes() == b"old"


def test_a_new_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "table.csv"
    with whole(path) as temporary:
        temporary.write_text("a,b\n")
        assert not path.exists()
        assert temporary.suffix == ".csv"  # matplotlib and pandas choose a format by it
    assert path.read_text() == "a,b\n"
    assert os.listdir(path.parent) == ["table.csv"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [1.0, float("-inf")]}, {1, 2}])
def test_what_is_no_strict_json_is_refused_before_anything_is_written(tmp_path: Path, value: object) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert os.listdir(tmp_path) == ["summary.json"]
    assert path.read_text() == '{\n  "loss": 1.0\n}\n'


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_whole(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["summary.json"]
    assert path.read_text() == "old"
