"""Device memory of training by kind under a mesh, and of inference by precision. Bytes; GB are 1e9.

A training step holds, on every device,
    weights      copies in which products are computed: of the token table, and of one layer gathered from
                 its shards, or of every layer where remat is `none` and the backward pass finds them kept
    master       the float32 parameters that the optimizer updates
    gradients    of every parameter; with microbatches also their sum, and that sum being made
    moments      what the optimizer keeps of each parameter: two values with Adam (`OPTIMIZERS`)
    activations  kept from the forward pass for the backward pass, by remat policy
    logits       of one part of the head (scaling/loss.py) in float32 and their gradient, and the head and
                 its float32 gradient where they are gathered from shards
    layer        one layer of the backward pass: what it computes again or reads, the gradients of its
                 scores, and its parameters' gradients before they are reduced
    batch        the tokens
The total of the step's one program has the larger of two moments: at the head all of `logits`; in a layer
`gradients`, `layer` and the head's gathered gradient. A compiler lays buffers of different lives into one
heap: the gaps between them are counted by `GAPS`, measured.

Layout, as in scaling/sharding.py: the batch is split over `data` and `fsdp`; matrices and tables over
`fsdp` and `tensor`; gains and biases over `fsdp`. Within a layer what belongs to heads and to the MLP
is split over `tensor`, the residual stream and the norms are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scaling.accounting import Decoder, architecture, cache, parts
from scaling.arch.blocks import Block, Experts, Mlp, Norm, positive
from scaling.arch.decoder import Architecture, Layer
from scaling.errors import UserError
from scaling.stored import OPTIMIZERS, kept_values, stored_arrays

MESH_AXES = ("data", "fsdp", "tensor")
REMAT: dict[str, str] = {
    "none": "everything is kept",
    "dots": "results of the products with weights are kept",
    "attention": "the input of each layer and what its attention gives are kept",
    "full": "the input of each layer is kept",
}
INFERENCE_BYTES: dict[str, float] = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5}
_COUNTER = 4  # int32, the optimizer's steps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Bytes per parameter of each kind, and what the backward pass finds kept of a layer."""

    name: str
    weights: float = 2  # compute copy, sharded like the parameters
    master: float = 4
    gradients: float
    moment: float = 4
    compute: float = 2  # bytes of an activation
    norm: float  # bytes kept per channel of a norm
    gated_mlp: float  # bytes kept per hidden channel of a gated MLP
    plain_mlp: float
    scores: float  # bytes kept per (head, key) of a query; 0 where a fused kernel never writes them
    one_program: bool  # as the engine compiles it: the head in parts, buffers laid into one heap


# What the heap of a compiled step takes over the bytes counted as alive at once, by remat policy: from steps
# compiled for v5e, v5p and v6e (benchmarks/results/memory-tpu-topologies.json). Least where one kind is
# nearly all of it: the activations that are kept, or, whatever the policy, the logits of a head in one part.
GAPS = {"none": 1.09, "dots": 1.28, "attention": 1.3, "full": 1.3}

