"""Preflight with a compiler made up here: which layouts it is asked for, what is made of its answers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launch.preflight import Asked, asked_of, open_sweep, preflight, shape_of
from launch.preflight_cache import Cached, sources
from launch.preflight_compile import Compiler, Compilers
from launch.preflight_judge import Compiles, Verdict, candidates_of
from launch.preflight_judge import judge as judge_of
from launch.preflight_layouts import layouts
from launch.preflight_targets import find_target
from launch.preflight_text import lines
from launch.preflight_worker import exhausted
from scaling.accounting import run_flops
from scaling.cli.main import main
from scaling.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    dump_run_config,
    from_dict,
    override,
)
from scaling.errors import UserError
from scaling.hardware import find
from scaling.memory import training
from sweeps.sweep import Sweep

GIB = 2**30


def run(batch: int = 64, lr: float = 1e-3, **shape: int) -> RunConfig:
    values = {"n_layers": 16, "d_model": 2048, "n_heads": 16, "n_kv_heads": 8, "d_head": 128, "d_ff": 5632}
    return RunConfig(
        model=ModelConfig(**{**values, "vocab_size": 32768, **shape}, tied=False),
        data=DataConfig(name="text", fingerprint=""),
        optimizer=OptimizerConfig(lr=lr),
        seq_len=2048,
        batch_size=batch,
        steps=1000,
    )


TINY = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 4, "d_head": 16, "d_ff": 160}


def asked(target: str = "v5p-128", **changes: Any) -> Asked:
    slice_ = find_target(target)
    return Asked(target=slice_, chip=find(slice_.chip), **changes)


def judge(shape: RunConfig, asked: Asked, compiler: Compiles) -> Verdict:
    return judge_of(shape, candidates_of(shape, asked), asked, compiler)


class Pretend:
    """Says what fits by a rule; remembers what it was asked."""

    def __init__(self, fits: Any) -> None:
        self.fits, self.jobs = fits, []
        self.sizes: dict[str, Any] = {"total": 5e9, "arguments": 2e9, "available": 95e9}

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        return {"fits": bool(self.fits(job)), **self.sizes}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("name", "chips", "grid"),
    [
        ("v5p-128", 64, (4, 4, 4)),
        ("v5p-1024", 512, (8, 8, 8)),
        ("v5p-8192", 4096, (16, 16, 16)),
        ("v5p-12288", 6144, (16, 16, 24)),  # the largest, https://cloud.google.com/tpu/docs/v5p
        ("v4-8", 4, (2, 2, 1)),
        ("v5litepod-16", 16, (4, 4)),
        ("v6e-8", 8, (2, 4)),
        ("v5p:4x4x8", 128, (4, 4, 8)),
        ("h100-16", 16, (16,)),
    ],
)
def test_slices_by_the_names_they_are_rented_under(name: str, chips: int, grid: tuple[int, ...]) -> None:
    found = find_target(name)
    assert (found.chips, found.grid) == (chips, grid)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v9-8", "v4, v5e, v5p, v6e, h100"),
        ("v5p", "give its size too"),
        ("v5p-129", "no slice of v5p.*v5p-128.*two to a chip"),
        ("v5e-7", "choose from v5litepod-1, v5litepod-4"),
        ("v5p:4x4", "no slice"),
        ("h100-12", "no slice"),
        ("", "name a slice"),
        ("v5p-" + "9" * 5000, "name a slice"),
    ],
)
def test_no_such_slice(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_target(name)


@pytest.mark.parametrize(
    ("target", "extra"), [("v5p-128", r"scaling-experiments\[preflight\]"), ("h100-8", r"\[cuda\]")]
)
def test_a_missing_compiler_is_one_sentence(
    target: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.preflight_targets.find_spec", lambda name: None)
    with pytest.raises(UserError, match=extra):
        asked_of(target)
    monkeypatch.setattr(sys, "argv", ["scaling", "preflight", "quickstart", "--target", target])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_layouts_divide_and_never_beat_the_limit() -> None:
    config, chip = run(batch=256), find("v5p")
    found = layouts(config, find_target("v5p-128"), chip, chips=64, microbatches=1, utilisation=0.5)
    assert {x.mesh["tensor"] for x in found} == {1, 2, 4, 8}
    # 6 FLOPs for each weight that multiplies a token, attention aside: less than any step does.
    layer = 2048 * (2 * 2048 + 2 * 1024 + 3 * 5632)
    least = 6 * (16 * layer + 2048 * 32768) * 256 * 2048 / (64 * 4.59e14)
    for layout in found:
        assert layout.chips == 64
        assert 256 % (layout.mesh["data"] * layout.mesh["fsdp"]) == 0
        assert layout.seconds.step >= layout.seconds.floor >= least
        assert layout.seconds.compute >= 2 * least
    assert found[0].seconds.step == min(x.seconds.step for x in found)
    again = {x.remat: x.seconds.compute for x in found if x.mesh == found[0].mesh}
    assert again["full"] == pytest.approx(4 / 3 * again["none"])


def test_the_quickest_layout_that_fits_is_taken() -> None:
    compiler = Pretend(lambda job: job["remat"] == "full")
    verdict = judge(shape_of(run(batch=512)), asked(), compiler)
    assert verdict.fits and verdict.layout.remat == "full"
    assert compiler.jobs[0]["remat"] != "full"  # a quicker one was tried before
    assert math.prod(verdict.layout.mesh.values()) == 64


def test_a_branch_is_paid_from_where_it_leaves_its_trunk() -> None:
    flat = replace(run(batch=512), schedule=ScheduleConfig(name="wsd", warmup_steps=10, decay=0.1))
    sweep = Sweep("trunk", "", {}, (flat, replace(flat, steps=500)))
    report = preflight(sweep, asked(), Pretend(lambda job: True), lambda note: None)
    seconds = report["shapes"][0]["step_seconds"]
    # The trunk's 1,000 steps, and the 10% of 500 in which the shorter run cools down.
    assert report["sweep_cost"]["hours"] == pytest.approx(1050 * seconds / 3600)
    assert report["sweep_cost"]["flops"] == pytest.approx(1.05 * run_flops(flat))


def test_one_small_run_to_a_chip() -> None:
    """Eight sequences do not split over sixty-four chips, and a model of 100,000 parameters needs one."""
    compiler = Pretend(lambda job: True)
    sweep = Sweep(
        name="small", question="", design={}, runs=tuple(run(batch=8, lr=lr, **TINY) for lr in (1e-3, 2e-3))
    )
    report = preflight(sweep, asked(), compiler, lambda note: None)
    (row,) = report["shapes"]  # rates are no part of a shape
    assert len(compiler.jobs) == 1 and row["chips"] == 1 and len(row["runs"]) == 2
    # Both run at once: the sweep takes as long as one of them, and the slice is paid whole.
    cost = report["sweep_cost"]
    assert cost["hours"] == pytest.approx(1000 * row["step_seconds"] / 3600)
    assert cost["dollars"] == pytest.approx(cost["hours"] * 64 * 4.20)
    json.dumps(report, allow_nan=False)
    assert "one to a chip" in "\n".join(lines(report))


def test_too_large_a_batch_is_refused_with_the_largest_that_fits() -> None:
    compiler = Pretend(lambda job: job["config"]["batch_size"] <= 128)
    verdict = judge(shape_of(run(batch=1024)), asked(), compiler)
    assert not verdict.fits
    assert verdict.largest_batch == 128


class Affine(Pretend):
    """Takes 1.3 times what the memory model expects beside the arguments; refuses beyond the memory."""

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        config = from_dict(RunConfig, job["config"])
        held = training(
            config.model, seq_len=config.seq_len, batch=config.batch_size, mesh=job["mesh"],
            remat=job["remat"], microbatches=job["microbatches"], tiled=True,
        )  # fmt: skip
        total = held.arguments + 1.3 * (held.total - held.arguments)
        fits = total <= find_target("v5p-128").usable
        return {"fits": fits, "total": total, "arguments": held.arguments, "available": None}


def test_the_largest_batch_is_found_in_few_compilations() -> None:
    """No batch an eighth larger would fit: numbers of four binary digits are so far apart."""
    compiler = Affine(None)
    shape = shape_of(run(batch=16384))
    verdict = judge(shape, asked(remat="full"), compiler)
    assert not verdict.fits and verdict.largest_batch and len(compiler.jobs) <= 12
    fits = {job["config"]["batch_size"]: compiler.compile(job)["fits"] for job in list(compiler.jobs)}
    assert fits[verdict.largest_batch] and max(n for n, fit in fits.items() if fit) == verdict.largest_batch
    least = min(
        compiler.compile({**job, "config": {**job["config"], "batch_size": verdict.largest_batch * 9 // 8}})[
            "total"
        ]
        for job in compiler.jobs[:1]
    )
    assert least > find_target("v5p-128").usable


def test_a_plan_larger_than_the_chip_does_not_fit_though_it_compiles() -> None:
    """Seen of libtpu 0.0.42: 1.62 GB of arguments and 16.86 GB of temporaries accepted for 16.91 GB."""
    compiler = Pretend(lambda job: True)
    compiler.sizes = {"total": 110e9, "arguments": 2e9, "available": None}
    verdict = judge(shape_of(run(batch=64)), asked(), compiler)
    assert not verdict.fits and verdict.total == 110e9


def test_nothing_fits() -> None:
    verdict = judge(shape_of(run(batch=64)), asked(), Pretend(lambda job: False))
    assert not verdict.fits and verdict.largest_batch is None


def test_a_batch_that_does_not_split() -> None:
    with pytest.raises(UserError, match=r"batch_size is 7.*64 chips.*multiple of 64"):
        huge = run(batch=7, n_layers=200, d_model=16384, n_heads=128, n_kv_heads=128, d_ff=65536)
        judge(shape_of(huge), asked(mesh=None), Pretend(lambda job: True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remat": "some"}, "--remat"),
        ({"utilisation": 0.0}, "--utilisation"),
        ({"microbatches": 0}, "--microbatches"),
        ({"dollars_per_hour": -1.0}, "--price"),
        ({"mesh": {"pipeline": 4}}, "--mesh names 'pipeline'"),
    ],
)
def test_bad_options(changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.preflight_targets.find_spec", lambda name: True)
    with pytest.raises(UserError, match=words):
        asked_of("v5p-128", **changes)


def test_answers_are_kept_by_everything_they_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"config": {"batch_size": 1}}
    first, second = Pretend(lambda job: True), Pretend(lambda job: False)
    assert Cached(first, tmp_path).compile(job) == Cached(second, tmp_path).compile(job)  # type: ignore[arg-type]
    assert len(first.jobs) == 1 and not second.jobs
    Cached(second, tmp_path).compile({"config": {"batch_size": 2}})  # type: ignore[arg-type]
    monkeypatch.setattr("launch.preflight_cache._versions", lambda: {"libtpu": "another"})
    Cached(second, tmp_path).compile(job)  # type: ignore[arg-type]
    assert len(second.jobs) == 2


def test_what_a_step_is_compiled_from_is_part_of_the_key() -> None:
    """Every module of the project that Python itself imports for the step, but for empty packages."""
    script = (
        "import json, sys, scaling.step, scaling.model.decoder, scaling.sharding, launch.preflight_worker;"
        "print(json.dumps([m for m in sys.modules if m.startswith(('scaling.', 'launch.'))]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    keyed = sources()
    assert {"scaling.step", "scaling.model.attention", "scaling.sharding"} <= set(keyed)
    for name in json.loads(done.stdout):
        assert name in keyed or Path(sys.modules["launch"].__path__[0], "..", *name.split(".")).is_dir(), name


def test_shapes_are_judged_at_once_and_an_error_ends_all() -> None:
    runs = tuple(run(batch=8, lr=1e-3, **{**TINY, "d_ff": 160 + 32 * n}) for n in range(6))
    sweep = Sweep(name="six", question="", design={}, runs=runs)
    threads = set()

    class Slow(Pretend):
        def compile(self, job: dict[str, Any]) -> dict[str, Any]:
            threads.add(threading.get_ident())
            time.sleep(0.02)
            return super().compile(job)

    report = preflight(sweep, asked(), Slow(lambda job: True), lambda note: None, at_once=3)
    assert 1 < len(threads) <= 3
    assert [row["model"]["d_ff"] for row in report["shapes"]] == [r.model.d_ff for r in runs]

    class Broken(Pretend):
        ended = False

        def compile(self, job: dict[str, Any]) -> dict[str, Any]:
            return {"error": "broken"}

        def close(self) -> None:
            self.ended = True

    compiler = Broken(None)
    with pytest.raises(UserError, match="could not be compiled: broken"):
        preflight(sweep, asked(), compiler, lambda note: None, at_once=3)
    assert compiler.ended


def test_compilers_that_are_ended_refuse_what_comes() -> None:
    compilers = Compilers(2)
    assert "KeyError" in compilers.compile({})["error"]
    compilers.close()
    assert "ended" in compilers.compile({})["error"]


def test_a_compiler_that_hangs_is_ended() -> None:
    with Compiler(seconds=0.01) as compiler:
        assert "no answer" in compiler.compile({})["error"]
    with Compiler() as compiler:  # and one that cannot do what it is asked says so, and goes on
        for _ in range(2):
            assert "KeyError" in compiler.compile({})["error"]


def test_sizes_in_a_refusal() -> None:
    """As libtpu 0.0.42 words it."""
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(23.52G) exceeds available HBM (15.75G)."
    )
    found = exhausted(text)
    assert not found["fits"]
    assert (found["total"], found["available"]) == (23.52 * GIB, 15.75 * GIB)


def test_the_config_of_one_run(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(dump_run_config(run()))
    assert open_sweep(str(file), tmp_path).runs == open_sweep(str(tmp_path), tmp_path).runs == (run(),)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="the TPU compiler libtpu is not installed")
def test_a_real_compilation_for_a_tpu() -> None:
    config = shape_of(override(run(batch=4, **TINY), {"seq_len": 128}))
    with Compiler() as compiler:
        verdict = judge(config, asked("v5litepod-4"), compiler)
    assert verdict.fits
    assert verdict.arguments == pytest.approx(
        verdict.layout.memory.arguments, rel=0.2
    )  # small arrays are padded
