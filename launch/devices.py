"""The slots of this machine: how many runs train at once, and the device, threads and memory of each.

Found without JAX: the launcher must stay small and must not hold a device.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from scaling.config import Placement
from scaling.data.text import cache_folder
from scaling.environment import training_environment
from scaling.errors import UserError

Device = Literal["auto", "cpu", "gpu", "tpu"]

GPU_MEMORY = 0.9  # of a GPU, for all the runs on it; the rest is the driver's and the libraries'
FIRST_TPU_PORT = 8476


@dataclass(frozen=True)
class Slot:
    """Room for one worker process."""

    device: str  # what fails when it fails: "gpu 3", "tpu chip 0", "core slot 1"
    environment: dict[str, str]


def slots(placement: Placement, workers: int | None = None, per_device: int | None = None) -> list[Slot]:
    """Slots for `workers` processes in all, dealt out over the devices in turn.

    By default one for each GPU, each TPU chip, or each core (`placement.threads` cores on a CPU);
    `per_device` of them on each GPU. Those that share a GPU share its memory equally, through
    XLA_PYTHON_CLIENT_MEM_FRACTION (yours, where you have set it); those that share a machine share its
    cores. A placement whose mesh takes several GPUs gets slots of so many, and on TPU all chips in one slot.

    Raises UserError when a number is below 1, a named kind of device is not on this machine or has too few
    for the mesh, or several runs are asked for on one TPU chip.
    """
    for name, number in (("--workers", workers), ("--per-gpu", per_device)):
        if number is not None and number < 1:
            raise UserError(f"{name} is {number}; give at least 1.")
    kind, devices = _devices(placement)
    if kind == "cpu" or not devices:
        if per_device is not None:
            raise UserError("--per-gpu is for GPUs and there is none here; give --workers instead.")
        count = workers or max(1, _cores() // max(1, placement.threads or _cores()))
        environment = _environment(placement, kind, placement.threads)
        return [Slot(f"core slot {number}", dict(environment)) for number in range(count)]
    groups = _groups(placement, kind, devices)
    count = workers or len(groups) * (per_device or 1)
    shared = -(-count // len(groups))
    if kind == "tpu" and shared > 1:
        raise UserError(
            f"--workers is {count} on {len(groups)} TPU chips; a chip takes one process, give {len(groups)}."
        )
    environment = _environment(placement, kind, max(1, _cores() // count) if count > 1 else 0)
    if kind == "gpu":
        environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{GPU_MEMORY / shared:.2f}")
        return [_gpu_slot(groups[number % len(groups)], environment) for number in range(count)]
    return [_tpu_slot(number, groups, environment) for number in range(count)]


def _environment(placement: Placement, kind: Device, threads: int) -> dict[str, str]:
    """What all slots have in common; `threads` 0: every core."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder() / "xla")
    own = replace(placement, device=kind, threads=threads)
    return {**os.environ, **training_environment(own, cache)}


def _groups(placement: Placement, kind: Device, devices: list[str]) -> list[list[str]]:
    """The devices of each slot's run: one, or as many as its mesh has."""
    size = math.prod(placement.mesh.values()) * math.prod(placement.slices.values())
    if size > len(devices):
        raise UserError(
            f"placement.mesh takes {size} devices and {len(devices)} of kind {kind} are here; "
            f"give a smaller mesh."
        )
    if kind == "tpu" and size > 1:  # which chips are neighbours is the driver's to know
        return [devices]
    return [devices[i : i + size] for i in range(0, len(devices) - size + 1, size)]


def _gpu_slot(group: list[str], environment: dict[str, str]) -> Slot:
    names = ",".join(group)
    return Slot(f"gpu {names}", {**environment, "CUDA_VISIBLE_DEVICES": names})


def _tpu_slot(number: int, groups: list[list[str]], environment: dict[str, str]) -> Slot:
    """A chip as a slice of its own, as jax/_src/test_multiprocess.py starts its processes."""
    [*chips] = groups[number]
    if len(chips) > 1 or len(groups) == 1:
        return Slot(f"tpu chips {','.join(chips)}", environment)
    port = str(FIRST_TPU_PORT + number)
    alone = {
        "TPU_VISIBLE_CHIPS": chips[0],
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": port,
        "CLOUD_TPU_TASK_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    return Slot(f"tpu chip {chips[0]}", environment | alone)


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
