"""One training run: tokens -> decoder -> loss -> AdamW -> metrics, resumable at any step.

The loop dispatches step t, then reads the metrics of step t - 1: the host never waits for the
step that it has just launched.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from scaling.accounting import counts
from scaling.begin import Start, begin, other_placement
from scaling.checkpoint import Checkpoints
from scaling.config import NUMERICS_VERSION, Placement, RunConfig, kept, to_dict
from scaling.data.batches import validation_sets
from scaling.data.text import Prepared, open_for
from scaling.errors import RunError, UserError
from scaling.evaluate import evaluate
from scaling.feed import Feed
from scaling.files import write_json
from scaling.meter import Clock, Meter
from scaling.model.decoder import abstract
from scaling.model.params import check_divides
from scaling.optimizer import Hyper, hyper
from scaling.processes import NOTHING, SAVE, STOP, Votes, first, own_folder
from scaling.runs import MetricsLog, RunFolder
from scaling.schedule import fraction_of_peak
from scaling.sharding import Shardings, make_shardings
from scaling.step import TrainState, compiled_eval_step, compiled_leaf_step, forward_of, init_state
from scaling.tracing import Profile, Trace
from scaling.tracking import Off, Tracker, tracker
from scaling.watchdog import OnHang, Watchdog

Show = Callable[[dict[str, Any]], None]  # what Meter.report tells
Stop = Callable[[], bool]

PROGRESS_SECONDS = 0.25
LOSSES = ("loss", "loss_se", "loss_by_source", "bits_per_byte")  # that a diverged run does not have
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


class Interrupted(Exception):
    """Asked to stop; everything up to the last finished step is saved."""


def train(
    config: RunConfig,
    placement: Placement,
    folder: RunFolder,
    progress: Show | None = None,
    should_stop: Stop | None = None,
    profile: Profile | None = None,
    on_hang: OnHang | None = None,
) -> dict[str, Any]:
    """Train `config` into `folder`, going on from its last checkpoint if there is one; returns the summary.

    A finished run is returned as it is. `on_hang` is called, from another thread and with the reason, when
    training makes no progress (`Placement.hang_seconds`): `scaling.watchdog.end_process` in a process that
    is started again; None watches nothing. Raises Interrupted once `should_stop` turns true and the
    state is saved, RunBusy when another process holds the folder, UserError, before the folder is
    touched, for a config that this data or machine cannot serve, RunError when the folder cannot be written.
    """
    if folder.finished():
        return folder.summary()
    run = Run(config, placement, folder, profile)
    folder = run.folder
    try:
        with folder.claim():
            if folder.finished():
                return folder.summary()
            folder.create(config, placement)
            try:
                return run.finish(progress or _ignore, should_stop or _never, on_hang)
            except Interrupted:
                raise
            except Exception as error:
                with contextlib.suppress(OSError):  # the disk may be full; the error itself matters more
                    folder.fail(f"{type(error).__name__}: {error}")
                raise
    except OSError as error:
        raise RunError(
            f"run {folder.run_id} stopped at {error.filename or folder.path} ({error.strerror or error}); "
            f"mend that and start it again: it goes on from its last checkpoint"
        ) from error


class Run:
    """What one call of `train` holds: compiled steps, state, stream, logs. Making it writes nothing."""

    def __init__(
        self, config: RunConfig, placement: Placement, folder: RunFolder, profile: Profile | None = None
    ) -> None:
        self.config, self.placement, self.run_id = config, placement, config.run_id
        self.folder, self.run_folder = own_folder(folder), folder
        self.notes: list[str] = []
        self.packed = 1  # runs that are trained in one program with it, itself counted
        self.shardings: Shardings = make_shardings(placement)
        self.prepared: Prepared = open_for(config.data, placement.data_path)
        self.validation = validation_sets(
            self.prepared, seq_len=config.seq_len, val_tokens=config.data.val_tokens
        )
        _check(config, placement, self.shardings)
        self.feed = Feed(config, placement, self.shardings, self.prepared)
        self.device = self.shardings.mesh.devices.flat[0]
        forward = forward_of(config, placement, self.device.platform, self.shardings)
        self.train_step = compiled_leaf_step(forward, config.model, self.shardings)
        self.eval_step = compiled_eval_step(forward)
        self.meter = Meter(config, self.shardings.mesh.devices.ravel().tolist(), forward.how.dtype)
        self.trace = Trace(profile if first() else None)

    def finish(self, progress: Show, should_stop: Stop, on_hang: OnHang | None = None) -> dict[str, Any]:
        """Train to the last step, evaluate, write the outcome."""
        with Watchdog(self.placement.hang_seconds, on_hang) as self.watchdog:
            return self.go_on(self.restore(), progress, should_stop)

    def go_on(self, start: Start, progress: Show, should_stop: Stop) -> dict[str, Any]:
        """The same from where it stands."""
        try:
            self.open(start)
            diverged_at = start.step if start.diverged else self._loop(progress, should_stop)
            with self.watchdog.during("the last checkpoint"):
                self.checkpoints.wait()
        except Exception:  # Interrupted among them
            self.mirror.finish(None)
            raise
        finally:
            self.close()
        with self.watchdog.during("evaluation"):
            return self.conclude(diverged_at)

    def restore(self) -> Start:
        """Where the run stands: its newest checkpoint, or where it begins. Its log is cut to that."""
        self.clock, self.last_loss = Clock(), None
        self.mirror: Tracker = Off()
        keep = self.placement.keep_steps, self.placement.keep_every
        self.checkpoints = Checkpoints(self.run_folder.checkpoints, *keep)
        return self._resume()

    def open(self, start: Start) -> None:
        """Its log, and its mirror; `placement.json` says on what it goes on."""
        self._record_placement()
        self.log = MetricsLog(self.folder)
        self.mirror = tracker(self.placement, self.config, self.folder) if first() else Off()
        for row in start.rows:
            self.mirror.log(row)

    def close(self) -> None:
        """Let go of the folder's files, whatever happened."""
        if hasattr(self, "log"):
            self.log.close()
        self.checkpoints.close()
        self.trace.close()

    def conclude(self, diverged_at: int | None) -> dict[str, Any]:
        """Evaluate, and write the outcome."""
        summary = self._summary(diverged_at)
        status = summary.pop("status")
        self.folder.finish(status, summary)
        self.mirror.finish(self.folder.summary())
        return self.folder.summary()

    def _resume(self) -> Start:
        """Go on from the newest readable checkpoint, else from the first steps that a run beside it has."""
        fresh = init_state(self.config, self.shardings)
        step, state, position, notes = self.checkpoints.restore_newest(fresh, self.run_id)
        start = (
            Start(step, state, position, [], notes) if step else begin(self.config, self.run_folder, fresh)
        )
        if step:
            self.folder.cut_metrics(step)
        else:
            self.folder.write_metrics(start.rows)
        self.started_from: dict[str, Any] = start.position.get("started_from", {})
        self.notes = start.position.get("notes", []) + notes + (start.notes if not step else [])
        self.first_step = start.step + 1
        self.leaves, self._treedef = jax.tree.flatten(start.state)
        if start.step:
            self.clock = Clock(start.position["seconds"], start.position["cpu_seconds"])
            if start.position["data"] is not None:
                self.feed.set_state(start.position["data"])
        return start

    @property
    def state(self) -> TrainState:
        return jax.tree.unflatten(self._treedef, self.leaves)

    def save(self, step: int, whole: bool = False) -> None:
        """Write the checkpoint of `step` while training goes on; with `whole`, return once it is on disk."""
        self.log.flush()  # the log on disk reaches at least as far as the checkpoint
        position: dict[str, Any] = {"run_id": self.run_id, "data": self._data_state, "notes": self.notes}
        position |= {"started_from": self.started_from, **self.clock.read()}
        self.checkpoints.save(step, self.state, position)
        if whole:
            self.checkpoints.wait()

    def _loop(self, progress: Show, should_stop: Stop) -> int | None:
        """Returns the step at which the loss stopped being finite, or None."""
        config, saved_at, shown_at = self.config, time.monotonic(), 0.0
        pending: tuple[int, float, Any] | None = None
        meter, trace, votes = self.meter, self.trace, Votes(self.shardings)
        for step in range(self.first_step, config.steps + 1):
            lr, h = self.rate(step)
            meter.lap("other")
            tokens_MBS1 = self.next_tokens()
            meter.dispatch()
            with trace.step(step):
                self.leaves, metrics = self.train_step(self.leaves, tokens_MBS1, h)
            meter.lap("dispatch")
            trace.dispatched(metrics)
            if pending and not self.log_row(*pending):
                return pending[0]
            pending = (step, lr, metrics)
            now = time.monotonic()
            if now - shown_at > PROGRESS_SECONDS:
                shown_at = now
                progress(meter.report(step, self.last_loss))
            if due := now - saved_at > self.placement.checkpoint_seconds:
                saved_at = now  # asked for: several processes save a step later
            decided = votes.decide(STOP if should_stop() else SAVE if due else NOTHING)
            if decided or step == config.steps or kept(self.placement, step):
                if not self.log_row(*pending):
                    return step
                pending = None
                with self.watchdog.during("a checkpoint"):
                    self.save(step, decided == STOP)
                saved_at = time.monotonic()  # after: a slow disk must not mean a save at every step
            if decided == STOP and step < config.steps:
                raise Interrupted(f"run {self.folder.run_id} saved at step {step} of {config.steps}")
            self.watchdog.beat()
        return None

    def rate(self, step: int) -> tuple[float, Hyper]:
        """Learning rate of a step, and the hyperparameters that it is given."""
        config = self.config
        lr = config.optimizer.lr * fraction_of_peak(config.schedule, step, config.steps)
        return lr, hyper(config.optimizer, lr)

    def log_row(self, step: int, lr: float, metrics: dict[str, jax.Array]) -> bool:
        """Append the row of one step; False when its loss is not finite."""
        # Through NumPy, which is ten times as quick as float() of an array of JAX.
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        self.meter.done()
        tokens = step * self.config.batch_size * self.config.seq_len
        row: dict[str, Any] = {"step": step, "tokens": tokens, "lr": lr, "seconds": self.clock.wall()}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.log.append(row)
        self.mirror.log(row)
        self.last_loss = row["loss"]
        self.meter.lap("log")
        return row["loss"] is not None

    def next_tokens(self) -> Any:
        tokens_MBS1 = next(self.feed)
        self._data_state = self.feed.get_state()
        return tokens_MBS1

    def _summary(self, diverged_at: int | None) -> dict[str, Any]:
        config = self.config
        per_token = counts(config.model, config.seq_len)
        rows, notes = self.folder.metrics()
        clock = self.clock.read()
        summary: dict[str, Any] = {
            "status": "done",
            "train_loss": _tail_mean(rows, "loss"),
            "steps": config.steps,
            "tokens": config.tokens,
            **self._trained_here(diverged_at or config.steps),
            "unique_tokens": self.feed.unique_tokens,
            "epochs": config.tokens / self.feed.unique_tokens,
            "epochs_by_source": self.feed.epochs_by_source,
            "tokens_per_second": _rate(rows),
            **self.meter.summary(),
            "counts": per_token.flat(config.tokens),
            "device": self.device.device_kind,
            **({"packed": self.packed} if self.packed > 1 else {}),
            "notes": self.notes + notes + self.mirror.notes + self.trace.notes,
        }
        if noise := _noise_scale(rows, config):
            summary["noise_scale_tokens"] = noise
        if diverged_at is None:
            summary |= evaluate(self.eval_step, self.state.params, self.validation, self.shardings)
            loss = summary["loss"]
            # Worse than before its first update: no power law describes this run.
            if not np.isfinite(loss) or (config.steps > 1 and rows and loss > rows[0]["loss"]):
                diverged_at = config.steps
        if diverged_at is not None:
            summary |= {"status": "diverged", "diverged_step": diverged_at} | dict.fromkeys(LOSSES)
        return summary | clock | {"cpu_seconds": self.clock.read()["cpu_seconds"]}

    def _trained_here(self, last_step: int) -> dict[str, Any]:
        """Steps and FLOPs (`matmul`) of this run alone; steps trained again after a crash count once."""
        config, start = self.config, self.started_from
        steps = last_step - start.get("step", 0)
        per_step = counts(config.model, config.seq_len).flops_per_token["matmul"]
        per_step *= config.batch_size * config.seq_len
        trained = {"steps_trained": steps, "flops_trained": per_step * steps}
        return trained | ({"started_from": start} if start else {})

    def _record_placement(self) -> None:
        """What it ran on, beside the result: a bitwise claim holds for one placement only."""
        write_json(
            self.folder.path / "placement.json",
            to_dict(self.placement)
            | {
                "platform": self.device.platform,
                "device_kind": self.device.device_kind,
                "devices": self.shardings.mesh.devices.size,
                "mesh_shape": dict(self.shardings.mesh.shape),
                "xla_threads": os.environ.get("NPROC"),
                "versions": {name: version(name) for name in LIBRARIES},
                "data": str(self.prepared.path),
            }
            | ({"packed": self.packed} if self.packed > 1 else {}),
        )
        if note := self.started_from and other_placement(self.run_folder, self.started_from):
            self.notes = [note, *(known for known in self.notes if known != note)]


