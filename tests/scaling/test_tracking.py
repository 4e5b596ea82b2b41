"""The wandb mirror, through the real wandb: offline files read back by its own tool, a server that is not
there, one that dies under way, and one that answers."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_wandb import FakeWandb

from scaling import tracking, wandb_session
from scaling.accounting import counts, run_flops
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig, to_dict
from scaling.runs import RunFolder

CONFIG = RunConfig(
    model=ModelConfig(n_layers=2, d_model=32, n_heads=2, n_kv_heads=2, d_head=16, d_ff=88),
    data=DataConfig(name="text", fingerprint="f" * 12),
    optimizer=OptimizerConfig(lr=3e-3),
    seq_len=64,
    batch_size=4,
    steps=200,
    seed=3,
)
SUMMARY = {
    "status": "done",
    "loss": 1.25,
    "loss_se": 0.01,
    "steps": 200,
    "counts": {"n_total": 1},
    "notes": ["x"],
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "sweep" / CONFIG.run_id)


@pytest.fixture(autouse=True)
def wandb_environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A closed port, a made-up key, some patience; every test starts a wandb session of its own."""
    wandb_session.abandon()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(tracking, "INIT_SECONDS", 2.0)
    monkeypatch.setattr(tracking, "_unreachable_until", 0.0)
    yield
    wandb_session.abandon()


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {"step": s, "tokens": 256 * s, "loss": 5 - s / 100, "lr": 1e-3, "seconds": s / 50}
        for s in range(first, last + 1)
    ]


