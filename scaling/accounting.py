"""Parameters and FLOPs of a decoder, by every convention in use. The one owner of N and C.

Everything is summed over the blocks of an `Architecture` (scaling/arch), each of which counts its own.

Conventions of N
    total          every parameter, once (a tied head is not counted again)
    non_embedding  no token or position table; an untied head is in, a tied one is the table and so is out
    active         what one token touches: total less the experts it is not routed to
    kaplan         non-embedding without any head (Kaplan et al. 2020, section 2.1)

Conventions of C, training FLOPs per token, forward and backward (x 3), recomputation never counted.
Where there are experts, each counts the parameters that one token touches.
    kaplan         6 N_kaplan (Kaplan et al. 2020, eq. 2.2, the attention term dropped)
    6n             6 N_active; N_total without experts
    matmul         every matrix product of the step with attention counted causal, and within its
                   window where it has one; the lookup free
    matmul_full    the same with the uncut S x S attention
    palm           6 N_active + 12 L H Q S (Chowdhery et al. 2022, appendix B)
    chinchilla     Hoffmann et al. 2022, appendix F: lookup and softmax counted, attention uncut

Budgets of this project are in `matmul`. Inference is counted as `matmul` counts, forward only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from scaling.arch.blocks import positive
from scaling.arch.decoder import Architecture, of_model
from scaling.config import ModelConfig, RunConfig

NConvention = Literal["total", "non_embedding", "active", "kaplan"]
CConvention = Literal["matmul", "matmul_full", "6n", "kaplan", "palm", "chinchilla"]
N_CONVENTIONS: tuple[NConvention, ...] = ("total", "non_embedding", "active", "kaplan")
C_CONVENTIONS: tuple[CConvention, ...] = ("matmul", "matmul_full", "6n", "kaplan", "palm", "chinchilla")
Decoder = ModelConfig | Architecture


@dataclass(frozen=True)
class Counts:
    """Parameters, and training FLOPs per token at one sequence length."""

    n: dict[NConvention, int]
    flops_per_token: dict[CConvention, float]

    def flat(self, tokens: int) -> dict[str, float]:
        """Columns for a table: `n_total`, ..., and `c_matmul`, ... = FLOPs of `tokens` tokens."""
        columns: dict[str, float] = {f"n_{name}": value for name, value in self.n.items()}
        return columns | {f"c_{name}": value * tokens for name, value in self.flops_per_token.items()}


@dataclass(frozen=True)
class Parts:
    """Parameters by part of the decoder, biases with the matrices they belong to."""

    embedding: int
    positions: int
    attention: int
    mlp: int
    experts: int
    state_space: int
    projections: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Forward:
    """FLOPs of inference: products with weights, attention, and the head's logits."""

    weights: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.weights + self.attention + self.head


def architecture(model: Decoder) -> Architecture:
    return model if isinstance(model, Architecture) else of_model(model)


def parts(model: Decoder) -> Parts:
    arch = architecture(model)
    inside = dict.fromkeys(("attention", "mlp", "experts", "state_space", "projections", "norms"), 0)
    for repeat, block in arch.each():
        inside[block.part] += repeat * sum(block.parameters().values())
    table = arch.vocab_size * arch.table_width
    return Parts(
        embedding=table,
        positions=arch.position_rows * arch.d_model,
        head=(0 if arch.tied else table) + arch.head_bias * arch.vocab_size,
        **inside,
    )


def counts(model: Decoder, seq_len: int) -> Counts:
    """Every N and C of `model` trained on sequences of `seq_len` tokens."""
    return _counts(model, seq_len)


@lru_cache(1024)  # of 10,000 runs of a sweep most have the model of another
def _counts(model: Decoder, seq_len: int) -> Counts:
    arch, length = architecture(model), positive("seq_len", seq_len)
    p = parts(arch)
    total, table = p.total, arch.vocab_size * arch.table_width
    idle = weights = per_pair = let_through = heads = 0
    for repeat, block in arch.each():
        idle += repeat * block.idle_parameters()
        weights += repeat * block.matmul_weights()
        per_pair += repeat * block.pair_flops()
        let_through += repeat * block.pair_flops() * block.pairs(length)
        heads += repeat * block.score_heads()
    weights += table  # the head multiplies, tied or not
    causal, full = let_through / length, per_pair * length
    n: dict[NConvention, int] = {
        "total": total,
        "non_embedding": total - p.embedding - p.positions,
        "active": total - idle,
        "kaplan": total - p.embedding - p.positions - p.head,
    }
    flops: dict[CConvention, float] = {
        "matmul": 3 * (2 * weights + causal),
        "matmul_full": 3.0 * (2 * weights + full),
        "6n": 6.0 * n["active"],
        "kaplan": 6.0 * (n["kaplan"] - idle),
        "palm": 6.0 * n["active"] + 3 * full,
        # The lookup as a product with one-hot rows; 3 FLOPs of softmax for each score.
        "chinchilla": 3.0 * (2 * weights + full + 2 * table + 3 * heads * length),
    }
    return Counts(n=n, flops_per_token=flops)


def prefill(model: Decoder, prompt: int) -> Forward:
    """FLOPs of reading a prompt of `prompt` tokens, attention causal.

    Logits are those of the last position, which is all that the first answered token needs; scoring
    the whole prompt takes `head` once for each of its tokens.
    """
    arch, length = architecture(model), positive("prompt", prompt)
    return Forward(2.0 * length * _matmul_weights(arch), float(_attention(arch, length)), _head(arch))


def decode(model: Decoder, context: int) -> Forward:
    """FLOPs of one more token, which sees `context` tokens, itself among them, through a cache."""
    arch, length = architecture(model), positive("context", context)
    attention = sum(n * block.decode_pair_flops() * block.keys(length) for n, block in arch.each())
    return Forward(2.0 * _matmul_weights(arch), float(attention), _head(arch))


def cache(model: Decoder, context: int) -> int:
    """Elements kept to continue one sequence of `context` tokens: keys and values, latents, states."""
    arch, length = architecture(model), positive("context", context)
    return sum(repeat * block.cache(length) for repeat, block in arch.each())


def _matmul_weights(arch: Architecture) -> int:
    """Entries of the matrices that one token meets on its way to the head."""
    return sum(repeat * block.matmul_weights() for repeat, block in arch.each())


def _attention(arch: Architecture, length: int) -> int:
    """Forward FLOPs of the attention of one sequence, masked pairs left out."""
    return sum(repeat * block.pair_flops() * block.pairs(length) for repeat, block in arch.each())


def _head(arch: Architecture) -> float:
    return 2.0 * arch.vocab_size * arch.table_width


def run_flops(config: RunConfig, convention: CConvention = "matmul") -> float:
    """C of a whole run, FLOPs."""
    return counts(config.model, config.seq_len).flops_per_token[convention] * config.tokens


def columns(config: RunConfig) -> dict[str, Any]:
    """What a config fixes of its row in a runs table, in wandb and in a report alike.

    n_* parameters, c_* training FLOPs of the whole run by convention, tokens and batch_tokens in
    tokens, lr the peak learning rate.
    """
    return {
        **counts(config.model, config.seq_len).flat(config.tokens),
        "tokens": config.tokens,
        "lr": config.optimizer.lr,
        "batch_tokens": config.batch_size * config.seq_len,
        "steps": config.steps,
        "d_model": config.model.d_model,
        "n_layers": config.model.n_layers,
        "seed": config.seed,
        "data": config.data.name,
    }
