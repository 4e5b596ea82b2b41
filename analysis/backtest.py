"""How far off this grid's own extrapolations were: the part of an interval that no bootstrap shows.

Resampling a fit measures how well the rows determine the law's parameters, not whether the losses
follow the law. So the study is repeated inside the grid: the runs of the largest budgets are hidden,
the law is fitted to the rest, and the hidden runs are forecast. A law that bends wrongly drifts away
from the losses in proportion to the distance in log C, and it does so at every cut of the same grid,
so each forecast of a hidden run gives a rate: log error per e-fold of compute beyond the rows fitted.
Budgets are told apart in octaves of C, so that a table without round budgets can be cut as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.chinchilla import PARAMETERS, fit_many, predict
from analysis.newton import Array, Objective

# Rows without which a fit of the law's five parameters would be a formality: three to disagree with it.
LEAST_ROWS = len(PARAMETERS) + 3


@dataclass(frozen=True)
class Trial:
    """One hidden run forecast from the rows below it.

    rows   rows that were fitted
    ratio  the hidden run's C over the largest C fitted
    error  log(measured loss) - log(forecast loss)
    """

    rows: int
    ratio: float
    error: float


@dataclass(frozen=True)
class Backtest:
    """Every trial, and their root mean square rate, log loss per e-fold of C; None without a trial."""

    trials: tuple[Trial, ...]

    @property
    def rate(self) -> float | None:
        if not self.trials:
            return None
        error = np.array([trial.error for trial in self.trials])
        distance = np.log([trial.ratio for trial in self.trials])
        return float(np.sqrt((error**2).sum() / (distance**2).sum()))

    def to_json(self) -> dict[str, Any]:
        return {"rate": self.rate, "trials": [asdict(trial) for trial in self.trials]}


def backtest(
    n_P: Array, d_P: Array, c_P: Array, loss_P: Array, objective: Objective, sigma_P: Array | None = None
) -> Backtest:
    """Hide the top budget, the top two, and so on, down to two budgets or `LEAST_ROWS` rows.

    n in parameters, d in tokens, c in FLOPs, loss in nats per token, sigma_P the noise that residuals are
    divided by. Of each hidden octave of compute the size of lowest loss is scored, by the geometric mean over
    its seeds: the one nearest to what a forecast is made for.
    """
    _, cell_P = np.unique(np.stack([n_P, d_P]), axis=1, return_inverse=True)
    mean_P = (np.bincount(cell_P, np.log(loss_P)) / np.bincount(cell_P))[cell_P]  # over seeds of one size
    octave_P = np.round(np.log2(c_P.max() / c_P)).astype(int)
    octaves = np.unique(octave_P)  # 0 is the largest budget
    trials: list[Trial] = []
    for first in range(1, len(octaves) - 1):
        kept = octave_P >= octaves[first]
        if kept.sum() < LEAST_ROWS:
            break
        law = fit_many(
            n_P[kept], d_P[kept], loss_P[None, kept], objective, None if sigma_P is None else sigma_P[kept]
        )
        best = [_lowest(octave_P == octave, mean_P) for octave in octaves[:first]]
        error = mean_P[best] - np.log(predict(law, n_P[best], d_P[best])[0])
        ratio = c_P[best] / c_P[kept].max()
        trials += [
            Trial(int(kept.sum()), float(r), float(e)) for r, e in zip(ratio, error, strict=True) if r > 1
        ]
    return Backtest(tuple(trials))


def _lowest(mask_P: np.ndarray[Any, np.dtype[np.bool_]], value_P: Array) -> int:
    return int(np.argmin(np.where(mask_P, value_P, np.inf)))
