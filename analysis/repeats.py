"""Noise from seeds: rows that differ in nothing but the seed scatter by the noise of a run alone.

Small runs scatter more than large ones, so where the repeated settings span a decade of compute the noise
is sigma (C / at)^-power. What that is worth: of 29 cells of the quickstart grid trained with three seeds, the
scatter fell from 1.3% at 1.2e10 FLOPs to .4% at 3.8e11; fits that weigh every run alike let the noisiest
decade decide the extrapolation (docs/forecasting.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtri

from analysis.bootstrap import LEVEL
from analysis.law import Array
from analysis.table import Runs

# What a repetition may change, beside what was measured.
_FREE = {"run", "run_id", "row", "seed", "status", "loss_se", "noise"}

# Degrees of freedom without which a power of compute, or weights from it, would be made of chance.
ENOUGH = 8
# The mean of C independent draws scatters by C^-1/2; a steeper fall is taken for chance.
STEEPEST = 0.5


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the log of what was measured over repetitions (a share: .004 is 0.4%) of a run of
    `at` FLOPs, its 90% interval where noise is normal, its degrees of freedom (rows less settings), settings
    and rows. It falls as C^-power; `at` is None and the power 0 where the rows do not show one."""

    sigma: float
    interval: list[float]
    degrees: int
    settings: int
    rows: int
    power: float = 0.0
    at: float | None = None

    def of(self, c_P: Array) -> Array:
        """The same of runs of `c_P` FLOPs."""
        if self.at is None:
            return np.full(len(c_P), self.sigma)
        return np.asarray(self.sigma * (c_P / self.at) ** -self.power)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def seed_noise(table: pd.DataFrame, output: str, level: float = LEVEL) -> Noise | None:
    """Noise of the column `output` (> 0) over rows that agree in every other column; None without any.

    Rows of one run that share a setting are no repetitions: a table with several rows to a run has none.
    """
    if table["run"].duplicated().any():
        return None
    shared = [column for column in table.columns if column not in _FREE | {output}]
    if not shared or not (table[output] > 0).all():
        return None
    y = pd.Series(np.log(table[output].to_numpy(np.float64)), index=table.index)
    groups = y.groupby([table[name] for name in shared], dropna=False, observed=True)
    count_P, away_P = groups.transform("size").to_numpy(), (y - groups.transform("mean")).to_numpy()
    several_P = count_P > 1
    settings = round(float((1 / count_P[several_P]).sum()))
    rows = int(several_P.sum())
    degrees = rows - settings
    if degrees < 1:
        return None
    power, at, shape_P = 0.0, None, np.ones(rows)
    if "c" in table:
        c_P = table["c"].to_numpy(np.float64)[several_P]
        share_P = 1 - 1 / count_P[several_P]  # degrees of freedom of a row: of its setting, shared out
        power, at, shape_P = _power(c_P, away_P[several_P], share_P)
    square = float(((away_P[several_P] / shape_P) ** 2).sum())
    low, high = (square / float(chdtri(degrees, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return Noise(
        sigma=float(np.sqrt(square / degrees)),
        interval=[float(np.sqrt(low)), float(np.sqrt(high))],
        degrees=degrees,
        settings=settings,
        rows=rows,
        power=power,
        at=at,
    )


def _power(c_P: Array, away_P: Array, share_P: Array) -> tuple[float, float | None, NDArray[np.float64]]:
    """Exponent, the C it turns about, and (C / at)^-power of each row, by maximum likelihood for normal noise
    within settings; (0, None, ones) where the rows are too few, span less than a decade, or gain less by an
    exponent than one more constant must (Akaike 1974)."""
    degrees, none = float(share_P.sum()), (0.0, None, np.ones(len(c_P)))
    if degrees < ENOUGH or not (c_P > 0).all() or c_P.max() < 10 * c_P.min():
        return none
    at = float(np.exp((share_P * np.log(c_P)).sum() / degrees))
    along_P = np.log(c_P / at)
    power_G = np.linspace(0, STEEPEST, 51)
    square_G = (away_P**2 * np.exp(2 * power_G[:, None] * along_P)).sum(1)
    # -log L = degrees/2 log(sum of squares) + sum_p share_p log shape_p; the last is 0 as `at` is chosen.
    best = int(np.argmin(square_G))
    if not degrees / 2 * np.log(square_G[0] / square_G[best]) > 1:
        return none
    power = float(power_G[best])
    return power, at, np.exp(-power * along_P)


def with_noise(runs: Runs, noise: Noise, output: str) -> Runs:
    """`runs` with `noise` as a column of standard errors in the unit of `output`."""
    y_P = runs.column(output)
    c_P = runs.column("c") if noise.at is not None else y_P
    return replace(runs, table=runs.table.assign(noise=noise.of(c_P) * y_P))
