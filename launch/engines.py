"""The engines by name. A fourth joins with one file and one line here (docs/engines.md).

An entry names what makes the engine and is imported when it is asked for, so that no engine's
libraries are loaded for another's sake.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from launch.executor import Cluster
from launch.profiles import Profile
from scaling.errors import UserError

LOCAL = "local"  # this machine: launch/local.py, without a profile


@dataclass(frozen=True)
class Engine:
    """`module` holds the class `cluster`, called with a profile and a sweep's folder, and its `profile`."""

    module: str
    cluster: str
    profile: str

    def make(self, profile: Profile, folder: Path) -> Cluster:
        return getattr(import_module(self.module), self.cluster)(profile, folder.absolute())

    def profile_type(self) -> type[Any]:
        return getattr(import_module(self.module), self.profile)


ENGINES: dict[str, Engine] = {
    "slurm": Engine("launch.slurm", "Slurm", "SlurmProfile"),
    "gke": Engine("launch.gke", "Gke", "GkeProfile"),
}


def find_engine(name: str) -> Engine:
    """Raises UserError, with the nearest name, for one that is no engine."""
    if name in ENGINES:
        return ENGINES[name]
    known = (LOCAL, *ENGINES)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? Known are " if near else "choose from "
    raise UserError(f"--on is {name!r}, which is no engine; {hint}{', '.join(known)}.")
