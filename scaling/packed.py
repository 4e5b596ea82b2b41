"""Several runs of one shape trained side by side in one program, where one of them leaves the device idle.

A small model's step on an accelerator is bound by the launches of its kernels and by the host, not by
arithmetic: P of them in one `jax.vmap` may cost little more than one (`scaling/packing.py` says when).
Parameters, moments, tokens and hyperparameters get a P axis; the step is the one that each would take alone
(`scaling/step.py`). Each run keeps its own folder: log, checkpoints, summary and DONE are what it writes
alone, so it may go on alone, or in another pack.

Products are batched, so sums are taken in another order: losses agree with those alone to float32 rounding
(tests/scaling/test_packed.py), not bit for bit; `placement.json` says `packed`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scaling.begin import Start
from scaling.config import Placement, RunConfig, kept
from scaling.errors import UserError
from scaling.packing import pack_key
from scaling.runs import RunBusy, RunFolder
from scaling.step import compiled_packed_step, forward_of
from scaling.train import PROGRESS_SECONDS, Interrupted, Run, Stop
from scaling.watchdog import OnHang, Watchdog

ShowOne = Callable[[str, dict[str, Any]], None]  # run_id, and what Meter.report tells
Found = dict[str, Any] | str  # a summary, or "stopped", "busy"


def train_packed(
    configs: Sequence[RunConfig],
    placement: Placement,
    folders: Sequence[RunFolder],
    progress: ShowOne,
    should_stop: Stop,
    on_hang: OnHang | None = None,
) -> dict[str, Found]:
    """Train runs of one `pack_key`, each into its folder and from its own checkpoint; what became of each.

    Runs that stand at the same step are trained together, one such group after another. A run that diverges
    ends as it does alone, and its lane is idle from there. "stopped": `should_stop` turned true and its
    state is saved; "busy": another process holds its folder.

    Raises UserError for runs that cannot be packed (other shapes, more than one device, wandb), before any
    folder is touched, and what `train` raises for a folder that cannot be written: all then stop, each with
    its last checkpoint.
    """
    _check(configs, placement)
    found: dict[str, Found] = {}
    runs: list[Run] = []
    with contextlib.ExitStack() as held:
        for config, folder in zip(configs, folders, strict=True):
            if folder.finished():
                found[folder.run_id] = folder.summary()
                continue
            run = Run(config, placement, folder)
            try:
                held.enter_context(folder.claim())
            except RunBusy:
                found[folder.run_id] = "busy"
                continue
            folder.create(config, placement)
            runs.append(run)
        try:
            with Watchdog(placement.hang_seconds, on_hang) as watchdog:
                for group in _groups(runs, watchdog):
                    found |= _train_group(group, watchdog, progress, should_stop)
        except Exception as error:
            for run in runs:
                if run.run_id not in found:
                    with contextlib.suppress(OSError):
                        run.folder.fail(f"{type(error).__name__}: {error}")
            raise
    return found


def _check(configs: Sequence[RunConfig], placement: Placement) -> None:
    if len({pack_key(config) for config in configs}) != 1:
        raise UserError(
            "runs of a pack may differ in seed, schedule and the optimizer's numbers; train the others apart."
        )
    if placement.wandb != "off":
        raise UserError("placement.wandb is on and a process mirrors one run; train these runs one by one.")
    if placement.mesh or placement.slices:
        raise UserError("placement.mesh splits a run over devices; runs are packed on one, leave it empty.")


def _groups(runs: list[Run], watchdog: Watchdog) -> list[list[tuple[Run, Start]]]:
    """Runs by the step at which they stand, the furthest first: its members end first."""
    found: dict[int, list[tuple[Run, Start]]] = defaultdict(list)
    for run in runs:
        run.watchdog = watchdog
        start = run.restore()
        found[start.step if not start.diverged else run.config.steps].append((run, start))
    return [found[step] for step in sorted(found, reverse=True)]


def _train_group(
    group: list[tuple[Run, Start]], watchdog: Watchdog, progress: ShowOne, should_stop: Stop
) -> dict[str, Found]:
    alive = [(run, start) for run, start in group if not start.diverged]
    found: dict[str, Found] = {}
    lone = [(run, start) for run, start in group if start.diverged] + (alive if len(alive) == 1 else [])
    for run, start in lone:
        watchdog.expect("the start")
        try:
            found[run.run_id] = run.go_on(start, functools.partial(progress, run.run_id), should_stop)
        except Interrupted:
            found[run.run_id] = "stopped"
    return found | (Pack(alive, watchdog).train(progress, should_stop) if len(alive) > 1 else {})


class Pack:
    """Runs at the same step, one lane each."""

    def __init__(self, members: list[tuple[Run, Start]], watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._runs = [run for run, _ in members]
        head = self._runs[0]
        self._config, self._placement, self._first = head.config, head.placement, head.first_step
        for run, start in members:
            run.packed, run.clock.share = len(members), 1 / len(members)
            run.open(start)
        forward = forward_of(head.config, head.placement, head.device.platform, head.shardings)
        self._step = compiled_packed_step(forward, head.config.model, head.shardings)
        self._lanes = [np.stack(leaf) for leaf in zip(*(run.leaves for run in self._runs), strict=True)]
        self._lane = jax.jit(lambda leaves, lane: [leaf[lane] for leaf in leaves])
        self._tokens: list[Any] = [None] * len(self._runs)
        self._ended: dict[int, Found] = {}  # by lane

    def train(self, progress: ShowOne, should_stop: Stop) -> dict[str, Found]:
        self._watchdog.expect("compilation")
        try:
            stopped = self._loop(progress, should_stop)
            for lane in self._live():
                self._ended[lane] = "stopped" if stopped else self._conclude(lane, None)
        finally:
            for run in self._runs:
                run.close()
        return {run.run_id: self._ended[lane] for lane, run in enumerate(self._runs)}

    def _live(self) -> list[int]:
        return [lane for lane in range(len(self._runs)) if lane not in self._ended]

    def _loop(self, progress: ShowOne, should_stop: Stop) -> bool:
        """To the last step; true when it was asked to stop before, and has saved."""
        saved_at, shown_at = time.monotonic(), 0.0
        pending: tuple[int, list[float], Any] | None = None
        for step in range(self._first, self._config.steps + 1):
            rates, metrics = self._dispatch(step)
            if pending:
                self._log(*pending)
            pending = (step, rates, metrics)
            now = time.monotonic()
            if now - shown_at > PROGRESS_SECONDS:
                shown_at = now
                for lane in self._live():
                    run = self._runs[lane]
                    progress(run.run_id, run.meter.report(step, run.last_loss))
            stop = should_stop() and step < self._config.steps
            due = now - saved_at > self._placement.checkpoint_seconds
            if stop or due or step == self._config.steps or kept(self._placement, step):
                self._log(*pending)
                pending = None
                with self._watchdog.during("checkpoints"):
                    self._save(step, whole=stop)
                saved_at = time.monotonic()
            if stop or not self._live():
                return stop
            self._watchdog.beat()
        return False

    def _dispatch(self, step: int) -> tuple[list[float], Any]:
        """Hand a step of all lanes to the device. A lane that has ended gets its last tokens again."""
        given = [run.rate(step) for run in self._runs]
        for lane in self._live():
            run = self._runs[lane]
            run.meter.lap("other")
            self._tokens[lane] = run.next_tokens()
            run.meter.dispatch()
        h = {name: np.array([one[name] for _, one in given], np.float32) for name in given[0][1]}
        self._lanes, metrics = self._step(self._lanes, np.stack(self._tokens), h)
        for lane in self._live():
            self._runs[lane].meter.lap("dispatch")
        return [lr for lr, _ in given], metrics

    def _log(self, step: int, rates: list[float], metrics: Any) -> None:
        values_P = {name: np.asarray(value) for name, value in metrics.items()}
        for lane in self._live():
            row = {name: value[lane] for name, value in values_P.items()}
            if not self._runs[lane].log_row(step, rates[lane], row):
                self._ended[lane] = self._conclude(lane, step)

    def _save(self, step: int, whole: bool) -> None:
        for lane in self._live():
            self._runs[lane].leaves = self._lane(self._lanes, lane)
            self._runs[lane].save(step)
        for lane in self._live() if whole else ():
            self._runs[lane].checkpoints.wait()

    def _conclude(self, lane: int, diverged_at: int | None) -> dict[str, Any]:
        """The run's own end: its last checkpoint whole, its log closed, its outcome written."""
        run = self._runs[lane]
        with self._watchdog.during("evaluation"):
            run.checkpoints.wait()
            run.close()
            return run.conclude(diverged_at)
