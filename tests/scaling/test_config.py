"""Run identity and config parsing: names that stay, and junk that is named."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from typing import Any

import pytest

from scaling.config import (
    NUMERICS_VERSION,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Placement,
    RunConfig,
    ScheduleConfig,
    dump_run_config,
    from_dict,
    load_run_config,
    nested,
    override,
    to_dict,
)
from scaling.errors import UserError

CONFIG = RunConfig(
    model=ModelConfig(n_layers=2, d_model=64, n_heads=2, n_kv_heads=2, d_head=32, d_ff=172),
    data=DataConfig(name="text", fingerprint="0123456789abcdef"),
    optimizer=OptimizerConfig(lr=3e-3),
    seq_len=128,
    batch_size=16,
    steps=500,
    numerics_version=1,
)
GOLDEN_ID = "4f5a6563ef9c"


def test_run_id_is_the_one_it_always_was() -> None:
    assert CONFIG.run_id == GOLDEN_ID, (
        "The name of an unchanged run has changed: every finished run would be trained again under a new "
        "one. A new field must have a default that means what was done before. Updating GOLDEN_ID is right "
        "only when old run folders are given up on purpose, and the commit says so."
    )


def test_run_id_is_the_hash_of_the_fields_not_at_their_default() -> None:
    """The rule, spelled out by hand for the golden config."""
    import hashlib

    identity = {
        "batch_size": 16,
        "data": {"fingerprint": "0123456789abcdef", "name": "text"},
        "model": {"d_ff": 172, "d_head": 32, "d_model": 64, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2},
        "numerics_version": 1,
        "optimizer": {"lr": 0.003},
        "seq_len": 128,
        "steps": 500,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == CONFIG.run_id


def test_fields_at_their_default_are_left_out_of_the_name() -> None:
    spelled_out = override(CONFIG, {"model.rope_theta": 10_000.0, "schedule": to_dict(ScheduleConfig())})
    assert spelled_out.run_id == CONFIG.run_id


def every_field(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    out = []
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if dataclasses.is_dataclass(value):
            out += every_field(value, f"{prefix}{spec.name}.")
        else:
            out.append((prefix + spec.name, value))
    return out


CHANGED: dict[str, Any] = {
    "model.n_heads": 4,
    "model.n_kv_heads": 1,
    "model.mlp": "gelu",
    "model.norm": "layer",
    "model.tied": False,
    "model.qk_norm": True,
    "model.document_mask": True,
    "model.windows": [64, 0],
    "model.attention_cap": 50.0,
    "model.logit_cap": 30.0,
    "z_loss": 1e-4,
    "schedule.name": "wsd",
    "data.name": "other",
    "data.fingerprint": "f" * 16,
    "data.tokenizer": "bpe-200-0123456789ab",
    "optimizer.name": "lion",
    "optimizer.independent_decay": True,
    "schedule.cooldown": "sqrt",
    "parametrisation": "mup",
    "base_d_model": 32,
    "base_d_head": 16,
}
NEEDS = {name: {"parametrisation": "completep"} for name in ("base_d_model", "base_d_head", "base_n_layers")}


@pytest.mark.parametrize("path", [path for path, _ in every_field(CONFIG)])
def test_every_field_changes_the_name(path: str) -> None:
    value = dict(every_field(CONFIG))[path]
    other = CHANGED[path] if path in CHANGED else value + 2 if isinstance(value, int) else value / 2
    before = override(CONFIG, NEEDS.get(path, {}))
    assert override(before, {path: other}).run_id != before.run_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parametrisation": "mup", "base_d_model": 48}, "base_d_model is 48; give a divisor or a multiple"),
        ({"parametrisation": "mup", "base_d_head": 20}, "base_d_head is 20; give a divisor or a multiple"),
        ({"parametrisation": "mup", "base_d_model": -1}, "base_d_model is -1"),
        ({"parametrisation": "mup", "base_n_layers": 2}, "parametrisation mup has none"),
        ({"base_d_model": 32}, "parametrisation standard has none"),
        ({"parametrisation": "ntk"}, "parametrisation is 'ntk'"),
        ({"optimizer.name": "sgd"}, "optimizer.name is 'sgd'"),
        ({"schedule.warmup_steps": -1}, "schedule.warmup_steps is -1"),
    ],
    ids=str,
)
def test_a_base_or_a_name_that_cannot_be_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        override(CONFIG, changes)
    assert "\n" not in str(caught.value)


def test_a_base_above_the_model_and_a_depth_that_does_not_divide_are_taken() -> None:
    changes = {"parametrisation": "completep", "base_d_model": 256, "base_d_head": 16, "base_n_layers": 3}
    assert override(CONFIG, changes).base_d_model == 256


def test_the_numerics_version_counts_even_at_its_default() -> None:
    """An old run keeps its old name when the default moves on."""
    now = override(CONFIG, {"numerics_version": NUMERICS_VERSION})
    values = {k: v for k, v in to_dict(CONFIG).items() if k != "numerics_version"}
    assert from_dict(RunConfig, values).run_id == now.run_id
    assert override(now, {"numerics_version": NUMERICS_VERSION + 1}).run_id != now.run_id


def test_placement_shares_no_field_with_the_config() -> None:
    names = {f.name for f in dataclasses.fields(Placement)}
    assert not names & {path.split(".")[-1] for path, _ in every_field(CONFIG)}


def test_a_whole_number_names_the_same_run_as_its_float() -> None:
    integer = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(lr=1))
    assert integer.run_id == load_run_config(dump_run_config(integer)).run_id


def test_round_trip_through_json() -> None:
    model = {"model.tied": False, "model.windows": [64, 0]}
    changed = override(CONFIG, {"optimizer.lr": 1.23456789e-3, "schedule.name": "wsd"} | model)
    assert load_run_config(dump_run_config(changed)) == changed


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("model.width", 3, "model.width"),
        ("learning_rate", 3, "learning_rate"),
        ("optimizer.lr", "fast", "optimizer.lr"),
        ("optimizer.lr", float("nan"), "optimizer.lr"),
        ("optimizer.lr", float("inf"), "optimizer.lr"),
        ("optimizer.lr", -1e-3, "optimizer.lr"),
        ("optimizer.lr", 0, "optimizer.lr"),
        pytest.param("optimizer.lr", 10**400, "optimizer.lr", id="optimizer.lr-beyond a float"),
        ("optimizer.b2", 1.0, "optimizer.b2"),
        ("optimizer.weight_decay", float("nan"), "optimizer.weight_decay"),
        ("steps", True, "steps"),
        ("steps", 1.5, "steps"),
        ("steps", 0, "steps"),
        ("steps", 10**30, "steps"),
        pytest.param("steps", 10**5000, "steps", id="steps-too many digits to print"),
        ("steps", None, "steps"),
        ("model.tied", 1, "model.tied"),
        ("model.n_layers", 0, "model.n_layers"),
        ("model.n_heads", 0, "model.n_heads"),
        ("model.n_kv_heads", 3, "model.n_kv_heads"),
        ("model.d_head", 31, "model.d_head"),
        ("model.d_head", 0, "model.d_head"),
        ("model.vocab_size", 255, "model.vocab_size"),
        ("model.mlp", "relu", "model.mlp"),
        ("model.mlp", ["swiglu"], "model.mlp"),
        ("model.norm", "batch", "model.norm"),
        ("model.qk_norm", 1, "model.qk_norm"),
        ("model.windows", 64, "model.windows"),
        ("model.windows", [64, -1], "model.windows"),
        ("model.windows", [64, "all"], "model.windows[1]"),
        ("model.attention_cap", -1.0, "model.attention_cap"),
        ("model.logit_cap", float("inf"), "model.logit_cap"),
        ("z_loss", -1e-4, "z_loss"),
        ("schedule.warmup", -0.1, "schedule.warmup"),
        ("schedule.decay", 1.1, "schedule.decay"),
        ("model", [1], "model"),
        ("model", None, "model"),
        ("model", 7, "model"),
        ("data.name", 7, "data.name"),
        ("optimizer.lr.peak", 7, "optimizer.lr.peak"),
    ],
)
def test_a_bad_value_is_named_by_its_dotted_path(path: str, value: Any, named: str) -> None:
    with pytest.raises(UserError) as caught:
        override(CONFIG, {path: value})
    message = str(caught.value)
    assert named in message
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mesh", {"fsdp": 0}),
        ("mesh", {"fsdp": "two"}),
        ("mesh", 5),
        ("mesh", "ab"),
        ("slices", {"data": 0}),
        ("loss_chunks", -1),
        ("keep_every", -1),
        ("keep_steps", [10, 0]),
        ("remat", "some"),
        ("microbatches", 0),
        ("threads", -1),
        ("device", "abacus"),
        ("checkpoint_seconds", float("nan")),
        ("data_path", 5),
    ],
)
def test_a_bad_placement_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"placement.{field}"):
        from_dict(Placement, {field: value}, "placement")


def test_a_missing_field_is_named() -> None:
    values = to_dict(CONFIG)
    del values["model"]["d_ff"]
    with pytest.raises(UserError, match=r"model\.d_ff.*missing"):
        from_dict(RunConfig, values)


NO_CONFIG = ["", "{", "[1]", "null", "3", "NaN", '"run"', "{}", "[" * 50_000, "9" * 5_000]


@pytest.mark.parametrize("text", NO_CONFIG, ids=[text[:5] for text in NO_CONFIG])
def test_json_that_is_no_config_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError):
        load_run_config(text, "run.json")


def test_whole_floats_pass_for_integers_and_integers_for_floats() -> None:
    config = override(CONFIG, {"steps": 1e3, "optimizer.lr": 1})
    assert (config.steps, type(config.steps)) == (1000, int)
    assert (config.optimizer.lr, type(config.optimizer.lr)) == (1.0, float)


JUNK: list[Any] = [
    None, True, False, 0, -1, 3, 10**40, -(10**400), 0.0, -1.5, 1e308, math.nan, math.inf, "", "x", "1e-3",
    "\x00", "\ud800", [], [1, [2]], {}, {"a": 1}, {"name": None}, {"": {}}, [{}], {"fsdp": 2},
]  # fmt: skip


def mutate(value: Any, generator: random.Random) -> Any:
    """A copy of nested plain data with one node, at any depth, replaced, removed or added."""
    if isinstance(value, dict) and value and generator.random() < 0.7:
        name = generator.choice(list(value))
        return {**value, name: mutate(value[name], generator)}
    if isinstance(value, dict) and generator.random() < 0.5:
        return {n: v for n, v in value.items() if n != generator.choice([*value, ""])} | {
            generator.choice(["lr", "x", "model", ""]): generator.choice(JUNK)
        }
    return generator.choice(JUNK)


@pytest.mark.parametrize("cls", [RunConfig, Placement])
def test_fuzzed_configs_raise_user_errors_and_nothing_else(cls: type) -> None:
    generator = random.Random(0)
    whole = to_dict(CONFIG) if cls is RunConfig else to_dict(Placement(mesh={"fsdp": 1}, data_path="x"))
    refused = 0
    for _ in range(1000):
        values = whole
        for _ in range(generator.randint(1, 3)):
            values = mutate(values, generator)
        try:
            built = from_dict(cls, values)
        except UserError as error:
            refused += 1
            assert str(error)
        else:
            assert from_dict(cls, json.loads(json.dumps(to_dict(built)))) == built
            if cls is RunConfig:
                assert len(built.run_id) == 12 and built.tokens >= 1
    assert 300 < refused < 1000  # both ends of the test are reached


def test_dotted_paths_become_nested_objects() -> None:
    given = {"mesh.fsdp": 4, "mesh.tensor": 2, "remat": "dots"}
    assert nested(given) == {"mesh": {"fsdp": 4, "tensor": 2}, "remat": "dots"}
    with pytest.raises(UserError, match=r"'mesh\.fsdp'"):
        nested({"mesh": 3, "mesh.fsdp": 4})
