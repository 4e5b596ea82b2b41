"""Which runs of a sweep start from a checkpoint of another, where, and what that saves.

The longest run that begins as another does is its trunk: of runs at a constant rate with a cooldown to each
horizon, the longest is trained whole and the others leave it where their cooldowns begin. No run is added,
and none is of another kind: what a branch measures is what a run of its own would measure, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.accounting import run_flops
from scaling.config import RunConfig
from scaling.prefix import shared_steps, stem

LEAST_SHARE = 0.2  # of a run: a shared warmup alone is not worth a checkpoint and the wait for it


@dataclass(frozen=True)
class Branch:
    """Run `run_id` starts from the state of run `trunk` after `step` steps."""

    run_id: str
    trunk: str
    step: int


def branches(runs: Sequence[RunConfig]) -> dict[str, Branch]:
    """The branches among `runs`, by run_id; runs that are not in it train from their beginning.

    Each takes the longest beginning that a longer run shares with it, of equals the longest run's. A trunk
    may itself be a branch.
    """
    stems: dict[str, list[RunConfig]] = {}
    for run in sorted(runs, key=lambda run: -run.steps):
        stems.setdefault(stem(run), []).append(run)
    found = {}
    for alike in stems.values():
        for number, run in enumerate(alike[1:], 1):
            shared, trunk = max(
                ((min(shared_steps(run, other), run.steps - 1), other) for other in alike[:number]),
                key=lambda pair: pair[0],
            )
            if shared >= LEAST_SHARE * run.steps:
                found[run.run_id] = Branch(run.run_id, trunk.run_id, shared)
    return found


def kept_steps(found: dict[str, Branch]) -> dict[str, tuple[int, ...]]:
    """Steps whose checkpoints each trunk has to keep, ascending, by its run_id."""
    steps: dict[str, set[int]] = {}
    for branch in found.values():
        steps.setdefault(branch.trunk, set()).add(branch.step)
    return {trunk: tuple(sorted(wanted)) for trunk, wanted in steps.items()}


def flops_to_train(run: RunConfig, found: dict[str, Branch]) -> float:
    """Training FLOPs (`matmul`) of a run without the steps that it takes over from its trunk."""
    branch = found.get(run.run_id)
    return run_flops(run) * (1 - (branch.step / run.steps if branch else 0.0))
