"""Recipes: named rules from (width, horizon) to a whole `RunConfig`; and rules that others published.

A grid whose hyperparameters do not move with width and horizon measures its own mistuning
instead of a law, so every run of a sweep takes its learning rate, batch and warmup from a `Recipe`.
A published `Rule` is what one starts from, and what laws fitted to one's own sweep are compared with.
No JAX here: planners price a sweep without a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scaling.accounting import counts
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from scaling.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Learning rate and batch as power laws of width and horizon, and the family of shapes.

    lr    = lr_base * (d_model / d_base)^-lr_width, the same at every horizon because the batch grows
    batch = batch_base * (tokens / tokens_base)^batch_horizon, in tokens, rounded to a power of two
            sequences, the rate then following its square root (Malladi et al. 2022 for Adam)

    Queries and keys are normalised: models this small find their first patterns early or late by chance, and
    the laws are fitted to that chance. At width 16 and 2.9e10 FLOPs four seeds then scatter by .005 nats per
    token instead of .022 (docs/forecasting.md).
    """

    name: str
    source: str
    lr_base: float
    batch_base: float
    d_base: int = 32
    tokens_base: float = 1e6
    lr_width: float = 0.8
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
            qk_norm=True,
        )

    def flops_per_token(self, model: ModelConfig) -> float:
        """Training FLOPs per token, `matmul` convention."""
        return counts(model, self.seq_len).flops_per_token["matmul"]

    def run(self, model: ModelConfig, data: DataConfig, tokens: float, seed: int = 0) -> RunConfig:
        """The run of this recipe nearest to `tokens` training tokens (whole steps only)."""
        wanted = self.batch_base * (tokens / self.tokens_base) ** self.batch_horizon / self.seq_len
        batch_size = 2 ** max(0, round(math.log2(wanted)))  # powers of two: few shapes to compile
        lr = self.lr_base * (model.d_model / self.d_base) ** -self.lr_width
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
    for recipe in (Recipe(name="small", source="tuned on the embedded text", lr_base=9.6e-3, batch_base=384),)
}


@dataclass(frozen=True)
class Tuned:
    """A run whose hyperparameters were tuned: peak learning rate, batch and training tokens in tokens."""

    lr: float
    batch: float
    tokens: float


@dataclass(frozen=True)
class Size:
    """What a rule reads: N by the rule's count, D in tokens, C in FLOPs, the batch in tokens (or None where
    the rule has one of its own), and the tuned run that a rule of ratios starts from."""

    n: float
    d: float
    c: float
    batch: float | None = None
    tuned: Tuned | None = None


@dataclass(frozen=True)
class Rule:
    """Hyperparameters of AdamW as someone printed them.

    lr, batch      functions of `Size`; batch in tokens, None where the rule says nothing of it
    n_count        the N it reads, a name of `scaling.accounting`; None where it reads none
    fixed          what is held fixed, or moves along: the exponents mean nothing without it
    data           smallest and largest N, D or C of the runs behind it
    secondary      what of the row was not read in the paper itself, and where it was
    needs_tuned    a rule of ratios: it carries a tuned run to another size
    warmup         function of (`Size`, batch): share of the steps; cooldown: share of the steps, None for
                   a decay over the whole run
    """

    name: str
    formula: str
    source: str
    fixed: str
    lr: Callable[[Size], float]
    batch: Callable[[Size], float] | None = None
    n_count: str | None = None
    c_is: str = ""
    data: dict[str, tuple[float, float]] = field(default_factory=dict)
    weight_decay: float | None = None
    warmup: Callable[[Size, float], float] | None = None
    schedule: str = ""
    cooldown: float | None = None
    secondary: str = ""
    needs_tuned: bool = False

    def at(
        self,
        n: float,
        d: float,
        c: float | None = None,
        batch: float | None = None,
        tuned: Tuned | None = None,
    ) -> dict[str, Any]:
        """The rule's answer for N (its count) and D; C defaults to 6ND, the batch to the rule's own.

        lr, batch (tokens), weight_decay, warmup and cooldown (shares of the steps; null where the rule
        does not say), rule, fixed, source, secondary, and `extrapolation`: by what factor N, D or C lies
        outside the rule's data (1 inside; null where its data are not known). `interval` is null: none of
        these was printed with one. Raises UserError for sizes that are not positive and for a rule of
        ratios without a tuned run.
        """
        size = Size(n, d, 6 * n * d if c is None else c, batch, tuned)
        for name, value in (("n", n), ("d", d), ("c", size.c), ("batch", 1.0 if batch is None else batch)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} is {value!r}; rule {self.name} needs a positive number.")
        if self.needs_tuned and tuned is None:
            raise UserError(
                f"rule {self.name} only carries a tuned run to another size; give its learning rate, batch "
                "and tokens."
            )
        own = batch if batch is not None else self.batch(size) if self.batch else None
        lr = self.lr(Size(n, d, size.c, own, tuned))
        if lr <= 0:
            raise UserError(f"rule {self.name} gives no positive learning rate at N = {n:.3g}; use another.")
        return {
            "rule": self.name,
            "lr": lr,
            "batch": own,
            "weight_decay": self.weight_decay,
            "warmup": min(1.0, self.warmup(size, own)) if self.warmup and own else None,
            "cooldown": self.cooldown,
            "schedule": self.schedule,
            "interval": None,
            "extrapolation": self.beyond(size),
            "n_count": self.n_count,
            "fixed": self.fixed,
            "source": self.source,
            "secondary": self.secondary,
        }

    def beyond(self, size: Size) -> float | None:
        """The largest factor by which N, D or C lies outside the rule's data."""
        factors = [
            max(low / value, value / high, 1.0)
            for name, (low, high) in self.data.items()
            for value in [{"n": size.n, "d": size.d, "c": size.c}[name]]
        ]
        return max(factors) if factors else None


