"""Steps that each batch took to a target loss, read from a folder of runs at a constant rate.

The training loss of a small batch is noise about a falling curve, so it is smoothed over the last fifth of
the tokens seen: the mean over (.8 t, t] is taken for the loss at sqrt(.8) t, whatever the batch. Of the runs
of one size and batch the fewest steps count: each batch at its own best rate (McCandlish et al. 2018,
section 4; a rate tuned at one batch alone would find that batch the best).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.law import Array
from scaling.accounting import counts
from scaling.errors import UserError
from scaling.runs import RunFolder, run_folders

WINDOW = 0.2  # of the tokens seen
LEAST_STEPS = 10  # inside the window: with fewer, a mean over it is one of few batches
_TARGETS = 3  # where none is named, so many from the lowest loss that every batch reaches ...
_APART = 1.04  # ... upwards, this factor apart


def smoothed(step_S: Array, loss_S: Array) -> tuple[Array, Array]:
    """The steps that a trailing mean over `WINDOW` stands for, and that mean, for steps 1 to S in order."""
    total = np.concatenate([[0.0], np.cumsum(loss_S)])
    first = np.searchsorted(step_S, (1 - WINDOW) * step_S, side="right")
    after = np.arange(1, len(step_S) + 1)
    enough = after - first >= LEAST_STEPS
    mean = (total[after] - total[first])[enough] / (after - first)[enough]
    return step_S[enough] * np.sqrt(1 - WINDOW), mean


def steps_to(step_S: Array, loss_S: Array, target: float) -> float | None:
    """The step at which the smoothed loss first is `target` (nats per token), between steps by its logarithm;
    None where it never is."""
    at, loss = smoothed(step_S, loss_S)
    lowest = np.minimum.accumulate(loss)
    below = np.flatnonzero(lowest <= target)
    if not len(below) or below[0] == 0:
        return None
    i = int(below[0])
    share = (lowest[i - 1] - target) / (lowest[i - 1] - lowest[i])
    return float(np.exp(np.log(at[i - 1]) + share * np.log(at[i] / at[i - 1])))


def steps_of_runs(source: str, targets: Sequence[float] = ()) -> tuple[pd.DataFrame, list[str]]:
    """The table of `analysis.critical.critical_batches` (columns n: parameters, total; batch: tokens; steps;
    target: nats per token) from a folder of runs, and notes on it.

    Without `targets`, three from the lowest loss that every batch of every size reaches. Raises UserError
    for a folder without runs at a constant rate, for a target not above 0, and for one that no run reaches.
    """
    bad = [target for target in targets if not target > 0]
    if bad:
        raise UserError(f"--loss is {bad[0]}; give losses in nats per token, above 0.")
    folders = [run for run in run_folders(source) if run.status() in ("done", "stopped", "running", "failed")]
    runs = [_curve(run) for run in folders if run.config().schedule.name == "constant"]
    read = [run for run in runs if run is not None]
    if not read:
        raise UserError(
            f"{source} holds no runs at a constant rate with {LEAST_STEPS / WINDOW:.0f} steps logged; "
            "`scaling launch critical_batch` trains some."
        )
    if not targets:
        lowest = pd.DataFrame([(n, batch, smoothed(*curve)[1].min()) for n, batch, _, curve in read])
        floor = float(lowest.groupby([0, 1])[2].min().max())
        targets = [floor * _APART**i for i in range(_TARGETS)]
    rows, notes = [], []
    for target in targets:
        reached = [
            {"n": float(n), "target": float(target), "batch": float(batch), "lr": lr, "steps": steps}
            for n, batch, lr, curve in read
            if (steps := steps_to(*curve, target)) is not None
        ]
        if not reached:
            raise UserError(f"no run of {source} reaches a loss of {target:.4g}; give a higher --loss.")
        frame = pd.DataFrame(reached)
        best = frame.loc[frame.groupby(["n", "batch"])["steps"].idxmin()]
        rows.append(best)
        notes += _edges(best, read, target)
    return pd.concat(rows, ignore_index=True)[["n", "target", "batch", "steps"]], notes


def _curve(run: RunFolder) -> tuple[int, int, float, tuple[Array, Array]] | None:
    """N, batch in tokens, peak rate, and the training loss by step; None where there is too little of it."""
    config = run.config()
    rows = [row for row in run.metrics()[0] if isinstance(row.get("loss"), float | int)]
    if len(rows) < LEAST_STEPS / WINDOW:
        return None
    step_S, loss_S = (np.array([row[name] for row in rows], np.float64) for name in ("step", "loss"))
    if not np.isfinite(loss_S).all():
        return None
    n = counts(config.model, config.seq_len).n["total"]
    return n, config.batch_size * config.seq_len, config.optimizer.lr, (step_S, loss_S)


def _edges(
    best: pd.DataFrame, read: list[tuple[int, int, float, tuple[Array, Array]]], target: float
) -> list[str]:
    """What is to be said of batches whose best rate is the lowest or highest that was tried."""
    said = []
    for n, batch, rate in zip(best["n"], best["batch"], best["lr"], strict=True):
        rates = sorted(lr for size, tokens, lr, _ in read if (size, tokens) == (n, batch))
        if len(rates) > 1 and rate in (rates[0], rates[-1]):
            side = "lowest" if rate == rates[0] else "highest"
            where = f"loss {target:.4g}, batch {batch:,.0f} tokens"
            said.append(f"{where}: the best rate {rate:.3g} is the {side} tried")
    return said
