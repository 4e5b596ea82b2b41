"""What a launch shows of itself: how far it is, and how long it still takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launch.executor import Event, Job
from launch.jobs import make_job, start_order, sweep_jobs
from launch.view import Progress, duration, watch
from scaling.amounts import human
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.runs import RunFolder
from sweeps.sweep import Sweep


def job(steps: int, priority: int = 0) -> Job:
    config = RunConfig(
        model=ModelConfig(n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=DataConfig(name="none", fingerprint="0"),
        optimizer=OptimizerConfig(lr=1e-2),
        seq_len=32,
        batch_size=4,
        steps=steps,
    )
    return make_job(config, Path("runs/none"), Placement(), priority=priority)


def test_time_left_is_the_queue_at_the_measured_rate_shared_among_the_workers() -> None:
    now = 0.0
    long, first, second = job(1000), job(100), job(200)
    progress = Progress([long, first, second], workers=2, clock=lambda: now)
    assert progress.seconds_left() is None
    now = 5.0
    progress.take(Event(long.run_id, "started"))
    progress.take(Event(first.run_id, "started"))
    progress.take(Event(long.run_id, "progress", {"step": 0, "steps": 1000}))
    now = 15.0
    progress.take(
        Event(long.run_id, "progress", {"step": 100, "steps": 1000, "loss": 3.0, "seconds_left": 20.0})
    )
    progress.take(Event(first.run_id, "done", {"loss": 2.0}))
    # 200 steps in 20 worker seconds: the 200 queued take 20 more, the one in hand says 20 itself.
    assert progress.seconds_left() == pytest.approx((20 + 20) / 2)
    assert progress.ended == 1 and progress.fraction == pytest.approx(200 / 1300)
    progress.take(
        Event(long.run_id, "progress", {"step": 101, "steps": 1000, "loss": 3.0, "seconds_left": 90.0})
    )
    assert progress.seconds_left() == pytest.approx(90)
    for each in (long, second):
        progress.take(Event(each.run_id, "failed", {"error": "OSError"}))
    assert progress.ended == 3 and progress.fraction == pytest.approx(201 / 1300)


def test_a_resumed_run_does_not_count_steps_of_an_earlier_launch_as_speed() -> None:
    now = 10.0
    resumed, queued = job(1000), job(100)
    progress = Progress([resumed, queued], workers=1, clock=lambda: now)
    progress.take(Event(resumed.run_id, "started"))
    progress.take(Event(resumed.run_id, "progress", {"step": 900, "steps": 1000}))
    now = 20.0
    progress.take(Event(resumed.run_id, "progress", {"step": 950, "steps": 1000, "seconds_left": 10.0}))
    assert progress.seconds_left() == pytest.approx(10 + 20)


def test_plain_lines_name_each_ending_and_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = job(100), job(200)
    with watch([good, bad], workers=1) as show:
        show(Event(good.run_id, "started"))
        show(Event(good.run_id, "progress", {"step": 50, "steps": 100, "loss": 3.0}))
        show(Event(good.run_id, "done", {"loss": 2.5}))
        show(Event(bad.run_id, "failed", {"error": "OSError: disk", "where": "runs/none/x/error.log"}))
    out, err = capsys.readouterr()
    assert out == ""
    done, failed = err.splitlines()
    assert good.run_id in done and "loss 2.5000" in done and "[1/2]" in done
    assert bad.run_id in failed and "OSError: disk" in failed and "runs/none/x/error.log" in failed


def test_priority_goes_before_size() -> None:
    small_first, large, larger = job(10, priority=1), job(100), job(200)
    assert sorted([large, small_first, larger], key=start_order) == [small_first, larger, large]


def test_one_of_each_shape_starts_before_the_second_of_any(tmp_path: Path) -> None:
    long, again, small = job(1000).config, job(900).config, job(300).config
    small = replace(small, batch_size=2)
    order = sweep_jobs(Sweep("s", "", {}, (again, small, long)), tmp_path, Placement())
    assert [each.config for each in order] == [long, small, again]
    done = RunFolder(tmp_path / small.run_id)
    done.create(small, Placement())
    done.finish("done", {"status": "done"})  # nothing is left to compile for
    order = sweep_jobs(Sweep("s", "", {}, (again, small, long)), tmp_path, Placement())
    assert [each.config for each in order] == [long, again, small]


def test_numbers_are_short() -> None:
    assert [human(v) for v in (7, 1234, 5.6e6, 999_936, 2.3e12)] == ["7", "1.23k", "5.6M", "1M", "2.3T"]
    assert [duration(v) for v in (0.4, 75, 7300)] == ["0 s", "1 min 15 s", "2 h 1 min"]
