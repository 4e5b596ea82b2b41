"""Published rules of hyperparameters: printed constants at sizes worked out by hand, and what is refused."""

from __future__ import annotations

import math

import pytest

from scaling.errors import UserError
from scaling.recipes import RULES, Tuned

TUNED = Tuned(lr=2e-3, batch=2**18, tokens=1e10)


@pytest.mark.parametrize(
    ("rule", "n", "d", "lr", "batch"),
    [
        # Logarithms to base 10 by hand: 1.79 x 10^(-.713 x 9 + .307 x 11), and so on.
        ("steplaw", 1e9, 1e11, 1.79 * 10**-3.04, 0.58 * 10**6.281),
        ("olmo-ladder", 108e6 * 8, 1e10, 0.0047 / 2, 160 * 4 * 2048),
        ("kaplan", math.exp(10), 1e10, 0.003239 - 0.001395, 2**19),
    ],
)
def test_printed_rules_at_a_size(rule, n, d, lr, batch):
    found = RULES[rule].at(n, d)
    assert found["lr"] == pytest.approx(lr, rel=1e-9)
    assert found["batch"] == pytest.approx(batch, rel=1e-9)


def test_with_deepseeks_rule_its_own_7b_run_has_about_the_rate_and_batch_it_had():
    # 7B on 2T tokens: 4.2e-4 and 2,304 x 4,096 tokens, with C about 8e22 FLOPs.
    found = RULES["deepseek"].at(7e9, 2e12, c=8e22)
    assert found["lr"] == pytest.approx(4.2e-4, rel=0.03)
    assert found["batch"] == pytest.approx(2304 * 4096, rel=0.1)
    assert found["extrapolation"] == pytest.approx(8e22 / 2e19)


def test_rules_of_ratios_give_the_tuned_run_back_and_move_as_printed():
    for name in ("delphi", "token-horizon", "mup"):
        assert RULES[name].at(1e9, TUNED.tokens, batch=TUNED.batch, tuned=TUNED)["lr"] == TUNED.lr
    longer = RULES["token-horizon"].at(1e9, 10 * TUNED.tokens, tuned=TUNED)
    assert longer["lr"] / TUNED.lr == pytest.approx(10**-0.32)
    # Delphi's batch follows the horizon, so that its rate rises as T^(1/2 - .3).
    rise = [RULES["delphi"].at(1e9, t, tuned=TUNED)["lr"] for t in (1e10, 1e11)]
    assert rise[1] / rise[0] == pytest.approx(10**0.2)


def test_a_rule_of_ratios_without_a_tuned_run_is_refused():
    with pytest.raises(UserError, match="only carries a tuned run"):
        RULES["delphi"].at(1e9, 1e10)
    with pytest.raises(UserError, match="n is -1"):
        RULES["steplaw"].at(-1, 1e10)


def test_inside_its_data_a_rule_extrapolates_by_nothing():
    assert RULES["steplaw"].at(5e8, 2e10)["extrapolation"] == 1.0
    assert RULES["steplaw"].at(1.1e10, 2e10)["extrapolation"] == pytest.approx(10)
    assert RULES["steplaw"].at(5e8, 2e8)["extrapolation"] == pytest.approx(10)


def test_every_rule_says_what_it_holds_fixed_and_where_it_is_from():
    for rule in RULES.values():
        assert rule.fixed and "20" in rule.source and rule.formula
