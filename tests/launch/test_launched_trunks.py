"""Branches on an engine: held until their trunk's checkpoint is there, and what happens when it never is."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from tiny import CPU, tiny

from launch.drive import Outcome, drive
from launch.executor import Event, Job
from launch.jobs import sweep_jobs
from launch.status import sweep_status
from launch.view import Progress
from scaling.accounting import run_flops
from scaling.train import train
from sweeps.sweep import Sweep

SCHEDULE = {"schedule__warmup_steps": 2, "schedule__decay": 0.1, "schedule__final": 0.0}
TRUNK, SHORT, MIDDLE = (tiny(steps=steps, **SCHEDULE) for steps in (80, 20, 40))
SWEEP = Sweep("horizons", "?", {}, (SHORT, MIDDLE, TRUNK))


class Engine:
    """Trains in this process, one job at each poll, the last submitted first; `broken` jobs fail."""

    def __init__(self, broken: Iterable[str] = ()) -> None:
        self.order: list[str] = []
        self._broken = set(broken)
        self._queue: list[Job] = []

    def render(self, job: Job) -> str:
        return job.run_id

    def submit(self, job: Job) -> None:
        self.order.append(job.run_id)
        self._queue.append(job)

    def poll(self, timeout: float) -> list[Event]:
        if not self._queue:
            return []
        job = self._queue.pop()
        if job.run_id in self._broken:
            return [Event(job.run_id, "failed", {"error": "broken", "where": "here"})]
        summary = train(job.config, job.placement, job.folder)
        return [Event(job.run_id, summary["status"], summary)]

    def cancel(self, run_ids: Iterable[str]) -> None:
        pass

    def close(self) -> None:
        pass


def launched(root: Path, engine: Engine, sweep: Sweep = SWEEP) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    sweep.write(root / sweep.name / "sweep.json")
    jobs = sweep_jobs(sweep, root / sweep.name, CPU)
    return drive(engine, jobs, events.append), events


def test_the_trunk_goes_first_and_every_step_is_trained_once(tmp_path: Path) -> None:
    engine = Engine()
    outcome, events = launched(tmp_path, engine)
    assert engine.order[0] == TRUNK.run_id and set(outcome.done) == set(SWEEP.run_ids)
    waits = {event.run_id: event.data["remark"] for event in events if event.kind == "waiting"}
    assert waits == {
        SHORT.run_id: f"waits for step 18 of run {TRUNK.run_id}",
        MIDDLE.run_id: f"waits for step 36 of run {TRUNK.run_id}",
    }
    summaries = {event.run_id: event.data for event in events if event.kind == "done"}
    assert {run.steps: summaries[run.run_id]["steps_trained"] for run in SWEEP.runs} == {20: 2, 40: 4, 80: 80}
    spent = sum(summary["flops_trained"] for summary in summaries.values())
    jobs = sweep_jobs(SWEEP, tmp_path, CPU)
    assert spent == pytest.approx(sum(job.flops for job in jobs))
    assert spent < 0.63 * sum(map(run_flops, SWEEP.runs))


def test_status_and_progress_count_what_is_to_be_trained(tmp_path: Path) -> None:
    launched(tmp_path, Engine())
    for run in (SHORT, MIDDLE):
        shutil.rmtree(tmp_path / "horizons" / run.run_id)
    assert sweep_status("horizons", tmp_path).fraction == pytest.approx(80 / 86)
    progress = Progress(sweep_jobs(SWEEP, tmp_path, CPU), workers=1)
    progress.take(Event(MIDDLE.run_id, "progress", {"step": 38, "steps": 40}))
    assert progress.rows[MIDDLE.run_id].fraction == pytest.approx(0.5)
    assert progress.fraction == pytest.approx(2 / 86)


def test_a_trunk_that_failed_leaves_its_branches_for_the_next_launch(tmp_path: Path) -> None:
    outcome, _ = launched(tmp_path, Engine(broken=[TRUNK.run_id]))
    assert outcome.exit_code == 1 and not outcome.done
    error = outcome.failed[SHORT.run_id]["error"]
    assert f"its trunk {TRUNK.run_id} failed before step 18" in error and "launch again" in error
    again, _ = launched(tmp_path, Engine())
    assert set(again.done) == set(SWEEP.run_ids)


def test_a_trunk_that_kept_no_checkpoint_is_done_without(tmp_path: Path) -> None:
    """Launched alone, when nobody knew of its branches."""
    alone = dataclasses.replace(SWEEP, runs=(TRUNK,))
    launched(tmp_path, Engine(), alone)
    outcome, events = launched(tmp_path, Engine())
    assert set(outcome.done) == {SHORT.run_id, MIDDLE.run_id} and outcome.skipped == [TRUNK.run_id]
    remarks = [event.data["remark"] for event in events if event.kind == "waiting"]
    assert f"run {TRUNK.run_id} kept no checkpoint of step 18: it trains from its beginning" in remarks


def test_a_trunk_that_diverged_takes_its_branches_with_it(tmp_path: Path) -> None:
    runs = tuple(
        dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, lr=1e30)) for run in SWEEP.runs
    )
    outcome, events = launched(tmp_path, Engine(), dataclasses.replace(SWEEP, runs=runs))
    assert set(outcome.diverged) == {run.run_id for run in runs} and outcome.exit_code == 0
    trained = [event.data["steps_trained"] for event in events if event.kind == "diverged"]
    assert sorted(trained)[:2] == [0, 0]
