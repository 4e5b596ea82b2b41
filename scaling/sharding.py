"""One mesh and one table from logical axes to mesh axes. Every layout is a row here.

Parameters name their dimensions (`embed`, `heads`, `mlp`, ...); this table says which mesh axis
splits each. The mesh is `Auto`: the compiler places collectives, `jax.jit` with `NamedSharding`
does what pjit did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scaling.config import Placement
from scaling.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# logical axis -> mesh axes that split it
RULES: dict[str, tuple[str, ...] | str | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "layer": None,
    "head": None,
}


@dataclass(frozen=True)
class Shardings:
    """A mesh and the table above."""

    mesh: Mesh

    def of(self, axes: tuple[str | None, ...]) -> NamedSharding:
        """Sharding of an array whose dimensions carry these logical names (None = unsplit)."""
        return NamedSharding(self.mesh, PartitionSpec(*(RULES[a] if a else None for a in axes)))

    def split(self, axes: tuple[str | None, ...]) -> list[int]:
        """Into how many parts the mesh splits each of these dimensions."""
        names = [RULES[axis] or () if axis else () for axis in axes]
        groups = [(name,) if isinstance(name, str) else name for name in names]
        return [math.prod(self.mesh.shape[name] for name in group) for group in groups]

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_shards(self) -> int:
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]


def make_shardings(placement: Placement) -> Shardings:
    """The mesh of a placement over the devices of its platform; {} puts all of them on `fsdp`."""
    platform = None if placement.device == "auto" else placement.device
    try:
        devices = jax.devices(platform)
    except RuntimeError as error:
        raise UserError(
            f"placement.device is {placement.device!r}, which this machine lacks: {error}."
        ) from None
    sizes = dict(placement.mesh) or {"fsdp": len(devices)}
    for axis in sizes:
        if axis not in MESH_AXES:
            raise UserError(f"placement.mesh names axis {axis!r}; choose from {', '.join(MESH_AXES)}.")
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    if math.prod(shape) > len(devices):
        raise UserError(
            f"placement.mesh {sizes} needs {math.prod(shape)} devices; this machine has {len(devices)}."
        )
    grid = np.array(devices[: math.prod(shape)]).reshape(shape)
    return Shardings(Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)))
