"""Whether every shape of a sweep fits a slice that is not here, how it should lie there, what it takes.

Each distinct shape is compiled ahead of time for the slice's own chips: the compiler plans every buffer and
refuses what does not fit. Which layouts are worth compiling is told by arithmetic
(launch/preflight_layouts.py and scaling/memory.py).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launch.preflight_judge import Asked, Compiles, Verdict, candidates_of, judge, name_of
from launch.preflight_targets import find_target, need_compiler
from scaling.accounting import counts
from scaling.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, load_run_config, to_dict
from scaling.errors import UserError
from scaling.hardware import find
from scaling.memory import REMAT
from scaling.price import price
from sweeps.sweep import Sweep, find_sweep
from sweeps.trunks import branches, flops_to_train

DATA = DataConfig(name="any", fingerprint="")
Note = Callable[[str], None]


def open_sweep(name: str, runs: Path, **options: Any) -> Sweep:
    """The sweep called so, or the RunConfig of a JSON file as a sweep of one run."""
    path = Path(name)
    path = path / "config.json" if (path / "config.json").is_file() else path
    if path.suffix == ".json" and path.is_file():
        text = path.read_text()
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict) and "model" in values:
            config = load_run_config(text, str(path))
            return Sweep(name="run", question="", design={}, runs=(config,))
    return find_sweep(name, runs, **options)


def shape_of(config: RunConfig) -> RunConfig:
    """The config with everything fixed that one compiled step serves alike: rates, data, horizon, seed.

    The optimizer stays, for what it keeps of each parameter; factors of the parametrisation do not.
    """
    data = DATA if config.model.vocab_size >= 256 else config.data  # bytes go with no smaller vocabulary
    return replace(
        config,
        data=data,
        optimizer=OptimizerConfig(lr=1.0, name=config.optimizer.name),
        schedule=ScheduleConfig(),
        parametrisation="standard",
        base_d_model=0,
        base_n_layers=0,
        base_d_head=0,
        steps=1,
        seed=0,
    )


def preflight(sweep: Sweep, asked: Asked, compiler: Compiles, note: Note, at_once: int = 1) -> dict[str, Any]:
    """The report: a row for each shape, and the sweep's hours and price. Strict JSON.

    `at_once` shapes are judged at a time, each on a thread. Raises UserError where a shape can lie on no
    mesh of the slice, or what was asked for names none.
    """
    shapes: dict[RunConfig, list[RunConfig]] = {}
    for run in sweep.runs:
        shapes.setdefault(shape_of(run), []).append(run)

    candidates = {
        shape: candidates_of(shape, asked) for shape in shapes
    }  # refused before anything is compiled

    def one(numbered: tuple[int, RunConfig]) -> Verdict:
        number, shape = numbered
        note(f"shape {number} of {len(shapes)}: {name_of(shape)}")
        return judge(shape, candidates[shape], asked, compiler)

    threads = ThreadPoolExecutor(at_once)
    try:
        verdicts = dict(zip(shapes, threads.map(one, enumerate(shapes, 1)), strict=True))
    except BaseException:  # an interrupt among them: the other threads wait for compilers
        compiler.close()
        raise
    finally:
        threads.shutdown(cancel_futures=True)
    found = branches(sweep.runs)  # of a branch, the steps after its trunk's checkpoint are trained and paid
    left = {
        run.run_id: run.steps - (found[run.run_id].step if run.run_id in found else 0) for run in sweep.runs
    }
    rows = [_row(shape, runs, verdicts[shape], left) for shape, runs in shapes.items()]
    layouts = {run.run_id: verdicts[shape_of(run)].layout for run in sweep.runs}
    times = [(layout.chips, left[name] * layout.seconds.step) for name, layout in layouts.items()]
    flops = sum(flops_to_train(run, found) for run in sweep.runs)
    return {
        "sweep": sweep.name,
        "target": asked.target.name,
        "chip": asked.chip.name,
        "chips": asked.target.chips,
        "grid": list(asked.target.grid),
        "memory_available": min(v.available for v in verdicts.values()),
        "utilisation": asked.utilisation,
        "fits": all(v.fits for v in verdicts.values()),
        "shapes": rows,
        "sweep_cost": _sweep_cost(times, flops, asked) if all(v.fits for v in verdicts.values()) else None,
    }


def _row(shape: RunConfig, runs: list[RunConfig], verdict: Verdict, left: dict[str, int]) -> dict[str, Any]:
    layout = verdict.layout
    return {
        "model": to_dict(shape.model),
        "n_total": counts(shape.model, shape.seq_len).n["total"],
        "seq_len": shape.seq_len,
        "batch_size": shape.batch_size,
        "runs": [run.run_id for run in runs],
        "fits": verdict.fits,
        "chips": layout.chips,
        "mesh": layout.mesh,
        "remat": layout.remat,
        "microbatches": layout.microbatches,
        "bytes": {
            "arguments": verdict.arguments,
            "temporaries": verdict.temporaries,
            "total": verdict.total,
            "available": verdict.available,
        },
        "bytes_expected": asdict(layout.memory),
        "compiled": list(verdict.compiled),
        "largest_batch": verdict.largest_batch,
        "step_seconds": layout.seconds.step,
        "step_seconds_floor": layout.seconds.floor,
        "bound": layout.seconds.bound,
        "hours": sum(left[run.run_id] for run in runs) * layout.seconds.step / 3600,
    }


def _sweep_cost(times: list[tuple[int, float]], flops: float, asked: Asked) -> dict[str, Any]:
    """Hours from the first run to the last on the slice, and what it costs to hold it so long.

    times: chips and seconds of each run, `flops` of all. Runs of one chip go side by side, each next one,
    longest first, on the chip that is free first; those of the whole slice follow one after another.
    """
    chips = asked.target.chips
    free = [0.0] * chips
    for seconds in sorted((s for n, s in times if n < chips), reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    took = max(free) + sum(s for n, s in times if n == chips)
    chip = asked.chip
    utilisation = flops / (took * chips * chip.peak("bf16"))
    paid = price(
        flops, chip, devices=chips, utilisation=min(1.0, utilisation), dollars_per_hour=asked.dollars_per_hour
    )
    return {
        "runs": len(times),
        "hours": took / 3600,
        "chip_hours": took * chips / 3600,
        "busy_chip_hours": sum(n * s for n, s in times) / 3600,
        "flops": flops,
        "utilisation": utilisation,
        "dollars": paid.dollars,
        "dollars_per_chip_hour": chip.dollars_per_hour
        if asked.dollars_per_hour is None
        else asked.dollars_per_hour,
        "mwh": paid.mwh,
    }


def asked_of(
    target: str,
    *,
    mesh: dict[str, int] | None = None,
    remat: str | None = None,
    microbatches: int = 1,
    utilisation: float = 0.4,
    dollars_per_hour: float | None = None,
    hardware_file: Path | None = None,
) -> Asked:
    """What the command line asked for. Raises UserError naming the option, or the extra that is missing."""
    found = find_target(target)
    if remat is not None and remat not in REMAT:
        raise UserError(f"--remat is {remat!r}; choose from {', '.join(REMAT)}.")
    if not 0 < utilisation <= 1:
        raise UserError(f"--utilisation is {utilisation}; give a fraction above 0 and at most 1.")
    if microbatches < 1:
        raise UserError(f"--microbatches is {microbatches}; give a whole number of at least 1.")
    if dollars_per_hour is not None and not 0 <= dollars_per_hour < float("inf"):
        raise UserError(f"--price is {dollars_per_hour}; give dollars per chip-hour, 0 or more.")
    need_compiler(found)
    axes = None if mesh is None else {axis: mesh.get(axis, 1) for axis in ("data", "fsdp", "tensor")}
    if mesh is not None and set(mesh) - set(axes or {}):
        raise UserError(f"--mesh names {min(set(mesh) - set(axes or {}))!r}; choose from data, fsdp, tensor.")
    return Asked(
        target=found,
        chip=find(found.chip, hardware_file),
        mesh=axes,
        remat=remat,
        microbatches=microbatches,
        utilisation=utilisation,
        dollars_per_hour=dollars_per_hour,
    )
