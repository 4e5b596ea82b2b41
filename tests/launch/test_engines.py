"""The one path to every engine, with an engine of sixty lines; profiles, prices and budgets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny
from toy_engine import Toy
from typer.testing import CliRunner

from launch import claims
from launch.drive import drive
from launch.engines import ENGINES, Engine, find_engine
from launch.estimate import parse_budget
from launch.executor import Event, Job, Live, Submission
from launch.jobs import sweep_jobs
from launch.prepare import Prepared, prepare
from launch.selection import live, select
from launch.submit import cluster_order, ready, submit
from scaling.accounting import run_flops
from scaling.cli.main import app
from scaling.config import Placement, to_dict
from scaling.errors import UserError
from scaling.runs import RunFolder
from sweeps.sweep import Sweep

RUNS = tuple(tiny(steps=10 + seed, seed=seed) for seed in range(4))
CONSTANT = {"schedule__warmup_steps": 2, "schedule__decay": 0.1, "schedule__final": 0.0}
LONG, SHORT = (tiny(steps=steps, **CONSTANT) for steps in (80, 40))
SWEEP = Sweep("toys", "who goes where?", {}, RUNS)
# Stands for `scaling train CONFIG --out FOLDER ...`: finishes the run at once, or does what `ending` says.
TRAIN = """#!{python} -S
import json, os, sys, time
config, out = sys.argv[2], sys.argv[4]
run = os.path.dirname(config)
with open(os.path.join(out, "trained"), "a") as log: log.write(os.path.basename(run) + "\\n")
ending = os.path.join(out, "ending")
how = open(ending).read() if os.path.exists(ending) else "done"
print("training", how)
if how == "sleep": time.sleep(60)
if how != "done": sys.exit(1)
json.dump({{"status": "done", "loss": 1.0}}, open(os.path.join(run, "summary.json"), "w"))
open(os.path.join(run, "DONE"), "w").close()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sweep, an engine "toy" with a profile, and a `scaling` that only says it trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(ENGINES, "toy", Engine("toy_engine", "Toy", "ToyProfile"))
    monkeypatch.setattr("launch.submit.FOLLOW_SECONDS", 0.05)
    monkeypatch.setattr("launch.selection.CACHE_SECONDS", 0.0)
    profiles = tmp_path / "scaling" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "toy.toml").write_text('engine = "toy"\nchip = "h100"\nstart_seconds = 0\nnice = 1\n')
    fake = tmp_path / "bin" / "scaling"
    fake.parent.mkdir()
    fake.write_text(TRAIN.format(python=sys.executable))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    SWEEP.write("toys.json")
    return tmp_path


