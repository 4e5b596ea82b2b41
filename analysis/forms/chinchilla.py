"""Laws with a floor: Hoffmann et al. 2022 (Chinchilla), its form with one exponent, and L(C) alone.

N counts every parameter, C is in FLOPs (6ND unless the table says otherwise), loss in nats per token.
"""

from __future__ import annotations

from typing import Any

from analysis import surface as derivatives
from analysis.forms.printed import Printed
from analysis.law import Law, Parameter, Values

INF = float("inf")
FLOOR = Parameter("E", "floor", "nats/token", "loss that neither size nor data reduces", 0.0, INF)


def exponent(name: str, meaning: str) -> Parameter:
    """An exponent as laws of loss have it; bounds wide enough that touching one says the data have no such
    term."""
    return Parameter(name, "exponent", "", meaning, 0.0, 3.0)


def scale(name: str, power: str, x: str, meaning: str) -> Parameter:
    """The size of a term name / x^power."""
    return Parameter(name, "scale", "", meaning, 0.0, INF, power=(power, x))


def surface(p: Values, x: Values) -> Any:
    return p.E + p.A * x.n**-p.alpha + p.B * x.d**-p.beta


def _tied(p: Values, x: Values) -> Any:
    return p.E + p.A * x.n**-p.alpha + p.B * x.d**-p.alpha


def _tied_ratio(p: Values) -> Any:
    """D*/N* of 6ND: A N^-alpha = B D^-alpha at the optimum, at every budget."""
    return (p.B / p.A) ** (1 / p.alpha)


CHINCHILLA = Law(
    name="chinchilla",
    formula="L(N, D) = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022 (arXiv 2203.15556), eq. 2 and 10",
    inputs=("n", "d"),
    parameters=(
        scale("A", "alpha", "n", "size of the term that parameters reduce"),
        scale("B", "beta", "d", "size of the term that tokens reduce"),
        FLOOR,
        exponent("alpha", "exponent of N"),
        exponent("beta", "exponent of D"),
    ),
    function=surface,
    linear=("A", "B", "E"),
    analytic=derivatives.free,
    n_count="total",
    derived={"a": lambda p: p.beta / (p.alpha + p.beta), "b": lambda p: p.alpha / (p.alpha + p.beta)},
)

TIED = Law(
    name="chinchilla_tied",
    formula="L(N, D) = E + A / N^alpha + B / D^alpha",
    source="Gadre et al. 2024 (arXiv 2403.08540), eq. 4 with C = 6ND; Hoffmann's form with one exponent",
    inputs=("n", "d"),
    parameters=(
        scale("A", "alpha", "n", "size of the term that parameters reduce"),
        scale("B", "alpha", "d", "size of the term that tokens reduce"),
        FLOOR,
        exponent("alpha", "exponent of N and of D"),
    ),
    function=_tied,
    linear=("A", "B", "E"),
    analytic=derivatives.tied,
    n_count="total",
    derived={"tokens_per_parameter": _tied_ratio},
)

SATURATING_C = Law(
    name="saturating_c",
    formula="L(C) = E + k / C^gamma",
    source="Henighan et al. 2020 (arXiv 2010.14701), eq. 1.1 for C",
    inputs=("c",),
    parameters=(
        Parameter("E", "floor", "nats/token", "loss that compute does not reduce", 0.0, INF),
        scale("k", "gamma", "c", "size of the term that compute reduces"),
        exponent("gamma", "exponent of C"),
    ),
    function=lambda p, x: p.E + p.k * x.c**-p.gamma,
    linear=("E", "k"),
    rows="frontier",
)

PRINTED = (
    Printed(
        "Hoffmann 2022",
        "chinchilla",
        "Hoffmann et al. 2022 (arXiv 2203.15556), eq. 10",
        {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28},
        "the exponents are rounded too far to predict from",
    ),
    Printed(
        "Sardana 2023",
        "chinchilla",
        "Sardana et al. 2023 (arXiv 2401.00448): Hoffmann's law, its exponents to three digits",
        {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283},
    ),
    Printed(
        "Besiroglu 2024",
        "chinchilla",
        "Besiroglu et al. 2024 (arXiv 2404.10102)",
        {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658},
        "refit of Hoffmann's data as read from a figure",
    ),
    Printed(
        "Gadre 2024",
        "chinchilla_tied",
        "mlfoundations/scaling, the fit to five small RedPajama runs, loss on C4",
        {"A": 166.21, "B": 287.17, "E": 1.8366, "alpha": 0.2729},
    ),
    Printed(
        "Muennighoff 2023, base",
        "chinchilla_tied",
        "Muennighoff et al. 2023 (arXiv 2305.16264), eq. 19 and 20",
        {"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.353},
    ),
)
