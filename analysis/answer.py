"""The answer to a question: the best run, what it takes, what else would do, and how sure all of it is.

Every number carries a 90% interval from the fit's resamples where it has one: the question is answered for
each resampled law as for the fit. The interval of the loss is that of one new run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.allocate import Demand, Laws, Plan, best, cheapest
from analysis.law import Array
from analysis.limits import fitted_ranges, power_warnings, range_warnings, text_warnings
from analysis.optimum import Cost, cost_of
from analysis.others import approaches, line
from analysis.predict import NewRuns, build, build_model, describe_run
from analysis.question import Model, Question
from analysis.regret import MULTIPLES, plain, regret
from analysis.settings import Settled, settings, tuned
from analysis.surfaces import Surface, spread, surface_of
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.price import price

SAME = 1e-6  # share of a cost that is no difference
DAYS = 30.0  # within which the chips that nobody named are to be done


@dataclass(frozen=True)
class Solved:
    """The question with its surface and demand, and its plan: of the fit, of each resample."""

    question: Question
    surface: Surface
    demand: Demand
    plan: Plan
    drawn: Plan
    model: dict[str, Any] | None = None  # where a model was asked about

    @property
    def cost(self) -> Cost:
        return self.demand.cost

    def flops(self, plan: Plan) -> Array:
        """Training FLOPs."""
        if not (self.demand.served or self.demand.token):
            return plan.cost / self.demand.flop
        return np.asarray(np.exp(self.cost.per_token(plan.u) + plan.v))

    def served(self, plan: Plan) -> Array:
        return np.asarray((self.question.infer_tokens or 0.0) * np.exp(self.cost.per_token(plan.u)) / 3)


def solve(content: dict[str, Any], question: Question, law: str | None = None) -> Solved:
    """The plan. Raises UserError for a loss that no size and data reach, and for a budget too small for a
    single token."""
    surface = surface_of(content, law, question.unique_tokens)
    demand = question.demand(cost_of(content))
    model = None
    if question.model is not None:
        model, loss, losses = _of_model(question.model, question, surface, demand)
        plan, drawn = cheapest(surface.best, demand, loss), cheapest(surface.draws, demand, losses)
    elif question.loss is not None:
        _reachable(content, question, surface)
        plan = cheapest(surface.best, demand, question.loss)
        drawn = cheapest(surface.draws, demand, question.loss)
    else:
        budget = question.budget()
        assert budget is not None
        plan, drawn = best(surface.best, demand, budget), best(surface.draws, demand, budget)
    if not (plan.u[0] > 0 and plan.v[0] > 0 and np.isfinite(plan.loss[0])):
        raise UserError(
            f"what is asked leaves {plan.n[0]:.3g} parameters and {plan.d[0]:.3g} tokens, no model; give a "
            "larger budget, or ask for less to be served and bought."
        )
    return Solved(question, surface, demand, plan, drawn, model)


def _reachable(content: dict[str, Any], question: Question, surface: Surface) -> None:
    lowest, loss = float(surface.best.lowest()[0]), float(question.loss or 0.0)
    if loss > lowest:
        return
    if question.unique_tokens is not None and loss > float(surface.best.E[0]):
        raise UserError(
            f"--loss is {loss:g}; with {question.unique_tokens:.4g} unique tokens, however often repeated, "
            f"{content['name']} leads no lower than {lowest:.5g}: give more text or a higher loss."
        )
    raise UserError(
        f"--loss is {loss:g}, not above {float(surface.best.E[0]):.5g} nats/token (E of {content['name']}) "
        "below which no size or data leads; give a higher loss."
    )


def _of_model(
    model: Model, question: Question, surface: Surface, demand: Demand
) -> tuple[dict[str, Any], float, Array]:
    """The model asked about, its loss by the fit, and by each resample."""
    cost, u = demand.cost, np.array([math.log(model.n)])
    per_token = model.flops_per_token or float(np.exp(cost.per_token(u))[0])
    if model.d is not None:
        v, how = np.array([math.log(model.d)]), "given"
    elif question.flops is not None:
        left = question.flops - (question.infer_tokens or 0.0) * per_token / 3
        if left <= per_token:
            raise UserError(
                f"--flops is {question.flops:g}, which serving {question.infer_tokens or 0:.4g} tokens of a "
                f"model of {model.n:.4g} parameters takes by itself; give more."
            )
        v, how = np.array([math.log(left / per_token)]), "what the FLOPs leave"
    elif question.loss is not None:
        v, how = surface.best.tokens_for(u, question.loss), "those that reach the loss"
        if not np.isfinite(v[0]):
            floor = float(surface.best.loss(u, np.array([700.0]))[0])
            raise UserError(
                f"--loss is {question.loss:g}; {model.n:.4g} parameters come no lower than {floor:.5g} on "
                "any tokens: give a higher loss or a larger model."
            )
    else:
        v, how = replace(surface.best, unique=np.inf).optimal_tokens(u, cost), "best for its size"
    loss = float(surface.best.loss(u, v)[0])
    losses = surface.draws.loss(np.broadcast_to(u, surface.draws.A.shape), v)
    total = float(demand.of(u, v, surface.best.unique)[0])
    budget_best = best(surface.best, demand, total)
    return (
        {
            "name": model.name,
            "n": model.n,
            "d": float(np.exp(v[0])),
            "d_is": how,
            "loss": loss,
            "flops": per_token * float(np.exp(v[0])),
            "total_cost": total,
            "regret": loss - float(budget_best.loss[0]),
            "n_over_optimum": model.n / float(budget_best.n[0]),
        },
        loss,
        losses,
    )


def answer(
    content: dict[str, Any],
    question: Question,
    law: str | None = None,
    seed: int = 0,
    tuning: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], RunConfig | None]:
    """The answer as strict JSON (fields: docs/predicting.md), and its RunConfig; None for a table.

    `tuning`: what `scaling tune` wrote of a sweep, whose laws then set the rate and the batch.
    """
    solved = solve(content, question, law)
    surface, plan = solved.surface, solved.plan
    new = NewRuns.of(content, surface.law)
    n, d, flops = float(plan.n[0]), float(plan.d[0]), float(solved.flops(plan)[0])
    interval, method = _of_a_run(new, surface, n, d, flops)
    optimum = _optimum(solved)
    run = recipe = None
    if content["own"] and content["setting"]:
        if solved.model is not None and question.model is not None and not question.extras:
            run = build_model(content, question.model, solved.model["d"], surface, seed)
        else:
            asked = question if question.model is None else question.of_loss(float(plan.loss[0]))
            run = build(content, asked, surface, seed)
        given = bool(question.model and question.model.run)
        recipe = Settled(run, given)
        if tuning is not None and not given:
            run = tuned(run, tuning)
    if solved.model is not None:
        asked_of = solved.model
        asked_of["interval"], _ = _of_a_run(new, surface, asked_of["n"], asked_of["d"], asked_of["flops"])
    taken = _price(solved)
    found = {
        "fit": content["name"],
        "fit_fingerprint": content["fingerprint"],
        "law": surface.law,
        "conventions": content["conventions"] | {"n": surface.n_count},
        "question": question.plain(),
        "flops": flops,
        "flops_over_largest_fitted": _over(content, flops),
        "optimum": optimum,
        "loss": optimum["loss"],
        "interval": interval,
        "interval_method": method,
        "price": taken,
        "serving": _serving(solved),
        "total": _total(solved),
        "instead": _instead(solved),
        "text": _text(solved),
        "model": solved.model,
        "regret": plain(regret(surface, solved.demand, plan, MULTIPLES), plan),
        "run": None if run is None else describe_run(content, run, surface, new),
        "hyperparameters": settings(content, recipe, *_sizes(solved), tuning),
        "approaches": approaches(content, question),
        "straight_line": line(content, flops),
    }
    return found | {"warnings": _warnings(content, solved, taken, optimum)}, run


def _of_a_run(
    new: NewRuns, surface: Surface, n: float, d: float, flops: float
) -> tuple[list[float] | None, str]:
    """The interval of one new run's loss. Where text repeats and the law knows nothing of it, that of the run
    on as many parameters and new tokens as these are worth."""
    if not surface.law.startswith("muennighoff"):
        n = float(np.exp(surface.best.worth_n(np.log([n]))[0][0]))
        d = float(np.exp(surface.best.worth_d(np.log([d]))[0][0]))
    return new.interval(n, d, flops, surface.best.unique)


def _optimum(solved: Solved) -> dict[str, Any]:
    plan, drawn, flops = solved.plan, solved.drawn, solved.flops(solved.plan)
    n, d = float(plan.n[0]), float(plan.d[0])
    return {
        "flops": float(flops[0]),
        "n": n,
        "d": d,
        "loss": float(plan.loss[0]),
        "tokens_per_parameter": d / n,
        "flops_interval": spread(solved.flops(drawn)),
        "n_interval": spread(drawn.n),
        "d_interval": spread(drawn.d),
        "loss_interval": spread(drawn.loss),
        "tokens_per_parameter_interval": spread(drawn.d / drawn.n),
    }


def _sizes(solved: Solved) -> tuple[float, float, float, tuple[Array, Array, Array]]:
    """N, D and training FLOPs of the run that is to be trained, and their resamples."""
    drawn = (solved.drawn.n, solved.drawn.d, solved.flops(solved.drawn))
    if solved.model is not None and not solved.question.extras:
        asked = solved.model
        return asked["n"], asked["d"], asked["flops"], (drawn[0][:0], drawn[1][:0], drawn[2][:0])
    return float(solved.plan.n[0]), float(solved.plan.d[0]), float(solved.flops(solved.plan)[0]), drawn


def _over(content: dict[str, Any], flops: float) -> float | None:
    measured = [row["c"] for row in content["rows"] if "c" in row]
    return flops / max(measured) if measured else None


def _price(solved: Solved) -> dict[str, Any]:
    """Time, money and energy of the training, with what they are priced at."""
    terms, flops = solved.question.terms, float(solved.flops(solved.plan)[0])
    devices, chosen = terms.devices, "given"
    if devices is None:
        chosen = f"the fewest that take {DAYS:g} days or less"
        needed = math.ceil(flops / terms.flops_per_hour / 24 / DAYS)
        devices = terms.hardware.slice_at_least(max(1, needed)) or max(1, needed)
    paid = price(
        flops, terms.hardware, devices=devices, precision=terms.precision, utilisation=terms.utilisation,
        dollars_per_hour=terms.rate, pue=terms.pue,
    )  # fmt: skip
    watts = terms.hardware.watts
    found: dict[str, Any] = {
        "hardware": terms.hardware.name,
        "precision": terms.precision,
        "utilisation": terms.utilisation,
        "dollars_per_hour": terms.rate,
        "price_from": "given" if terms.dollars_per_hour is not None else terms.hardware.price_source,
        "price_date": None if terms.dollars_per_hour is not None else terms.hardware.price_date or None,
        "pue": terms.pue,
        "devices": devices,
        "devices_from": chosen,
        "chip_hours": paid.device_hours,
        "days": paid.days,
        "dollars": paid.dollars,
        "mwh": paid.mwh,
        "megawatts": None if watts is None else devices * watts * terms.pue / 1e6,
    }
    drawn = spread(solved.flops(solved.drawn) / flops)
    for name in ("chip_hours", "days", "dollars", "mwh"):
        value = found[name]
        known = drawn is not None and value is not None
        found[f"{name}_interval"] = [e and e * value for e in drawn] if known and drawn else None
    return found


def _serving(solved: Solved) -> dict[str, Any] | None:
    """What serving takes over the model's life, prompts (prefill) and answers (decode) apart."""
    question, terms = solved.question, solved.question.terms
    if not question.infer_tokens:
        return None
    flops = float(solved.served(solved.plan)[0])
    shares = {"prefill": 1 - question.decode_share, "decode": question.decode_share}
    utilisations = {"prefill": terms.prefill_utilisation, "decode": terms.decode_utilisation}
    prices: tuple[float, float] | None = None
    if terms.serve_rate is not None:
        prices = terms.serving_dollars_per_flop()
    parts = {
        name: {
            "tokens": question.infer_tokens * share,
            "flops": flops * share,
            "utilisation": utilisations[name] or terms.utilisation,
            "dollars": None if prices is None else flops * share * prices[i],
        }
        for i, (name, share) in enumerate(shares.items())
    }
    return {
        "tokens": question.infer_tokens,
        "flops": flops,
        "dollars": None if prices is None else sum(part["dollars"] or 0.0 for part in parts.values()),
        "hardware": terms.serving.name,
        "dollars_per_hour": terms.serve_rate,
    } | parts


