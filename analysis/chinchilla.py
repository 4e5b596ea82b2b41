"""Chinchilla's surface by itself, for simulation studies and for predictions from its stored constants."""

from __future__ import annotations

import numpy as np

from analysis.family import family
from analysis.law import Array, Values
from analysis.laws import LAWS
from analysis.newton import Objective

SURFACE = LAWS["chinchilla"]
PARAMETERS = SURFACE.names


def predict(params_RK: Array, n_P: Array, d_P: Array) -> Array:
    """Loss in nats per token, R x P, for parameters in the order of PARAMETERS."""
    A, B, E, alpha, beta = (column[:, None] for column in np.atleast_2d(params_RK).T)
    return np.asarray(E + A * np.exp(-alpha * np.log(n_P)) + B * np.exp(-beta * np.log(d_P)))


def fit_many(
    n_P: Array,
    d_P: Array,
    losses_RP: Array,
    objective: Objective | None = None,
    sigma_P: Array | None = None,
) -> Array:
    """Fit R loss vectors on the same rows: parameters R x 5 in the order of PARAMETERS.

    For simulation studies: n in parameters, d in tokens, losses in nats per token, all > 0; sigma_P what
    residuals are divided by, of log loss in log space.
    """
    x = Values(n=np.asarray(n_P, np.float64), d=np.asarray(d_P, np.float64))
    return family(SURFACE).refit(x, losses_RP, None, None, objective or Objective(), sigma_P=sigma_P)
