"""A launch as people see it: a live table on a terminal, one plain line for each ended run elsewhere.

Both go to stderr; stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.executor import Event, Job
from scaling.accounting import counts
from scaling.amounts import human

ORDER: tuple[str, ...] = ("stopping", "running", "waiting", "crashed", "failed", "diverged", "stopped")
ORDER += ("done", "finished", "queued")
STYLES = {"running": "cyan", "stopping": "yellow", "waiting": "yellow", "failed": "red", "crashed": "red"}
STYLES |= {"diverged": "magenta", "stopped": "yellow", "done": "green", "finished": "green", "queued": "dim"}
ENDED = frozenset({"done", "diverged", "finished", "failed", "stopped"})


@dataclass
class Row:
    """What is known of one run."""

    job: Job
    status: str = "queued"
    step: int = 0
    first_step: int | None = None  # where this launch took it up
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    started: float = 0.0
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """Of the steps that it is to train here."""
        return 1.0 if self.status in ("done", "diverged", "finished") else self._share(self.step)

    @property
    def first_fraction(self) -> float:
        return self._share(self.first_step or 0)

    def _share(self, step: int) -> float:
        start = self.job.first_step
        return max(0, step - start) / (self.job.config.steps - start)


class Progress:
    """Follows events; knows how far each run and the whole launch are."""

    def __init__(self, jobs: list[Job], workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows = {job.run_id: Row(job) for job in jobs}
        self.workers = workers
        self._clock = clock

    def take(self, event: Event) -> Row:
        row = self.rows[event.run_id]
        if event.kind == "progress":
            self._advance(row, event)
            return row
        row.status = {"started": "running", "busy": "waiting"}.get(event.kind, event.kind)
        if event.kind == "started":
            row.started = self._clock()
        elif event.kind in ENDED:
            row.seconds = self._clock() - row.started if row.started else 0.0
            row.loss = event.data.get("loss", row.loss)
            row.seconds_left = None
        return row

    def _advance(self, row: Row, event: Event) -> None:
        row.step = int(event.data["step"])
        if row.first_step is None:
            row.first_step = row.step
        row.loss = event.data.get("loss")
        row.tokens_per_second = event.data.get("tokens_per_second")
        row.seconds_left = event.data.get("seconds_left")

    @property
    def ended(self) -> int:
        return sum(row.status in ENDED for row in self.rows.values())

    @property
    def fraction(self) -> float:
        """Of the launch's FLOPs."""
        total = sum(row.job.flops for row in self.rows.values())
        return sum(row.job.flops * row.fraction for row in self.rows.values()) / total if total else 1.0

    def seconds_left(self) -> float | None:
        """Work left, shared among the workers, and no less than the longest run in hand.

        A run in hand is timed by its own rate, one in the queue by the FLOP/s of those before it.
        """
        rows = [row for row in self.rows.values() if row.started]
        worked = sum(row.job.flops * (row.fraction - row.first_fraction) for row in rows)
        took = sum(row.seconds or self._clock() - row.started for row in rows)
        if worked <= 0:
            return None
        left = [self._row_left(row, worked / took) for row in self.rows.values() if row.status not in ENDED]
        return max(sum(left) / max(1, min(self.workers, len(left))), *left, 0.0)

    def _row_left(self, row: Row, flops_per_second: float) -> float:
        if row.seconds_left is not None:
            return row.seconds_left
        return row.job.flops * (1 - row.fraction) / flops_per_second


@contextmanager
def watch(jobs: list[Job], workers: int) -> Iterator[Callable[[Event], None]]:
    """Yield what shows each event: a live table on a terminal, plain lines elsewhere."""
    progress = Progress(jobs, workers)
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda event: _plain(progress, event)
        return
    live = _LiveTable(progress, console)
    with Live(live, console=console, refresh_per_second=4):

        def show(event: Event) -> None:
            row = progress.take(event)
            if event.kind in ("failed", "crashed"):
                console.print(Text(f"{row.job.run_id} {_remark(event)}", style="red"))

        yield show


class _LiveTable:
    """Renders a Progress: what moves first, then the latest endings, as many rows as fit."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console

    def __rich__(self) -> RenderableType:
        rows = sorted(self._progress.rows.values(), key=lambda row: ORDER.index(row.status))
        room = max(4, self._console.height - 7)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("run")
        table.add_column("shape")
        for name in ("N", "tokens", "loss", "tok/s", "left"):
            table.add_column(name, justify="right")
        table.add_column("status")
        for row in rows[:room]:
            table.add_row(*_cells(row), Text(_status(row), style=STYLES.get(row.status, "")))
        hidden = f"… and {len(rows) - room} more" if len(rows) > room else ""
        return Group(table, Text(hidden, style="dim"), Text(headline(self._progress), style="bold"))


def headline(progress: Progress) -> str:
    """One line on the whole launch."""
    left = progress.seconds_left() if progress.ended < len(progress.rows) else None
    tail = f" · about {duration(left)} left" if left is not None else ""
    share = f"{100 * progress.fraction:.0f}% of the FLOPs"
    return f"{progress.ended} of {len(progress.rows)} runs ended · {share}{tail}"


def _cells(row: Row) -> list[str]:
    config = row.job.config
    return [
        row.job.run_id,
        row.job.label,
        human(counts(config.model, config.seq_len).n["total"]),
        human(config.tokens),
        f"{row.loss:.4f}" if row.loss is not None else "",
        human(row.tokens_per_second) if row.tokens_per_second else "",
        duration(row.seconds_left) if row.seconds_left is not None else "",
    ]


def _status(row: Row) -> str:
    return f"{100 * row.fraction:3.0f}%" if row.status == "running" else row.status


def _plain(progress: Progress, event: Event) -> None:
    was = progress.rows[event.run_id].status
    row = progress.take(event)

    def say(text: str) -> None:
        print(f"{head}: {text}", file=sys.stderr, flush=True)

    width = len(str(len(progress.rows)))
    head = f"[{progress.ended:{width}}/{len(progress.rows)}] {row.job.run_id} {row.job.label}"
    if event.kind in ("done", "diverged"):
        loss = f"{row.loss:.4f}" if row.loss is not None else "none"
        left = progress.seconds_left() if progress.ended < len(progress.rows) else None
        tail = f", about {duration(left)} left" if left else ""
        say(f"{event.kind}, loss {loss}, {duration(row.seconds)}{tail}")
    elif event.kind == "finished" and was == "waiting":
        say("finished by another process")
    elif event.kind in ("failed", "crashed"):
        say(_remark(event))
    elif event.kind == "waiting" and not event.data.get("routine"):
        say(event.data["remark"])
    elif event.kind == "stopping" and was == "running":
        say("saving, to stop")


def _remark(event: Event) -> str:
    where = f" (see {event.data['where']})" if "where" in event.data else ""
    then = ", going on in a fresh process" if event.kind == "crashed" else ""
    return f"{event.kind}: {event.data['error']}{then}{where}"


def duration(seconds: float) -> str:
    """0.4 -> 0 s; 75 -> 1 min 15 s; 7300 -> 2 h 1 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
