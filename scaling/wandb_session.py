"""Using wandb without a prompt, a word on the terminal, or a wait: what the mirror and the import share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil


def start() -> None:
    """Make wandb quiet. Settings count from a session's first use; later calls change nothing.

    Who calls this wants wandb, so WANDB_MODE is not asked; `wandb.init` still chooses its own mode.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True, mode="online"))


def has_key() -> bool:
    """Whether an API key is configured: in the environment, in wandb's settings or in .netrc; never asks."""
    import wandb

    start()
    return wandb.login(prompt=False, verify=False)


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Kill wandb's service process if the block takes longer, which makes the call that waits for it raise.

    wandb's own limits are kept by that process; where it hangs, they do not hold.
    """
    timer = threading.Timer(seconds, _kill_service)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def abandon() -> None:
    """End a session that failed. What it had not sent stays in its folder, for `wandb sync`.

    wandb's own teardown waits for its service process without limit, and a service whose server is gone may
    never end (seen on 0.31: the process hung at exit). So the service goes first.
    """
    import wandb

    _kill_service()
    # SystemExit: teardown exits the process where the service did not end well.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
    wandb.run = None  # else a run that could not be finished bars the next login


def _kill_service() -> None:
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()
                child.wait(5)


def reason(error: Exception) -> str:
    """What wandb says is wrong, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
