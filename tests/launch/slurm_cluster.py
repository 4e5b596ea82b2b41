"""A real Slurm of two nodes for the tests, started by the project's own script."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scaling.cli.main import app

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm_cluster.sh"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")


def missing() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}); scripts/install_system_packages.sh installs it"
    return None if os.geteuid() == 0 else "starting a Slurm needs root"


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """The cluster in `folder`; yields its slurm.conf."""
    if reason := missing():
        pytest.skip(reason)
    environment = {**os.environ, "SLURM_PORT": str(_free_ports())}
    subprocess.run([str(SCRIPT), "start", str(folder)], env=environment, check=True, timeout=60)
    try:
        yield folder / "slurm.conf"
    finally:
        subprocess.run([str(SCRIPT), "stop", str(folder)], check=True, timeout=60)


def call(*arguments: str) -> dict[str, Any]:
    """A command's JSON."""
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def until(what: str, happened: Callable[[], Any], seconds: float = 600) -> Any:
    """What `happened` returns once it is true; names what was waited for, and shows the queue, if never."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := happened():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s for {what}\n{slurm('squeue', '--array')}")


def profile(folder: Path, **fields: Any) -> str:
    """Path of a profile for this cluster, one core a job."""
    values = {
        "engine": "slurm",
        "mem": "900M",
        "chip": "cpu",
        "pause_seconds": 0.2,
        "term_seconds": 10,
        **fields,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    lines += ["[placement]", 'device = "cpu"', "keep_every = 20"]
    path = folder / f"profile-{'-'.join(map(str, fields)) or 'plain'}.toml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _free_ports() -> int:
    """The first of three ports in a row that nobody listens to."""
    for first in range(26817 + os.getpid() % 1000 * 3, 60000, 3):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            try:
                for offset, listener in enumerate((one, two, three)):
                    listener.bind(("127.0.0.1", first + offset))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
