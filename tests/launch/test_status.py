"""`scaling status`: rate, cost and time; and its index, which saves reading and is never the truth."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.claims import Claimed
from launch.index import FILE
from launch.status import Reader, SweepStatus
from launch.status_view import choose, headline, table
from scaling.accounting import counts, run_flops
from scaling.cli.main import app
from scaling.config import (
    NUMERICS_VERSION,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Placement,
    RunConfig,
    dump_run_config,
)
from scaling.errors import UserError
from scaling.files import write_json
from scaling.runs import RunFolder
from sweeps.sweep import Sweep

OLD = 1_600_000_000  # a time long past, for folders whose last change has settled


def config(seed: int, d_model: int = 16) -> RunConfig:
    return RunConfig(
        model=ModelConfig(n_layers=1, d_model=d_model, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=DataConfig(name="none", fingerprint="0"),
        optimizer=OptimizerConfig(lr=1e-2),
        seq_len=32,
        batch_size=4,
        steps=100,
        seed=seed,
    )


RUNS = tuple(config(seed, 16 if seed < 3 else 32) for seed in range(6))
DONE, FAILED, LIVE, SLOW, PENDING, LATE = RUNS
CELLS = [{"label": f"d{run.model.d_model}-s{run.seed}", "budget": 1e6} for run in RUNS]
SWEEP = Sweep("six", "?", {"cells": CELLS}, RUNS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One done, one failed, two that log rows, two that nobody started; all of it long ago."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "six"
    SWEEP.write(folder / "sweep.json")
    finish(folder, DONE, loss=2.5, seconds=10.0, cpu_seconds=9.0)
    start(folder, FAILED, [])
    RunFolder(folder / FAILED.run_id).fail("OSError: disk full")
    start(folder, LIVE, [(step, 2.0 * step) for step in range(1, 51)])
    start(folder, SLOW, [(step, 4.0 * step) for step in range(1, 26)])
    settle(folder)
    return folder


def start(folder: Path, run: RunConfig, logged: list[tuple[int, float]]) -> RunFolder:
    """A run folder with rows of (step, seconds)."""
    place = RunFolder(folder / run.run_id)
    place.create(run, Placement())
    write_json(place.path / "placement.json", {"devices": 1, "device_kind": "cpu"})
    if logged:
        place.write_metrics(
            [{"step": s, "tokens": 128 * s, "loss": 5 - s / 100, "seconds": t} for s, t in logged]
        )
    return place


def finish(folder: Path, run: RunConfig, **summary: Any) -> None:
    start(folder, run, []).finish("done", {"tokens": run.tokens, "steps": run.steps, **summary})


def settle(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            os.utime(path, (OLD, OLD))


def look(**options: Any) -> SweepStatus:
    return Reader("six", **options).read()


def states(found: SweepStatus) -> list[str]:
    return [run.status for run in found.runs]


def test_rate_cost_and_time_left(folder: Path) -> None:
    with RunFolder(folder / LIVE.run_id).claim(), RunFolder(folder / SLOW.run_id).claim():
        found = look()
    assert states(found) == ["done", "failed", "running", "running", "pending", "pending"]
    sums = found.sums()
    per_token = {d: run_flops(config(0, d)) / RUNS[0].tokens for d in (16, 32)}
    assert sums.tokens_per_second == pytest.approx(128 / 2 + 128 / 4)
    speed = 64 * per_token[16] + 32 * per_token[32]
    assert sums.flops_per_second == pytest.approx(speed)
    # The run that ended took 9 CPU seconds by 10 of the clock; so do those that run.
    assert sums.device_hours == {"cpu": pytest.approx((9 + 90 + 90) / 3600)}
    assert sums.dollars is None
    left = run_flops(LIVE) / 2 + run_flops(SLOW) * 3 / 4 + run_flops(PENDING) + run_flops(LATE)
    assert sums.seconds_left == pytest.approx(max(left / speed, 75 * 4.0))
    (live,) = (run for run in found.runs if run.run_id == LIVE.run_id)
    assert live.seconds_left == pytest.approx(50 * 2.0) and live.loss == 4.5


def test_a_run_that_is_quiet_has_no_rate(folder: Path) -> None:
    os.utime(folder / LIVE.run_id / "metrics.jsonl", (OLD, OLD))
    with RunFolder(folder / LIVE.run_id).claim():
        found = look()
    assert found.runs[2].status == "running" and found.sums().tokens_per_second == 0
    assert "quiet for" in table(found.runs)[1][0]


def test_nothing_runs_and_so_nothing_has_a_time(folder: Path) -> None:
    found = look()
    assert states(found)[2] == "stopped"
    assert found.sums().seconds_left is None and found.sums().flops_per_second == 0


def test_a_branch_costs_what_it_trained_itself(folder: Path) -> None:
    finish(folder, PENDING, loss=2.0, seconds=40.0, cpu_seconds=40.0, steps_trained=25)
    # The others as before, at 49 CPU seconds by 50 of the clock.
    assert look().sums().device_hours["cpu"] * 3600 == pytest.approx(9 + 200 * 49 / 50 + 40.0 / 4)


def test_dollars_are_of_the_profile_that_a_run_was_submitted_by(folder: Path) -> None:
    Claimed(folder, "slurm", {"dollars_per_chip_hour": 3.0}, "p.toml", [DONE.run_id]).failed()
    assert look().sums().dollars == pytest.approx(3.0 * 10 / 3600)


def test_an_ended_run_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = look()
    read: list[str] = []
    plain = RunFolder.summary
    monkeypatch.setattr(RunFolder, "summary", lambda self: read.append(self.run_id) or plain(self))
    monkeypatch.setattr("launch.status.read_sweep", lambda path: pytest.fail("the sweep was read again"))
    assert look().runs == first.runs
    assert DONE.run_id not in read and FAILED.run_id in read


def test_the_index_follows_what_changes(folder: Path) -> None:
    assert states(look())[0] == "done" and (folder / FILE).exists()
    (folder / DONE.run_id / "DONE").unlink()
    assert states(look())[0] != "done"
    (folder / DONE.run_id / "DONE").write_text("done\n")
    settle(folder)
    assert states(look())[0] == "done"
    for path in sorted((folder / DONE.run_id).rglob("*")):
        path.unlink()
    (folder / DONE.run_id).rmdir()
    assert states(look())[0] == "pending"
    smaller = Sweep("six", "?", {}, RUNS[1:3])
    smaller.write(folder / "sweep.json")
    assert [run.run_id for run in look().runs] == [FAILED.run_id, LIVE.run_id]


@pytest.mark.parametrize("damage", ["", "{", '{"layout": 1}', "[]", '{"layout": 0, "numerics": 1}'])
def test_a_damaged_index_is_made_anew(damage: str, folder: Path) -> None:
    found = look()
    (folder / FILE).write_text(damage)
    assert look().runs == found.runs
    assert json.loads((folder / FILE).read_text())["planned"]


def test_a_folder_that_has_just_changed_is_read_again(folder: Path) -> None:
    os.utime(folder / DONE.run_id)
    look()
    assert DONE.run_id not in json.loads((folder / FILE).read_text())["ended"]


def test_a_run_of_older_numerics_is_stale(folder: Path) -> None:
    older = replace(DONE, numerics_version=NUMERICS_VERSION - 1)
    (folder / DONE.run_id / "config.json").write_text(dump_run_config(older))
    finish(folder, replace(older, seed=77), loss=1.0)
    found = look()
    assert found.runs[0].status == "stale" and found.totals()["stale"] == 1
    assert (found.others, found.stale) == (1, 1)
    assert "stale: of an older numerics_version" in "\n".join(headline(found))


def test_rows_that_are_no_rows(folder: Path) -> None:
    path = folder / LIVE.run_id / "metrics.jsonl"
    with path.open("a") as file:
        file.write(
            'not json\n[1]\n{"step": 51, "tokens": 6528, "loss": NaN, "seconds": 102.0}\n{"step": 52, "to'
        )
    with RunFolder(folder / LIVE.run_id).claim():
        live = look().runs[2]
    assert (live.tokens, live.loss) == (51 * 128, None)
    json.dumps(look().to_json(), allow_nan=False)


def test_filters(folder: Path) -> None:
    found = look()
    assert states(choose(found, "failed,waiting")) == ["failed", "pending", "pending"]
    assert [run.label for run in choose(found, None, "d32*").runs] == ["d32-s3", "d32-s4", "d32-s5"]
    assert [run.run_id for run in choose(found, "done", f"{DONE.run_id[:5]}*").runs] == [DONE.run_id]
    with pytest.raises(UserError, match="--only is 'broken'"):
        choose(found, "broken")


def test_the_table_has_what_moves_first_and_no_more_than_fits(folder: Path) -> None:
    with RunFolder(folder / LIVE.run_id).claim():
        lines = [text for text, _ in table(look().runs, room=3)]
    assert lines[1].split()[0] == LIVE.run_id and lines[2].split()[0] == FAILED.run_id
    assert lines[-1] == "… and 3 more; --all shows them"
    assert f"failed: {FAILED.run_id}: OSError: disk full" in lines
    assert max(map(len, lines)) <= 100


def test_json_is_one_object_and_totals_are_of_the_whole_sweep(folder: Path) -> None:
    done = CliRunner().invoke(app, ["status", "six", "--only", "done", "--json"], catch_exceptions=False)
    said = json.loads(done.stdout)
    assert [run["run_id"] for run in said["runs"]] == [DONE.run_id] and said["totals"]["pending"] == 2
    assert said["runs"][0]["n_total"] == counts(DONE.model, 32).n["total"]
    assert said["runs"][0]["budget"] == 1e6


def test_watching_and_one_object_of_json_are_not_asked_for_together(folder: Path) -> None:
    Sweep("six", "?", {}, RUNS[:2]).write(folder / "sweep.json")
    done = CliRunner().invoke(app, ["status", "six", "--watch", "--json"])
    assert isinstance(done.exception, UserError) and "give one of them" in str(done.exception)
    assert done.stdout == ""


def test_watching_in_a_pipe_is_a_line_for_each_change_and_ends(folder: Path) -> None:
    Sweep("six", "?", {}, RUNS[:2]).write(folder / "sweep.json")
    done = CliRunner().invoke(app, ["status", "six", "--watch"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["runs/six: 1 done, 1 failed of 2 runs; 50% of the FLOPs"]