def call(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    return str(error.value)


def trained(folder: Path) -> Counter[str]:
    path = folder / "runs" / "toys" / "trained"
    return Counter(path.read_text().split() if path.exists() else ())


def prepared(folder: Path) -> Prepared:
    return prepare("toy", SWEEP, folder / "runs", Placement())


def test_a_fourth_engine_trains_every_run_once(here: Path) -> None:
    said = call("launch", "toys.json", "--on", "toy", "--yes", "--wait")
    assert said["submit"] == [run.run_id for run in sorted(RUNS, key=run_flops)]  # the smallest first
    assert set(said["done"]) == set(SWEEP.run_ids) and not said["unfinished"]
    assert trained(here) == Counter(SWEEP.run_ids)
    again = call("launch", "toys.json", "--on", "toy", "--yes")
    assert not again["submit"] and len(again["done"]) == 4
    assert "training done" in call("logs", "toys", RUNS[0].run_id)["logs"][RUNS[0].run_id]
    assert (
        CliRunner().invoke(app, ["launch", "toys.json"]).exit_code == 0
    )  # and nothing is left for this machine
    assert trained(here) == Counter(SWEEP.run_ids)


def test_what_failed_is_named_and_goes_again(here: Path) -> None:
    (here / "runs" / "toys").mkdir(parents=True)
    (here / "runs" / "toys" / "ending").write_text("failed")
    done = CliRunner().invoke(app, ["launch", "toys.json", "--on", "toy", "--yes", "--wait"])
    assert done.exit_code == 1 and f"unfinished: {RUNS[0].run_id}" in done.stdout
    (here / "runs" / "toys" / "ending").unlink()
    call("resume", "toys", "--yes", "--wait")
    assert trained(here) == Counter(SWEEP.run_ids * 2)
    assert set(claims.newest(here / "runs" / "toys").values()) == {2}


def test_live_runs_are_left_alone_until_cancelled(here: Path) -> None:
    (here / "runs" / "toys").mkdir(parents=True)
    (here / "runs" / "toys" / "ending").write_text("sleep")
    call("launch", "toys.json", "--on", "toy", "--yes")
    again = call("launch", "toys.json", "--on", "toy", "--yes")
    assert not again["submitted"] and set(again["live"]) == set(SWEEP.run_ids)
    assert set(live(here / "runs" / "toys")[0]) == set(SWEEP.run_ids)
    assert set(call("cancel", "toys", RUNS[1].run_id)["cancelled"]) == {RUNS[1].run_id}
    assert set(call("cancel", "toys")["cancelled"]) == set(SWEEP.run_ids) - {RUNS[1].run_id}
    while live(here / "runs" / "toys")[0]:
        pass
    assert len(call("launch", "toys.json", "--on", "toy", "--dry-run")["submit"]) == 4


def test_launchers_at_once_submit_each_run_once(here: Path) -> None:
    """All of them have looked before any submits, as launchers on several machines may."""
    looked = [prepared(here) for _ in range(8)]
    made: list[Submission | None] = []
    threads = [
        threading.Thread(target=lambda one=one: made.append(submit(one, one.now, one.selection)))
        for one in looked
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    submitted = Counter(job.run_id for one in made if one for job in one.jobs)
    assert submitted == Counter(SWEEP.run_ids)


def test_a_launcher_that_died_before_submitting_blocks_nobody(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here / "runs" / "toys"
    dead = claims.Claimed(folder, "toy", to_dict(prepared(here).profile), "", SWEEP.run_ids)
    assert len(dead.take(dict.fromkeys(SWEEP.run_ids, 0))) == 4
    assert set(prepared(here).selection.live) == set(SWEEP.run_ids)  # it may still be about to
    record = json.loads((dead.path / "submission.json").read_text())
    (dead.path / "submission.json").write_text(json.dumps(record | {"pid": 2**22 + 1}))
    assert len(prepared(here).now) == 4  # its process is gone
    elsewhere = record | {"host": "another", "made": record["made"] - claims.LEASE_SECONDS - 1}
    (dead.path / "submission.json").write_text(json.dumps(elsewhere))
    one = prepared(here)  # its lease has run out
    made = submit(one, one.now, one.selection)
    assert made and len(made.jobs) == 4
    assert not claims.is_holder(
        folder, SWEEP.run_ids[0], dead.id
    )  # and were it to come back, it would train nothing
    assert claims.is_holder(folder, SWEEP.run_ids[0], made.id)


def test_an_engine_that_holds_runs_and_cannot_be_asked_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever engine the launch is for: what the other one holds must not run twice."""
    done = CliRunner().invoke(app, ["launch", "toys.json", "--on", "toy", "--yes"])
    assert done.exit_code == 0

    def gone(self: Toy) -> dict[str, Live]:
        raise UserError("no toys today.")

    monkeypatch.setattr(Toy, "poll", gone)
    assert re.search(
        "went to toy, which cannot be asked: no toys", refused("launch", "toys.json", "--on", "toy")
    )


def test_a_refusal_of_the_engine_leaves_the_runs_free(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Toy, submission: Submission) -> None:
        raise UserError("the engine is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Toy, "submit", refuse)
        assert "full" in refused("launch", "toys.json", "--on", "toy", "--yes")
    assert len(call("launch", "toys.json", "--on", "toy", "--yes")["submitted"]) == 4


def test_a_launch_here_waits_for_runs_of_a_cluster(here: Path) -> None:
    (here / "runs" / "toys").mkdir(parents=True)
    (here / "runs" / "toys" / "ending").write_text("sleep")
    call("launch", "toys.json", "--on", "toy", "--yes")
    pool, events = _Pool(), list[Event]()

    def tell(event: Event) -> None:
        events.append(event)
        if len(events) == 4:  # all four wait
            call("cancel", "toys")

    drive(pool, sweep_jobs(SWEEP, here / "runs" / "toys", Placement()), tell)
    assert all(event.kind == "waiting" and "cluster" in event.data["remark"] for event in events[:4])
    assert sorted(pool.submitted) == sorted(SWEEP.run_ids)


class _Pool:
    """An executor whose runs end at once."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self._ended: list[Event] = []

    def render(self, job: Job) -> str:
        return ""

    def submit(self, job: Job) -> None:
        self.submitted.append(job.run_id)
        self._ended.append(Event(job.run_id, "done"))

    def poll(self, timeout: float) -> list[Event]:
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, run_ids: Any) -> None: ...

    def close(self) -> None: ...


def test_a_cancel_reaches_a_launch_on_this_machine(here: Path) -> None:
    jobs = sweep_jobs(SWEEP, here / "runs" / "toys", Placement())
    pool, cancelled = _Pool(), []
    pool.submit = lambda job: pool.submitted.append(job.run_id)  # type: ignore[method-assign]

    def stop(run_ids: Any) -> None:
        cancelled.extend(run_ids)
        pool._ended += [Event(run_id, "stopped") for run_id in run_ids]

    pool.cancel = stop  # type: ignore[method-assign]
    SWEEP.write(here / "runs" / "toys" / "sweep.json")
    with jobs[0].folder.claim():  # as a worker holds it

        def act() -> None:
            while len(pool.submitted) < 3:
                pass
            call("cancel", "toys")

        thread = threading.Thread(target=act)
        thread.start()
        outcome = drive(pool, jobs, lambda event: None)
        thread.join()
    assert sorted(outcome.stopped) == sorted(SWEEP.run_ids)
    assert sorted(cancelled) == sorted(pool.submitted)


def test_branches_go_with_their_trunk_or_wait_for_it(here: Path) -> None:
    folder = here / "runs" / "trunks"
    jobs = sweep_jobs(Sweep("trunks", "", {}, (SHORT, LONG)), folder, Placement())
    branch = next(job for job in jobs if job.trunk)
    assert [job.run_id for job in cluster_order(jobs)] == [LONG.run_id, SHORT.run_id]
    selection = select(folder, jobs)
    assert [job.run_id for job in ready(selection, chains=True)[0]] == [LONG.run_id, SHORT.run_id]
    now, held = ready(selection, chains=False)
    assert [job.run_id for job in now] == [LONG.run_id] and str(branch.first_step) in held[SHORT.run_id]
    assert branch.trunk
    (branch.trunk.checkpoints / str(branch.first_step)).mkdir(parents=True)
    assert len(ready(select(folder, jobs), chains=False)[0]) == 2


def test_estimates_and_budgets(here: Path) -> None:
    """h100: 9.89e14 dense bf16 FLOP/s and 3.99 $ an hour in the table; 40% of it by default."""
    found = call("launch", "toys.json", "--on", "toy", "--dry-run")["estimate"]
    flops = sum(map(run_flops, RUNS))
    assert found["flops"] == pytest.approx(flops)
    assert found["chip_hours"] == pytest.approx(flops / (0.4 * 9.89e14) / 3600)
    assert found["dollars"] == pytest.approx(3.99 * found["chip_hours"])
    over = refused("launch", "toys.json", "--on", "toy", "--yes", "--budget", "1e6 flops")
    assert "over --budget 1e6 flops" in over and not (here / "runs").exists()
    assert "in dollars" in refused("launch", "toys.json", "--budget", "$5")
    assert "over" in refused("launch", "toys.json", "--budget", "5flops")
    assert not (here / "runs").exists()
    assert [vars(parse_budget(text))["unit"] for text in ("$50", "3 chip-hours", "1e20flops")] == [
        "dollars",
        "chip_hours",
        "flops",
    ]


@pytest.mark.parametrize("text", ["", "fifty", "50", "50eur", "-3usd", "1e999flops", "..usd"])
def test_a_budget_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


def test_bad_input_is_one_sentence_and_submits_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = here / "mine.toml"
    launch = ("launch", "toys.json", "--on")
    assert "did you mean slurm?" in refused(*launch, "slurn")
    assert "there is no profile" in refused(*launch, "slurm")
    assert "known are" in refused(*launch, "slurm", "--profile", "nobody")
    assert "give --yes" in refused(*launch, "toy")
    assert "--workers is for this machine" in refused(*launch, "toy", "--workers", "2")
    assert "--profile is for a cluster" in refused(*launch, "local", "--profile", "toy")
    for text, expected in (
        ('engine = "slurm"\npartiton = "gpu"', "partiton is no field of it; did you mean partition?"),
        ('engine = "slurm"\nnodes = "two"', "nodes is 'two'"),
        (
            'engine = "slurm"\n[placement]\ndevise = "gpu"',
            "placement.devise is no field of it; did you mean device?",
        ),
        ('engine = "slurm"\nchip = "h1000"', "did you mean h100?"),
        ('engine = "slurm"\nnodes = 0', "nodes is 0"),
        ('engine = "gke"', 'write engine = "slurm"'),
        ("engine =", "is not TOML"),
    ):
        mine.write_text(text)
        assert expected in refused(*launch, "slurm", "--profile", str(mine))
    mine.write_text('engine = "slurm"\nchip = "cpu"')
    monkeypatch.setenv("PATH", str(here / "bin"))
    assert "sbatch is not on PATH" in refused(*launch, "slurm", "--profile", str(mine), "--yes")
    assert not (here / "runs").exists()


def test_runs_of_other_numerics_are_stale(here: Path) -> None:
    old = tiny(steps=5, numerics_version=0)
    Sweep("old", "", {}, (old,)).write("old.json")
    for arguments in (["--on", "toy", "--yes"], []):
        assert "numerics_version 0" in refused("launch", "old.json", *arguments)
    folder = RunFolder(here / "runs" / "toys" / old.run_id)
    folder.create(old, Placement())
    folder.finish("done", {"loss": 1.0})
    assert call("launch", "toys.json", "--on", "toy", "--dry-run")["stale"] == [old.run_id]
    renamed = RunFolder(here / "runs" / "toys" / RUNS[0].run_id)  # as a copy by hand might leave it
    renamed.create(old, Placement())
    renamed.finish("done", {"loss": 1.0})
    assert "is stale" in refused("launch", "toys.json", "--on", "toy", "--yes")
    assert trained(here) == Counter()


def test_dry_runs_need_no_engine_and_no_profile(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here / "bin"))
    for engine in ("slurm", "gke"):
        said = call("launch", "toys.json", "--on", engine, "--dry-run")
        assert said["profile"].endswith(f"profiles/{engine}.toml")
        assert all(run_id in said["rendered"] for run_id in SWEEP.run_ids)
    assert not (here / "runs").exists()


def script(folder: Path, sweep: Sweep = SWEEP, **fields: Any) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"engine": "slurm", **fields}.items()]
    (folder / "mine.toml").write_text("\n".join(lines))
    one = prepare("slurm", sweep, folder / "runs", Placement(), str(folder / "mine.toml"), dry_run=True)
    return one.render()


