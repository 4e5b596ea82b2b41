"""Text of the random hierarchy model: its entropy against counts, its windows, its refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.data.hierarchy import Hierarchy, write_hierarchy
from scaling.errors import UserError


@pytest.mark.parametrize(
    ("symbols", "rules", "levels", "zipf"),
    [(4, 2, 2, 0), (3, 3, 1, 0), (5, 1, 3, 0), (2, 2, 2, 0), (4, 4, 1, 1.5), (3, 3, 2, 1)],
)
def test_entropy_is_that_of_the_samples(symbols: int, rules: int, levels: int, zipf: float) -> None:
    source = Hierarchy(symbols, rules, levels, zipf=zipf)
    samples = source.samples(2_000_000, seed=1)
    place = symbols ** np.arange(samples.shape[1])
    counts = np.unique((samples - ord("a")) @ place, return_counts=True)[1]  # a number for each sample
    assert len(counts) == symbols * rules ** (2**levels - 1)  # one parse each: as many as there are choices
    share = counts / counts.sum()
    assert source.entropy * source.sample_tokens == pytest.approx(-(share * np.log(share)).sum(), abs=2e-3)


def test_windows_cut_no_sample(tmp_path: Path) -> None:
    source = Hierarchy(levels=2)
    prepared = write_hierarchy(source, tmp_path / "h", 2e4, val_tokens=6e3)
    tokens = np.asarray(prepared.tokens("train"))
    assert len(tokens) >= 2e4 and len(tokens) % source.sample_tokens == 0
    samples = tokens.reshape(-1, source.sample_tokens)
    assert set(samples[:, 0]) == {0, ord("\n")} and samples[:, 1:].min() >= ord("a")
    assert f"{math.log(16) * 0.2 + math.log(3) * 0.6:.6f} nats" in prepared.source


def test_the_same_seed_gives_the_same_text_and_another_another(tmp_path: Path) -> None:
    def make(name: str, seed: int) -> str:
        return write_hierarchy(Hierarchy(seed=seed), tmp_path / name, 1e4, val_tokens=9e3).fingerprint

    assert make("a", 0) == make("b", 0) != make("c", 1)


@pytest.mark.parametrize(
    "given", [{"symbols": 1}, {"rules": 17}, {"rules": 0}, {"levels": 0}, {"levels": 11}, {"zipf": -1}]
)
def test_what_cannot_be_grown_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(given))} is"):
        Hierarchy(**given)
