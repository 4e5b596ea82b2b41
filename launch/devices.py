"""How many workers this machine has room for, and the environment of each: its device and its threads.

Found without JAX: the launcher must stay small and must not hold a device.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from scaling.config import Placement
from scaling.data.text import cache_folder
from scaling.environment import training_environment
from scaling.errors import UserError

Device = Literal["auto", "cpu", "gpu", "tpu"]


def worker_environments(placement: Placement, workers: int | None = None) -> list[dict[str, str]]:
    """One environment for each worker process: `workers` of them, or one for each core or accelerator.

    Raises UserError when `workers` is below 1 or a named kind of device is not on this machine.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}; give at least 1.")
    kind, devices = _devices(placement)
    count = workers or len(devices) or _cores() // max(1, placement.threads or _cores())
    # The thread limit is for XLA's CPU backend; an accelerator's compiler is better off with every core.
    own = replace(placement, device=kind, threads=placement.threads if kind == "cpu" else 0)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder() / "xla")
    base = {**os.environ, **training_environment(own, cache)}
    variable = {"gpu": "CUDA_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}.get(kind)
    if variable is None:
        return [dict(base) for _ in range(count)]
    shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / -(-count // len(devices)):.2f}"}
    return [{**base, **shared, variable: devices[slot % len(devices)]} for slot in range(count)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices(placement: Placement) -> tuple[Device, list[str]]:
    """Kind of device and the numbers of those that a worker each may have; none listed for a CPU."""
    found: dict[Device, list[str]] = {"gpu": _gpus(), "tpu": _tpus()}
    if placement.device in found:
        if not found[placement.device]:
            raise UserError(
                f"device is {placement.device!r} but none is usable here; connect one, install jax for it, "
                "or give 'cpu'."
            )
        return placement.device, found[placement.device]
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if placement.device == "auto" and wanted != "cpu":
        for kind, devices in found.items():
            if devices:
                return kind, devices
    return "cpu", []


def _gpus() -> list[str]:
    if not any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return sorted((p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")), key=int)


def _tpus() -> list[str]:
    if find_spec("libtpu") is None:
        return []
    found = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return [str(number) for number in range(len(found))]
