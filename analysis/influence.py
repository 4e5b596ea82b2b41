"""What single runs do to a law's forecast: each left out in turn, and the outliers by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.bootstrap import slopes
from analysis.family import family
from analysis.fit import Measured
from analysis.law import Array, Law, Values
from analysis.newton import Objective
from analysis.predictive import SHARES

FAR = 5.0  # robust standard deviations beyond which a row is named an outlier
_MOST = 300  # runs left out in turn; of more, those that move a linearised fit most
_NORMAL = 1.4826  # median of |z| of a standard normal, inverted


def outliers(law: Law, data: Measured, best_K: Array) -> list[tuple[str, float]]:
    """Runs whose residual is `FAR` robust standard deviations or more, with that number, farthest first.

    The deviation is 1.4826 times the median absolute residual, widened for the constants fitted.
    """
    residual_P, names = _residuals(law, data, best_K)
    spare = max(len(residual_P) - len(law.names), 1)
    scale = _NORMAL * float(np.median(np.abs(residual_P))) * np.sqrt(len(residual_P) / spare)
    if scale <= 0:
        return []
    far = [(name, float(r / scale)) for name, r in zip(names, residual_P, strict=True)]
    return sorted((each for each in far if abs(each[1]) >= FAR), key=lambda each: -abs(each[1]))


def influence(law: Law, data: Measured, best_K: Array, objective: Objective, held: Values) -> dict[str, Any]:
    """The law refitted without each run in turn.

    {law, left_out, runs, shifts: [{run, forecast, constants: {name: value}}]}: `forecast` is the mean
    relative change of the forecasts at `held` (shares: the change), the 10 largest first.
    """
    rows = data.rows(data.used_P)
    names = [run for run, keep in zip(data.runs, data.used_P, strict=True) if keep]
    runs = int(rows.run_P.max()) + 1
    chosen = np.arange(runs)
    if runs > _MOST:
        chosen = np.sort(np.argsort(-_leverage(law, data, best_K))[:_MOST])
    keep_RP = (rows.run_P[None] != chosen[:, None]).astype(np.float64)
    params_RK = family(law).refit(
        rows.x, rows.y_P, keep_RP, best_K, objective, sigma_P=rows.sigma_P, near=runs > _MOST
    )
    with np.errstate(all="ignore"):
        moved_RP = family(law).predict(params_RK, held) - family(law).predict(best_K[None], held)
        if law.output not in SHARES:
            moved_RP = moved_RP / family(law).predict(best_K[None], held)
    shift_R = moved_RP.mean(1)
    order = [r for r in np.argsort(-np.abs(shift_R)) if np.isfinite(shift_R[r])][:10]
    first = {
        number: name for name, number in zip(reversed(names), reversed(rows.run_P.tolist()), strict=True)
    }
    return {
        "law": law.name,
        "left_out": len(chosen),
        "runs": runs,
        "shifts": [
            {
                "run": first[int(chosen[r])],
                "forecast": float(shift_R[r]),
                "constants": dict(zip(law.names, params_RK[r].tolist(), strict=True)),
            }
            for r in order
        ],
    }  # fmt: skip


def _leverage(law: Law, data: Measured, best_K: Array) -> Array:
    """G: how far the linearised fit moves without each run, up to a factor."""
    rows = data.rows(data.used_P)
    residual_P, _ = _residuals(law, data, best_K)
    J = slopes(law, best_K, rows.x, law.output not in SHARES)
    J = J / np.maximum(np.linalg.norm(J, axis=0), 1e-300)
    moves_PK = J @ np.linalg.pinv(J.T @ J, rcond=1e-10, hermitian=True) * residual_P[:, None]
    total = np.zeros((int(rows.run_P.max()) + 1, J.shape[1]))
    np.add.at(total, rows.run_P, moves_PK)
    return np.asarray(np.linalg.norm(total, axis=1))


def _residuals(law: Law, data: Measured, best_K: Array) -> tuple[Array, list[str]]:
    rows = data.rows(data.used_P)
    with np.errstate(all="ignore"):
        predicted_P = family(law).predict(best_K[None], rows.x)[0]
        left_P = rows.y_P - predicted_P if law.output in SHARES else np.log(rows.y_P / predicted_P)
    return left_P, [run for run, keep in zip(data.runs, data.used_P, strict=True) if keep]
