"""beta2 and epsilon at another batch."""

from __future__ import annotations

import math

import pytest

from scaling.batch_rule import at_batch
from scaling.config import OptimizerConfig
from scaling.errors import UserError

TUNED = OptimizerConfig(lr=1e-3, b2=0.95, eps=1e-8)


def half_life(b2: float, batch: float) -> float:
    return batch * math.log(0.5) / math.log(b2)


@pytest.mark.parametrize("batch", [1, 32, 512, 4096])
def test_the_half_life_in_tokens_stays(batch: float) -> None:
    found = at_batch(TUNED, batch, 512)
    assert half_life(found.b2, batch) == pytest.approx(half_life(TUNED.b2, 512))
    assert found.eps * math.sqrt(batch) == pytest.approx(TUNED.eps * math.sqrt(512))
    assert (found.lr, found.b1, found.weight_decay) == (TUNED.lr, TUNED.b1, TUNED.weight_decay)


def test_a_batch_of_one_sequence_remembers_five_hundred_steps_for_one_of_512() -> None:
    """To first order 1 - beta2 is proportional to the batch: .05 / 512 is 1e-4."""
    assert at_batch(TUNED, 1, 512).b2 == pytest.approx(0.9999, abs=2e-5)


def test_at_its_own_batch_nothing_changes() -> None:
    assert at_batch(TUNED, 64, 64) == TUNED


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (-2, 1), (math.inf, 1), (math.nan, 1)])
def test_a_batch_that_is_none_is_one_sentence(pair: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="batch is"):
        at_batch(TUNED, *pair)