def _total(solved: Solved) -> dict[str, Any]:
    """All that is paid for, in the question's currency."""
    plan, question = solved.plan, solved.question
    unique = solved.surface.best.unique
    tokens = None
    if question.token_price:
        tokens = question.token_price * float(np.minimum(plan.d, unique)[0])
    return {
        "currency": question.currency,
        "cost": float(plan.cost[0]),
        "cost_interval": spread(solved.drawn.cost),
        "tokens_dollars": tokens,
    }


def _instead(solved: Solved) -> dict[str, Any] | None:
    """The same loss by the model that is best for training alone, or by the model asked about: what the
    answer saves against it. None where there is nothing to compare with."""
    surface, demand, plan = solved.surface, solved.demand, solved.plan
    if solved.model is not None:
        u, v = np.log([solved.model["n"]]), np.log([solved.model["d"]])
        others = np.broadcast_to(u, surface.draws.A.shape), np.broadcast_to(v, surface.draws.A.shape)
        what = "the model asked about"
    elif solved.question.infer_tokens or solved.question.token_price:
        training = Demand(demand.cost)
        one = cheapest(surface.best, training, plan.loss)
        drawn = cheapest(surface.draws, training, solved.drawn.loss)
        (u, v), others, what = (one.u, one.v), (drawn.u, drawn.v), "the best model for training alone"
    else:
        return None
    cost = float(demand.of(u, v, surface.best.unique)[0])
    each = demand.of(*others, surface.draws.unique)
    share = 1 - float(plan.cost[0]) / cost
    if abs(share) < SAME:
        return None
    with np.errstate(all="ignore"):
        saved = 1 - solved.drawn.cost / each
    return {
        "what": what,
        "n": float(np.exp(u[0])),
        "d": float(np.exp(v[0])),
        "cost": cost,
        "saved": cost - float(plan.cost[0]),
        "saved_share": share,
        "saved_share_interval": spread(saved),
    }


