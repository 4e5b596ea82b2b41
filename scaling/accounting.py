"""Parameters and training FLOPs of a config, by every convention in use. The one owner of N and C.

Conventions of N
    total          every parameter, once (a tied head is not counted again)
    non_embedding  no token table; an untied head is in, a tied one is the table and so is out
    active         what one token touches (equal to total without experts)
    kaplan         non-embedding without any head (Kaplan et al. 2020, section 2.1)

Conventions of C, training FLOPs per token, forward and backward (x 3), recomputation never counted
    kaplan         6 N_kaplan (Kaplan et al. 2020, eq. 2.2, the attention term dropped)
    6n             6 N_total
    matmul         every matrix product of the step with attention counted causal, the lookup free
    matmul_full    the same with the uncut S x S attention
    palm           6 N_total + 12 L H Q S (Chowdhery et al. 2022, appendix B)
    chinchilla     Hoffmann et al. 2022, appendix F: lookup and softmax counted, attention uncut

Budgets of this project are in `matmul`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from scaling.config import ModelConfig, RunConfig

NConvention = Literal["total", "non_embedding", "active", "kaplan"]
CConvention = Literal["matmul", "matmul_full", "6n", "kaplan", "palm", "chinchilla"]
N_CONVENTIONS: tuple[NConvention, ...] = ("total", "non_embedding", "active", "kaplan")
C_CONVENTIONS: tuple[CConvention, ...] = ("matmul", "matmul_full", "6n", "kaplan", "palm", "chinchilla")


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
    """Parameters by part of the decoder."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def parts(model: ModelConfig) -> Parts:
    d, layers = model.d_model, model.n_layers
    q_width, kv_width = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    mlp_matrices = 3 if model.mlp == "swiglu" else 2
    return Parts(
        embedding=model.vocab_size * d,
        attention=layers * d * (2 * q_width + 2 * kv_width),
        mlp=layers * mlp_matrices * d * model.d_ff,
        norms=layers * 2 * d + d,
        head=0 if model.tied else d * model.vocab_size,
    )


def counts(model: ModelConfig, seq_len: int) -> Counts:
    """Every N and C of `model` trained on sequences of `seq_len` tokens."""
    p = parts(model)
    non_embedding = p.total - p.embedding
    n: dict[NConvention, int] = {
        "total": p.total,
        "non_embedding": non_embedding,
        "active": p.total,
        "kaplan": non_embedding - p.head,
    }
    q_width = model.n_heads * model.d_head
    weights = p.attention + p.mlp + model.d_model * model.vocab_size  # the head multiplies, tied or not
    # Scores and their weighted sum: 2 products of 2 FLOPs for each (query, key) pair and channel.
    attention_full = 4 * model.n_layers * q_width * seq_len
    attention_causal = attention_full * (seq_len + 1) / (2 * seq_len)  # pairs with key <= query
    lookup = 2 * model.vocab_size * model.d_model
    softmax = 3 * model.n_layers * model.n_heads * seq_len
    flops: dict[CConvention, float] = {
        "matmul": 3 * (2 * weights + attention_causal),
        "matmul_full": 3.0 * (2 * weights + attention_full),
        "6n": 6.0 * n["total"],
        "kaplan": 6.0 * n["kaplan"],
        "palm": 6.0 * n["total"] + 3 * attention_full,
        "chinchilla": 3.0 * (2 * weights + attention_full + lookup + softmax),
    }
    return Counts(n=n, flops_per_token=flops)


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
