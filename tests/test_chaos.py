"""The chaos benchmark in small: a worker killed inside a step, another inside a checkpoint write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.chaos import chaos, sweep_of


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
def test_kills_lose_nothing_double_nothing_and_change_no_number(tmp_path: Path) -> None:
    plan = {"a worker inside a step": 1, "a worker inside a checkpoint write": 1}
    found = chaos(sweep_of(2), plan, tmp_path, launchers=1)
    assert found["broken"] == []
    assert (found["done"], found["lost"], found["doubled"]) == (2, 0, 0)
    assert found["bitwise_equal_to_undisturbed"] == 2
    assert found["kills_inside_training_steps"] == found["kills_inside_checkpoint_writes"] == 1
    assert found["steps_trained"] == found["steps_planned"] + found["steps_trained_twice"]
