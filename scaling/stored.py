"""What lies on each device between steps: parameters, and what the optimizer keeps of them.

Layout as in scaling/memory.py, which counts the rest. Entries, not bytes; no JAX here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scaling.arch.blocks import Attention, Block
from scaling.arch.decoder import Architecture

OPTIMIZERS: dict[str, str] = {
    "adamw": "two values of each parameter",
    "lion": "one",
    "muon": "one of each matrix of a layer, two of the rest",
    "adafactor": "one, and of the squares of each matrix their means over rows and over columns",
}
_VECTORS = frozenset(("gain", "bias", "biases", "biases and gains"))
_FACTORED = 128  # optax.scale_by_factored_rms keeps all squares of a matrix with a smaller side


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Equal arrays of parameters: entries on each device, and on how many of their lines these lie."""

    place: str  # matrix of a layer, table, or vector
    stored: float
    sides: tuple[float, float]  # of one whole matrix
    lines: float  # rows and columns on each device, of all of them


def stored_arrays(arch: Architecture, axes: Mapping[str, int], tiled: bool = False) -> Iterator[Stored]:
    """What is stored of the parameters on each device between steps."""
    fsdp, tensor = axes["fsdp"], axes["tensor"]
    sides = (arch.vocab_size, arch.table_width)
    tables = 1 if arch.tied else 2
    yield Stored(
        place="table",
        stored=tables * math.prod(sides) / (fsdp * tensor),
        sides=sides,
        lines=tables * (sides[0] / tensor + sides[1] / fsdp),
    )
    vectors = arch.position_rows * arch.d_model / fsdp + arch.head_bias * arch.vocab_size / tensor
    for repeat, block in arch.each():
        for name, size in block.parameters().items():
            split = _split(block, name, tensor)
            stored = repeat * size / (fsdp * split)
            if name in _VECTORS or name == "small":  # biases of attention
                vectors += stored
                continue
            stored *= _padding(block, name, axes) if tiled else 1
            wide = size / block.d_model
            yield Stored(
                place="layer",
                stored=stored,
                sides=(block.d_model, wide),
                lines=repeat * (block.d_model / fsdp + wide / split),
            )
    yield Stored(place="vector", stored=vectors, sides=(0, 0), lines=0)


def kept_values(array: Stored, optimizer: str) -> float:
    """Values that the optimizer keeps of an array, as scaling/optimizer.py has them."""
    if optimizer == "lion" or (optimizer == "muon" and array.place == "layer"):
        return array.stored
    if optimizer == "adafactor" and min(array.sides) >= _FACTORED:
        return array.stored + array.lines
    return 2 * array.stored


def _padding(block: Block, array: str, axes: Mapping[str, int]) -> float:
    """What a TPU stores of a shard over what is in it, for the arrays of which much may be padding.

    The last axis is padded to whole lanes of 128, the one before it to 8 (1, 2 or 4 where it is no larger);
    the compiler orders the axes so that least is lost. Arrays of heads have three axes, none of them
    large once `fsdp` has cut the width; those of the MLP and the tables always have a long one.
    """
    if not isinstance(block, Attention) or array not in ("q", "k", "v", "o"):
        return 1.0
    heads = block.n_heads if array in ("q", "o") else block.n_kv_heads
    sides = (block.d_model // axes["fsdp"], heads // _split(block, array, axes["tensor"]), block.d_head)
    return min(
        (-(-last // 128) * 128 / last) * (_sublanes(before) / before)
        for last, before in itertools.permutations(sides, 2)
    )


def _sublanes(size: int) -> int:
    return -(-size // 8) * 8 if size > 4 else 1 << (size - 1).bit_length()


def _split(block: Block, array: str, tensor: int) -> int:
    """Over how many of the `tensor` devices an array of a block is split."""
    if array in _VECTORS:
        return 1
    if isinstance(block, Attention) and array in ("k", "v"):
        return math.gcd(tensor, block.n_kv_heads)  # fewer heads than devices: each has a copy
    return tensor
