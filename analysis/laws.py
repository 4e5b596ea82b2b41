"""Every law this project fits, in one table.

A law is a function of some of (N, D, C) with named parameters, the paper it comes from, the
convention of N it uses, and which rows it is a law of. To add one: write how it predicts and how it is
fitted (a `Family`), and add an entry to `LAWS`; the command line, the fit file and the printed
table follow.

Rows. Chinchilla's surface is a law of every finished run. Kaplan's L(N) holds where data and
compute do not bind, L(D) where size does not, L(C) at the best size for each C: a grid has few
such runs, and a line through all its rows would measure the design. These three are fitted on the
frontier: rows whose loss no row with as small or smaller x undercuts. On a small grid even the
frontier is bound by what is held finite, so read them as descriptions, not as forecasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from analysis import solver
from analysis.certificate import Certificate, certify
from analysis.newton import Array, Objective, minimise

SAME_X = 0.06  # relative difference in N, D or C below which two runs count as equals


@dataclass(frozen=True)
class Parameter:
    """`kind` says what a value that the data do not determine looks like (see analysis.bootstrap)."""

    name: str
    kind: Literal["scale", "exponent", "floor"]
    unit: str
    meaning: str


class Family(Protocol):
    """How a law of given form predicts and is fitted. Inputs x_IP are its columns in order (natural
    units), params_RK rows of parameters in the law's order."""

    def predict(self, params_RK: Array, x_IP: Array) -> Array:
        """Losses R x P, nats per token."""

    def fit(self, x_IP: Array, loss_P: Array, objective: Objective) -> tuple[Array, Certificate]:
        """The best parameters of all rows, and the evidence that they are the best."""

    def refit(
        self, x_IP: Array, loss_P: Array, weight_RP: Array, best_K: Array, objective: Objective
    ) -> Array:
        """Parameters R x K under R weightings of the rows."""


@dataclass(frozen=True)
class Law:
    name: str
    formula: str
    source: str
    inputs: tuple[Literal["n", "d", "c"], ...]
    parameters: tuple[Parameter, ...]
    family: Family
    rows: Literal["all", "frontier"]
    n_count: str | None  # convention of N where the table knows several

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def minimum_rows(self) -> int:
        """One more than its parameters: with as many, any data fit and nothing is learnt."""
        return len(self.parameters) + 1


def frontier(x_P: Array, loss_RP: Array) -> Array:
    """1 where no row with x as small or smaller has a lower loss, else 0; R x P.

    x up to SAME_X larger counts as the same: cells of one budget differ by a percent, and the slightly
    dearer of two is not the next point of a frontier. A row absent from a resample carries an
    infinite loss and is never on the frontier.
    """
    loss_RP = np.atleast_2d(loss_RP)
    order = np.argsort(x_P, kind="stable")
    ordered = loss_RP[:, order]
    lowest = np.minimum.accumulate(ordered, 1)
    reach = np.searchsorted(x_P[order], x_P[order] * (1 + SAME_X), side="right") - 1
    on_RP = np.zeros(loss_RP.shape)
    on_RP[:, order] = (ordered <= lowest[:, reach]) & np.isfinite(ordered)
    return on_RP


@dataclass(frozen=True)
class _LogLine:
    """log L = k - alpha x, convex in (k, alpha); see `analysis.newton.Model`."""

    x_P: Array

    def __call__(self, z_RK: Array) -> tuple[Array, Array]:
        loss_RP = np.exp(z_RK[:, :1] - z_RK[:, 1:] * self.x_P)
        J = np.empty((len(z_RK), 2, len(self.x_P)))
        J[:, 0], J[:, 1] = 1.0, -self.x_P
        return loss_RP, J

    def curve(self, J_RKP: Array, c_RP: Array) -> Array:
        return np.matmul(J_RKP * c_RP[:, None, :], J_RKP.transpose(0, 2, 1))