def test_the_slurm_script_says_what_the_profile_says(here: Path) -> None:
    text = script(
        here, partition="big", account="us", qos="low", gres="gpu:8", constraint="a100", time="1-00",
        mem="9G", nodes=2, cpus_per_process=3, at_once=2, exclude="bad7", term_seconds=90,
        setup=["module load x"], options=["--reservation=night"], python="/opt/python",
    )  # fmt: skip
    for option in (
        "requeue", "partition=big", "account=us", "qos=low", "gres=gpu:8", "constraint=a100", "time=1-00",
        "mem=9G", "nodes=2", "cpus-per-task=3", "array=0-3%2", "exclude=bad7", "signal=B:TERM@90",
        "reservation=night", "job-name=toys",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text
    assert text.index("module load x\n") < text.index("exec /opt/python -m launch.slurm_task")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_slurm_arrays_are_packed_split_and_chained(here: Path) -> None:
    text = script(here, runs_per_job=2, max_array=1)
    assert text.count("#SBATCH --array=0-0\n") == 2 and "n=$((1 + SLURM_ARRAY_TASK_ID))" in text
    branched = Sweep("trunks", "", {}, (SHORT, LONG, tiny(steps=10, seed=3)))
    text = script(here, branched)
    assert "--dependency=afterok:JOB_1 --kill-on-invalid-dep=yes" in text
    assert text.count("#!/bin/bash") == 2


def test_what_a_cluster_lists_counts_before_anything_else(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission that the engine took although it said no is still not made twice."""
    one = prepared(here)
    made = submit(one, one.now, one.selection)
    assert made
    for path in made.path.glob("submitted"):
        path.rename(made.path / "failed")
    monkeypatch.setattr(Toy, "poll", lambda self: {RUNS[0].run_id: Live("queued", "7", made.id)})
    assert RUNS[0].run_id not in [job.run_id for job in prepared(here).now]


def test_engines_are_found_by_name() -> None:
    assert find_engine("slurm").profile_type().__name__ == "SlurmProfile"
    with pytest.raises(UserError, match="did you mean gke"):
        find_engine("gk")