RECIPES: dict[str, Recipe] = {
    # What scaling/step.py holds on an accelerator. XLA keeps of a norm two float32 intermediates and the
    # output, of SwiGLU six bfloat16 ones: each is written in plain operations. Attention is fused.
    "engine": Recipe(
        name="engine", gradients=4, norm=10, gated_mlp=12, plain_mlp=12, scores=0, one_program=True
    ),
    # The same where no kernel serves (scaling/kernels.py): scores are kept in float32 and bfloat16.
    "plain": Recipe(
        name="plain", gradients=4, norm=10, gated_mlp=12, plain_mlp=12, scores=6, one_program=True
    ),
    # 16 bytes per parameter (Rajbhandari et al. 2020, ZeRO, section 3.1), attention and norms fused: of a
    # norm its input and output are kept, of an MLP its pre-activations and hidden channels.
    "mixed": Recipe(name="mixed", gradients=2, norm=4, gated_mlp=6, plain_mlp=4, scores=0, one_program=False),
}


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on each device by kind (module docstring), and the most held at once."""

    weights: float
    master: float
    gradients: float
    moments: float
    activations: float
    logits: float
    layer: float
    batch: float
    total: float

    @property
    def arguments(self) -> float:
        """What lies in memory between steps, and the tokens of the next."""
        return self.master + self.moments + self.batch


def training(
    model: Decoder,
    *,
    seq_len: int,
    batch: int,
    mesh: Mapping[str, int] | None = None,
    remat: str = "full",
    microbatches: int = 1,
    recipe: str | Recipe = "engine",
    tiled: bool = False,
    optimizer: str = "adamw",
) -> TrainingMemory:
    """Bytes on each device of one step over `batch` sequences of `seq_len` tokens, all devices together.

    `mesh` maps data, fsdp and tensor to sizes, 1 where absent. `tiled`: arrays are padded as TPUs store
    them. Raises UserError where the mesh does not divide the batch or the heads, or a name is unknown.
    """
    arch, axes, kind = architecture(model), check_mesh(mesh or {}), _recipe(recipe)
    if remat not in REMAT:
        raise UserError(f"remat is {remat!r}; choose from {', '.join(REMAT)}.")
    if optimizer not in OPTIMIZERS:
        raise UserError(f"optimizer is {optimizer!r}; choose from {', '.join(OPTIMIZERS)}.")
    check_divides(arch, axes)
    rows = _rows(batch, microbatches, axes)
    tokens = rows * positive("seq_len", seq_len)
    tensor = axes["tensor"]
    arrays = list(stored_arrays(arch, axes, tiled))
    stored = sum(array.stored for array in arrays)
    gradients = kind.gradients * stored * (1 if microbatches == 1 else 3)
    activations = tokens * sum(n.repeat * _kept(n, seq_len, remat, kind, tensor) for n in arch.layers)
    if kind.one_program:
        parts_of_head = head_parts(rows, seq_len, -(-arch.vocab_size // tensor))
        head_gradient = _head(arch, axes, 4)
        logits = _logits(arch, tokens / parts_of_head, axes, kind) + _head(arch, axes, 4) + head_gradient
    else:
        head_gradient, logits = 0.0, _logits(arch, tokens, axes, kind)
    layer = max(_layer(n, tokens, seq_len, axes, kind) for n in arch.layers)
    weights = _weights(arch, axes, kind, remat, stored)
    master = kind.master * stored
    moments = kind.moment * sum(kept_values(array, optimizer) for array in arrays) + _COUNTER
    tokens_held = rows * microbatches * (seq_len + 1) * token_bytes(arch.vocab_size)
    if kind.one_program:
        at_head, in_layer = logits, gradients + layer + head_gradient
        head_gap = GAPS[remat if parts_of_head > 1 else "none"]
        temporaries = max(
            (weights + activations + at_head) * head_gap, (weights + activations + in_layer) * GAPS[remat]
        )
    else:
        temporaries = weights + activations + gradients + max(logits, layer)
    return TrainingMemory(
        weights=weights,
        master=master,
        gradients=gradients,
        moments=moments,
        activations=activations,
        logits=logits,
        layer=layer,
        batch=tokens_held,
        total=master + moments + tokens_held + temporaries,
    )


@dataclass(frozen=True, kw_only=True)
class InferenceMemory:
    """Bytes of all devices together."""

    weights: float
    cache: float

    @property
    def total(self) -> float:
        return self.weights + self.cache


def inference(
    model: Decoder,
    *,
    context: int,
    sequences: int = 1,
    precision: str = "bf16",
    cache_bytes: float | None = None,
) -> InferenceMemory:
    """Weights in `precision` and the cache of `sequences` sequences of `context` tokens each.

    The cache is 2 x layers x kv_heads x d_head x context elements per sequence from the real shape, cut to
    a layer's window; latents and states as their blocks keep them. `cache_bytes` per element is 4 with fp32
    weights and 2 otherwise unless given: int8 and int4 are of the weights alone, scales not counted.
    """
    if precision not in INFERENCE_BYTES:
        raise UserError(f"precision is {precision!r}; choose from {', '.join(INFERENCE_BYTES)}.")
    if cache_bytes is not None and not 0 < cache_bytes <= 8:
        raise UserError(
            f"cache_bytes is {cache_bytes}; give the bytes of one element, above 0 and at most 8."
        )
    size = INFERENCE_BYTES[precision]
    held = max(2.0, size) if cache_bytes is None else cache_bytes
    elements = cache(model, positive("context", context)) * positive("sequences", sequences)
    return InferenceMemory(weights=parts(model).total * size, cache=elements * held)


def check_mesh(mesh: Mapping[str, int]) -> dict[str, int]:
    """All three axes, 1 where absent. Raises UserError for another axis or a size below 1."""
    for axis, size in mesh.items():
        if axis not in MESH_AXES:
            raise UserError(f"mesh names axis {axis!r}; choose from {', '.join(MESH_AXES)}.")
        positive(f"mesh.{axis}", size)
    return {axis: mesh.get(axis, 1) for axis in MESH_AXES}


def check_divides(model: Decoder, axes: Mapping[str, int]) -> None:
    """Raise UserError where a mesh cannot split width over fsdp, or heads and MLP over tensor, equally."""
    arch = architecture(model)
    sizes = [("fsdp", "d_model", arch.d_model)]
    for _, block in arch.each():
        sizes += [
            ("tensor", name, getattr(block, name)) for name in ("n_heads", "d_ff") if hasattr(block, name)
        ]
    for axis, name, size in sizes:
        if size % axes[axis]:
            raise UserError(f"mesh.{axis} is {axes[axis]}; give a divisor of {name} = {size}.")


def _rows(batch: int, microbatches: int, axes: Mapping[str, int]) -> int:
    """Sequences of one microbatch on one device."""
    shares = axes["data"] * axes["fsdp"] * positive("microbatches", microbatches)
    if positive("batch", batch) % shares:
        raise UserError(
            f"batch is {batch} sequences; give a multiple of data x fsdp x microbatches = {shares}, "
            "over which it is split."
        )
    return batch // shares


def _recipe(recipe: str | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise UserError(f"recipe is {recipe!r}; choose from {', '.join(RECIPES)}.")
    return RECIPES[recipe]


def _weights(arch: Architecture, axes: Mapping[str, int], kind: Recipe, remat: str, stored: float) -> float:
    """Copies of parameters in the compute type, whole but for `tensor` where they are gathered."""
    tensor, gathered = axes["tensor"], axes["fsdp"] > 1
    if not kind.one_program:
        one = max(_layer_parameters(layer) for layer in arch.layers) / tensor if gathered else 0.0
        table = arch.vocab_size * arch.table_width / tensor if gathered else 0.0
        return kind.weights * (stored + one + table)
    layers = [(layer.repeat, _layer_parameters(layer)) for layer in arch.layers]
    held = sum(n * size for n, size in layers) if remat == "none" else max(size for _, size in layers)
    return kind.weights * (held + arch.vocab_size * arch.table_width) / tensor


def _layer(layer: Layer, tokens: float, seq_len: int, axes: Mapping[str, int], kind: Recipe) -> float:
    """Bytes of one layer while its gradients are made."""
    tensor = axes["tensor"]
    made = _kept(layer, seq_len, "none", kind, tensor)
    if math.prod(axes.values()) > 1:  # on one device a score's gradient is written over the score
        made += _score_gradients(layer, seq_len, kind, tensor)
    gathered = _layer_parameters(layer) / tensor if axes["fsdp"] > 1 else 0.0
    return tokens * made + kind.gradients * gathered


def _layer_parameters(layer: Layer) -> int:
    return sum(sum(block.parameters().values()) for block in layer.blocks)


def _kept(layer: Layer, seq_len: int, remat: str, kind: Recipe, tensor: int) -> float:
    """Bytes per token that one layer keeps for its backward pass."""
    if remat == "full":
        return layer.blocks[0].d_model * kind.compute
    if remat == "dots":
        return layer.blocks[0].d_model * kind.compute + sum(_dots(b, kind, tensor) for b in layer.blocks)
    if remat == "attention":
        given = sum(b.activations().get("context", 0) for b in layer.blocks)
        return (layer.blocks[0].d_model + given / tensor) * kind.compute
    linear = sum(_elementwise(block, kind, tensor) for block in layer.blocks)
    return linear + sum(block.score_heads() for block in layer.blocks) * seq_len * kind.scores / tensor


def _elementwise(block: Block, kind: Recipe, tensor: int) -> float:
    """Bytes per token kept of everything but scores."""
    sizes = block.activations()
    if isinstance(block, Norm):
        return block.d_model * kind.norm
    if isinstance(block, Mlp | Experts):
        per_channel = kind.gated_mlp if block.gated else kind.plain_mlp
        return sizes["hidden"] * per_channel / tensor + 4 * sizes.get("router", 0)
    return sum(sizes.values()) * kind.compute / tensor


def _dots(block: Block, kind: Recipe, tensor: int) -> float:
    """Bytes per token of what products with weights give, but for the MLP's output: nobody reads it again."""
    sizes = dict(block.activations())
    if isinstance(block, Norm):
        return 0.0
    for name in ("context", "hidden", "scan", "conv"):  # elementwise or products of activations
        sizes.pop(name, None)
    given = 0 if isinstance(block, Mlp | Experts) else block.d_model
    return (sum(sizes.values()) / tensor + given) * kind.compute


