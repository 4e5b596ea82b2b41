"""How a step could lie on a slice, and how long it would take there: arithmetic, nothing compiled.

A step's time is a roofline, the largest of four. Compute: the FLOPs of `matmul` (scaling/accounting.py),
those done again under remat with them, over peak x the utilisation stated. Memory: the bytes that the
step must move to and from device memory, over its bandwidth. Network: the bytes that a device must
receive, over half of what its links carry in both directions. Host: what it takes to start a step.
Nothing is added for the latency of single operations, or for waiting of one on another; compiling,
loading and evaluating are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from launch.preflight_targets import BETWEEN_HOSTS, Target
from scaling.accounting import counts, parts
from scaling.config import RunConfig
from scaling.hardware import Hardware
from scaling.kernels import attention_kernel
from scaling.memory import REMAT, TrainingMemory, training

HOST = 5e-4  # seconds; assumed: a Python loop that hands a step over and logs the one before
TENSOR = (1, 2, 4, 8)  # beyond a host's worth of chips its traffic exceeds its products
# Forward products that the backward pass makes again, as a share of all forward products.
_AGAIN = {"none": 0.0, "dots": 0.0, "attention": 1.0, "full": 1.0}


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """One optimizer step of one run."""

    compute: float
    memory: float
    network: float
    floor: float  # the same at full utilisation

    @property
    def step(self) -> float:
        return max(self.compute, self.memory, self.network, HOST)

    @property
    def bound(self) -> str:
        """Which of the four it is."""
        if self.step == HOST:
            return "host"
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A mesh and what is kept for the backward pass, with what they are expected to take."""

    mesh: dict[str, int]
    remat: str
    microbatches: int
    memory: TrainingMemory
    seconds: Seconds

    @property
    def chips(self) -> int:
        return math.prod(self.mesh.values())


def layouts(
    config: RunConfig, target: Target, chip: Hardware, *, chips: int, microbatches: int, utilisation: float
) -> list[Layout]:
    """Every layout over `chips` of the slice that divides the model and its batch, the quickest first.

    Empty where none does. Of equals the one of fewer axes in use, then the one that keeps more.
    """
    found = []
    for mesh in _meshes(config, chips, microbatches):
        for remat in REMAT:
            held = training(
                config.model,
                seq_len=config.seq_len,
                batch=config.batch_size,
                mesh=mesh,
                remat=remat,
                microbatches=microbatches,
                tiled=target.topology["platform"] == "tpu",
                optimizer=config.optimizer.name,
                recipe=recipe_of(config, target, mesh),
            )
            time = seconds(config, mesh, remat, microbatches, held, target, chip, utilisation)
            found.append(Layout(mesh=mesh, remat=remat, microbatches=microbatches, memory=held, seconds=time))
    order = {remat: place for place, remat in enumerate(REMAT)}
    return sorted(found, key=lambda x: (x.seconds.step, sum(n > 1 for n in x.mesh.values()), order[x.remat]))


def seconds(
    config: RunConfig,
    mesh: dict[str, int],
    remat: str,
    microbatches: int,
    held: TrainingMemory,
    target: Target,
    chip: Hardware,
    utilisation: float,
) -> Seconds:
    """The roofline of the module docstring, for one step."""
    chips = math.prod(mesh.values())
    tokens = config.batch_size * config.seq_len
    flops = counts(config.model, config.seq_len).flops_per_token["matmul"] * tokens
    done = flops * (1 + _AGAIN[remat] / 3)  # forward products are a third
    compute = done / (chips * chip.peak("bf16"))
    recipe = recipe_of(config, target, mesh)
    memory = _moved(config, mesh, remat, microbatches, held, recipe) / chip.bandwidth
    rate = BETWEEN_HOSTS if target.several_hosts else chip.interconnect
    network = 0.0 if chips == 1 or not rate else _received(config, mesh, remat, microbatches) / (rate / 2)
    return Seconds(
        compute=compute / utilisation,
        memory=memory,
        network=network,
        floor=max(flops / (chips * chip.peak("bf16")), memory, network),
    )


def recipe_of(config: RunConfig, target: Target, mesh: dict[str, int]) -> str:
    """The row of scaling/memory.py for the form of attention that the step will be compiled with."""
    platform = "gpu" if target.topology["platform"] == "cuda" else "tpu"
    kernel = attention_kernel("auto", platform, config.model, config.seq_len, mesh=mesh)
    return "plain" if kernel.name == "plain" else "engine"


def _meshes(config: RunConfig, chips: int, microbatches: int) -> list[dict[str, int]]:
    """data x fsdp x tensor = chips, where every array is cut into equal parts."""
    model = config.model
    cut = math.gcd(model.n_heads, model.n_kv_heads, model.d_ff, model.vocab_size)
    found = []
    for tensor in TENSOR:
        shards = chips // tensor
        if chips % tensor or cut % tensor or config.batch_size % (shards * microbatches):
            continue
        for fsdp in (n for n in range(1, shards + 1) if shards % n == 0 and model.d_model % n == 0):
            found.append({"data": shards // fsdp, "fsdp": fsdp, "tensor": tensor})
    return found


def _moved(
    config: RunConfig,
    mesh: dict[str, int],
    remat: str,
    microbatches: int,
    held: TrainingMemory,
    recipe: str,
) -> float:
    """Bytes to and from the memory of one device that no schedule avoids.

    AdamW reads parameters, gradients and two moments and writes all but the gradients, which were written
    before. Weights are read by the forward pass and twice by the backward pass, of input and of weight.
    What the forward pass makes is written and read again, however long it is kept: so the activations
    of remat `none`; and as much again where the forward pass is done twice.
    """
    update = 2 * (held.master + held.moments) + 3 * held.gradients
    whole = parts(config.model).total / mesh["tensor"]
    made = training(
        config.model,
        seq_len=config.seq_len,
        batch=config.batch_size,
        mesh=mesh,
        remat="none",
        microbatches=microbatches,
        recipe=recipe,
    )
    activations = 2 * microbatches * (made.activations * (1 + _AGAIN[remat]) + made.logits)
    return update + microbatches * (3 + _AGAIN[remat]) * 2 * whole + activations


def _received(config: RunConfig, mesh: dict[str, int], remat: str, microbatches: int) -> float:
    """Bytes that each device takes in, by ring algorithms (Thakur et al. 2005).

    fsdp: weights in bfloat16 for the forward pass and for the backward pass, float32 gradients scattered;
    data: an all-reduce of the shard's float32 gradients; tensor: one all-reduce of a layer's activations
    for attention and one for the MLP, forward, backward, and once more where the forward pass is repeated.
    """
    model, (data, fsdp, tensor) = config.model, (mesh[axis] for axis in ("data", "fsdp", "tensor"))
    whole = parts(model).total / tensor
    gathered = microbatches * whole * (fsdp - 1) / fsdp * (2 * 2 + 4)
    reduced = 2 * 4 * (whole / fsdp) * (data - 1) / data
    tokens = config.batch_size * config.seq_len / (data * fsdp)
    joined = model.n_layers * 2 * (2 + _AGAIN[remat]) * tokens * model.d_model * 2
    return gathered + reduced + 2 * joined * (tensor - 1) / tensor
