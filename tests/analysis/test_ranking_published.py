"""Laws ranked on published sets: read from a folder, never part of the project."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from analysis.laws import LAWS
from analysis.published import registry
from analysis.ranking_published import published_ranking_text, rank_published
from analysis.show import console


@pytest.fixture
def folder() -> Path:
    named = os.environ.get("SCALING_PUBLISHED_DATA")
    if not named:
        pytest.skip("SCALING_PUBLISHED_DATA is unset: published data are not part of the project")
    return Path(named)


def test_two_laws_on_three_sets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = {name: LAWS[name] for name in ("chinchilla", "chinchilla_tied")}
    monkeypatch.setattr("analysis.ranking.LAWS", two)
    sets = {name: item for name, item in registry().items() if name == "gadre_overtraining"}
    content = rank_published(sets, folder, resamples=30)
    assert [each["title"] for each in content["sets"]] == [
        "Gadre, C4",
        "Gadre, RedPajama",
        "Gadre, RefinedWeb",
    ]
    overall = content["overall"]["all"]
    scores = {
        law: [each["laws"][law]["all"]["log_score"] for each in content["sets"]] for law in two
    }  # fmt: skip
    first, second = sorted(two, key=lambda law: -np.mean(scores[law]))
    apart = np.array(scores[first]) - np.array(scores[second])
    assert (overall["margin"]["first"], overall["margin"]["second"]) == (first, second)
    assert overall["margin"]["log_score"] == pytest.approx(apart.mean())
    assert overall["margin"]["error"] == pytest.approx(apart.std(ddof=1) / np.sqrt(3))
    text = json.dumps(content, allow_nan=False)
    assert "forecasts" not in text and '"run"' not in text  # figures only, no row of the sets
    with console().capture() as _:
        console().print(published_ranking_text(content))


@pytest.mark.slow
def test_every_law_on_every_set(folder: Path) -> None:
    content = rank_published(registry(), folder, resamples=100)
    assert len(content["sets"]) >= 6 and not content["missing"]
    assert content["overall"]["all"]["margin"]["first"] in ("chinchilla_tied", "chinchilla")
    for law in content["overall"]["all"]["laws"][:2]:
        assert law["coverage_90"] > 0.8
