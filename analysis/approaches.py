"""How N* and D* grow with compute, by every approach (Hoffmann et al. 2022, section 3), and the baseline.

    envelope          1: sizes of the runs that no run of less compute beats, a power law through them.
                      Final losses only: a point in the middle of a decayed schedule is no point of L(N, D).
    isoflop           2: a parabola in log N through the losses of each budget, a power law through the
    isoflop_akima        minima; the same with Akima's interpolant; the same with profiles of the shape that
    isoflop_surface      a surface has, which is unbiased on one. A minimum outside the sizes measured is
                         refused by name, never extrapolated. See analysis.isoflop.
    parametric        3: the fitted surface's optimum; with C = 6ND its slope is beta / (alpha + beta),
                      under another count of FLOPs it is taken over the range of budgets measured.

Entries of the fit file: {a, b, a_interval, b_interval, log_n_at_1 (log N* = log_n_at_1 + a log C),
log_d_at_1, points [{c, n, d, loss, ...}]}, or {skipped: reason}; those of approach 2 add `budgets`. Where the
same run gives several rows, envelope adds `note`. `why` says where the approaches part and why: see
analysis.disagreement.

straight_line: log loss = intercept - slope (log C - centre) through the envelope by least squares,
the forecast that needs no law: {slope, intercept, centre, slope_interval, rms, points}, or {skipped: reason}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis import bootstrap, large
from analysis.bootstrap import array, interval, table
from analysis.disagreement import why
from analysis.frontier import frontier
from analysis.isoflop import READINGS, Profiles, isoflop
from analysis.law import Array
from analysis.lines import Optima, power_laws, weighted_line
from analysis.minima import grouped
from analysis.optimum import SURFACE, cost_of, optimum, surface
from analysis.table import Runs
from scaling.errors import UserError

MINIMUM_ENVELOPE = 4
MINIMUM_SIZES = 3


def all_of(runs: Runs, content: dict[str, Any], draws_RP: Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fit file's `approaches`, `why` and `straight_line`, and the resamples of each by name.

    `content` is the fit file so far (laws, skipped, cost, resamples); `draws_RP` how often each resample
    drew each row (pairs, by run).
    """
    c_P, loss_P = runs.column("c"), runs.column("loss")
    n_P, d_P = runs.n("total")[0], runs.column("d")
    profiles = Profiles(runs.runs, grouped(n_P, d_P, c_P), cost_of(content))
    parts = {"envelope": _envelope(runs.runs, n_P, d_P, c_P, loss_P, draws_RP)}
    entries, drawn = isoflop(profiles, loss_P, draws_RP)
    parts |= {name: (entry, drawn.get(name)) for name, entry in entries.items()}
    parts["parametric"] = _parametric(content, c_P)
    line, line_drawn = _fit_line(runs.runs, c_P, loss_P, draws_RP)
    found = {name: entry for name, (entry, _) in parts.items()}
    resamples = {name: drawn for name, (_, drawn) in parts.items() if drawn is not None}
    reasons = why(profiles, n_P, d_P, c_P, loss_P, content, found, resamples, draws_RP, envelope_of)
    if line_drawn is not None:
        resamples["straight_line"] = line_drawn
    return {"approaches": found, "why": reasons, "straight_line": line}, resamples


