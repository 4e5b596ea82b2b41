"""Progress of one run: a bar on a terminal, silence elsewhere; SIGINT and SIGTERM ask it to save."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from scaling.config import RunConfig

Show = Callable[[dict[str, Any]], None]


@contextmanager
def run_progress(config: RunConfig, visible: bool = True) -> Iterator[tuple[Show, Callable[[], bool]]]:
    """Yields (progress callback, should_stop) for `scaling.train.train`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (visible and console.is_terminal),
        transient=True,
    )
    stop_requested = False

    def ask_to_stop(signum: int, frame: Any) -> None:
        nonlocal stop_requested
        if stop_requested and signum == signal.SIGINT:  # asked twice: now, without a save
            raise KeyboardInterrupt
        stop_requested = True

    def show(report: dict[str, Any]) -> None:
        rate, mfu, loss = report["tokens_per_second"], report["mfu"], report["loss"]
        of_peak = "" if mfu is None else f", MFU {mfu:.1%}"
        bar.update(
            task,
            completed=report["step"],
            loss="–" if loss is None else f"{loss:.3f}",
            rate="compiling" if rate is None else f"{rate:,.0f} tokens/s{of_peak}",
        )

    previous = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with bar:
            task = bar.add_task(config.run_id, total=config.steps, loss="–", rate="compiling")
            yield show, lambda: stop_requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
