"""wandb as a mirror of the run folder. The folder is the truth: losing wandb never loses or stops a run.

`tracker(placement, config, folder)` gives an object with `log(row)` for rows of metrics.jsonl,
`finish(summary)`, to be called when the folder is complete, and `notes`: what went wrong, for summary.json.
With `Placement.wandb == "off"` wandb is never imported.

In wandb a run has the name and id of its folder, the group of its sweep, and as tags the sweep, the data and
the parametrisation. Its history holds the rows on
their own `step` axis, `loss` renamed `train_loss` (nats/token), so that the summary's `loss` is the final
validation loss and nothing else; its config holds `mirror_config`, its summary the scalars of summary.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from scaling import wandb_session
from scaling.accounting import columns
from scaling.config import Placement, RunConfig, to_dict
from scaling.runs import RunFolder
from scaling.wandb_session import reason

INIT_SECONDS = 5.0  # an unreachable server may delay the start of a run by about twice this, once a process
FINISH_SECONDS = 30.0  # and its end by this much, when rows are still on their way
MOST_TAG = 64  # characters that wandb takes
ROW_SECONDS = 1.0  # a row a second, or one every percent of the steps, whichever is more

# Warm workers train many runs: after one failed start the server is left alone for a while.
_RETRY_SECONDS = 600.0
_unreachable_until = 0.0


class Tracker(Protocol):
    """Never raises: what fails becomes one note, and training goes on."""

    notes: list[str]

    def log(self, row: dict[str, Any]) -> None:
        """Offer a row of metrics.jsonl; rows that come faster than ROW_SECONDS are thinned."""

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        """End the run: with its summary when it ended for good, with None when it only stopped."""


class Off:
    """Tracks nothing."""

    def __init__(self, notes: list[str] | None = None) -> None:
        self.notes = notes or []

    def log(self, row: dict[str, Any]) -> None:
        pass

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        pass


def tracker(placement: Placement, config: RunConfig, folder: RunFolder) -> Tracker:
    """The tracker that `placement.wandb` asks for; `Off`, with a note, where wandb cannot start."""
    if placement.wandb == "off":
        return Off()
    try:
        with wandb_session.limit(2 * FINISH_SECONDS):
            return _Wandb(placement, config, folder)
    # Anything at all: a broken mirror must not stop a run.
    except Exception as error:
        return Off([f"wandb did not start ({reason(error)}); the run goes on, its folder has everything"])


def mirror_config(config: RunConfig) -> dict[str, Any]:
    """The columns of the runs table that a config fixes, and the whole config under `config`."""
    return {"config": to_dict(config), **columns(config)}


def tags(config: RunConfig, folder: RunFolder) -> list[str]:
    """By which a wandb project is filtered: the sweep, the data and the parametrisation."""
    named = (folder.path.parent.name, config.data.name, config.parametrisation)
    return [tag for tag in dict.fromkeys(named) if 1 <= len(tag) <= MOST_TAG]


class _Wandb:
    """A wandb run, offline where online was asked for and the server does not answer."""

    def __init__(self, placement: Placement, config: RunConfig, folder: RunFolder) -> None:
        self.notes: list[str] = []
        self._marker = folder.path / "wandb" / "last_step"
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        # Rows that an earlier start of this run has logged; a resume goes through some of them again.
        self._logged = int(self._marker.read_text() or 0) if self._marker.exists() else 0
        self._stride = max(1, config.steps // 100)
        self._time = 0.0
        self._pending: dict[str, Any] | None = None
        self._run: Any = self._start(placement, config, folder)
        self._attempt(self._define_axes)

    def log(self, row: dict[str, Any]) -> None:
        if self._run is None or row["step"] <= self._logged:
            return
        self._pending = row
        crossed = row["step"] // self._stride > self._logged // self._stride
        if crossed or time.monotonic() - self._time >= ROW_SECONDS:
            self._attempt(self._send)

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        if self._pending is not None:
            self._attempt(self._send)
        self._attempt(lambda: self._end(summary))
        self._run = None

    def _start(self, placement: Placement, config: RunConfig, folder: RunFolder) -> Any:
        start = _starter(placement, config, folder)
        if placement.wandb == "online":
            try:
                _check_key()
                return start("online")
            except Exception as error:
                _give_up()
                self.notes.append(
                    f"wandb cannot be reached ({reason(error)}); logging offline,"
                    f" `wandb sync {folder.path}/wandb/offline-run-*` uploads it later"
                )
        return start("offline")

    def _define_axes(self) -> None:
        self._run.define_metric("step", hidden=True, summary="none")
        # Without a summary of its own, a run that was cut off has no loss that passes for its final one.
        self._run.define_metric("*", step_metric="step", summary="none")

    def _send(self) -> None:
        row, self._pending = self._pending, None
        assert row is not None
        values = {("train_loss" if k == "loss" else k): v for k, v in row.items() if v is not None}
        self._logged, self._time = row["step"], time.monotonic()
        # Before the row: a kill between the two leaves one out of the mirror, and none in it twice.
        temporary = self._marker.with_suffix(".new")
        temporary.write_text(str(self._logged))
        os.replace(temporary, self._marker)
        self._run.log(values)

    def _end(self, summary: dict[str, Any] | None) -> None:
        outcome = summary or {"status": "stopped"}
        self._run.summary.update({k: v for k, v in outcome.items() if isinstance(v, str | int | float)})
        self._run.finish(exit_code=int(outcome["status"] in ("failed", "stopped")))

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._run is None:
            return
        try:
            with wandb_session.limit(2 * FINISH_SECONDS):
                action()
        # As in `tracker`: whatever wandb raises, the run goes on, and wandb is left alone from here.
        except Exception as error:
            self._run = None
            _give_up()
            self.notes.append(f"wandb gave up ({reason(error)}); the run goes on, its folder has everything")


def _starter(
    placement: Placement, config: RunConfig, folder: RunFolder
) -> Callable[[Literal["online", "offline"]], Any]:
    """`wandb.init` for this run, by mode: quiet, without a prompt, never waiting long."""
    import wandb

    entity, _, project = placement.wandb_project.rpartition("/")

    def start(mode: Literal["online", "offline"]) -> Any:
        wandb_session.start()
        return wandb.init(
            mode=mode,
            entity=entity or None,
            project=project,
            group=folder.path.parent.name,
            tags=tags(config, folder),
            id=folder.run_id,
            name=folder.run_id,
            resume="allow",
            dir=str(folder.path),
            config=mirror_config(config),
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_stats=True,  # a sampling thread, for numbers that nobody reads here
            ),
        )

    return start


def _check_key() -> None:
    """Raise where there is no key, in place of wandb's prompt, or where the server failed a moment ago."""
    if time.monotonic() < _unreachable_until:
        raise RuntimeError("it failed for an earlier run of this process")
    if not wandb_session.has_key():
        raise RuntimeError("no API key; run `wandb login` or set WANDB_API_KEY")


def _give_up() -> None:
    """Leave the server alone for a while, and end the session: it may be broken, and holds the run's id."""
    global _unreachable_until
    if time.monotonic() >= _unreachable_until:
        _unreachable_until = time.monotonic() + _RETRY_SECONDS
    wandb_session.abandon()