class PowerLaw:
    """L = (x_c / x)^alpha, a straight line in log-log. Parameters (x_c, alpha)."""

    low = np.array([-np.inf, -np.inf])
    high = np.array([np.inf, np.inf])

    def predict(self, params_RK: Array, x_IP: Array) -> Array:
        params_RK = np.atleast_2d(params_RK)
        return np.exp(params_RK[:, 1:] * (np.log(params_RK[:, :1]) - np.log(x_IP[0])))

    def _plain(self, z_RK: Array, centre: float) -> Array:
        # k - alpha (log x - centre) = alpha (log x_c - log x)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.stack([np.exp(z_RK[:, 0] / z_RK[:, 1] + centre), z_RK[:, 1]], 1)

    def _solve(self, x_P: Array, loss_P: Array, weight_RP: Array, objective: Objective) -> Array:
        """z = (k, alpha) about the mean of log x, from least squares through narrowing widths."""
        y_P = np.log(loss_P)
        total = weight_RP.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_x, mean_y = weight_RP @ x_P / total, weight_RP @ y_P / total
            spread = weight_RP @ (x_P * x_P) / total - mean_x**2
            slope = (weight_RP @ (x_P * y_P) / total - mean_x * mean_y) / spread
        z = np.stack([mean_y - slope * mean_x, -slope], 1)
        fit = np.isfinite(z).all(1) & (spread > 1e-12)  # a resample may hold one x only: no line
        z[~fit] = np.nan
        for width in solver.widths(objective.width):
            z[fit] = minimise(
                _LogLine(x_P), z[fit], y_P[None], weight_RP[fit], width, self.low, self.high
            ).z_RK
        return z

    def fit(self, x_IP: Array, loss_P: Array, objective: Objective) -> tuple[Array, Certificate]:
        x_P, centre = np.log(x_IP[0]), float(np.log(x_IP[0]).mean())
        z = self._solve(x_P - centre, loss_P, np.ones((1, len(loss_P))), objective)
        certificate = certify(
            _LogLine(x_P - centre), z[0], np.log(loss_P), objective, self.low, self.high, start=z[0] * 0.5
        )
        return self._plain(z, centre)[0], certificate

    def refit(
        self, x_IP: Array, loss_P: Array, weight_RP: Array, best_K: Array, objective: Objective
    ) -> Array:
        """On the frontier of each resample, which is not the frontier of all rows."""
        present = np.where(weight_RP > 0, loss_P, np.inf)
        weight = weight_RP * frontier(x_IP[0], present)
        ever = weight.any(0)  # rows that no resample has on its frontier are dead weight
        x_P, centre = np.log(x_IP[0]), float(np.log(x_IP[0]).mean())

        def one(block: slice) -> Array:
            return self._solve(x_P[ever] - centre, loss_P[ever], weight[block][:, ever], objective)

        return self._plain(solver.blocks(one, len(weight), max(2 * int(ever.sum()), 2)), centre)


class ChinchillaSurface:
    """L = E + A/N^alpha + B/D^beta, inputs (N, D), parameters (A, B, E, alpha, beta)."""

    def predict(self, params_RK: Array, x_IP: Array) -> Array:
        return solver.predict(params_RK, x_IP[0], x_IP[1])

    def fit(self, x_IP: Array, loss_P: Array, objective: Objective) -> tuple[Array, Certificate]:
        problem = solver.Problem(x_IP[0], x_IP[1])
        best = solver.fit_best(problem, loss_P, objective)
        low, high = solver.bounds(loss_P)
        certificate = certify(
            problem.surface, best.z_K, np.log(loss_P), objective, low, high, start=best.first_K,
            names=("E", "A", "B", "alpha", "beta"), starts=best.starts, agree=best.agree,
        )  # fmt: skip
        return problem.plain(best.z_K[None])[0], certificate

    def refit(
        self, x_IP: Array, loss_P: Array, weight_RP: Array, best_K: Array, objective: Objective
    ) -> Array:
        problem = solver.Problem(x_IP[0], x_IP[1])
        z = problem.centred(best_K[None])[0]
        return solver.fit_weighted(problem, loss_P, weight_RP, z, objective)


def _kaplan(name: str, x: Literal["n", "d", "c"], unit: str, equation: str) -> Law:
    X = x.upper()
    return Law(
        name=name,
        formula=f"L({X}) = ({X}_c / {X})^alpha_{X}",
        source=f"Kaplan et al. 2020 (arXiv 2001.08361), eq. {equation}",
        inputs=(x,),
        parameters=(
            Parameter(f"{X}_c", "scale", unit, f"{X} at a loss of 1 nat per token"),
            Parameter(f"alpha_{X}", "exponent", "", f"fall of log loss per log {X}"),
        ),
        family=PowerLaw(),
        rows="frontier",
        n_count="non_embedding" if x == "n" else None,
    )


CHINCHILLA = Law(
    name="chinchilla",
    formula="L(N, D) = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022 (arXiv 2203.15556), eq. 2 and 10",
    inputs=("n", "d"),
    parameters=(
        Parameter("A", "scale", "", "size of the term that parameters reduce"),
        Parameter("B", "scale", "", "size of the term that tokens reduce"),
        Parameter("E", "floor", "nats/token", "loss that neither reduces"),
        Parameter("alpha", "exponent", "", "exponent of N"),
        Parameter("beta", "exponent", "", "exponent of D"),
    ),
    family=ChinchillaSurface(),
    rows="all",
    n_count="total",
)

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        _kaplan("kaplan_n", "n", "parameters", "1.1"),
        _kaplan("kaplan_d", "d", "tokens", "1.2"),
        _kaplan("kaplan_c", "c", "FLOP", "1.3"),
        CHINCHILLA,
    )
}
