"""Reading a wandb project through the real client, against a server on this machine."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from fake_wandb import FakeWandb

from analysis.wandb_source import load_project
from scaling import tracking
from scaling.accounting import counts
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.errors import UserError
from scaling.runs import RunFolder


def test_one_row_per_run_over_several_pages(server: FakeWandb) -> None:
    for i in range(230):
        server.add(f"run{i}", {"model": {"width": i}, "lr": 0.1}, {"val_loss": 3.0 + i})
    table = load_project("lab/laws")
    assert list(table["run_id"]) == [f"run{i}" for i in range(230)]
    assert list(table["model.width"]) == list(range(230))
    assert table["val_loss"][229] == 232.0
    assert table["run_name"][0] == "name of run0"
    assert sum("query Runs(" in query for query in server.queries) == 3


def test_the_default_entity_is_the_users(server: FakeWandb) -> None:
    server.add("a", {}, {"loss": 1.0})
    assert list(load_project("laws")["run_id"]) == ["a"]


def test_values_that_are_not_scalars_are_left_out_and_the_summary_wins(server: FakeWandb) -> None:
    server.add(
        "a",
        {"tokens": 5, "tags": ["x"], "_wandb": {"v": 1}, "tied": True},
        {"tokens": 7, "_step": 3, "none": None},
    )
    row = load_project("lab/laws").iloc[0].drop(["run_id", "run_name", "group", "status"]).to_dict()
    assert row == {"tokens": 7, "tied": True}


@pytest.mark.parametrize(
    ("state", "logged", "status"),
    [
        ("finished", None, "done"),
        ("crashed", None, "crashed"),
        ("failed", None, "failed"),
        ("running", None, "running"),
        ("finished", "diverged", "diverged"),
        ("failed", "stopped", "stopped"),
        ("running", "stopped", "running"),
        ("finished", "great", "done"),
    ],
)
def test_status(state: str, logged: str | None, status: str, server: FakeWandb) -> None:
    server.add("a", {}, {"status": logged} if logged else {}, state)
    assert list(load_project("lab/laws")["status"]) == [status]


def test_a_loss_that_is_not_a_number_stays_one_in_kind(server: FakeWandb) -> None:
    server.add("a", {}, {"loss": "NaN"})
    server.add("b", {}, {"loss": "Infinity"})
    losses = load_project("lab/laws")["loss"]
    assert math.isnan(losses[0])
    assert losses[1] == math.inf


def test_a_mirrored_run_comes_back_with_the_columns_of_the_runs_table(
    server: FakeWandb, tmp_path: Path
) -> None:
    config = RunConfig(
        model=ModelConfig(n_layers=2, d_model=32, n_heads=2, n_kv_heads=2, d_head=16, d_ff=88),
        data=DataConfig(name="text", fingerprint="f" * 12),
        optimizer=OptimizerConfig(lr=3e-3),
        seq_len=64,
        batch_size=4,
        steps=20,
        seed=3,
    )
    placement = Placement(wandb="online", wandb_project="lab/laws")
    t = tracking.tracker(placement, config, RunFolder(tmp_path / "sweep" / config.run_id))
    t.log({"step": 20, "tokens": 5120, "loss": 2.5})
    t.finish({"status": "done", "loss": 2.25, "loss_se": 0.01, "tokens": 5120, "steps": 20})
    assert t.notes == []
    row = load_project("lab/laws").iloc[0].to_dict()
    expected = counts(config.model, 64).flat(5120) | {"loss": 2.25, "loss_se": 0.01, "lr": 3e-3}
    expected |= {"tokens": 5120, "batch_tokens": 256, "steps": 20, "d_model": 32, "n_layers": 2, "seed": 3}
    assert {name: row[name] for name in expected} == expected
    identity = (config.run_id, "sweep", "done", "text")
    assert (row["run_id"], row["group"], row["status"], row["data"]) == identity
    assert row["config.model.d_ff"] == 88


def test_no_such_project(server: FakeWandb) -> None:
    with pytest.raises(UserError, match=r"lab/other.*ENTITY/PROJECT"):
        load_project("lab/other")


def test_no_runs(server: FakeWandb) -> None:
    with pytest.raises(UserError, match="has no runs"):
        load_project("lab/laws")


def test_unreachable(server: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be read"):
        load_project("lab/laws")


def test_no_key(server: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match="wandb login"):
        load_project("lab/laws")


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="not installed"):
        load_project("lab/laws")
