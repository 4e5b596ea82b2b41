"""The Chinchilla fit and its bootstrap on a table of 240 runs, and a whole `scaling fit`, in CPU seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import weights
from analysis.columns import Reading
from analysis.fit import fit
from analysis.newton import Objective
from analysis.solver import Problem, fit_best, fit_weighted
from analysis.table import Runs, from_frame

REPEATS = 3
RESAMPLES = 1000


def rows() -> list[dict[str, Any]]:
    runs, objective = table(), Objective()
    problem, loss_P = Problem(runs.column("n"), runs.column("d")), runs.column("loss")
    draws_RP = weights(len(loss_P), RESAMPLES)
    best_K = fit_best(problem, loss_P, objective).z_K
    return [
        _timed("Chinchilla L(N, D), global fit", lambda: fit_best(problem, loss_P, objective)),
        _timed(
            f"{RESAMPLES} bootstrap refits of it",
            lambda: fit_weighted(problem, loss_P, draws_RP, best_K, objective),
        ),
        _timed(
            f"`scaling fit`: every law, approach and {RESAMPLES} resamples",
            lambda: fit(runs, resamples=RESAMPLES),
        ),
    ]


def table(count: int = 240) -> Runs:
    """Runs of the printed Chinchilla law (Hoffmann et al. 2022, eq. 10) with 1% noise: 9 budgets by size."""
    rng = np.random.default_rng(0)
    flops = np.resize(np.geomspace(6e18, 3e21, 9), count)
    n = np.sqrt(flops / 120) * np.exp(rng.uniform(-1.5, 1.5, count))
    d = flops / (6 * n)
    loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(0.01 * rng.standard_normal(count))
    return from_frame(pd.DataFrame({"n": n, "d": d, "loss": loss}), Reading(), "synthetic", "synthetic")


def _timed(what: str, work: Callable[[], object]) -> dict[str, Any]:
    values = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        values.append(time.process_time() - began)
    return {"what": what, "unit": "CPU s", "values": values}
