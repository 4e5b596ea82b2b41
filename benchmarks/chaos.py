"""`python -m benchmarks.chaos`: a sweep on the local pool under kills of every kind, and what is left of it.

Two launchers share one sweep of 40 tiny runs. Workers are killed inside training steps and inside checkpoint
writes, or terminated; launchers are killed and terminated; the whole machine is killed and terminated; once
the disk is full. Whatever ended is launched again, as a person or a cron job would. At the end:

    every run done, its outcome written once; no run lost, none doubled, no step doubled in any log
    final losses, and every step's, bit for bit those of a sweep that nobody disturbed
    steps trained twice: at most the steps between two checkpoints for each kill

Results, with the raw list of kills, go to benchmarks/results/chaos-<device>.json; exit code 1 when a claim
fails. The steps between checkpoints are counted in steps here (`Placement.keep_every`), not in seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos_machine import Doing, Machine, outcomes, small_disk, stopped
from benchmarks.run import RESULTS, device, versions
from scaling.config import ModelConfig, OptimizerConfig, RunConfig
from scaling.data.text import embedded_info
from scaling.files import write_json
from scaling.runs import RunFolder
from sweeps.sweep import Sweep

PLAN = {
    "a worker inside a step": 38,
    "a worker inside a checkpoint write": 8,
    "a worker, TERM": 4,
    "a launcher": 4,
    "a launcher, TERM": 2,
    "the machine": 4,
    "the machine, TERM": 2,
    "a full disk": 1,  # FULL
}
RUNS, EVERY = 40, 40
PATIENCE = 300.0  # seconds for one chance to kill

FULL = "a full disk"

Kill = dict[str, Any]  # kind, killed: [who, phase, run, step]


def tiny(seed: int, steps: int) -> RunConfig:
    """A millisecond a step."""
    return RunConfig(
        model=ModelConfig(n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, d_head=16, d_ff=32),
        data=embedded_info().config(val_tokens=1024),
        optimizer=OptimizerConfig(lr=3e-3 * 2 ** (seed % 3)),
        seq_len=32,
        batch_size=4,
        steps=steps,
        seed=seed,
    )


def sweep_of(runs: int) -> Sweep:
    configs = tuple(tiny(seed, (160, 200, 240)[seed % 3]) for seed in range(runs))
    return Sweep("chaos", "does it survive?", {}, configs)


def chaos(
    sweep: Sweep, plan: dict[str, int], folder: Path, launchers: int = 2, every: int = EVERY, seed: int = 0
) -> dict[str, Any]:
    """Run `sweep` in `folder` disturbed by `plan`, and again undisturbed; what is found, `broken` in it."""
    began = time.monotonic()
    with small_disk(folder / "disk", "256m") as fill:
        machine = Machine(sweep, folder / "disk", folder / "scratch", every)
        try:
            kills = _disturb(machine, plan, launchers, random.Random(seed), fill)
            _finish(machine, launchers)
            calm = Machine(sweep, folder / "calm", folder / "calm-scratch", every)
            _finish(calm, 1)
        finally:
            machine.close()
        found = {
            "runs": len(sweep.runs),
            "launches": machine.launched,
            "exit_codes": dict(sorted(Counter(str(code) for code in machine.exits).items())),
            "steps_between_checkpoints": every,
            "disk": "a file system of its own, filled up" if fill else "RLIMIT_FSIZE of a worker",
            **_counted(kills),
            **_outcome(machine, calm),
            **_twice(machine, kills, every),
        }
        found["broken"] = _broken(found, plan)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["cpu_seconds_of_processes_reaped"] = round(spent.ru_utime + spent.ru_stime, 1)
        return found | {"wall_seconds": round(time.monotonic() - began, 1), "kills_raw": kills}


def _disturb(
    machine: Machine, plan: dict[str, int], launchers: int, rng: random.Random, fill: Any
) -> list[Kill]:
    order = [kind for kind, count in plan.items() for _ in range(count)]
    rng.shuffle(order)
    kills: list[Kill] = []
    for number, kind in enumerate(order, 1):
        killed = _kill(machine, kind, launchers, rng, fill)
        if killed is None:  # nothing is left to disturb
            break
        kills.append({"kind": kind, "killed": killed})
        phases = ", ".join(one["phase"] for one in killed)
        print(f"[{number}/{len(order)}] {kind}: {phases}", file=sys.stderr, flush=True)
    return kills


def _kill(
    machine: Machine, kind: str, launchers: int, rng: random.Random, fill: Any
) -> list[dict[str, Any]] | None:
    """Wait for the chance, take it, and say who was killed in the middle of what."""
    rows, end = rng.randint(2, machine.every), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        machine.keep_launched(launchers)
        if machine.all_finished():
            return None
        wanted = "checkpoint write" if "write" in kind else "training step"
        worker = _at_work(machine, wanted, rows)
        if worker is not None and len(machine.launchers) == launchers:
            if kind == FULL:
                return _fill_disk(machine, worker, fill)
            if killed := _strike(machine, kind, worker, wanted, rng):
                return killed
        time.sleep(0.001 if "write" in kind else 0.005)
    raise TimeoutError(f"no chance for {kind} in {PATIENCE:.0f} s")


def _at_work(machine: Machine, wanted: str, rows: int) -> psutil.Process | None:
    """A worker that seems to be in the middle of it, and has logged `rows` rows of its run."""
    for worker in machine.workers():
        run = machine.run_of(worker)
        if run is None:
            continue
        if machine.writing(run) if wanted == "checkpoint write" else machine.logged(worker, run)[0] >= rows:
            return worker
    return None


def _strike(
    machine: Machine, kind: str, worker: psutil.Process, wanted: str, rng: random.Random
) -> list[dict[str, Any]]:
    """Stop, look, kill. Empty where a worker was to be killed in a phase that it has just left."""
    number = signal.SIGTERM if "TERM" in kind else signal.SIGKILL
    launchers = [psutil.Process(one.pid) for one in machine.launchers if one.poll() is None]
    if kind.startswith("a worker"):
        targets = [worker]
    elif kind.startswith("a launcher"):
        targets = [rng.choice(launchers)] if launchers else []
    else:
        targets = [*launchers, *machine.workers()]
    killed = []
    with contextlib.suppress(psutil.NoSuchProcess), stopped(targets):
        ours = {one.pid for one in launchers}
        for target in targets:
            doing = Doing("launcher") if target.pid in ours else machine.doing(target)
            if kind.startswith("a worker") and doing.phase != wanted:
                return []
            target.send_signal(number)
            machine.struck.add(target.pid)
            killed.append({"signal": number.name, "pid": target.pid, **asdict(doing)})
    return killed


def _fill_disk(
    machine: Machine, worker: psutil.Process, fill: Callable[[], Callable[[], None]] | None
) -> list[dict[str, Any]]:
    """No byte more until a run has failed of it."""
    hit, before = {worker.pid: machine.doing(worker)}, _failures(machine)
    free: Callable[[], None] = lambda: None  # noqa: E731
    if fill:
        free = fill()
    else:
        worker.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
    end = time.monotonic() + PATIENCE
    while _failures(machine) == before and time.monotonic() < end:
        if fill:  # all of them find it full
            hit = {one.pid: machine.doing(one) for one in machine.workers()} | hit
        time.sleep(0.02)
    free()
    machine.struck |= hit.keys()
    return [{"signal": FULL, "pid": pid, **asdict(doing)} for pid, doing in hit.items()]


def _failures(machine: Machine) -> int:
    return len(re.findall(r": failed: ", (machine.scratch / "launchers.log").read_text()))


def _finish(machine: Machine, launchers: int) -> None:
    """Let it end, and every launcher with it."""
    while not machine.all_finished() or machine.launchers:
        machine.keep_launched(launchers)
        time.sleep(0.05)


def _counted(kills: list[Kill]) -> dict[str, Any]:
    killed = [one for kill in kills for one in kill["killed"]]
    by_signal = [one for one in killed if one["signal"] in ("SIGKILL", "SIGTERM")]
    phases = Counter(one["phase"] for one in by_signal)
    return {
        "events": dict(Counter(kill["kind"] for kill in kills)),
        "kills": len(by_signal),
        "kills_inside_training_steps": phases["training step"],
        "kills_inside_checkpoint_writes": phases["checkpoint write"],
        "kills_by_phase": dict(phases),
    }


def _outcome(machine: Machine, calm: Machine) -> dict[str, Any]:
    """Of every run: whether it is done, how often its outcome was written, whether its numbers are equal."""
    runs = [(config, RunFolder(machine.folder / config.run_id)) for config in machine.sweep.runs]
    written = Counter(run for _, run, what in machine.rows() if not what.isdigit())
    claimed = Counter(run for one in outcomes(machine) for run in one["done"])  # type: ignore[attr-defined]
    logs = {config.run_id: [row["step"] for row in run.metrics()[0]] for config, run in runs}
    same = [numbers(run) == numbers(RunFolder(calm.folder / config.run_id)) for config, run in runs]
    return {
        "done": sum(run.status() == "done" for _, run in runs),
        "lost": sum(run.status() != "done" for _, run in runs),
        "outcomes_written_once": sum(written[config.run_id] == 1 for config, _ in runs),
        "doubled": sum(max(written[c.run_id], claimed[c.run_id]) > 1 for c, _ in runs),
        "logs_whole_without_doubled_steps": sum(
            logs[config.run_id] == list(range(1, config.steps + 1)) and _raw_lines(run) == config.steps
            for config, run in runs
        ),
        "bitwise_equal_to_undisturbed": sum(same),
    }


def _raw_lines(run: RunFolder) -> int:
    return len(run.metrics_path.read_text().splitlines())


def numbers(run: RunFolder) -> tuple[Any, ...]:
    """What must be the same bit for bit."""
    summary = run.summary()
    rows = [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in run.metrics()[0]]
    return summary.get("loss"), summary.get("loss_se"), summary.get("train_loss"), rows


def _twice(machine: Machine, kills: list[Kill], every: int) -> dict[str, Any]:
    """Steps of the raw log that a later attempt did again, by what ended the attempt that lost them."""
    ended = {one["pid"]: one for kill in kills for one in kill["killed"]}
    attempts: dict[str, list[tuple[int, list[int]]]] = {}
    for pid, run, what in machine.rows():
        if what.isdigit():
            of_run = attempts.setdefault(run, [])
            if not of_run or of_run[-1][0] != pid:
                of_run.append((pid, []))
            of_run[-1][1].append(int(what))
    lost = []
    for run, of_run in attempts.items():
        for (pid, steps), (_, again) in itertools.pairwise(of_run):
            by = ended.get(pid, {"signal": "none", "phase": "its launcher ended"})
            twice = max(0, steps[-1] - again[0] + 1)
            lost.append({"run": run, "signal": by["signal"], "phase": by["phase"], "steps": twice})
    most = {
        f"{signal_}, {phase}": max(o["steps"] for o in lost if (o["signal"], o["phase"]) == (signal_, phase))
        for signal_, phase in sorted({(one["signal"], one["phase"]) for one in lost})
    }
    total = sum(one["steps"] for one in lost)
    trained = sum(what.isdigit() for _, _, what in machine.rows())
    stops = sum(one["signal"] != "none" for one in lost)
    return {
        "steps_trained": trained,
        "steps_planned": sum(config.steps for config in machine.sweep.runs),
        "steps_trained_twice": total,
        "attempts_cut_short": stops,
        "steps_twice_per_attempt_cut_short": round(total / max(1, stops), 1),
        "most_steps_twice": most,
        "interval_kept": all(one["steps"] <= _allowed(one, every) for one in lost),
        "lost_raw": lost,
    }


def _allowed(one: dict[str, Any], every: int) -> int:
    """A checkpoint whose write is cut off, or fails, is none: what it would have kept is lost too."""
    if one["signal"] in ("SIGTERM", "none"):
        return 0
    return 2 * every if one["phase"] == "checkpoint write" or one["signal"] == FULL else every


def _broken(found: dict[str, Any], plan: dict[str, int]) -> list[str]:
    runs, claims = found["runs"], []
    for name in ("done", "outcomes_written_once", "logs_whole_without_doubled_steps"):
        claims.append((found[name] == runs, f"{name} is {found[name]} of {runs}"))
    same = found["bitwise_equal_to_undisturbed"]
    claims.append((same == runs, f"{same} of {runs} runs are bitwise those of the undisturbed sweep"))
    for name in ("lost", "doubled"):
        claims.append((found[name] == 0, f"{found[name]} runs {name}"))
    claims.append((found["events"] == plan, f"kills were {found['events']}, planned {plan}"))
    claims.append((found["interval_kept"], f"steps done twice: {found['most_steps_twice']}"))
    twice, limit = found["steps_trained_twice"], found["steps_between_checkpoints"] * found["kills"]
    claims.append((twice <= limit, f"{twice} steps done twice, more than {limit}"))
    return [sentence for holds, sentence in claims if not holds]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(sweep_of(RUNS), PLAN, Path(folder))
    name = re.sub(r"[^a-z0-9]+", "-", device().lower()).strip("-")
    path = RESULTS / f"chaos-{name}.json"
    write_json(path, {"benchmark": "chaos", "device": device(), "versions": versions(), **found})
    for key, value in found.items():
        if not key.endswith("_raw"):
            print(f"{key}: {value}")
    print(path)
    return int(bool(found["broken"]))


if __name__ == "__main__":
    sys.exit(main())
