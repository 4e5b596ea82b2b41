"""Whether to train runs of one shape in one program (`scaling/packed.py`): by a measurement on this device.

On an accelerator a small model's step leaves most of it idle, and a pack fills it; how small is small depends
on the device, so the sweep's own shapes are timed there, alone and packed, and the answer is kept. A CPU core
is never idle under a run: there packing is declined without being timed (docs/packing.md has the figures).
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from launch.devices import Slot
from launch.executor import Job
from scaling.config import RunConfig, to_dict
from scaling.data.text import cache_folder
from scaling.errors import UserError
from scaling.files import write_json
from scaling.packed_rate import Gain
from scaling.packing import pack_key
from scaling.rate import flops_per_step

MOST = 8  # members: more gain little, and lose more together when their process dies
PAYS = 1.2  # times the rate one at a time, from which on a pack is worth it
SHAPES = 3  # timed at most: the smallest step of the sweep, the largest, and one between


@dataclass(frozen=True)
class Packing:
    """Members of a pack by `pack_key`; shapes that are not named train alone. `reason`: one sentence."""

    members: dict[str, int] = field(default_factory=dict)
    reason: str = "packing is off"

    def of(self, config: RunConfig) -> int:
        return self.members.get(pack_key(config), 1) if self.members else 1


def check_wish(wish: str) -> None:
    """Raises UserError for a value of `--pack` that is neither auto, off nor a number from 2."""
    if wish not in ("auto", "off") and not (wish.isdecimal() and int(wish) >= 2):
        raise UserError(f"--pack is {wish!r}; give auto, off, or how many runs to train in one program.")


def plan_packing(jobs: Sequence[Job], wish: str, slot: Slot) -> Packing:
    """What `--pack` asks for: `off`, a number of members, or `auto`, measured on the device of `slot`.

    Raises UserError for another word.
    """
    check_wish(wish)
    if wish == "off":
        return Packing()
    groups: dict[str, list[RunConfig]] = defaultdict(list)
    for job in jobs:
        if job.placement.wandb == "off" and not (job.placement.mesh or job.placement.slices):
            groups[pack_key(job.config)].append(job.config)
    groups = {key: group for key, group in groups.items() if len(group) > 1}
    if not groups:
        return Packing(
            reason="no packing: no two runs share shape, batch, data and steps on one device without wandb"
        )
    if wish != "auto":
        return Packing(dict.fromkeys(groups, int(wish)), f"packing {wish} runs of one shape, as asked for")
    if slot.environment.get("JAX_PLATFORMS") == "cpu":
        return Packing(
            reason="no packing: a CPU core is busy with one run, and several in one program are no faster "
            "than one after another (docs/packing.md)"
        )
    return _measured(groups, slot)


def _measured(groups: dict[str, list[RunConfig]], slot: Slot) -> Packing:
    """Each shape by the one timed whose step is nearest in FLOPs."""
    sizes = {key: flops_per_step(group[0]) for key, group in groups.items()}
    ordered = sorted(groups, key=lambda key: sizes[key])
    picked = {ordered[round(i * (len(ordered) - 1) / (SHAPES - 1))] for i in range(SHAPES)}
    gains = {key: _gain(groups[key], slot) for key in picked}
    members, said = {}, []
    for key in ordered:
        near = min(picked, key=lambda other: abs(sizes[other] - sizes[key]))
        gain = gains[near]
        if isinstance(gain, Gain) and gain.ratio >= PAYS:
            members[key] = min(MOST, len(groups[key]))
    for key in sorted(picked, key=lambda key: sizes[key]):
        gain = gains[key]
        what = f"{gain.ratio:.1f} times the rate" if isinstance(gain, Gain) else gain
        said.append(f"{sizes[key]:.1e} FLOPs a step: {what}")
    verb = f"packing {len(members)} of {len(groups)} shapes" if members else "no packing"
    return Packing(members, f"{verb}: measured on {slot.device}, {'; '.join(said)}")


def _gain(group: list[RunConfig], slot: Slot) -> Gain | str:
    """Measured, or kept from an earlier launch; or what went wrong, most likely too little memory."""
    members = min(MOST, len(group))
    path = _kept(group[0], members, slot)
    try:
        return Gain(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    order = {"config": to_dict(group[0]), "placement": {}, "members": members}
    done = subprocess.run(
        [sys.executable, "-m", "scaling.packed_rate"],
        input=json.dumps(order),
        env=slot.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"could not be timed ({(done.stderr.strip().splitlines() or ['no message'])[-1][:100]})"
    gain = Gain(**json.loads(done.stdout.splitlines()[-1]))
    write_json(path, asdict(gain))
    return gain


def _kept(config: RunConfig, members: int, slot: Slot) -> Path:
    """Where a gain is kept; another machine, device, shape or JAX has another file."""
    identity = [platform.node(), slot.device, version("jax"), pack_key(config), members]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return cache_folder() / "rates" / f"pack-{name}.json"
