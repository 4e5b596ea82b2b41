"""The best N and D for a budget or for a loss, whatever is paid for: training, tokens, serving, scarce text.

With u = log N, v = log D and k(u, v) the cost in one currency, every optimum meets one condition, be it the
lowest loss for a cost or the lowest cost for a loss:

    (dL/du) / (dL/dv) = (dk/du) / (dk/dv)

Along the curve of equal cost, and along the curve of equal loss, the left side over the right falls as N
grows, so bisection finds the only root, to the last digits of a double. Many laws (resamples) are solved at
once.

Closed forms that follow: Hoffmann et al. 2022, eq. 4 (budget, C = 6ND), and for a loss L at C = 6ND
A N^-alpha = (L - E) beta / (alpha + beta). With serving, Sardana et al. 2023 (arXiv 2401.00448), eq. 3;
with repeated text, Muennighoff et al. 2023 (arXiv 2305.16264), eq. 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.law import Array
from analysis.optimum import Cost

_STEPS = 60  # halvings: an interval of 200 in log N shrinks below the spacing of doubles
_SMALLEST = -5.0  # log N at which the search begins


@dataclass(frozen=True)
class Laws:
    """Surfaces L = E + A N'^-alpha + B D'^-beta in nats per token, one value per law (R).

    N' and D' are parameters and tokens as if all text were new: N and D while D <= `unique`, the tokens there
    are; beyond it each repetition is worth less (`R_D`), and so is what N exceeds the best size for `unique`
    tokens by (`R_N`). unique = inf: never.
    """

    A: Array
    B: Array
    E: Array
    alpha: Array
    beta: Array
    unique: float = np.inf
    R_D: Array = field(default_factory=lambda: np.array([np.inf]))
    R_N: Array = field(default_factory=lambda: np.array([np.inf]))

    def size(self) -> Array:
        """log of the parameters beyond which they are in excess of the text (C = 6ND)."""
        with np.errstate(all="ignore"):
            ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
            return np.asarray((ratio + self.beta * np.log(self.unique)) / self.alpha)

    def worth_n(self, u: Array) -> tuple[Array, Array]:
        """log N', log of dlog N' / dlog N."""
        return _worth(u, self.size(), self.R_N) if np.isfinite(self.unique) else (u, np.zeros_like(u))

    def worth_d(self, v: Array) -> tuple[Array, Array]:
        """log D', log of dlog D' / dlog D."""
        base = np.log(self.unique)
        return _worth(v, base, self.R_D) if np.isfinite(self.unique) else (v, np.zeros_like(v))

    def loss(self, u: Array, v: Array) -> Array:
        """Nats per token at log N, log D."""
        n, d = self.worth_n(u)[0], self.worth_d(v)[0]
        with np.errstate(all="ignore"):  # resamples whose constants ran away
            return self.E + self.A * np.exp(-self.alpha * n) + self.B * np.exp(-self.beta * d)

    def tokens_for(self, u: Array, loss: float | Array) -> Array:
        """log of the tokens at which a model of log N reaches `loss`; inf where none do."""
        with np.errstate(all="ignore"):
            left = loss - self.E - self.A * np.exp(-self.alpha * self.worth_n(u)[0])
            d = (np.log(self.B) - np.log(left)) / self.beta
            v = _unworth(d, np.log(self.unique), self.R_D) if np.isfinite(self.unique) else d
        return np.asarray(np.where(np.isfinite(v) & (left > 0), v, np.inf))

    def lowest(self) -> Array:
        """The loss below which no N and D lead."""
        if not np.isfinite(self.unique):
            return self.E
        n, d = self.size() + np.log1p(self.R_N), np.log(self.unique) + np.log1p(self.R_D)
        return np.asarray(self.E + self.A * np.exp(-self.alpha * n) + self.B * np.exp(-self.beta * d))

    def smallest_for(self, loss: float | Array) -> Array:
        """log of the N that must be exceeded for `loss`, whatever the tokens; inf where none will do."""
        with np.errstate(all="ignore"):
            d = np.log(self.unique) + np.log1p(self.R_D) if np.isfinite(self.unique) else np.inf
            n = (np.log(self.A) - np.log(loss - self.E - self.B * np.exp(-self.beta * d))) / self.alpha
            u = _unworth(n, self.size(), self.R_N) if np.isfinite(self.unique) else n
        return np.asarray(np.where(np.isfinite(u), u, np.inf))

    def optimal_tokens(self, u: Array, cost: Cost) -> Array:
        """log of the tokens for which training a model of log N is the best use of its compute, were text
        without end."""
        with np.errstate(all="ignore"):
            value = np.log(self.beta * self.B) + np.log(cost.slope(u)[0]) - np.log(self.alpha * self.A)
            return np.asarray((value + self.alpha * u) / self.beta)


def _worth(total: Array, base: Array, decay: Array) -> tuple[Array, Array]:
    """Logs of eq. 5 and 6, and of the slope in logs: both go on without a step at total = base."""
    with np.errstate(all="ignore"):
        excess = np.expm1(np.maximum(total - base, 0.0))
        beyond = total > base
        kept = np.where(np.isfinite(decay), excess / decay, 0.0)
        grown = np.where(np.isfinite(decay), -decay * np.expm1(-kept), excess)
        worth = np.where(beyond, base + np.log1p(grown), total)
        return worth, np.where(beyond, total - worth - kept, 0.0)


def _unworth(worth: Array, base: Array, decay: Array) -> Array:
    """The inverse of `_worth`: nan or inf beyond what repetition can give."""
    grown = np.expm1(np.maximum(worth - base, 0.0))
    excess = np.where(np.isfinite(decay), -decay * np.log1p(-grown / decay), grown)
    return np.where(worth > base, base + np.log1p(excess), worth)


@dataclass(frozen=True)
class Demand:
    """What a model costs over its life, in one currency (FLOPs, dollars):

        flop c(N) D + token min(D, U) + served c(N) / 3

    flop    of one training FLOP
    token   of one new training token; repeating it costs nothing more
    served  tokens served times what one FLOP of serving them costs, summed over prefill and decode; a served
            token takes the forward third of c(N), 2N where c = 6N
    """

    cost: Cost = field(default_factory=Cost)
    flop: float = 1.0
    token: float = 0.0
    served: float = 0.0

    def of(self, u: Array, v: Array, unique: float = np.inf) -> Array:
        """The cost of log N and log D."""
        c, d = np.exp(self.cost.per_token(u)), np.exp(v)
        with np.errstate(invalid="ignore"):  # no tokens will do: inf, at a price of 0
            text = self.token * np.minimum(d, unique) if self.token else 0.0
            return np.asarray(self.flop * c * d + text + self.served * c / 3)

    def tokens(self, u: Array, budget: Array | float, unique: float = np.inf) -> Array:
        """log of the tokens that are left to buy; -inf where serving takes all."""
        c = np.exp(self.cost.per_token(u))
        with np.errstate(all="ignore"):
            left = np.maximum(budget - self.served * c / 3, 0.0)
            new = np.log(left) - np.log(self.flop * c + self.token)
            if not (self.token and np.isfinite(unique)):
                return np.asarray(new)
            again = np.log(np.maximum(left - self.token * unique, 0.0)) - np.log(self.flop * c)
            return np.asarray(np.where(new <= np.log(unique), new, np.maximum(again, np.log(unique))))

    def exchange(self, u: Array, v: Array) -> Array:
        """log of (dk/du) / (dk/dv)."""
        c, d = np.exp(self.cost.per_token(u)), np.exp(v)
        with np.errstate(all="ignore"):
            rise = np.log(c * self.cost.slope(u)[0]) + np.log(self.flop * d + self.served / 3)
            return np.asarray(rise - np.log(self.flop * c + self.token) - v)


@dataclass(frozen=True)
class Plan:
    """One value per law: log N, log D, nats per token, the currency of the demand. NaN: no answer."""

    u: Array
    v: Array
    loss: Array
    cost: Array

    @property
    def n(self) -> Array:
        return np.asarray(np.exp(self.u))

    @property
    def d(self) -> Array:
        return np.asarray(np.exp(self.v))


def best(laws: Laws, demand: Demand, budget: float) -> Plan:
    """The lowest loss that `budget` buys."""
    if not _bought(laws, demand):
        return _best(laws, demand, budget)
    whole = _best(laws, replace(demand, token=0.0), budget - demand.token * laws.unique)
    return _better(laws, demand, _best(laws, demand, budget), whole)


def cheapest(laws: Laws, demand: Demand, loss: float | Array) -> Plan:
    """The lowest cost that reaches `loss`; cost inf and N, D NaN for laws under which nothing does."""
    if not _bought(laws, demand):
        return _cheapest(laws, demand, loss)
    whole = _cheapest(laws, replace(demand, token=0.0), loss)
    return _better(laws, demand, _cheapest(laws, demand, loss), whole)


def _bought(laws: Laws, demand: Demand) -> bool:
    """Whether text is paid for and there is an end to it."""
    return demand.token > 0 and bool(np.isfinite(laws.unique))


def _better(laws: Laws, demand: Demand, part: Plan, whole: Plan) -> Plan:
    """Each new token is paid for once. Either less than the whole text is bought and none repeated (`part`,
    which pays for every token), or all of it is, and repeating it is free (`whole`): of the two that are
    what they say, the better one for each law."""
    end = np.log(laws.unique)
    paid = demand.of(whole.u, whole.v, laws.unique)
    lower = (whole.loss < part.loss) | ((whole.loss == part.loss) & (paid < part.cost))
    use = np.where(part.v <= end, lower & (whole.v >= end), True)
    u, v, loss = (np.where(use, getattr(whole, name), getattr(part, name)) for name in ("u", "v", "loss"))
    return Plan(u, v, loss, np.where(use, paid, part.cost))


def _best(laws: Laws, demand: Demand, budget: float) -> Plan:
    low = np.full_like(laws.A, _SMALLEST)
    # Where the budget buys one token: no N beyond is worth a look.
    high = _root(lambda u: demand.tokens(u, budget), low, low + 200.0)
    u = _root(lambda u: _gain(laws, demand, u, demand.tokens(u, budget)), low, high)
    v = demand.tokens(u, budget)
    return Plan(u, v, laws.loss(u, v), np.full_like(u, budget))


def _cheapest(laws: Laws, demand: Demand, loss: float | Array) -> Plan:
    low = laws.smallest_for(loss)
    reached = np.isfinite(low)
    low = np.where(reached, low, 0.0)
    u = _root(lambda u: _gain(laws, demand, u, laws.tokens_for(u, loss)), low, low + 100.0)
    v = laws.tokens_for(u, loss)
    cost = np.where(reached, demand.of(u, v), np.inf)
    u, v = (np.where(reached, each, np.nan) for each in (u, v))
    return Plan(u, v, np.where(reached, loss, np.nan), cost)


def _gain(laws: Laws, demand: Demand, u: Array, v: Array) -> Array:
    """log of what a larger N gains over what it costs; falls through 0 at the optimum."""
    n, slope_n = laws.worth_n(u)
    d, slope_d = laws.worth_d(v)
    with np.errstate(all="ignore"):
        by_n = np.log(laws.alpha * laws.A) - laws.alpha * n + slope_n
        by_d = np.log(laws.beta * laws.B) - laws.beta * d + slope_d
        out = by_n - by_d - demand.exchange(u, v)
    return np.where(np.isposinf(v), np.inf, np.where(np.isneginf(v), -np.inf, out))


def _root(falling: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where a falling function passes 0, between `low` and `high`."""
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        above = falling(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return 0.5 * (low + high)