def _text(solved: Solved) -> dict[str, Any] | None:
    """How often the text is passed over, and what its tokens are worth. None where text is without end."""
    surface, plan, drawn = solved.surface, solved.plan, solved.drawn
    if surface.scarcity is None:
        return None
    laws: Laws = surface.best
    free = cheapest(replace(laws, unique=np.inf), solved.demand, plan.loss)
    return surface.scarcity | {
        "unique": laws.unique,
        "epochs": float(plan.d[0] / laws.unique),
        "epochs_interval": spread(drawn.d / laws.unique),
        "worth_tokens": float(np.exp(laws.worth_d(plan.v)[0][0])),
        "worth_parameters": float(np.exp(laws.worth_n(plan.u)[0][0])),
        "cost_over_unlimited": float(plan.cost[0] / free.cost[0]),
    }


def _warnings(
    content: dict[str, Any], solved: Solved, taken: dict[str, Any], optimum: dict[str, Any]
) -> list[dict[str, Any]]:
    rows = content["rows"]
    name = f"n_{solved.surface.n_count}"
    fitted = fitted_ranges(rows, name if rows and name in rows[0] else "n")
    asked = {"c": optimum["flops"], "n": optimum["n"], "d": optimum["d"], "d/n": optimum["d"] / optimum["n"]}
    unique = solved.question.unique_tokens
    high = (optimum["d_interval"] or [None, None])[1]
    text = (min(optimum["d"], unique), None) if unique else (optimum["d"], high)
    return [
        *range_warnings(fitted, {name: value for name, value in asked.items() if name in fitted}),
        *text_warnings(*text),
        *power_warnings(taken["megawatts"], taken["devices"], taken["hardware"]),
    ]
