"""Evidence that a fit is the optimum it claims to be.

A solver's "success" means nothing here: from the paper's own start L-BFGS-B reports success at
constants whose objective is twice the optimum's. What counts is measured at the answer: the
gradient, the Hessian, and where a second solver, started elsewhere, ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.newton import Array, Model, Objective, expansion, huber


@dataclass(frozen=True)
class Certificate:
    """
    gradient            cosine of the angle between the (Huber-weighted) residuals and the steepest
                        way to change them: 0 at an optimum, scale-free
    possible_gain       share of the objective that Newton's model still promises
    hessian_eigenvalues of the Hessian over free parameters in centred coordinates, scaled to unit
                        diagonal; all positive at a strict minimum
    condition           their ratio, largest over smallest
    second_solver       scipy's trust-region solver from the grid's best point: its objective
                        relative to ours, less 1 (null when both are exact fits)
    starts, agree       starts of the global search, and the share of them that ended here
    at_bounds           parameters held at a bound of their box
    converged           the gradient vanishes, no direction descends, the second solver found nothing lower
    """

    gradient: float
    possible_gain: float
    hessian_eigenvalues: list[float]
    condition: float | None
    second_solver: float | None
    starts: int
    agree: float
    at_bounds: list[str]
    converged: bool

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def certify(
    model: Model,
    z_K: Array,
    log_loss_P: Array,
    objective: Objective,
    low_K: Array,
    high_K: Array,
    start: Array,
    names: tuple[str, ...] = (),
    starts: int = 1,
    agree: float = 1.0,
) -> Certificate:
    """Measure the point z_K; `start` is where the second solver begins."""
    width, one = objective.width, np.ones((1, len(log_loss_P)))
    loss, J = model(z_K[None])
    residual = np.log(loss) - log_loss_P
    g, hessian, irls = (part[0] for part in expansion(model, residual, J, one, width))
    at = np.isclose(z_K, low_K, rtol=1e-9, atol=0) | np.isclose(z_K, high_K, rtol=1e-9, atol=0)
    free = ~at
    cost = float(huber(residual, width).sum())
    exact = cost <= len(log_loss_P) * 1e-28
    size = np.sqrt(np.maximum(np.diag(irls), 1e-300) * max(2 * cost, 1e-300))
    gradient = float(np.max(np.abs(g / size)[free], initial=0.0))
    unit = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    eigenvalues = np.linalg.eigvalsh((hessian / unit / unit[:, None])[np.ix_(free, free)])
    flat = not len(eigenvalues) or eigenvalues[0] <= 1e-15 * max(eigenvalues[-1], 0.0)
    gain = _possible_gain(g[free], hessian[np.ix_(free, free)], cost)
    second = None if exact else _second(model, start, log_loss_P, width, low_K, high_K) / cost - 1
    return Certificate(
        gradient=gradient,
        possible_gain=gain,
        hessian_eigenvalues=[float(value) for value in eigenvalues],
        condition=None if flat else float(eigenvalues[-1] / eigenvalues[0]),
        second_solver=second,
        starts=starts,
        agree=agree,
        at_bounds=[name for name, held in zip(names, at, strict=False) if held],
        converged=exact or ((gradient < 1e-6 or gain < 1e-9) and (second is None or second > -1e-9)),
    )


def _possible_gain(g: Array, hessian: Array, cost: float) -> float:
    step = np.linalg.lstsq(hessian, -g, rcond=None)[0]
    gain = max(float(-0.5 * g @ step), 0.0)
    return min(gain / max(cost, 1e-300), 1.0)


def _second(model: Model, start: Array, log_loss_P: Array, width: float, low: Array, high: Array) -> float:
    """Objective that scipy's bounded trust-region least squares with Huber loss reaches from `start`."""
    from scipy.optimize import least_squares  # half a second to import

    def residual(z_K: Array) -> Array:
        return np.log(model(z_K[None])[0][0]) - log_loss_P

    def jacobian(z_K: Array) -> Array:
        return model(z_K[None])[1][0].T

    margin = 1e-9 * (1 + np.abs(start))
    result = least_squares(
        residual,
        np.clip(start, low + margin, high - margin),
        jac=jacobian,
        bounds=(low, high),
        loss="linear" if np.isinf(width) else "huber",
        f_scale=1.0 if np.isinf(width) else width,
        x_scale="jac",
        xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=500,
    )  # fmt: skip
    return float(huber(result.fun, width).sum())
