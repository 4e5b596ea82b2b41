"""Recipes: named rules from (width, horizon) to a whole `RunConfig`.

A grid whose hyperparameters do not move with width and horizon measures its own mistuning
instead of a law, so every run of a sweep takes its learning rate, batch and warmup from one of
these. No JAX here: planners price a sweep without a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaling.accounting import counts
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig


@dataclass(frozen=True)
class Recipe:
    """Learning rate and batch as power laws of width and horizon, and the family of shapes.

    lr    = lr_base * (d_model / d_base)^-lr_width * (tokens / tokens_base)^-lr_horizon
    batch = batch_base * (tokens / tokens_base)^batch_horizon, in tokens, rounded to a power of two
            sequences, the rate then following its square root (Malladi et al. 2022 for Adam)
    """

    name: str
    source: str
    lr_base: float
    batch_base: float
    d_base: int = 32
    tokens_base: float = 1e6
    lr_width: float = 1.1
    lr_horizon: float = -0.15  # the batch grows with the horizon: at a fixed batch the rate falls
    batch_horizon: float = 0.5
    d_head: int = 32
    aspect: int = 48
    mlp_ratio: float = 8 / 3
    seq_len: int = 128
    weight_decay: float = 0.01
    b2: float = 0.99
    schedule: ScheduleConfig = ScheduleConfig(name="wsd", warmup=0.1, decay=0.5, final=0.0)

    def widths(self, limit: int = 4096) -> list[int]:
        """Every width of the family, ascending."""
        return list(range(8, limit + 1, 4))

    def model(self, d_model: int, vocab_size: int = 256) -> ModelConfig:
        """Two heads and two layers while narrow, then more of both: N is smooth in the width."""
        heads = max(2, round(d_model / self.d_head))
        return ModelConfig(
            n_layers=max(2, round(d_model / self.aspect)),
            d_model=d_model,
            n_heads=heads,
            n_kv_heads=heads,
            d_head=2 * max(1, round(d_model / heads / 2)),
            d_ff=4 * max(1, round(self.mlp_ratio * d_model / 4)),
            vocab_size=vocab_size,
        )

    def flops_per_token(self, model: ModelConfig) -> float:
        """Training FLOPs per token, `matmul` convention."""
        return counts(model, self.seq_len).flops_per_token["matmul"]

    def run(self, model: ModelConfig, data: DataConfig, tokens: float, seed: int = 0) -> RunConfig:
        """The run of this recipe nearest to `tokens` training tokens (whole steps only)."""
        horizon = tokens / self.tokens_base
        wanted = self.batch_base * horizon**self.batch_horizon / self.seq_len
        batch_size = 2 ** max(0, round(math.log2(wanted)))  # powers of two: few shapes to compile
        lr = self.lr_base * (model.d_model / self.d_base) ** -self.lr_width * horizon**-self.lr_horizon
        lr *= math.sqrt(batch_size / wanted)  # what rounding the batch does to the gradient's noise
        return RunConfig(
            model=model,
            data=data,
            optimizer=OptimizerConfig(lr=float(f"{lr:.4g}"), b2=self.b2, weight_decay=self.weight_decay),
            schedule=self.schedule,
            seq_len=self.seq_len,
            batch_size=batch_size,
            steps=max(1, round(tokens / (batch_size * self.seq_len))),
            seed=seed,
        )


RECIPES = {
    recipe.name: recipe
    for recipe in (Recipe(name="small", source="tuned on the embedded text", lr_base=9.2e-3, batch_base=384),)
}
