"""Locks that a dead process left on a device: libtpu refuses the chips while its lock file seems held.

`/tmp/libtpu_lockfile` says that a process has the TPU. One that was killed leaves it behind, and the next
fails with "The TPU is already in use" (jax-ml/jax issue 10192). It is removed only when no process holds it:
neither has the file open nor a lock on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

LOCKS = (Path("/tmp/libtpu_lockfile"),)


def clear_stale_locks(locks: tuple[Path, ...] = LOCKS) -> list[str]:
    """Remove the locks that nobody holds; a note on each, and on those that are not ours to remove.

    To be called before this process, or those that it starts, use the device.
    """
    return [note for path in locks if (note := _clear(path))]


def _clear(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        with path.open("r+b") as handle:
            if _open_elsewhere(path) or not _lockable(handle.fileno()):
                return None
            path.unlink()  # while this process holds it: nobody takes it in between
    except FileNotFoundError:  # its owner has just ended well
        return None
    except OSError as error:
        return (
            f"{path} is another user's and cannot be cleared ({error.strerror}); remove it if the TPU is free"
        )
    return f"{path} was left by a process that is gone; removed"


def _lockable(handle: int) -> bool:
    """Whether neither kind of lock is on it; if so, both are now this process's."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _open_elsewhere(path: Path) -> bool:
    """Whether another process has the file open, as far as this user may see (Linux)."""
    wanted = path.stat()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            for file in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found = file.stat()
                    if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                        return True
    return False