def _ratio(lr: float, size: Size, batch: float, horizon: float) -> float:
    """lr of the tuned run times (B/B0)^batch (T0/T)^horizon."""
    assert size.tuned is not None  # `at` refuses a rule of ratios without one
    own = size.tuned.batch if size.batch is None else size.batch
    return lr * (own / size.tuned.batch) ** batch * (size.tuned.tokens / size.d) ** horizon


def _tuned(size: Size) -> Tuned:
    assert size.tuned is not None  # as above
    return size.tuned


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "steplaw",
            "lr = 1.79 N^-.713 D^.307, B = .58 D^.571 tokens",
            "Li et al. 2025 (arXiv 2503.04715), eq. 1",
            "the batch moves with the horizon to its optimum; the last rate is 1e-5 at every size",
            lambda x: 1.79 * x.n**-0.713 * x.d**0.307,
            lambda x: 0.58 * x.d**0.571,
            n_count="non_embedding",
            data={"n": (6e7, 1.1e9), "d": (2e9, 1e11)},
            weight_decay=0.1,
            warmup=lambda x, b: 2000 * b / x.d,
            schedule="cosine to 1e-5 after 2,000 steps of warmup",
            secondary="weight decay, warmup and the range of the runs: from summaries of the paper; the "
            "released table holds N 2.1e8 to 1.1e9, D 4e9 to 1e11",
        ),
        Rule(
            "deepseek",
            "lr = .3118 C^-.125, B = .2920 C^.3271 tokens",
            "DeepSeek-AI 2024 (arXiv 2401.02954), eq. 1",
            "N and D move together along the compute-optimal line, and the batch with them",
            lambda x: 0.3118 * x.c**-0.125,
            lambda x: 0.2920 * x.c**0.3271,
            c_is="M D, M = 72 L d^2 + 12 L d S FLOPs per token: no embedding, no head",
            data={"c": (1e17, 2e19)},
            weight_decay=0.1,
            warmup=lambda x, b: 2000 * b / x.d,
            schedule="2,000 steps of warmup; the rate falls to 31.6% at 80% and to 10% at 90% of the tokens",
            secondary="the range of the sweep (checked at 1e20) and the schedule: summaries of the paper",
        ),
        Rule(
            "olmo-ladder",
            "lr = .0047 (N / 108e6)^(-1/3), B = 160 (N / 108e6)^(2/3) sequences of 2,048",
            "Bhagia et al. 2024 (arXiv 2412.04403), after Porian et al. 2024 (arXiv 2406.19146)",
            "the batch moves with N alone; the horizon, 1 to 10 times 20 N, does not enter",
            lambda x: 0.0047 * (x.n / 108e6) ** (-1 / 3),
            lambda x: 160 * (x.n / 108e6) ** (2 / 3) * 2048,
            n_count="non_embedding",
            data={"n": (1.9e8, 1.3e9)},
            weight_decay=0.1,
            warmup=lambda x, b: x.n / x.d,
            schedule="cosine, warmup over as many tokens as N",
            secondary="the constants: read in the code of OLMo-core's ladder, which names Porian et al.; "
            "some of its versions quarter the rate for sequences of 4,096",
        ),
        Rule(
            "kaplan",
            "lr = .003239 - .0001395 ln N",
            "Kaplan et al. 2020 (arXiv 2001.08361), appendix D.6",
            "batch 512 sequences of 1,024, 2.5e5 steps, cosine to zero",
            lambda x: 0.003239 - 0.0001395 * math.log(x.n),
            lambda x: 512.0 * 1024,
            n_count="kaplan",
            data={"n": (768, 1.5e9)},
            warmup=lambda x, b: 3000 * b / x.d,
            schedule="cosine to zero after 3,000 steps of warmup, whatever the horizon",
            secondary="the constants: as two public implementations quote them",
        ),
        Rule(
            "delphi",
            "lr = lr0 (B/B0)^(1/2) (T0/T)^.3, B = T / 2^16 tokens",
            "Marin 2026, Delphi (openathena.ai/blog/delphi)",
            "the number of steps, so that the batch moves with the horizon; widths by a parametrisation",
            lambda x: _ratio(_tuned(x).lr, x, 0.5, 0.3),
            lambda x: x.d / 2**16,
            data={"c": (3e18, 3e20)},
            warmup=lambda x, b: 0.1,
            schedule="linear to zero over the last 20%",
            cooldown=0.2,
            secondary="the batch rule and the exponents: read in the project's code (completed_adamh). Its "
            "optimizer (AdamH: weights of fixed norm, no weight decay) is not this project's, so "
            "its own rates are left out and your tuned AdamW run takes their place",
            needs_tuned=True,
        ),
        Rule(
            "token-horizon",
            "lr = lr0 (T0/T)^.32",
            "Bjorck et al. 2024 (arXiv 2409.19913)",
            "the batch, the model and everything else of the tuned run",
            lambda x: _ratio(_tuned(x).lr, x, 0.0, 0.32),
            lambda x: _tuned(x).batch,
            secondary="the exponent: as later papers quote it (arXiv 2603.28743)",
            needs_tuned=True,
        ),
        Rule(
            "mup",
            "lr = lr0 at every width, as the parametrisation scales it by role",
            "Yang et al. 2022 (arXiv 2203.03466)",
            "the batch and the horizon of the tuned run",
            lambda x: _tuned(x).lr,
            lambda x: _tuned(x).batch,
            needs_tuned=True,
        ),
    )
}
