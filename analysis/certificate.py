"""Evidence that a fit is the optimum it claims to be.

A solver's "success" means nothing here: from the paper's own start L-BFGS-B reports success at
constants whose objective is twice the optimum's. What counts is measured at the answer: the
gradient, the Hessian, and where a second solver, started elsewhere, ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.law import Array
from analysis.newton import expansion, huber, residuals
from analysis.second import MOST_PROGRAMMED, linear_programs, trust_region
from analysis.vertex import to_vertex

if TYPE_CHECKING:
    from analysis.solver import Found, Search


@dataclass(frozen=True)
class Certificate:
    """
    gradient            cosine of the angle between the (Huber-weighted) residuals and the steepest
                        way to change them: 0 at an optimum, scale-free; of absolute errors 0 at a vertex
                        from which no direction descends
    possible_gain       share of the objective that Newton's model still promises
    hessian_eigenvalues of the Hessian over free parameters in centred coordinates, scaled to unit
                        diagonal; all positive at a strict minimum
    condition           their ratio, largest over smallest
    second_solver       the objective that a solver of scipy's reaches (`analysis.second`) relative to ours,
                        less 1 (null when both are exact fits, and for absolute errors of thousands of rows)
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


def certify(search: Search, found: Found, weight_P: Array) -> Certificate:
    """Measure the point that a search found."""
    data, box, z_K = search.data(weight_P[None]), search.box, found.z_K
    with np.errstate(all="ignore"):
        value, J = search.terms(z_K[None])
        residual = residuals(search.terms, value, data)
        parts = expansion(search.terms, z_K[None], residual, J, data, search.width)
    g, hessian, irls = (np.where(np.isfinite(part[0]), part[0], 0.0) for part in parts)
    at = np.isclose(z_K, box.low_K, rtol=1e-9, atol=0) | np.isclose(z_K, box.high_K, rtol=1e-9, atol=0)
    free = ~at & ~box.held_K
    cost = _total(search, residual[0], weight_P)
    exact = cost <= search.exact(data)
    smooth = float(np.nan_to_num((weight_P * huber(residual[0], search.width)).sum(), nan=np.inf))
    size = np.sqrt(np.maximum(np.diag(irls), 1e-300) * max(2 * smooth, 1e-300))
    gradient = float(np.max(np.abs(g / size)[free], initial=0.0))
    gain = _possible_gain(g[free], hessian[np.ix_(free, free)], smooth)
    if search.objective.name == "l1":
        excess = float(to_vertex(search.terms, z_K[None], data, box).excess_R[0])
        if excess <= 1e-9:
            gradient = gain = 0.0
    eigenvalues = _spectrum(hessian, free)
    flat = not len(eigenvalues) or eigenvalues[0] <= 1e-15 * max(eigenvalues[-1], 0.0)
    # Where the law bends, absolute errors have optimal vertices beside each other that differ by less.
    other, lower = (linear_programs, 1e-6) if search.objective.name == "l1" else (trust_region, 1e-9)
    # A linear program of absolute errors holds a column for each row: too long a table is left at its vertex.
    unchecked = exact or box.held_K.all() or (other is linear_programs and len(weight_P) >= MOST_PROGRAMMED)
    second = None if unchecked else other(search, (found.first_K, found.z_K), data) / cost - 1
    return Certificate(
        gradient=gradient,
        possible_gain=gain,
        hessian_eigenvalues=[float(value) for value in eigenvalues],
        condition=None if flat else float(eigenvalues[-1] / eigenvalues[0]),
        second_solver=second,
        starts=found.starts,
        agree=found.agree,
        at_bounds=[name for name, held in zip(search.law.names, at & ~box.held_K, strict=True) if held],
        converged=exact or ((gradient < 1e-6 or gain < 1e-9) and (second is None or second > -lower)),
    )


def _total(search: Search, residual_P: Array, weight_P: Array) -> float:
    """The objective itself: for absolute errors the sum, not the narrow Huber function beside it."""
    rho = np.abs(residual_P) if search.objective.name == "l1" else huber(residual_P, search.width)
    return float(np.nan_to_num((weight_P * rho).sum(), nan=np.inf))


def _spectrum(hessian: Array, free: NDArray[np.bool_]) -> Array:
    """Eigenvalues over the free coordinates, scaled to unit diagonal."""
    unit = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    return np.asarray(np.linalg.eigvalsh((hessian / unit / unit[:, None])[np.ix_(free, free)]), np.float64)


def _possible_gain(g: Array, hessian: Array, cost: float) -> float:
    step = np.linalg.lstsq(hessian, -g, rcond=None)[0] if len(g) else g
    gain = max(float(-0.5 * g @ step), 0.0)
    return min(gain / max(cost, 1e-300), 1.0)
