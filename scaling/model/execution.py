"""How a forward pass is evaluated: changes speed, memory and rounding, never the function computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from scaling.config import Placement


@dataclass(frozen=True)
class Execution:
    dtype: Any = jnp.float32  # of activations and of the weights they meet
    unroll: bool = False  # walk the layers in straight-line code instead of a loop
    remat: bool = False  # recompute a layer's activations in the backward pass
    query_blocks: int = 1  # causal attention in this many blocks of queries


def execution(placement: Placement, platform: str) -> Execution:
    """The fastest form for a platform: on CPU unrolled layers and blocked attention, in float32."""
    cpu = platform == "cpu"
    dtype = placement.compute_dtype
    if dtype == "auto":
        dtype = "float32" if cpu else "bfloat16"
    remat = placement.remat == "full"
    return Execution(jnp.dtype(dtype).type, unroll=cpu, remat=remat, query_blocks=2 if cpu else 1)
