"""What is believed before the runs: a law of the Chinchilla form, and the optimum it puts in a family.

A prior decides only where the cells lie and what interval a grid would give; no fit reads it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.accounting import counts
from scaling.errors import UserError
from scaling.recipes import Recipe

Floats = NDArray[np.float64]

_GRID = 4001  # points of log N between the family's ends: 0.3% apart over five decades


@dataclass(frozen=True)
class Prior:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2), and where it comes from.

    Nats per token, N `total`, D in tokens.
    """

    A: float
    B: float
    E: float
    alpha: float
    beta: float
    source: str

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise UserError(f"prior {name} is {getattr(self, name)}; give a positive number.")

    @property
    def parameters(self) -> Floats:
        """(A, B, E, alpha, beta)."""
        return np.array([self.A, self.B, self.E, self.alpha, self.beta])

    def loss(self, n: Any, d: Any) -> Any:
        """Nats per token at N parameters and D tokens."""
        return self.E + self.A * np.power(n, -self.alpha) + self.B * np.power(d, -self.beta)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_prior(path: str | Path) -> Prior:
    """The Chinchilla law of a fit written by `scaling fit`, as the prior of the next sweep.

    Raises UserError when the file holds no such law.
    """
    try:
        fitted = json.loads(Path(path).read_text())["laws"]["chinchilla"]["parameters"]
        values = {name: float(fitted[name]) for name in ("A", "B", "E", "alpha", "beta")}
    except FileNotFoundError:
        raise UserError(f"prior {path} does not exist; give the JSON of a fit.") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} has no laws.chinchilla.parameters; give the JSON of a fit.") from None
    return Prior(**values, source=f"the fit in {path}")


@dataclass(frozen=True, eq=False)
class Family:
    """Every model of a recipe, ascending: N (`total`) and training FLOPs per token (`matmul`)."""

    widths: tuple[int, ...]
    n_W: Floats
    flops_per_token_W: Floats

    def log_n_grid(self) -> Floats:
        """log N between the ends of the family, for searches that treat N as continuous."""
        return np.linspace(math.log(self.n_W[0]), math.log(self.n_W[-1]), _GRID)

    def log_flops_per_token(self, log_n: Floats) -> Floats:
        """Smooth in N: depth comes in whole layers, and an optimum would stick to each jump."""
        log_n_W = np.log(self.n_W)
        even = np.linspace(log_n_W[0], log_n_W[-1], 400)
        over_n = np.interp(even, log_n_W, np.log(self.flops_per_token_W / self.n_W))
        return log_n + np.polynomial.Polynomial.fit(even, over_n, 3)(log_n)


@functools.lru_cache(maxsize=32)
def family(recipe: Recipe) -> Family:
    widths = tuple(recipe.widths())
    counted = [counts(recipe.model(width), recipe.seq_len) for width in widths]
    return Family(
        widths=widths,
        n_W=np.array([c.n["total"] for c in counted], float),
        flops_per_token_W=np.array([c.flops_per_token["matmul"] for c in counted], float),
    )


def optimal(parameters_R5: Floats, budget: float, models: Family) -> tuple[Floats, Floats]:
    """N* and L* of R laws (A, B, E, alpha, beta) at `budget` FLOPs, over sizes between the family's.

    Searched on a grid of N with the family's own FLOPs per token: for small models the head and the
    attention make C = 6 N D wrong by tens of percent.
    """
    log_n_G = models.log_n_grid()
    log_d_G = math.log(budget) - models.log_flops_per_token(log_n_G)
    a_R1, b_R1, e_R1, alpha_R1, beta_R1 = (column[:, None] for column in np.atleast_2d(parameters_R5).T)
    loss_RG = e_R1 + a_R1 * np.exp(-alpha_R1 * log_n_G) + b_R1 * np.exp(-beta_R1 * log_d_G)
    best_R = loss_RG.argmin(axis=1)
    return np.exp(log_n_G[best_R]), loss_RG[np.arange(len(best_R)), best_R]


def centre_n(budget: float, recipe: Recipe, centre: Prior | float) -> float:
    """Expected compute-optimal N (`total`): a prior's, or the size with `centre` tokens per parameter."""
    models = family(recipe)
    if isinstance(centre, Prior):
        return float(optimal(centre.parameters, budget, models)[0][0])
    log_n_G = models.log_n_grid()
    log_ratio_G = math.log(budget) - models.log_flops_per_token(log_n_G) - log_n_G  # falls with N
    return float(np.exp(log_n_G[np.abs(log_ratio_G - math.log(centre)).argmin()]))


def centred_widths(
    budget: float, recipe: Recipe, centre: Prior | float, count: int = 7, spread: float = 12.0
) -> list[int]:
    """`count` widths of the family, ascending, about `spread`-fold in N, the expected optimum inside.

    Evenly spaced in log N around the optimum at `budget` FLOPs, from a `Prior` or from a number of
    tokens per parameter. The window starts no lower than the family, and where the family is too
    coarse for it the nearest unused widths fill up. `at_edge` tells whether the optimum is inside.
    """
    models = family(recipe)
    log_n_W = np.log(models.n_W)
    centre_log = math.log(centre_n(budget, recipe, centre))
    wanted = np.linspace(-0.5, 0.5, count) * math.log(spread) + centre_log
    wanted += max(0.0, log_n_W[0] - wanted[0])  # the family's smallest model bounds the window below
    chosen = {int(np.abs(log_n_W - log_n).argmin()) for log_n in wanted}
    nearest = np.abs(log_n_W - centre_log).argsort()
    for index in nearest:
        if len(chosen) >= count:
            break
        chosen.add(int(index))
    return [models.widths[index] for index in sorted(chosen)]


def at_edge(budget: float, recipe: Recipe, centre: Prior | float, widths: Sequence[int]) -> bool:
    """Whether the optimum expected at `budget` lies outside `widths`, or on the first or last of them.

    The minimum of such a profile is at its edge: it bounds the optimum and does not measure it.
    """
    sizes = [counts(recipe.model(width), recipe.seq_len).n["total"] for width in widths]
    return not min(sizes) * 1.01 < centre_n(budget, recipe, centre) < max(sizes) / 1.01