def _score_gradients(layer: Layer, seq_len: int, kind: Recipe, tensor: int) -> float:
    """Bytes per token: a float32 for each score, where scores are written at all."""
    heads = sum(block.score_heads() for block in layer.blocks) if kind.scores else 0
    return 4 * heads * seq_len / tensor


def _logits(arch: Architecture, tokens: float, axes: Mapping[str, int], kind: Recipe) -> float:
    """Logits, their gradient, and the head in the compute type where it has to be gathered."""
    return tokens * arch.vocab_size / axes["tensor"] * (4 + kind.compute) + _head(arch, axes, kind.compute)


def _head(arch: Architecture, axes: Mapping[str, int], size: float) -> float:
    """The head gathered from its shards."""
    return arch.vocab_size / axes["tensor"] * arch.table_width * size if axes["fsdp"] > 1 else 0.0


def head_parts(batch: int, seq_len: int, vocab: int) -> int:
    """Into how many parts scaling/loss.py cuts the head where it is left to it, from what one device has."""
    return next(
        (n for n in range(1, seq_len) if seq_len % n == 0 and batch * seq_len // n * vocab <= 2**27), seq_len
    )


def token_bytes(vocab_size: int) -> int:
    """Bytes of a stored token."""
    return 1 if vocab_size <= 2**8 else 2 if vocab_size <= 2**16 else 4
