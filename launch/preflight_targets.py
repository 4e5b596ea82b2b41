"""Slices by the names under which they are rented: their chips, their grid, what the compiler calls them."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from scaling.errors import UserError

FAMILIES = ("v4", "v5e", "v5p", "v6e", "h100")
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e"}
# Google counts TensorCores where a chip has two of them: v5p-128 is 64 chips.
_CORES = {"v4": 2, "v5p": 2}
_LARGEST = {"v4": 4096, "v5p": 6144, "v5e": 256, "v6e": 256, "h100": 1024}
_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_SMALL = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4)}  # below one cube of 4 x 4 x 4
_SPELLED = re.compile(
    r"(?P<family>[a-z]+\d*[a-z]*)(?:-(?P<size>\d{1,9})|:(?P<grid>\d{1,4}(?:x\d{1,4}){0,2}))?"
)
GPUS_PER_HOST = 8
# What a program may take of a chip. TPUs: as refusals of libtpu 0.0.42 state it, the rest is its own. H100:
# nine tenths of 79.1 GiB, the share that launch/devices.py gives a worker.
_USABLE_GIB = {"v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25, "h100": 71.2}
# Between hosts of GPUs: 400 Gb/s to each, both directions together (NVIDIA DGX H100 data sheet).
BETWEEN_HOSTS = 100e9

# An H100 SXM as XLA's GPU compiler is told of it; NVIDIA H100 architecture white paper, tables 3 and 4,
# and CUDA C programming guide, compute capability 9.0.
_H100 = """gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclass(frozen=True)
class Target:
    """A slice. `topology` and `one` are arguments of jax's get_topology_desc: of all chips, and of a few
    chips among which one is compiled for.
    """

    name: str
    chip: str  # entry of scaling/hardware.toml
    chips: int
    grid: tuple[int, ...]
    topology: dict[str, Any]
    one: dict[str, Any]

    @property
    def usable(self) -> float:
        """Bytes that a program may take of one chip."""
        return _USABLE_GIB[self.chip] * 2**30

    @property
    def several_hosts(self) -> bool:
        """Whether chips talk over a network slower than the links of hardware.toml."""
        return self.chip == "h100" and self.chips > GPUS_PER_HOST


def find_target(text: str) -> Target:
    """The slice called `v5p-128`, `v5litepod-16`, `v6e-8`, `v4-32`, `h100-8`, or by its grid, `v5p:4x4x4`.

    Raises UserError naming the accelerators, or the sizes in which one can be had.
    """
    match = _SPELLED.fullmatch(text.strip().lower().removeprefix("tpu-"))
    family = _ALIASES.get(match["family"], match["family"]) if match else ""
    if match is None or family not in FAMILIES:
        raise UserError(
            f"--target is {text!r}; name a slice of {', '.join(FAMILIES)}, as v5p-128, v5litepod-16, h100-8."
        )
    if match["grid"]:
        grid = tuple(int(size) for size in match["grid"].split("x"))
        if _grid(family, math.prod(grid)) != tuple(sorted(grid)):
            raise _no_slice(text, family)
        return _target(text, family, math.prod(grid))
    if match["size"] is None:
        raise UserError(f"--target is {text!r}; give its size too, as {_named(family, 8)}.")
    cores = _CORES.get(family, 1)
    chips, odd = divmod(int(match["size"]), cores)
    if odd or _grid(family, chips) is None:
        raise _no_slice(text, family)
    return _target(text, family, chips)


def need_compiler(target: Target) -> None:
    """Raise UserError with the extra to install where the compiler for this target is not installed."""
    if target.topology["platform"] == "tpu" and find_spec("libtpu") is None:
        raise UserError(
            f"--target {target.name} is compiled by libtpu, which is not installed; "
            "pip install 'scaling-experiments[preflight]' (no TPU is needed)."
        )
    if target.topology["platform"] == "cuda" and find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            f"--target {target.name} is compiled by JAX's CUDA plugin, which is not installed; "
            "pip install 'scaling-experiments[cuda]' (no GPU is needed)."
        )


def _target(text: str, family: str, chips: int) -> Target:
    grid = _grid(family, chips)
    if grid is None:
        raise _no_slice(text, family)
    return Target(
        name=text.strip(),
        chip=family,
        chips=chips,
        grid=grid,
        topology=_topology(family, grid),
        one=_topology(family, {"h100": (1,), "v4": (2, 2, 1), "v5p": (2, 2, 1)}.get(family, (2, 2))),
    )


def _topology(family: str, grid: tuple[int, ...]) -> dict[str, Any]:
    if family == "h100":
        chips = math.prod(grid)
        hosts, per_host = max(1, chips // GPUS_PER_HOST), min(chips, GPUS_PER_HOST)
        return {"platform": "cuda", "topology": f"1x{hosts}x{per_host}", "target_config": _H100}
    if grid == (1, 1):  # the compiler knows no machine of fewer: one chip of four
        grid = (2, 2)
    name = {"platform": "tpu", "topology_name": f"{family}:{'x'.join(map(str, grid))}"}
    return name | ({"chip_config_name": "megacore"} if family == "v4" else {})


def _grid(family: str, chips: int) -> tuple[int, ...] | None:
    """Chips along each axis of the torus, ascending; None where there is no such slice."""
    if not 1 <= chips <= _LARGEST[family]:
        return None
    if family == "h100":
        return (chips,) if chips in (1, 2, 4) or chips % GPUS_PER_HOST == 0 else None
    if family in ("v5e", "v6e"):
        return _FLAT.get(chips)
    return _SMALL.get(chips) or _cube(chips)


def _cube(chips: int) -> tuple[int, ...] | None:
    """The most cubic grid of whole 4 x 4 x 4 cubes."""
    cubes, rest = divmod(chips, 64)
    if rest:
        return None
    sides = [n for n in range(1, cubes + 1) if cubes % n == 0]
    grids = [
        (a, b, cubes // (a * b))
        for a, b in itertools.product(sides, repeat=2)
        if cubes % (a * b) == 0 and a <= b <= cubes // (a * b)
    ]
    best = min(grids, key=lambda grid: grid[2] - grid[0])
    return tuple(4 * side for side in best)


def _named(family: str, chips: int) -> str:
    return f"{'v5litepod' if family == 'v5e' else family}-{chips * _CORES.get(family, 1)}"


def _no_slice(text: str, family: str) -> UserError:
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if _grid(family, n)]
    names = ", ".join(_named(family, n) for n in sizes)
    counts = "; the number counts cores, two to a chip" if family in _CORES else ""
    return UserError(f"--target is {text!r}, which is no slice of {family}; choose from {names}{counts}.")