def records(folder: RunFolder) -> list[dict[str, Any]]:
    """Every record of every offline run of a folder, as wandb's own reader prints them, oldest run first."""
    found = []
    for path in sorted((folder.path / "wandb").glob("offline-run-*")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += [json.loads(line) for line in out.splitlines()]
    return found


def test_off_never_imports_wandb() -> None:
    code = (
        "import sys; from scaling import tracking; from scaling.config import Placement;"
        "t = tracking.tracker(Placement(), None, None); t.log({'step': 1}); t.finish({'status': 'done'});"
        "sys.exit('wandb' in sys.modules or bool(t.notes))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mirror_config_has_the_columns_of_the_runs_table() -> None:
    flat = tracking.mirror_config(CONFIG)
    assert flat["tokens"] == 200 * 4 * 64
    assert flat["batch_tokens"] == 256
    assert flat["c_matmul"] == run_flops(CONFIG)
    assert flat["n_total"] == counts(CONFIG.model, 64).n["total"]
    assert (flat["lr"], flat["seed"], flat["data"], flat["d_model"]) == (3e-3, 3, "text", 32)
    assert flat["config"] == to_dict(CONFIG)


def history(folder: RunFolder) -> list[dict[str, Any]]:
    return [r["history"]["item"] for r in records(folder) if r["type"] == "history"]


def test_offline_run_read_back_with_wandbs_own_tool(folder: RunFolder) -> None:
    t = tracking.tracker(Placement(wandb="offline"), CONFIG, folder)
    for row in rows(1, 200):
        t.log(row)
    t.finish(SUMMARY)
    assert t.notes == []
    found = records(folder)
    run = next(r["run"] for r in found if r["type"] == "run")
    assert (run["run_id"], run["run_group"], run["project"]) == (CONFIG.run_id, "sweep", "scaling")
    assert run["tags"] == ["sweep", "text", "standard"]
    assert run["config"]["update"]["config"] == to_dict(CONFIG)
    assert run["config"]["update"]["n_total"] == counts(CONFIG.model, 64).n["total"]
    logged = {
        r["history"]["item"]["step"]: r["history"]["item"]["train_loss"]
        for r in found
        if r["type"] == "history"
    }
    assert logged[200] == pytest.approx(3.0)
    assert 100 <= len(logged) <= 102
    assert all(loss == pytest.approx(5 - step / 100) for step, loss in logged.items())
    summary: dict[str, Any] = {}
    for record in found:
        summary |= record.get("summary", {}).get("update", {})
    assert (summary["status"], summary["loss"], summary["steps"]) == ("done", 1.25, 200)


def test_a_cut_off_run_has_no_loss_in_its_summary(folder: RunFolder) -> None:
    t = tracking.tracker(Placement(wandb="offline"), CONFIG, folder)
    for row in rows(1, 50):
        t.log(row)
    t.finish()
    summaries = [r["summary"]["update"] for r in records(folder) if r["type"] == "summary"]
    assert any(s.get("status") == "stopped" for s in summaries)
    assert not any("loss" in s or "train_loss" in s for s in summaries)


def test_a_resume_logs_no_step_twice(folder: RunFolder) -> None:
    first = tracking.tracker(Placement(wandb="offline"), CONFIG, folder)
    for row in rows(1, 120):
        first.log(row)
    first.finish()
    again = tracking.tracker(Placement(wandb="offline"), CONFIG, folder)
    for row in rows(100, 200):
        again.log(row)
    again.finish(SUMMARY)
    steps = [item["step"] for item in history(folder)]
    assert len(steps) == len(set(steps))
    assert steps[-1] == 200
    assert len([s for s in steps if s > 120]) >= 40


def test_ten_thousand_rows_at_once_become_a_hundred(folder: RunFolder) -> None:
    config = dataclasses.replace(CONFIG, steps=10_000)
    t = tracking.tracker(Placement(wandb="offline"), config, folder)
    start = time.monotonic()
    for row in rows(1, 10_000):
        t.log(row)
    t.finish(SUMMARY)
    thinned = 100 + 2 + int((time.monotonic() - start) / tracking.ROW_SECONDS)
    assert 100 <= len(history(folder)) <= thinned


def test_a_server_that_is_not_there_costs_seconds_and_a_note(
    folder: RunFolder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 2.0)
    start = time.monotonic()
    t = tracking.tracker(Placement(wandb="online"), CONFIG, folder)
    for row in rows(1, 200):
        t.log(row)
    t.finish(SUMMARY)
    assert time.monotonic() - start < 60
    assert len(t.notes) == 1
    assert "cannot be reached" in t.notes[0]
    assert capfd.readouterr() == ("", "")  # wandb itself says nothing
    assert history(folder)[-1]["step"] == 200  # kept offline, for `wandb sync`


def test_the_next_run_of_the_process_does_not_wait_for_it_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.tracker(Placement(wandb="online"), CONFIG, folder).finish()
    monkeypatch.setattr(tracking, "INIT_SECONDS", 600.0)
    t = tracking.tracker(Placement(wandb="online"), CONFIG, folder)
    t.finish(SUMMARY)
    assert len(t.notes) == 1


def test_no_key_is_a_note_and_no_prompt(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    t = tracking.tracker(Placement(wandb="online"), CONFIG, folder)
    t.finish(SUMMARY)
    assert len(t.notes) == 1
    assert "wandb login" in t.notes[0]


def test_wandb_not_installed_is_a_note(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.setitem(sys.modules, "wandb", None)
        t = tracking.tracker(Placement(wandb="online"), CONFIG, folder)
        t.log(rows(1, 1)[0])
        t.finish(SUMMARY)
    assert len(t.notes) == 1
    assert "did not start" in t.notes[0]


def test_online_run_arrives_whole(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        t = tracking.tracker(Placement(wandb="online", wandb_project="lab/laws"), CONFIG, folder)
        for row in rows(1, 200):
            t.log(row)
        t.finish(SUMMARY)
    run = server.runs[CONFIG.run_id]
    assert t.notes == []
    assert (run["state"], run["group"]) == ("finished", "sweep")
    assert run["config"]["config"] == to_dict(CONFIG)
    assert (run["summary"]["loss"], run["summary"]["status"]) == (1.25, "done")
    assert run["history"][-1]["step"] == 200


def test_an_online_resume_adds_no_step_twice_and_is_the_same_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for first, last, summary in ((1, 120, None), (100, 200, SUMMARY)):
            t = tracking.tracker(Placement(wandb="online", wandb_project="lab/laws"), CONFIG, folder)
            for row in rows(first, last):
                t.log(row)
            t.finish(summary)
            assert t.notes == []
    run = server.runs[CONFIG.run_id]
    steps = [row["step"] for row in run["history"]]
    assert list(server.runs) == [CONFIG.run_id] and steps == sorted(set(steps))
    assert (steps[-1], len(steps) >= 100, run["state"]) == (200, True, "finished")
    assert sorted(run["tags"]) == ["standard", "sweep", "text"]
    # wandb's own count of rows goes on too, so that no later row takes the place of an earlier one.
    assert [row["_step"] for row in run["history"]] == list(range(len(steps)))


@pytest.mark.parametrize(
    "death", ["the server answers no more", "the service is killed", "the service hangs"]
)
def test_wandb_dying_under_way_is_a_note(
    death: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        t = tracking.tracker(Placement(wandb="online", wandb_project="lab/laws"), CONFIG, folder)
        t.log(rows(1, 1)[0])
        (service,) = [child for child in psutil.Process().children() if "wandb" in child.name()]
        if "server" in death:
            server.down = True
        else:
            service.send_signal(signal.SIGKILL if "killed" in death else signal.SIGSTOP)
        monkeypatch.setattr(tracking, "FINISH_SECONDS", 2.0)
        start = time.monotonic()
        for row in rows(2, 200):
            t.log(row)
        t.finish(SUMMARY)
        assert time.monotonic() - start < 30
    assert len(t.notes) == 1
    assert "gave up" in t.notes[0]
    assert not service.is_running()  # nor does anything wait for it at exit