def _check(config: RunConfig, placement: Placement, shardings: Shardings) -> None:
    if config.numerics_version != NUMERICS_VERSION:
        raise UserError(
            f"numerics_version is {config.numerics_version}, but this code trains {NUMERICS_VERSION} and its "
            f"results would pass for the other's; take the code of that version, or plan the run anew."
        )
    check_divides(abstract(config.model)[1], shardings)
    _check_sequences(config.seq_len, placement, shardings)
    unit = placement.microbatches * shardings.batch_shards
    if config.batch_size % unit:
        raise UserError(
            f"batch_size is {config.batch_size} sequences; give a multiple of {unit} "
            f"({placement.microbatches} microbatches x {shardings.batch_shards} shards)."
        )


def _check_sequences(seq_len: int, placement: Placement, shardings: Shardings) -> None:
    pieces, chunks = shardings.context_shards, max(1, placement.loss_chunks)
    if seq_len % (pieces * chunks):
        raise UserError(
            f"seq_len is {seq_len}; give a multiple of {pieces * chunks} (mesh context {pieces} x "
            f"placement.loss_chunks {chunks})."
        )


def _tail_mean(rows: list[dict[str, Any]], name: str) -> float | None:
    """Mean over the last tenth of the run: one step's loss is noise."""
    tail = [row[name] for row in rows[-max(1, len(rows) // 10) :] if row[name] is not None]
    return float(np.mean(tail)) if tail else None


def _rate(rows: list[dict[str, Any]]) -> float | None:
    """Tokens per second between the first and the last row, compilation left out."""
    if not rows:  # the log was lost; the checkpoint was not
        return None
    seconds = rows[-1]["seconds"] - rows[0]["seconds"]
    return (rows[-1]["tokens"] - rows[0]["tokens"]) / seconds if seconds > 0 else None


def _noise_scale(rows: list[dict[str, Any]], config: RunConfig) -> float | None:
    """Simple noise scale in tokens over the last half of the run (McCandlish et al. 2018, appendix A.1)."""
    late = [row for row in rows[len(rows) // 2 :] if row.get("grad_signal") is not None]
    signal = sum(row["grad_signal"] for row in late)
    noise = sum(row["grad_noise"] for row in late)
    if not late or signal <= 0:
        return None
    return noise / signal * config.batch_size * config.seq_len


def _ignore(_: dict[str, Any]) -> None: ...


def _never() -> bool:
    return False
