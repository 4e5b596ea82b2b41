"""A lock file that a dead process left is removed with a note; one that is held stays."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.device_lock import clear_stale_locks

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
{lock}
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "libtpu_lockfile"
    holder = hold(path, "fcntl.lockf(file, fcntl.LOCK_EX)")
    assert clear_stale_locks((path,)) == [] and path.exists()
    holder.kill()
    holder.wait()
    assert path.exists()  # as libtpu's stays behind
    [note] = clear_stale_locks((path,))
    assert "left by a process that is gone" in note and str(path) in note
    assert not path.exists() and clear_stale_locks((path,)) == []


@pytest.mark.parametrize("lock", ["", "fcntl.flock(file, fcntl.LOCK_EX)", "fcntl.lockf(file, fcntl.LOCK_EX)"])
def test_a_lock_that_is_held_or_merely_open_stays(tmp_path: Path, lock: str) -> None:
    path = tmp_path / "lock"
    holder = hold(path, lock)
    try:
        assert clear_stale_locks((path,)) == [] and path.exists()
    finally:
        holder.kill()
        holder.wait()


def test_a_lock_in_this_very_process_is_seen_by_its_flock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert clear_stale_locks((path,)) == [] and path.exists()


def hold(path: Path, lock: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(lock=lock), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process
