"""The table of parametrisations against the papers' formulas, and what a model and a step make of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CPU, tiny

from scaling.config import ModelConfig, RunConfig, override
from scaling.errors import UserError
from scaling.model.decoder import abstract
from scaling.model.params import is_param, param, role_of
from scaling.optimizer import decayed, hyper, transform
from scaling.parametrisation import STANDARD, TABLE, Parametrisation, of_run, with_base
from scaling.sharding import make_shardings
from scaling.step import compiled_train_step, forward_of, init_state

BASE = ModelConfig(n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, d_head=8, d_ff=24, qk_norm=True)
WIDE = dataclasses.replace(BASE, d_model=64, n_heads=4, d_head=16, d_ff=96, n_layers=2)
M_N, M_L = 4.0, 2.0


def run(name: str, model: ModelConfig = WIDE, **changes: Any) -> RunConfig:
    config = dataclasses.replace(tiny(**changes), model=model)
    return with_base(config, name, BASE)  # type: ignore[arg-type]


def ones(rules: Parametrisation) -> Any:
    _, shapes = abstract(WIDE, rules)
    return jax.tree.map(lambda leaf: leaf.replace(jnp.ones(leaf.get_value().shape)), shapes, is_leaf=is_param)


# Yang et al. 2022, table 8, and Dey et al. 2025, table 1, as they have them: initial variance s^2 or
# s^2 / m_N with s^2 that of the base (0: none), rate, epsilon, lambda of coupled decay.
PAPER: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "mup": {
        "embedding": (1 / BASE.d_model, 1, 1 / M_N, 1),
        "hidden": (1 / BASE.d_model / M_N, 1 / M_N, 1 / M_N, M_N),
        "unembedding": (1 / BASE.d_model, 1, 1 / M_N, 1),
        "block_gain": (0, 1, 1 / M_N, 0),
        "final_gain": (0, 1, 1 / M_N, 0),
    },
    "completep": {
        "embedding": (1 / BASE.d_model, 1, 1 / M_N, 1),
        "hidden": (1 / BASE.d_model / M_N, 1 / M_N, 1 / (M_N * M_L), M_N),
        "unembedding": (1 / BASE.d_model, 1, 1 / M_N, 1),
        "block_gain": (0, 1, 1 / (M_N * M_L), 0),
        "final_gain": (0, 1, 1 / M_N, 0),
    },
}


@pytest.mark.parametrize("name", PAPER)
def test_the_table_is_that_of_the_papers(name: str) -> None:
    rules = of_run(run(name))
    for role, (variance, rate, eps, decay) in PAPER[name].items():
        rule = rules.rule(role)
        if variance:
            assert rule.variance / WIDE.d_model == pytest.approx(variance), role
        assert (rule.rate, rule.eps, rule.weight_decay) == pytest.approx((rate, eps, decay)), role
    forward = {role: rules.rule(role).forward for role in ("unembedding", "attention_logits", "residual")}
    # sqrt(d_head,base) / d_head over 1 / sqrt(d_head)
    logits = math.sqrt(BASE.d_head) / WIDE.d_head * math.sqrt(WIDE.d_head)
    residual = 1 / M_L if name == "completep" else 1
    assert forward == pytest.approx(
        {"unembedding": 1 / M_N, "attention_logits": logits, "residual": residual}
    )
    # alpha_in is one number at every width: sqrt(d) of the base.
    assert math.sqrt(WIDE.d_model) * rules.rule("embedding").forward == pytest.approx(math.sqrt(BASE.d_model))


def test_muon_takes_no_rate_from_the_table_and_the_others_do() -> None:
    names = ("lion", "adafactor", "muon")
    rates = {name: of_run(run("mup", optimizer__name=name)).rule("hidden").rate for name in names}
    assert rates == {"lion": 1 / M_N, "adafactor": 1 / M_N, "muon": 1.0}


def test_rate_times_decay_is_one_number_for_all_that_decay() -> None:
    for name in TABLE:
        rules = of_run(run(name))
        assert {rules.rule(r).rate * rules.rule(r).weight_decay for r in TABLE[name]} <= {0.0, 1.0}


@pytest.mark.parametrize("name", TABLE)
def test_every_parametrisation_is_the_standard_one_at_its_base(name: str) -> None:
    rules = of_run(run(name, BASE))
    for role in TABLE[name]:
        assert rules.rule(role) == STANDARD.rule(role), role
    assert set(TABLE[name]) == set(TABLE["standard"])


def test_a_role_without_a_rule_is_one_sentence() -> None:
    with pytest.raises(UserError, match="role 'router' has no rule in parametrisation mup") as caught:
        Parametrisation(name="mup").rule("router")
    assert "\n" not in str(caught.value)
    lone = {"w": param((4, 4), ("embed", "mlp"), 1.0, "router")}
    with pytest.raises(UserError, match="role 'router'"):
        transform(hyper(tiny().optimizer, 0.1)).init(lone)


MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tied": False},
    "plain MLP, layer norm, grouped": {"mlp": "gelu", "norm": "layer", "n_kv_heads": 2},
}


@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS)
def test_initial_spread_of_every_parameter_is_its_roles(change: dict[str, Any]) -> None:
    model = dataclasses.replace(WIDE, **change)
    params = init_state(run("mup", model), make_shardings(CPU)).params
    of_hidden = {"w_o_HND": model.n_heads * model.d_head, "w_down_FD": model.d_ff}
    seen = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_param):
        role, value, name = role_of(leaf), np.asarray(leaf.get_value()), str(path[-1].key)
        seen.add(role)
        if role.endswith(("gain", "bias")):
            assert np.ptp(value) == 0
            continue
        wanted = 1 / of_hidden.get(name, model.d_model) if role == "hidden" else 1 / BASE.d_model
        # The variance of n normal draws is within 4 sqrt(2 / n) of its own.
        assert np.var(value) / wanted == pytest.approx(1, abs=4 * math.sqrt(2 / value.size)), name
    assert {"embedding", "hidden", "block_gain", "final_gain"} <= seen
    assert ("unembedding" in seen) == (not model.tied) and ("block_bias" in seen) == (model.norm == "layer")


def test_forward_factors_are_those_of_the_table() -> None:
    """Losses of a completep model are those of a standard one whose weights carry the factors."""
    config = run("completep", dataclasses.replace(WIDE, tied=False, qk_norm=False))
    rules = of_run(config)
    params = init_state(config, make_shardings(CPU)).params
    tokens = np.arange(2 * 33).reshape(2, 33).astype(np.uint8)
    ours = jax.jit(forward_of(config, CPU, "cpu").losses)(params, tokens)

    none = {"base_d_model": 0, "base_d_head": 0, "base_n_layers": 0}
    plain = jax.jit(forward_of(override(config, {"parametrisation": "standard"} | none), CPU, "cpu").losses)
    factors = {
        "embed_VD": rules.rule("embedding").forward,
        "head_DV": rules.rule("unembedding").forward,
        "w_q_DHN": rules.rule("attention_logits").forward,
        "w_o_HND": rules.rule("residual").forward,
        "w_down_FD": rules.rule("residual").forward,
    }

    def carried(path: Any, leaf: Any) -> Any:
        return leaf.replace(leaf.get_value() * factors.get(str(path[-1].key), 1.0))

    theirs = plain(jax.tree_util.tree_map_with_path(carried, params, is_leaf=is_param), tokens)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert abs(float(plain(params, tokens).mean() - ours.mean())) > 0.01


def test_one_step_moves_each_role_by_its_rate_and_decays_all_alike() -> None:
    """AdamW's first step is -rate sign(g) where epsilon is small, and decay -lr lambda w."""
    config = run("mup", optimizer__eps=1e-20, optimizer__weight_decay=0.5)
    rules = of_run(config)
    one, optimizer = ones(rules), transform(hyper(config.optimizer, 0.1), rules)
    updates = jax.jit(lambda: optimizer.update(one, optimizer.init(one), one)[0])()
    for leaf in jax.tree.leaves(updates, is_leaf=is_param):
        rule = rules.rule(role_of(leaf))
        wanted = -0.1 * (rule.rate + (0.5 if rule.decays else 0.0))
        np.testing.assert_allclose(leaf.get_value(), wanted, rtol=1e-5)


