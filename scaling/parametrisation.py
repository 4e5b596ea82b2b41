"""Parametrisations: how initial values, rates and branches follow the width and depth of a model.

A rate tuned at a base shape holds at another only if weights, updates and branches keep their sizes. What
keeps them is one table here, over the roles that parameters declare in scaling/model:

    standard   variance 1/fan_in and one rate: what tuning at every size corrects
    mup        maximal updates in the width (Yang et al. 2022, "Tensor Programs V", tables 3 and 8)
    completep  mup, and residual branches in the depth (Dey et al. 2025, "Don't be lazy", table 1, alpha = 1)

Every cell is a power of

    m_N = d_model / base_d_model,  m_L = n_layers / base_n_layers,  m_H = d_head / base_d_head

times what `standard` does at the same shape, so that all three agree at the base. Initial variance is
counted over 1/fan_in: hidden matrices then have power 0 (the papers' s^2/m_N), and the token table and the
head 1 (the papers' s^2, the same at every width). No JAX here: planners and analysts read the table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from scaling.config import ModelConfig, RunConfig
from scaling.errors import UserError

Name = Literal["standard", "mup", "completep"]


@dataclass(frozen=True, kw_only=True)
class Powers:
    """Exponents of m_N, and of m_L where the name says depth, for one role."""

    variance: float = 0  # initial, over 1/fan_in
    rate: float = 0  # learning rate
    forward: float = 0  # factor on what it gives in the forward pass; of attention logits a power of m_H
    forward_depth: float = 0
    eps: float = 0  # Adam's epsilon follows the size of the gradient
    eps_depth: float = 0
    decays: bool = False  # whether weight decay shrinks it


_NORMS = ("block_gain", "block_bias", "final_gain", "final_bias")
_FORWARD_ALONE = ("attention_logits", "residual")

STANDARD_ROLES: dict[str, Powers] = {
    "embedding": Powers(decays=True),  # the token table, tied or not
    "hidden": Powers(decays=True),  # from a width to a width: attention, gated and plain MLPs
    "unembedding": Powers(decays=True),  # an untied head; `forward` is of a tied one, too
    **{role: Powers() for role in (*_NORMS, *_FORWARD_ALONE)},
}
MUP: dict[str, Powers] = {
    "embedding": Powers(variance=1, forward=-0.5, eps=-1, decays=True),
    "hidden": Powers(rate=-1, eps=-1, decays=True),
    "unembedding": Powers(variance=1, forward=-1, eps=-1, decays=True),
    **{role: Powers(eps=-1) for role in _NORMS},
    # q k / d_head, not / sqrt(d_head): queries and keys come to agree, and their products add up.
    "attention_logits": Powers(forward=-0.5),
    "residual": Powers(),
}
_IN_BLOCKS = ("hidden", "block_gain", "block_bias")
COMPLETEP: dict[str, Powers] = {
    **MUP,
    # The rate of hidden matrices would be a power alpha - 1 = 0 of m_L.
    **{role: dataclasses.replace(MUP[role], eps_depth=-1) for role in _IN_BLOCKS},
    "residual": Powers(forward_depth=-1),
}
TABLE: dict[str, dict[str, Powers]] = {"standard": STANDARD_ROLES, "mup": MUP, "completep": COMPLETEP}

# The table is Adam's, and that of Lion and Adafactor, whose updates have Adam's size whatever the gradient's.
# Muon's orthogonal updates of hidden matrices are scaled by sqrt(fan_out / fan_in) (scaling/optimizer.py):
# their spectral norm keeps its size by itself (Yang et al. 2023, "A spectral condition", section 3).
HIDDEN_RATE = {"adamw": -1.0, "lion": -1.0, "adafactor": -1.0, "muon": 0.0}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The factors of one role at one shape, over the standard parametrisation of the same shape."""

    variance: float
    rate: float
    forward: float
    eps: float
    decays: bool

    @property
    def weight_decay(self) -> float:
        """Factor on lambda in an update of -rate * lambda * w (optax.adamw): keeps rate * lambda as it is.

        In the independent form, -lambda * w, it is 1 for every role that decays.
        """
        return 1 / self.rate if self.decays else 0.0


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """The table at one shape. Hashable: what of it is compiled into a step is told apart by it."""

    name: str = "standard"
    optimizer: str = "adamw"
    width: float = 1.0  # m_N
    depth: float = 1.0  # m_L
    head: float = 1.0  # m_H

    def rule(self, role: str) -> Rule:
        """Raises UserError for a role that the table lacks."""
        rows = TABLE[self.name]
        if role not in rows:
            raise UserError(
                f"role {role!r} has no rule in parametrisation {self.name}; give the parameter one of "
                f"{', '.join(rows)}, or the table of scaling/parametrisation.py a row."
            )
        row = rows[role]
        rate = HIDDEN_RATE[self.optimizer] if row.rate else 0.0
        of_forward = self.head if role == "attention_logits" else self.width
        return Rule(
            variance=self.width**row.variance,
            rate=self.width**rate,
            forward=of_forward**row.forward * self.depth**row.forward_depth,
            eps=self.width**row.eps * self.depth**row.eps_depth,
            decays=row.decays,
        )


STANDARD = Parametrisation()


def of_run(config: RunConfig) -> Parametrisation:
    """The parametrisation of a run, with the ratios of its shape to its base."""
    model, name = config.model, config.parametrisation
    return Parametrisation(
        name=name,
        optimizer=config.optimizer.name,
        width=model.d_model / (config.base_d_model or model.d_model),
        depth=model.n_layers / (config.base_n_layers or model.n_layers),
        head=model.d_head / (config.base_d_head or model.d_head),
    )


def with_base(config: RunConfig, name: Name, base: ModelConfig) -> RunConfig:
    """`config` in parametrisation `name`, its rates those of the shape `base`.

    Raises UserError where the widths of `base` do not divide the model's, or the reverse.
    """
    scaled = name != "standard"
    return dataclasses.replace(
        config,
        parametrisation=name,
        base_d_model=base.d_model if scaled else 0,
        base_d_head=base.d_head if scaled else 0,
        base_n_layers=base.n_layers if name == "completep" else 0,
    )
