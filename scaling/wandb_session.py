"""Using wandb without a prompt, a word on the terminal, or a wait: what the mirror and the import share."""

from __future__ import annotations

import contextlib

import psutil


def start() -> None:
    """Make wandb quiet. Settings count from a session's first use; later calls change nothing."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))


def has_key() -> bool:
    """Whether an API key is configured: in the environment, in wandb's settings or in .netrc; never asks."""
    import wandb

    start()
    return wandb.login(prompt=False, verify=False)


def abandon() -> None:
    """End a session that failed. What it had not sent stays in its folder, for `wandb sync`.

    wandb's own teardown waits for its service process without limit, and a service whose server is gone may
    never end (seen on 0.31: the process hung at exit). So the service goes first.
    """
    import wandb

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()
    # SystemExit: teardown exits the process where the service did not end well.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def reason(error: Exception) -> str:
    """What wandb says is wrong, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
