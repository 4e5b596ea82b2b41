"""One shape on a slice: the layouts worth compiling, what the compiler says of them, the batch that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from launch.preflight_layouts import Layout, layouts
from launch.preflight_targets import Target
from scaling.accounting import counts
from scaling.config import RunConfig, to_dict
from scaling.errors import UserError
from scaling.hardware import Hardware

TRIES = 4  # layouts compiled before a shape is said not to fit
BATCHES = 4  # batches compiled in search of the largest that fits
SLACK = 1.05  # a layout expected to take so much more than there is may fit yet


class Compiles(Protocol):
    def compile(self, job: dict[str, Any]) -> dict[str, Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user fixed; None where the choice is left to us."""

    target: Target
    chip: Hardware
    mesh: dict[str, int] | None = None
    remat: str | None = None
    microbatches: int = 1
    utilisation: float = 0.4
    dollars_per_hour: float | None = None

    @property
    def available(self) -> float:
        """Bytes of one chip that a step may take."""
        return self.target.usable


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One shape: its layout, and what the compiler says each chip holds, in bytes."""

    fits: bool
    layout: Layout
    arguments: float  # parameters, moments, tokens: what lies there between steps
    temporaries: float  # everything else of the step
    available: float
    compiled: tuple[str, ...]  # layouts that were compiled, the last is this one
    largest_batch: int | None = None  # sequences, where this batch does not fit

    @property
    def total(self) -> float:
        return self.arguments + self.temporaries


def candidates_of(shape: RunConfig, asked: Asked) -> list[Layout]:
    """Layouts worth a trial, the best first. Raises UserError where no mesh of the slice has room for any."""
    found = list(_candidates(shape, asked))
    if not found:
        raise UserError(_cannot_lie(shape, asked))
    return found


def judge(shape: RunConfig, candidates: list[Layout], asked: Asked, compiler: Compiles) -> Verdict:
    """The quickest layout that fits, compiled; else the nearest one, and the batch that would fit."""
    likely = [x for x in candidates if x.memory.total <= SLACK * asked.available]
    tries = likely[:TRIES] or [min(candidates, key=lambda x: x.memory.total)]
    thriftiest = min(candidates, key=lambda x: x.memory.total)
    if likely and len(likely) > TRIES and thriftiest not in tries:
        tries[-1] = thriftiest
    compiled: list[str] = []
    nearest: Verdict | None = None
    for layout in tries:
        compiled.append(_said(layout))
        verdict = _verdict(shape, layout, asked, compiler, tuple(compiled))
        if verdict.fits:
            return verdict
        if nearest is None or verdict.total < nearest.total:
            nearest = verdict
    assert nearest
    nearest = replace(nearest, compiled=tuple(compiled))
    return replace(nearest, largest_batch=_largest_batch(shape, asked, compiler, nearest))


def _candidates(shape: RunConfig, asked: Asked) -> Iterator[Layout]:
    """Layouts worth a trial, the best first.

    A model goes on a chip of its own where one holds it and, on the whole slice, its step would wait for
    the network or its batch does not split: runs side by side keep every chip at its own products.
    """

    def of(chips: int) -> list[Layout]:
        found = layouts(
            shape, asked.target, asked.chip, chips=chips, microbatches=asked.microbatches,
            utilisation=asked.utilisation,
        )  # fmt: skip
        return [x for x in found if asked.remat in (None, x.remat) and asked.mesh in (None, x.mesh)]

    if shape.batch_size % asked.microbatches:
        raise UserError(
            f"--microbatches is {asked.microbatches}; give a divisor of batch_size = {shape.batch_size}."
        )
    whole = of(asked.target.chips)
    alone = of(1) if asked.target.chips > 1 else []
    held = [x for x in alone if x.memory.total <= asked.available]
    quickest = next((x for x in whole if x.memory.total <= SLACK * asked.available), None)
    if held and (quickest is None or quickest.seconds.bound == "network"):
        yield from held
        yield from whole
    else:
        yield from whole or (alone if asked.mesh else held)


def _verdict(
    shape: RunConfig, layout: Layout, asked: Asked, compiler: Compiles, compiled: tuple[str, ...]
) -> Verdict:
    """What the compiler says. Raises UserError where it says neither yes nor no."""
    found = compiler.compile(
        {
            "config": to_dict(shape),
            "mesh": layout.mesh,
            "remat": layout.remat,
            "microbatches": layout.microbatches,
            "topology": asked.target.one if layout.chips == 1 else asked.target.topology,
        }
    )
    if "error" in found:
        raise UserError(f"{name_of(shape)} on {_said(layout)} could not be compiled: {found['error']}.")
    arguments = found["arguments"] or layout.memory.arguments
    # A TPU's compiler was seen to accept 1.6 GB of arguments beside temporaries that alone fill the chip, a
    # GPU's refuses nothing: what is accepted is held against the memory, too.
    fits = found["fits"] and found["total"] <= asked.available
    return Verdict(
        fits=fits,
        layout=layout,
        arguments=arguments,
        temporaries=found["total"] - arguments,
        available=found["available"] or asked.available,
        compiled=compiled,
    )


def _largest_batch(shape: RunConfig, asked: Asked, compiler: Compiles, refused: Verdict) -> int | None:
    """Sequences of the largest batch found to fit, below the one that was refused; None where none does.

    The memory model says which batch to compile next, corrected by what the compiler said of the last.
    """
    best, above = 0, shape.batch_size
    off = _off(refused, asked)
    tries = 0
    while tries < BATCHES or not best:
        found = _expected_to_fit(shape, asked, off, best, above if best else above // 2 + 1)
        if found is None:
            break
        batch, layout = found
        verdict = _verdict(replace(shape, batch_size=batch), layout, asked, compiler, ())
        best, above = (batch, above) if verdict.fits else (best, batch)
        off, tries = _off(verdict, asked), tries + 1
    return best or None


def _off(verdict: Verdict, asked: Asked) -> float:
    """What a layout takes beside its arguments over what was expected; of a refused one, too much."""
    expected = verdict.layout.memory.total - verdict.layout.memory.arguments
    least = 0.0 if verdict.fits else asked.available - verdict.arguments
    return max(verdict.temporaries, least) / expected


def _expected_to_fit(
    shape: RunConfig, asked: Asked, off: float, below: int, above: int
) -> tuple[int, Layout] | None:
    """The largest batch between the two, ends left out, for which a layout is expected to fit.

    Of numbers of four binary digits, eight to an octave: they divide as meshes do. Where nothing is
    expected to fit, the least batch that splits.
    """
    least = None
    sizes = {top << up for top in range(1, 16) for up in range(above.bit_length())}
    for batch in sorted((n for n in sizes if below < n < above), reverse=True):
        if batch % asked.microbatches:
            continue
        found = list(_candidates(replace(shape, batch_size=batch), asked))
        if not found:
            continue
        layout = min(found, key=lambda x: x.memory.total)
        held = layout.memory
        if held.arguments + off * (held.total - held.arguments) <= asked.available:
            return batch, layout
        least = batch, layout
    return None if below else least


def _cannot_lie(shape: RunConfig, asked: Asked) -> str:
    chips, micro = asked.target.chips, asked.microbatches
    if asked.mesh is not None:
        return (
            f"--mesh {_said_mesh(asked.mesh)} does not divide {name_of(shape)} over {chips} chips or one: "
            "its product is the chips, tensor divides heads, MLP and vocabulary, data x fsdp the batch."
        )
    return (
        f"batch_size is {shape.batch_size}, which {chips} chips of {asked.target.name} cannot split; "
        f"give a multiple of {chips * micro}, or of {chips * micro // 8 or 1} with 8-way tensor parallelism."
    )


def name_of(shape: RunConfig) -> str:
    n = counts(shape.model, shape.seq_len).n["total"]
    return f"{n:,} parameters, {shape.batch_size} x {shape.seq_len} tokens"


def _said_mesh(mesh: dict[str, int]) -> str:
    return ",".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "one chip"


def _said(layout: Layout) -> str:
    return f"{_said_mesh(layout.mesh)} remat {layout.remat}"