def of_many(
    runs: Runs, content: dict[str, Any], resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `all_of`, for tables too long for arrays of resamples x rows: a history of many studies, which has
    no budgets to read profiles off."""
    c_P, loss_P = runs.column("c"), runs.column("loss")
    keep = large.possible(c_P, loss_P)
    draws_RP = large.pairs_at(bootstrap.clusters(runs.runs), keep, resamples, seed)
    every, n_P, d_P = runs.runs, runs.n("total")[0], runs.column("d")
    names = [every[i] for i in keep]
    parts = {
        "envelope": _envelope(names, n_P[keep], d_P[keep], c_P[keep], loss_P[keep], draws_RP),
        "parametric": _parametric(content, c_P),
    }
    reason = f"is for the budgets of a grid, not for {len(c_P):,} rows: choose a study's with --where"
    line, line_drawn = _fit_line(names, c_P[keep], loss_P[keep], draws_RP)
    found = {name: entry for name, (entry, _) in parts.items()}
    found |= {name: {"skipped": reason, "budgets": []} for name in READINGS}
    drawn = {name: each for name, (_, each) in parts.items() if each is not None}
    if line_drawn is not None:
        drawn["straight_line"] = line_drawn
    order = ("envelope", *READINGS, "parametric")
    approaches = {name: found[name] for name in order}
    return {"approaches": approaches, "why": {"skipped": reason}, "straight_line": line}, drawn


def envelope_weights(c_P: Array, loss_P: Array, draws_RP: Array) -> tuple[Array, Array]:
    """Rows on the envelope of all rows (1 x P), and of every resample with their counts (R x P)."""
    present = np.where(draws_RP > 0, loss_P, np.inf)
    return frontier(c_P, loss_P), draws_RP * frontier(c_P, present)


def _alike(n_P: Array, d_P: Array) -> str | None:
    """Why runs of one size, or of one length, say nothing of how to grow; None where both vary."""
    for name, x_P in (("N", n_P), ("D", d_P)):
        distinct = len(np.unique(np.round(np.log(x_P), 9)))
        if distinct < MINIMUM_SIZES:
            return f"needs {MINIMUM_SIZES} different {name}, has {distinct}: more compute went to the other"
    return None


def _too_short(c_P: Array, on_P: Array) -> str | None:
    keep = np.flatnonzero(on_P)
    if len(keep) >= MINIMUM_ENVELOPE and np.ptp(np.log(c_P[keep])) >= np.log(2):
        return None
    return f"needs {MINIMUM_ENVELOPE} runs on the envelope over a factor 2 of C, has {len(keep)}"


def _points(names: list[str], on_P: Array, **columns: Array) -> list[dict[str, Any]]:
    keep = np.flatnonzero(on_P)
    return [
        {"run": names[i]} | {name: float(column[i]) for name, column in columns.items()}
        for i in keep[np.argsort(columns["c"][keep])]
    ]


def envelope_of(n_P: Array, d_P: Array, c_P: Array, loss_P: Array) -> Optima:
    """The runs on the envelope as optima of their own budgets."""
    on, _ = envelope_weights(c_P, loss_P, np.ones((1, len(c_P))))
    return Optima(np.log(n_P)[None], np.log(d_P)[None], on)


def _envelope(
    names: list[str], n_P: Array, d_P: Array, c_P: Array, loss_P: Array, draws_RP: Array
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    on, drawn = envelope_weights(c_P, loss_P, draws_RP)
    if reason := _alike(n_P, d_P) or _too_short(c_P, on[0]):
        return {"skipped": reason}, None
    log_n, log_d = np.log(n_P)[None], np.log(d_P)[None]
    entry, resamples = power_laws(np.log(c_P), Optima(log_n, log_d, on), Optima(log_n, log_d, drawn))
    entry |= {"points": _points(names, on[0], c=c_P, n=n_P, d=d_P, loss=loss_P)}
    several = len(names) - len(set(names))
    if several:
        entry["note"] = (
            f"{several} rows come from a run that has another row: a loss before the end of a decayed "
            "schedule is no final loss and lies above the envelope of final ones"
        )
    return entry, resamples


def _parametric(content: dict[str, Any], c_P: Array) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Slopes of the surface's optimum between the smallest and the largest budget of the rows.

    With C = 6ND the optimum is a power law and any two budgets give its exponent.
    """
    if SURFACE not in content["laws"]:
        return {"skipped": f"the surface {content['skipped'].get(SURFACE, 'was not asked for')}"}, None
    best, draws = surface(content)
    cost = cost_of(content)
    ends = np.array([c_P.min(), max(c_P.max(), 2 * c_P.min())])
    log_n, log_d, losses = [], [], []
    for params in (best[None], draws):
        optima = [optimum(params, flops, cost) for flops in ends]
        log_n.append(np.log(np.stack([o.n_R for o in optima], 1)))
        log_d.append(np.log(np.stack([o.d_R for o in optima], 1)))
        losses.append([float(o.loss_R[0]) for o in optima])
    entry, resamples = power_laws(
        np.log(ends),
        *(Optima(n, d, np.ones_like(n)) for n, d in zip(log_n, log_d, strict=True)),
    )
    n, d = np.exp(log_n[0][0]), np.exp(log_d[0][0])
    points = [
        {"c": float(c), "n": float(n[i]), "d": float(d[i]), "loss": losses[0][i]} for i, c in enumerate(ends)
    ]
    return entry | {"points": points}, resamples


def _fit_line(
    names: list[str], c_P: Array, loss_P: Array, draws_RP: Array
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The line through the envelope, log loss against log C, and the line of each resample."""
    on, drawn = envelope_weights(c_P, loss_P, draws_RP)
    if reason := _too_short(c_P, on[0]):
        return {"skipped": reason}, None
    centre = float(np.log(c_P[on[0] > 0]).mean())
    x_P, y_P = np.log(c_P) - centre, np.log(loss_P)[None]
    at, slope = weighted_line(x_P, y_P, on)
    at_R, slope_R = weighted_line(x_P, y_P, drawn)
    residual = (y_P - at[:, None] - slope[:, None] * x_P)[0][on[0] > 0]
    entry = {
        "intercept": float(at[0]),
        "slope": float(-slope[0]),
        "centre": centre,
        "slope_interval": interval(-slope_R),
        "rms": float(np.sqrt(np.mean(residual**2))),
        "points": _points(names, on[0], c=c_P, loss=loss_P),
    }
    return entry, table(["intercept", "slope"], np.stack([at_R, -slope_R], 1))


def straight_line(content: dict[str, Any], flops: float) -> dict[str, Any]:
    """What the line through the envelope says of a run of `flops` (as the fit counts them).

    {loss, interval}: nats per token, 90%, from the lines of resampled runs plus the envelope's own
    scatter about its line, widened for the two constants fitted. Raises UserError where there is no line.
    """
    line = content["straight_line"]
    if "skipped" in line:
        raise UserError(f"fit {content['name']} has no straight line: it {line['skipped']}; fit more runs.")
    x = np.log(flops) - line["centre"]
    c, loss = (np.array([point[name] for point in line["points"]]) for name in ("c", "loss"))
    scatter = np.log(loss) - line["intercept"] + line["slope"] * (np.log(c) - line["centre"])
    scatter *= np.sqrt(len(c) / (len(c) - 2))
    at, slope = array(content["resamples"]["straight_line"]).T
    drawn = at - slope * x + np.random.default_rng(0).choice(scatter, len(at))
    return {"loss": float(np.exp(line["intercept"] - line["slope"] * x)), "interval": interval(np.exp(drawn))}
