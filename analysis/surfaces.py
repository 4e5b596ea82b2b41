"""The surface L(N, D) of a fit file as `analysis.allocate` solves it: its law, its resamples, scarce text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.allocate import Laws
from analysis.bootstrap import LEVEL, array
from analysis.law import Array
from analysis.laws import PRINTED
from scaling.errors import UserError

# In the order of choice: the law of every row, then what text is worth once it repeats.
SURFACES = ("chinchilla", "chinchilla_tied", "muennighoff_free", "muennighoff")
# Over what range of R_D the 182 runs behind the printed constants do not tell one value from another: the
# profile of their likelihood is flat there (`scaling published muennighoff_data_constrained`).
UNDETERMINED = (12.0, 200.0)


@dataclass(frozen=True)
class Surface:
    """`best`: the fit, one law; `draws`: its resamples, none for printed constants. `scarcity`: the constants
    of repetition and where they come from, None where text is without end."""

    law: str
    n_count: str
    best: Laws
    draws: Laws
    scarcity: dict[str, Any] | None = None


def surface_of(content: dict[str, Any], law: str | None = None, unique: float | None = None) -> Surface:
    """The surface of a fit file; `law` names one of `SURFACES`, else the first that the file holds.

    `unique`: tokens of text there are; a law of repeated data is then preferred. Raises UserError where the
    file holds no surface.
    """
    held = [name for name in SURFACES if name in content["laws"]]
    if law is not None and law not in held:
        raise UserError(_no_such(content, law, held))
    if not held:
        raise UserError(_none(content))
    if unique is not None:
        held.sort(key=lambda name: not name.startswith("muennighoff"))
    name = law or held[0]
    entry, stored = content["laws"][name], content["resamples"][name]
    best = np.array([[entry["parameters"][column] for column in stored["columns"]]])
    drawn = array(stored)
    drawn = drawn[np.isfinite(drawn).all(1)] if len(drawn) else np.empty((0, len(stored["columns"])))
    found = Surface(
        law=name,
        n_count=entry["n_count"] or content["conventions"]["n"],
        best=_laws(stored["columns"], best),
        draws=_laws(stored["columns"], drawn),
    )
    return found if unique is None else _scarce(content, found, entry, unique)


def _laws(columns: list[str], params_RK: Array) -> Laws:
    values = dict(zip(columns, params_RK.T, strict=True))
    values.setdefault("beta", values["alpha"])
    return Laws(**values)


def _scarce(content: dict[str, Any], surface: Surface, entry: dict[str, Any], unique: float) -> Surface:
    printed = next(each for each in PRINTED if each.law == "muennighoff")
    low, high = UNDETERMINED
    if surface.law.startswith("muennighoff"):
        words = {n: w for n, w in entry["not_determined"].items() if n in ("R_D", "R_N")}
        if content["kind"] == "constants" and entry["source"] == printed.source:
            words = {"R_D": f"its rows do not tell {low:g} from {high:g}", "R_N": "nor do they determine it"}
        scarcity = {
            "R_D": float(surface.best.R_D[0]),
            "R_N": float(surface.best.R_N[0]),
            "source": f"{content['name']}'s {surface.law}",
            "not_determined": words,
        }
        return replace(
            surface, best=replace(surface.best, unique=unique), draws=replace(surface.draws, unique=unique),
            scarcity=scarcity,
        )  # fmt: skip
    R_D, R_N = printed.parameters["R_D"], printed.parameters["R_N"]
    # Intervals take R_D from everywhere in its range: in an order of its own, so that it goes with no law.
    draws = surface.draws if len(surface.draws.A) else _repeated(surface.best, 101)
    spread = np.random.default_rng(0).permutation(np.geomspace(low, high, len(draws.A)))
    return replace(
        surface,
        best=replace(surface.best, unique=unique, R_D=np.array([R_D]), R_N=np.array([R_N])),
        draws=replace(draws, unique=unique, R_D=spread, R_N=np.array([R_N])),
        scarcity={
            "R_D": R_D,
            "R_N": R_N,
            "source": printed.source.split(",")[0],
            "not_determined": {
                "R_D": f"its rows do not tell {low:g} from {high:g}; intervals span them",
                "R_N": "its rows do not determine it",
            },
        },
    )


def _repeated(laws: Laws, count: int) -> Laws:
    A, B, E, alpha, beta = (
        np.repeat(values, count) for values in (laws.A, laws.B, laws.E, laws.alpha, laws.beta)
    )
    return Laws(A, B, E, alpha, beta)


def _no_such(content: dict[str, Any], law: str, held: list[str]) -> str:
    if law in content["laws"]:
        return f"--law is {law!r}, which is no L(N, D) with an optimum; it answers --at alone."
    known = f"fit {content['name']} holds {', '.join(content['laws'])}"
    return f"--law is {law!r}; {known}." if held else f"--law is {law!r}; {known}, no L(N, D)."


def _none(content: dict[str, Any]) -> str:
    if reason := content.get("skipped", {}).get("chinchilla"):
        return f"fit {content['name']} has no L(N, D): chinchilla {reason}; fit more runs."
    return (
        f"fit {content['name']} has no L(N, D), which was not asked for; fit again with --law chinchilla, or "
        "ask this one --at a table."
    )


def spread(values: Array) -> list[float | None] | None:
    """90% of resamples. Those without an answer are infinite: with many the interval has no upper end, and
    none at all where most have none. None without resamples."""
    if not len(values):
        return None
    values = np.where(np.isnan(values), np.inf, values)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    if np.isfinite(values).all():
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if not np.isfinite(low):
        return None
    return [float(low), float(high) if np.isfinite(high) else None]
