"""Tables of many rows: the short ways end where the long ones do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import bootstrap, large
from analysis.columns import Reading
from analysis.family import family
from analysis.fit import fit
from analysis.frontier import frontier
from analysis.law import Values
from analysis.laws import LAWS
from analysis.newton import parse_objective
from analysis.profile import Rows, profiles
from analysis.resample import resample
from analysis.solver import LARGE
from analysis.table import from_frame

TIED = LAWS["chinchilla_tied"]
TRUTH = np.array([400.0, 900.0, 1.7, 0.34])


def drawn(count: int, seed: int = 0) -> tuple[Values, np.ndarray]:
    rng = np.random.default_rng(seed)
    c = 10 ** rng.uniform(17, 22, count)
    n = np.sqrt(c / 120) * np.exp(rng.uniform(-1.5, 1.5, count))
    x = Values(n=n, d=c / (6 * n))
    return x, family(TIED).predict(TRUTH[None], x)[0] * np.exp(0.01 * rng.standard_normal(count))


@pytest.fixture(scope="module")
def table() -> tuple[Rows, np.ndarray]:
    x, loss = drawn(LARGE)
    best, certificate = family(TIED).fit(x, loss, parse_objective("huber"))
    assert certificate.converged
    np.testing.assert_allclose(best, TRUTH, rtol=0.1)
    return Rows(x, loss, np.arange(LARGE)), best


@pytest.mark.parametrize("name", ["huber", "lsq"])
def test_one_newton_step_is_the_refit(name: str, table: tuple[Rows, np.ndarray]) -> None:
    """The same noise, refitted to the end: apart by a few hundredths of the spread."""
    rows, _ = table
    objective = parse_objective(name)
    best, _ = family(TIED).fit(rows.x, rows.y_P, objective)
    steps = resample(TIED, rows, best, objective, 200)
    search = family(TIED).search(rows.x, rows.y_P[None], objective)
    step = large._Step(search, search.at.fitted(best[None])[0], ())
    noise_RP = -next(large._wild(step, rows, 200, 0))[0][:3]
    made_RP = family(TIED).predict(best[None], rows.x) * np.exp(noise_RP)
    refitted = family(TIED).refit(rows.x, made_RP, None, best, objective, near=True)
    np.testing.assert_allclose(steps[:3] / steps.std(0), refitted / steps.std(0), atol=0.06)


def test_pairs_and_wild_have_the_same_spread(table: tuple[Rows, np.ndarray]) -> None:
    rows, best = table
    objective = parse_objective("huber")
    wild, pairs = (resample(TIED, rows, best, objective, 300, 0, kind) for kind in ("wild", "pairs"))
    np.testing.assert_allclose(wild.std(0), pairs.std(0), rtol=0.2)
    found = profiles(TIED, rows, best, objective)
    low, high = np.quantile(wild, [0.05, 0.95], axis=0)
    for k, name in enumerate(TIED.names):
        assert found[name].low is not None and found[name].high is not None
        assert 0.5 < (found[name].high - found[name].low) / (high[k] - low[k]) < 2


def test_rows_that_resamples_can_have_on_their_frontier() -> None:
    """A long table's resampled frontiers lie within the rows that are kept."""
    x, loss = drawn(3000, 1)
    c = 6 * x.n * x.d
    keep = large.possible(c, loss)
    assert len(keep) < 0.8 * len(c)
    weights = bootstrap.pairs(np.arange(3000), 200, 0)
    on = frontier(c, np.where(weights > 0, loss, np.inf)).any(0)
    assert set(np.flatnonzero(on)) <= set(keep)


def test_runs_are_drawn_whole_and_in_number() -> None:
    run_P = np.repeat(np.arange(50), 3)
    drawn_RP = large.pairs_at(run_P, np.arange(150), 400, 3)
    assert (drawn_RP.reshape(400, 50, 3).sum(1) == 50).all()
    assert (np.ptp(drawn_RP.reshape(400, 50, 3), axis=2) == 0).all()
    assert drawn_RP.mean() == pytest.approx(1.0) and drawn_RP.var() == pytest.approx(0.98, rel=0.05)


def test_a_fit_of_a_long_table_says_what_it_did_not_read() -> None:
    x, loss = drawn(LARGE, 2)
    runs = from_frame(pd.DataFrame({"n": x.n, "d": x.d, "loss": loss}), Reading(), "history", "history")
    content = fit(runs, ["chinchilla_tied", "kaplan_c"], resamples=60)
    assert "--where" in content["approaches"]["isoflop"]["skipped"]
    assert content["approaches"]["envelope"]["points"] and content["straight_line"]["slope"] > 0
    low, high = content["laws"]["chinchilla_tied"]["intervals"]["alpha"]
    assert low < 0.34 < high and high - low < 0.01
    assert len(content["resamples"]["kaplan_c"]["values"]) == 60
