"""A hang is seen, and what only looks like one is not; a real run that hangs is ended to be started again."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scaling.config import Placement, RunConfig, dump_run_config
from scaling.runs import EXIT_RESTART, RunFolder
from scaling.train import train
from scaling.watchdog import ALLOWANCE, HANG_MEDIANS, Watchdog
from tests.tiny import CPU, tiny

FLOOR = 0.08


class Heard:
    def __init__(self) -> None:
        self.said = threading.Event()
        self.why = ""

    def __call__(self, why: str) -> None:
        self.why = why
        self.said.set()


def test_no_step_for_the_floor_is_a_hang_and_is_told_once() -> None:
    heard = Heard()
    with Watchdog(FLOOR, heard) as dog:
        dog.beat()
        assert heard.said.wait(10)
    assert "in a training step" in heard.why


def test_steps_keep_it_quiet_and_so_does_what_may_take_long() -> None:
    heard = Heard()
    with Watchdog(FLOOR, heard) as dog:
        time.sleep(2 * FLOOR)  # compilation: no step yet
        for _ in range(6):
            dog.beat()
            time.sleep(FLOOR / 3)
        with dog.during("a checkpoint"):
            time.sleep(2 * FLOOR)
        dog.beat()
    time.sleep(2 * FLOOR)  # ended: nobody listens
    assert not heard.said.is_set()


def test_what_may_take_long_hangs_too_in_the_end() -> None:
    heard = Heard()
    with Watchdog(0.01, heard) as dog, dog.during("a checkpoint"):
        assert heard.said.wait(10)
    assert "in a checkpoint" in heard.why


def test_slow_steps_are_given_as_many_medians() -> None:
    dog = Watchdog(FLOOR, None)
    dog.beat()
    for _ in range(9):
        time.sleep(0.02)
        dog.beat()
    assert HANG_MEDIANS * 0.02 <= dog.limit() < HANG_MEDIANS * 0.06
    with dog.during("evaluation"):
        assert dog.limit() == ALLOWANCE * FLOOR


# The stream stands still at step 30, as a dead file system would have it.
BLOCKED = """
import itertools, sys, time
from scaling.feed import Feed
ask, calls = Feed.__next__, itertools.count(1)
Feed.__next__ = lambda self: time.sleep(1e6) if next(calls) == 30 else ask(self)
from scaling.cli.main import main
sys.argv = ["scaling", "train", sys.argv[1], "--out", sys.argv[2], *sys.argv[3:]]
main()
"""


def command_line(code: str, config: RunConfig, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "run.json"
    file.write_text(dump_run_config(config))
    options = ["--place", "hang_seconds=1", "--place", "keep_every=20"]
    command = [sys.executable, "-c", code, str(file), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_real_run_that_hangs_exits_42_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = tiny(steps=40)
    run = RunFolder(tmp_path / config.run_id)
    hung = command_line(BLOCKED, config, tmp_path)
    assert hung.returncode == EXIT_RESTART, hung.stderr
    assert "hung: no progress for 1 s in a training step" in hung.stderr
    assert "__next__" in hung.stderr or "<lambda>" in hung.stderr  # where it stood
    assert run.status() == "stopped" and not run.is_live()
    assert (run.checkpoints / "20").is_dir()
    train(config, CPU, run)
    assert [row["step"] for row in run.metrics()[0]] == list(range(1, 41))


def test_the_knob_is_no_part_of_a_runs_name_and_must_be_a_time() -> None:
    with pytest.raises(ValueError, match=r"placement\.hang_seconds is -1"):
        Placement(hang_seconds=-1)
