"""A sweep's status as lines for a terminal: what moves first, then what went wrong, then the rest."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Sequence
from dataclasses import replace

from launch.status import QUIET_SECONDS, STATES, RunStatus, SweepStatus
from launch.view import STYLES, duration
from scaling.amounts import human
from scaling.errors import UserError

Line = tuple[str, str]  # text, and rich's style for it

FIRST = ("running", "failed", "stale", "diverged", "stopped", "queued", "done", "pending")
GROUPS = {"live": ("running", "queued"), "waiting": ("queued", "pending"), "ended": ("done", "diverged")}
LABEL = 26  # characters of it shown


def choose(found: SweepStatus, only: str | None = None, match: str | None = None) -> SweepStatus:
    """The status of the runs that are asked for: of states (`failed,running`), of a name (`d64*`).

    `only` takes states, and live, waiting and ended for several. `match` is of the label or the run id, with
    * and ?. Raises UserError for a word that is no state.
    """
    wanted: set[str] = set()
    for word in filter(None, (part.strip() for part in (only or "").split(","))):
        if word not in (*STATES, *GROUPS):
            raise UserError(f"--only is {word!r}; give some of {', '.join((*STATES, *GROUPS))}.")
        wanted |= set(GROUPS.get(word, (word,)))
    runs = [
        run
        for run in found.runs
        if (not wanted or run.status in wanted)
        and (not match or fnmatch.fnmatchcase(run.label, match) or fnmatch.fnmatchcase(run.run_id, match))
    ]
    return replace(found, runs=runs)


def headline(found: SweepStatus) -> list[str]:
    """The whole sweep in two or three lines: runs by state, share, rate, cost, time left."""
    sums = found.sums()
    said = ", ".join(f"{count} {word}" for word, count in found.totals().items() if count) or "0"
    lines = [f"{found.folder}: {said} of {len(found.runs)} runs; {100 * found.fraction:.0f}% of the FLOPs"]
    parts = []
    if sums.flops_per_second:
        parts.append(f"{human(sums.tokens_per_second)} tokens/s, {sums.flops_per_second:.2e} FLOP/s now")
    if sums.device_hours:
        spent = (f"{_hours(hours)} {_unit(kind)}" for kind, hours in sorted(sums.device_hours.items()))
        parts.append("spent " + ", ".join(spent) + (f", ${sums.dollars:,.2f}" if sums.dollars else ""))
    if sums.seconds_left is not None:
        parts.append(f"about {duration(sums.seconds_left)} left")
    if parts:
        lines.append("; ".join(parts))
    if found.others:
        stale = f", {found.stale} of them stale: of an older numerics_version" if found.stale else ""
        folders = "run folder" if found.others == 1 else "run folders"
        lines.append(f"{found.others} other {folders} beside them{stale}")
    return [*lines, *(f"note: {note}" for note in found.notes)]


def table(runs: Sequence[RunStatus], room: int | None = None) -> list[Line]:
    """A head and a line for each of the first `room` runs (None: all); then how many are not shown."""
    if not runs:
        return []
    ordered = sorted(runs, key=lambda run: (FIRST.index(run.status), run.status == "pending"))
    shown = ordered[:room]
    rows = [_cells(run) for run in shown]
    head = ["run", "shape", "N", "tokens", "of", "loss", "tok/s", "left", "status"]
    keep = [i for i, name in enumerate(head) if name not in ("tok/s", "left") or any(row[i] for row in rows)]
    widths = [max(len(head[i]), *(len(row[i]) for row in rows)) for i in keep]

    def line(row: list[str]) -> str:
        pairs = zip(keep, widths, strict=True)
        return "  ".join(f"{row[i]:{'<' if i in (0, 1, 8) else '>'}{width}}" for i, width in pairs).rstrip()

    lines: list[Line] = [(line(head), "bold")]
    lines += [(line(row), STYLES.get(run.status, "")) for row, run in zip(rows, shown, strict=True)]
    lines += _said("failed", {run.run_id: run.error for run in runs if run.error}, "red")
    lines += _said("queued", {run.run_id: run.remark for run in shown if run.remark}, "dim")
    if len(ordered) > len(shown):
        lines.append((f"… and {len(ordered) - len(shown)} more; --all shows them", "dim"))
    return lines


def _said(word: str, said: dict[str, str], style: str) -> list[Line]:
    """A line for each thing that is said, with the runs of which it is: many fail of one cause."""
    runs: dict[str, list[str]] = {}
    for run_id, text in said.items():
        runs.setdefault(text, []).append(run_id)
    return [
        (f"{word}: {', '.join(ids[:3])}{f' and {len(ids) - 3} more' if len(ids) > 3 else ''}: {text}", style)
        for text, ids in runs.items()
    ]


def _cells(run: RunStatus) -> list[str]:
    label = run.label if len(run.label) <= LABEL else run.label[: LABEL - 1] + "…"
    return [
        run.run_id,
        label,
        human(run.n_total),
        human(run.tokens),
        human(run.tokens_planned),
        f"{run.loss:.4f}" if run.loss is not None else "",
        human(run.tokens_per_second) if run.tokens_per_second else "",
        duration(run.seconds_left) if run.seconds_left is not None else "",
        _status(run),
    ]


def _status(run: RunStatus) -> str:
    if run.status != "running":
        return run.status
    quiet = time.time() - run.logged_at if run.logged_at else 0.0
    tail = f", quiet for {duration(quiet)}" if quiet > QUIET_SECONDS else ""
    return f"running {100 * run.share:.0f}%{tail}" + (f" on {run.where}" if run.where else "")


def _hours(hours: float) -> str:
    return f"{hours:.3g}" if hours >= 0.01 else f"{hours:.2g}"


def _unit(kind: str) -> str:
    return "CPU hours" if kind == "cpu" else f"device hours of {kind}"
