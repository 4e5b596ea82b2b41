"""A pack's runs are the runs that they are alone: numbers, folders, divergence, preemption, restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.config import Placement, RunConfig
from scaling.errors import UserError
from scaling.packed import Found, train_packed
from scaling.packing import pack_key
from scaling.runs import RunFolder
from scaling.train import train
from tests.tiny import CPU, tiny

STEPS = 24
RUNS = [
    tiny(steps=STEPS),
    tiny(steps=STEPS, optimizer__lr=3e-3, seed=5),
    tiny(steps=STEPS, schedule__name="cosine", optimizer__weight_decay=0.0, optimizer__clip=0.0),
]
LATE = tiny(steps=STEPS, seed=9)
DIVERGING = tiny(steps=STEPS, optimizer__lr=1e30)
TOLERANCE = 1e-6  # relative, of every step's loss and of the final loss


def pack(
    root: Path,
    configs: list[RunConfig],
    stop_at: int | None = None,
    placement: Placement = CPU,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Found]:
    """Train in one program, asked to stop once the first run's log should have `stop_at` rows."""
    calls = iter(range(1, 10**6))
    return train_packed(
        configs,
        placement,
        [RunFolder(root / config.run_id) for config in configs],
        progress=lambda run_id, row: None,
        should_stop=stop or (lambda: stop_at is not None and next(calls) >= stop_at),
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("alone")
    for config in (*RUNS, LATE, DIVERGING):
        train(config, CPU, RunFolder(root / config.run_id))
    return root


def losses(root: Path, config: RunConfig) -> np.ndarray[Any, Any]:
    rows = RunFolder(root / config.run_id).metrics()[0]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return np.array([row["loss"] for row in rows], dtype=float)


def assert_same(root: Path, alone: Path, configs: list[RunConfig]) -> None:
    for config in configs:
        np.testing.assert_allclose(losses(root, config), losses(alone, config), rtol=TOLERANCE)
        run, other = (RunFolder(where / config.run_id) for where in (root, alone))
        mine, theirs = run.summary(), other.summary()
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=TOLERANCE)
        assert set(mine) - {"packed"} == set(theirs) and mine["steps_trained"] == theirs["steps_trained"]
        files = {path.name for path in run.path.iterdir()}
        assert files == {path.name for path in other.path.iterdir()} and run.status() == "done"
        rows = [row.keys() for row in run.metrics()[0]]
        assert rows == [row.keys() for row in other.metrics()[0]]


def test_results_are_those_of_separate_runs_and_one_that_diverges_touches_no_other(
    alone: Path, tmp_path: Path
) -> None:
    configs = [RUNS[0], DIVERGING, *RUNS[1:]]
    found = pack(tmp_path, configs)
    assert sorted(found) == sorted(config.run_id for config in configs)
    assert_same(tmp_path, alone, RUNS)
    assert len({losses(tmp_path, config)[-1] for config in RUNS}) == len(RUNS)  # three runs, not one thrice
    assert found[RUNS[0].run_id] == RunFolder(tmp_path / RUNS[0].run_id).summary()
    run, other = (RunFolder(where / DIVERGING.run_id) for where in (tmp_path, alone))
    assert run.status() == other.status() == "diverged"
    assert run.summary()["diverged_step"] == other.summary()["diverged_step"]
    assert run.summary()["loss"] is None


def test_a_stop_saves_all_and_they_go_on_alone_or_packed_from_wherever_they_stand(
    alone: Path, tmp_path: Path
) -> None:
    assert pack(tmp_path, RUNS, stop_at=10) == {config.run_id: "stopped" for config in RUNS}
    for config in RUNS:
        folder = RunFolder(tmp_path / config.run_id)
        assert folder.status() == "stopped" and (folder.checkpoints / "10").is_dir()
    train(RUNS[1], CPU, RunFolder(tmp_path / RUNS[1].run_id))  # one of them by itself
    done = tmp_path / RUNS[1].run_id / "DONE"
    before = done.stat().st_mtime_ns
    found = pack(tmp_path, [*RUNS, LATE])  # one finished, two at step 10, one at 0
    assert [summary["status"] for summary in found.values() if isinstance(summary, dict)] == ["done"] * 4
    assert done.stat().st_mtime_ns == before
    assert_same(tmp_path, alone, [*RUNS, LATE])


def test_a_member_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    with RunFolder(tmp_path / RUNS[1].run_id).claim():
        found = pack(tmp_path, RUNS[:2])
    assert found[RUNS[1].run_id] == "busy" and "status" in found[RUNS[0].run_id]


def test_what_cannot_be_packed_is_one_sentence_and_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train the others apart"):
        pack(tmp_path, [RUNS[0], tiny(steps=STEPS + 1)])
    with pytest.raises(UserError, match=r"placement\.wandb"):
        pack(tmp_path, RUNS, placement=Placement(device="cpu", wandb="offline"))
    assert not list(tmp_path.iterdir())


def test_the_key_of_a_pack_is_all_but_seed_schedule_and_the_optimizers_numbers() -> None:
    assert len({pack_key(config) for config in (*RUNS, DIVERGING)}) == 1
    others = [tiny(steps=STEPS, model__d_model=32), tiny(steps=STEPS, batch_size=8), tiny(steps=STEPS + 1)]
    others += [tiny(steps=STEPS, optimizer__name="lion"), tiny(steps=STEPS, z_loss=1e-4)]
    assert len({pack_key(config) for config in (RUNS[0], *others)}) == 6
