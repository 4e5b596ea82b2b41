"""Learning rates at the steps where a schedule changes its mind."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import optax
import pytest

from scaling.config import ScheduleConfig
from scaling.schedule import fraction_of_peak


def rates(steps: int, **schedule: Any) -> list[float]:
    config = ScheduleConfig(**schedule)
    return [fraction_of_peak(config, step, steps) for step in range(1, steps + 1)]


COSINE_MIDDLE = 0.1 + 0.9 / 2

TABLE: dict[str, tuple[dict[str, Any], int, dict[int, float]]] = {
    "cosine": (
        {"name": "cosine", "warmup": 0.1, "final": 0.1},
        110,
        {1: 1 / 11, 10: 10 / 11, 11: 1.0, 110: 0.1},
    ),
    "cosine, halfway": ({"name": "cosine", "warmup": 0.1, "final": 0.1}, 100, {10: 1.0, 55: COSINE_MIDDLE}),
    "cosine, no warmup": ({"name": "cosine", "warmup": 0.0, "final": 0.0}, 2, {1: 0.5, 2: 0.0}),
    "wsd": (
        {"name": "wsd", "warmup": 0.1, "decay": 0.2, "final": 0.1},
        100,
        {1: 0.1, 9: 0.9, 10: 1.0, 50: 1.0, 80: 1.0, 81: 1 - 0.9 / 20, 90: 0.55, 100: 0.1},
    ),
    "wsd to 0": ({"name": "wsd", "warmup": 0.0, "decay": 0.5, "final": 0.0}, 4, {1: 1, 2: 1, 3: 0.5, 4: 0}),
    "wsd, no decay": ({"name": "wsd", "warmup": 0.25, "decay": 0.0, "final": 0.0}, 4, {1: 1, 2: 1, 4: 1}),
    "wsd, all decay": ({"name": "wsd", "warmup": 0.0, "decay": 1.0, "final": 0.0}, 4, {1: 0.75, 4: 0}),
    "wsd, warmup and decay overlap": (
        {"name": "wsd", "warmup": 0.6, "decay": 0.8, "final": 0.0},
        10,
        {1: 1 / 6, 6: 1.0, 7: 0.75, 10: 0.0},
    ),
    "wsd, decay of no step": ({"name": "wsd", "warmup": 0, "decay": 0.1, "final": 0.0}, 2, {1: 1, 2: 0}),
    "constant": ({"name": "constant", "warmup": 0.2}, 10, {1: 0.5, 2: 1.0, 10: 1.0}),
    "linear": (
        {"name": "wsd", "warmup_steps": 4, "decay": 1.0, "final": 0},
        12,
        {2: 0.5, 4: 1, 8: 0.5, 12: 0},
    ),
    "1 - sqrt": (
        {"name": "wsd", "warmup": 0.0, "decay": 0.4, "final": 0.0, "cooldown": "sqrt"},
        10,
        {6: 1.0, 7: 0.5, 8: 1 - 0.5**0.5, 10: 0.0},
    ),
    "1 - sqrt to a tenth": (
        {"name": "wsd", "warmup": 0.0, "decay": 1.0, "final": 0.1, "cooldown": "sqrt"},
        4,
        {1: 0.1 + 0.9 * 0.5, 4: 0.1},
    ),
    "inverse square root": (
        {"name": "inverse_sqrt", "warmup_steps": 4},
        100,
        {1: 0.25, 4: 1.0, 16: 0.5, 100: 0.2},
    ),
    "inverse square root, no warmup": (
        {"name": "inverse_sqrt", "warmup": 0.0},
        9,
        {1: 1.0, 4: 0.5, 9: 1 / 3},
    ),
    "warmup longer than the run": ({"name": "cosine", "warmup_steps": 8}, 4, {1: 1 / 8, 4: 0.5}),
    "all warmup": ({"name": "cosine", "warmup": 1.0, "final": 0.0}, 4, {1: 0.25, 4: 1.0}),
}


@pytest.mark.parametrize("case", TABLE)
def test_rates_at_the_boundaries(case: str) -> None:
    schedule, steps, expected = TABLE[case]
    found = rates(steps, **schedule)
    assert {step: found[step - 1] for step in expected} == pytest.approx(expected, abs=1e-15)


EVERY = list(
    itertools.product(
        ("cosine", "wsd", "constant"), (0.0, 0.03, 0.1, 0.7, 1.0), (0.0, 0.05, 0.3, 1.0), (0.0, 0.1, 1.0)
    )
)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_every_schedule_rises_to_the_peak_then_falls_to_its_end(steps: int) -> None:
    for name, warmup, decay, final in EVERY:
        found = rates(steps, name=name, warmup=warmup, decay=decay, final=final)
        case = (name, warmup, decay, final, found)
        assert all(0 <= rate <= 1 for rate in found), case
        peak = int(np.argmax(found))
        assert all(np.diff(found[: peak + 1]) >= 0) and all(np.diff(found[peak:]) <= 0), case
        warm = max(1, round(warmup * steps)) if warmup else 0
        falls = name == "cosine" or (name == "wsd" and decay > 0)
        assert found[-1] == pytest.approx(final if falls and warm < steps else 1.0), case
        if warm:
            assert found[warm - 1] == pytest.approx(1.0), case


def test_a_run_of_one_step_takes_it_at_the_peak() -> None:
    for name in ("cosine", "wsd", "constant"):
        assert rates(1, name=name, warmup=0.1, decay=0.3, final=0.0) == [1.0]


def test_warmup_and_cosine_are_those_of_optax() -> None:
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=20, decay_steps=200, end_value=0.1)
    ours = rates(200, name="cosine", warmup=0.1, final=0.1)
    np.testing.assert_allclose(ours, theirs(np.arange(1, 201)), rtol=2e-6)


def test_warmup_stable_decay_is_that_of_optax() -> None:
    pieces = [optax.linear_schedule(0, 1, 20), optax.constant_schedule(1), optax.linear_schedule(1, 0.1, 40)]
    theirs = optax.join_schedules(pieces, [20, 160])
    ours = rates(200, name="wsd", warmup=0.1, decay=0.2, final=0.1)
    np.testing.assert_allclose(ours, theirs(np.arange(1, 201)), rtol=2e-6)


@pytest.mark.parametrize("name", ["constant", "wsd", "inverse_sqrt"])
def test_runs_with_warmup_steps_begin_alike_whatever_their_horizon(name: str) -> None:
    """Until the first of them cools down: a branch leaves its trunk where they part."""
    short = rates(100, name=name, warmup_steps=7, warmup=0.5, decay=0.2)
    long = rates(1000, name=name, warmup_steps=7, warmup=0.3, decay=0.2)
    assert short[:80] == long[:80]
    assert short[6] == 1.0 and short[0] == 1 / 7


def test_the_square_root_cooldown_is_that_of_the_paper() -> None:
    """Haegele et al. 2024, section 3: 1 - sqrt((n - (N - N_decay)) / N_decay)."""
    total, cooldown = 200, 40
    n = np.arange(total - cooldown, total + 1)
    paper = 1 - np.sqrt((n - (total - cooldown)) / cooldown)
    ours = rates(total, name="wsd", warmup=0.1, decay=0.2, final=0.0, cooldown="sqrt")
    np.testing.assert_allclose(ours[total - cooldown - 1 :], paper, atol=1e-15)


def test_the_shape_does_not_depend_on_the_horizon() -> None:
    for name in ("cosine", "wsd"):
        short = rates(100, name=name, warmup=0.1, decay=0.2, final=0.1)
        long = rates(1000, name=name, warmup=0.1, decay=0.2, final=0.1)
        np.testing.assert_allclose(long[9::10], short, rtol=1e-12)
