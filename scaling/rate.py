"""How fast this machine trains: seconds a step against FLOPs a step, measured once and kept.

Small steps are bound by overhead and large ones by arithmetic, so one number would misprice both
ends of a sweep; a few measured shapes, joined by straight lines in log-log, price every cell.
JAX is imported only where something is measured, in processes of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from scaling.accounting import counts
from scaling.config import Placement, RunConfig, from_dict, to_dict
from scaling.files import write_json
from scaling.runs import RunFolder

SECONDS = 1.0  # of steps measured for each shape, after compilation
TIMED = 1e12  # FLOPs of the largest step timed on a CPU: some ten seconds of two cores
CROWDED = 0.7  # of a processor: with less, a measurement is of a machine that others use too
REACH = 2.0  # how far outside the measured FLOPs a step a kept measurement still serves


@dataclass(frozen=True)
class Rates:
    """Measured (FLOPs a step, seconds a step), ascending; `source` says of what machine and when.

    FLOPs in the `matmul` convention. `compile_seconds`: the first step of a new shape, on average.
    `crowded`: measured with less than `CROWDED` of a processor for each process, and so too slow.
    """

    points: tuple[tuple[float, float], ...]
    compile_seconds: float
    source: str
    crowded: bool = False

    def step_seconds(self, flops_per_step: float) -> float:
        """Interpolated in log-log; beyond the ends the FLOP/s of the nearest measured step hold."""
        x, y = np.log(np.array(self.points)).T
        wanted = math.log(flops_per_step)
        return math.exp(float(np.interp(wanted, x, y)) + wanted - min(max(wanted, x[0]), x[-1]))

    def covers(self, runs: Sequence[RunConfig]) -> bool:
        """Whether every run's step lies within `REACH` of what was measured."""
        sizes = [flops_per_step(run) for run in runs]
        return self.points[0][0] / REACH <= min(sizes) and max(sizes) <= self.points[-1][0] * REACH

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def flops_per_step(run: RunConfig) -> float:
    """Training FLOPs (`matmul`) of one optimizer step."""
    return counts(run.model, run.seq_len).flops_per_token["matmul"] * run.batch_size * run.seq_len


def timed(runs: Sequence[RunConfig], device: str) -> list[RunConfig]:
    """Those of `runs` whose step can be timed here in passing: on a CPU no larger than `TIMED`."""
    return [run for run in runs if device != "cpu" or flops_per_step(run) <= TIMED]


def measure(config: RunConfig, placement: Placement, seconds: float = SECONDS) -> tuple[float, float, float]:
    """(seconds a step, seconds to compile, share of a processor that was had) of `config` here and now, in
    this process, on random tokens. The share is 1 where the clock on the wall is what counts."""
    import jax

    from scaling.data.tokenizers import dtype_of
    from scaling.optimizer import hyper
    from scaling.sharding import make_shardings
    from scaling.step import compiled_train_step, forward_of, init_state

    shardings = make_shardings(placement)
    device_platform = shardings.mesh.devices.flat[0].platform
    forward = forward_of(config, placement, device_platform, shardings)
    state = init_state(config, shardings)
    micro = placement.microbatches
    shape = (micro, config.batch_size // micro, config.seq_len + 1)
    vocab = config.model.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocab, shape, dtype_of(vocab))
    step = compiled_train_step(forward, config.model, shardings)
    h = hyper(config.optimizer, config.optimizer.lr)
    # One thread's CPU time is its wall time on a machine of its own: what others run now is left out.
    alone = device_platform == "cpu" and placement.threads == 1
    clock = time.process_time if alone else time.perf_counter
    began = clock()
    state, metrics = step(state, tokens, h)
    jax.block_until_ready(metrics)
    compiled = clock() - began
    started, began, done = time.perf_counter(), clock(), 0
    until = started + seconds
    while done < 3 or time.perf_counter() < until:
        state, following = step(state, tokens, h)
        jax.block_until_ready(metrics)  # as the training loop: one step ahead of what is read
        metrics, done = following, done + 1
    jax.block_until_ready(metrics)
    used = clock() - began
    return used / done, compiled, min(1.0, used / (time.perf_counter() - started))


