"""The width of Huber's function follows the scatter of our runs, and of nobody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_study as study

from analysis.fit import fit
from analysis.newton import Objective
from analysis.scatter import objective_of
from analysis.table import load


@pytest.mark.parametrize("noise", [0.004, 0.02])
def test_delta_is_that_of_95_percent_efficiency(noise: float, tmp_path: Path) -> None:
    deltas = []
    for seed in range(3):
        root = study.write_study(tmp_path / str(seed), noise=noise, target=False, seed=seed)
        deltas.append(objective_of(load(str(root))).delta)
    assert sum(deltas) / 3 == pytest.approx(1.345 * noise, rel=0.35)


def test_exact_losses_and_tables_of_others_keep_the_usual_delta(tmp_path: Path) -> None:
    runs = load(str(study.write_study(tmp_path / "a", noise=0.0, target=False)))
    assert objective_of(runs) == Objective()
    noisy = load(str(study.write_study(tmp_path / "b", noise=0.02, target=False)))
    assert objective_of(replace(noisy, own=False)) == Objective()


def test_an_objective_that_is_named_is_used(tmp_path: Path) -> None:
    runs = load(str(study.write_study(tmp_path, noise=0.02, target=False)))
    assert fit(runs, ["chinchilla"], Objective(), resamples=20)["objective"]["delta"] == 1e-3
    assert fit(runs, ["chinchilla"], resamples=20)["objective"]["delta"] > 0.01