def test_epsilon_of_a_role_is_its_own() -> None:
    config = run("completep", optimizer__eps=1.0, optimizer__clip=0, optimizer__weight_decay=0)
    rules = of_run(config)
    one, optimizer = ones(rules), transform(hyper(config.optimizer, 1.0), rules)
    updates = jax.jit(lambda: optimizer.update(one, optimizer.init(one), one)[0])()
    for leaf in jax.tree.leaves(updates, is_leaf=is_param):
        rule = rules.rule(role_of(leaf))
        np.testing.assert_allclose(leaf.get_value(), -rule.rate / (1 + rule.eps), rtol=1e-5)


def test_independent_decay_does_not_know_the_rate() -> None:
    """lambda times the schedule's fraction, whatever the peak (Wortsman et al. 2023, section 3.2.2)."""
    for lr in (1e-3, 1e-1):
        changes = {"lr": lr, "independent_decay": True, "weight_decay": 1e-3}
        config = dataclasses.replace(tiny().optimizer, **changes)
        h = hyper(config, lr / 4)  # a quarter of the peak
        assert h["lr"] * h["weight_decay"] == pytest.approx(1e-3 / 4)


def test_rates_of_one_parametrisation_share_one_compiled_step() -> None:
    shardings = make_shardings(CPU)
    two = [run("mup", BASE, optimizer__lr=lr, seed=seed) for lr, seed in ((1e-2, 0), (3e-3, 1))]
    steps = [compiled_train_step(forward_of(c, CPU, "cpu"), c.model, shardings) for c in two]
    assert steps[0] is steps[1]
    wide = run("mup", WIDE)
    assert forward_of(wide, CPU, "cpu") != forward_of(dataclasses.replace(wide, base_d_model=32), CPU, "cpu")


def test_what_decays_does_not_depend_on_the_parametrisation() -> None:
    _, shapes = abstract(WIDE)
    for name in TABLE:
        mask = decayed(shapes, Parametrisation(name=name))
        assert jax.tree.leaves(mask) == jax.tree.leaves(decayed(shapes))