def shapes_to_measure(runs: Sequence[RunConfig], count: int = 3) -> list[RunConfig]:
    """`count` runs from the smallest step to the largest, about evenly spaced in log FLOPs a step."""
    ordered = sorted(runs, key=flops_per_step)
    logs = np.log([flops_per_step(run) for run in ordered])
    picks = {int(np.abs(logs - at).argmin()) for at in np.linspace(logs[0], logs[-1], count)}
    return [ordered[index] for index in sorted(picks)]


def measure_all(
    runs: Sequence[RunConfig], placement: Placement, environments: Sequence[Mapping[str, str]]
) -> Rates:
    """Measure `runs` in one process for each environment, all at once as a launch would load the machine.

    Compilation is as costly as the environments' cache leaves it: give none for a fresh machine's price.
    Raises RuntimeError with the last line of what a process said when it failed.
    """
    order = json.dumps({"runs": [to_dict(run) for run in runs], "placement": to_dict(placement)})
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "scaling.rate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )
        for environment in environments
    ]
    try:
        for process in processes:  # all have their order before any is waited for
            assert process.stdin is not None
            process.stdin.write(order)
            process.stdin.close()
            process.stdin = None
        answers = [_answer(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    measured_PR3 = np.array(answers)
    steps_R, compile_R, _ = measured_PR3.mean(axis=0).T
    crowded = bool(np.median(measured_PR3[:, :, 2]) < CROWDED)
    points = sorted(zip((flops_per_step(run) for run in runs), steps_R.tolist(), strict=True))
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    source = f"measured on {platform.node()}, {len(processes)} at once, {when}"
    return Rates(tuple(points), float(compile_R.mean()), source, crowded)


def _answer(process: subprocess.Popen[str]) -> list[list[float]]:
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError((err.strip().splitlines() or ["no message"])[-1])
    return json.loads(out.splitlines()[-1])


def rates_path(cache: Path, placement: Placement, processes: int) -> Path:
    """Where the rates of this machine under this placement are kept; other software, another file."""
    identity = [platform.node(), platform.machine(), os.cpu_count(), processes, metadata.version("jax")]
    identity += [placement.device, placement.threads, placement.microbatches, placement.compute_dtype]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return cache / "rates" / f"{name}.json"


def read_rates(path: Path) -> Rates | None:
    """Rates kept earlier; None when there are none, or the file is not ours to read."""
    try:
        values = json.loads(path.read_text())
        points = tuple((float(flops), float(seconds)) for flops, seconds in values["points"])
        return Rates(points, float(values["compile_seconds"]), str(values["source"])) if points else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_rates(path: Path, rates: Rates) -> None:
    write_json(path, rates.to_json())


def rates_of_runs(folders: Path) -> Rates | None:
    """Rates from the logs of finished runs, `folders/<sweep>/<run>/`, whatever machine made them."""
    points = {}
    for done in sorted(folders.glob("*/*/DONE")):
        folder = RunFolder(done.parent)
        rows = folder.metrics()[0]
        if len(rows) > 2:  # the first step compiles
            seconds = (rows[-1]["seconds"] - rows[0]["seconds"]) / (rows[-1]["step"] - rows[0]["step"])
            points[flops_per_step(folder.config())] = seconds
    if not points:
        return None
    return Rates(tuple(sorted(points.items())), 0.0, f"from finished runs under {folders}")


def main() -> None:
    order = json.load(sys.stdin)
    placement = from_dict(Placement, order["placement"])
    runs = [from_dict(RunConfig, run) for run in order["runs"]]
    print(json.dumps([measure(run, placement) for run in runs]))


if __name__ == "__main__":
    main()
