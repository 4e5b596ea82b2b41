"""A ranking for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.show import number

_SHOWN = 5  # runs named in each list


def ranking_text(content: dict[str, Any]) -> RenderableType:
    """The heading, a table of laws by score, the margin, outliers and the runs that matter most."""
    parts: list[RenderableType] = [_heading(content), ""]
    for rows, title in (("all", "every hidden run"), ("frontier", "hidden runs of the frontier")):
        order = content["ranking" if rows == "all" else "ranking_frontier"]
        if order:
            parts += [_table(content, rows, title, order), Text(_margin(content, rows)), ""]
    if content["outliers"]:
        parts += [Text(_outliers(content)), Text(_influence(content["influence"])), ""]
    if content["skipped"]:
        why = "; ".join(f"{name} {reason}" for name, reason in content["skipped"].items())
        parts += [Text(f"not ranked: {why}", style="dim")]
    return Group(*parts)


def _heading(content: dict[str, Any]) -> Text:
    out = content["hold_out"]
    name = out["by"].upper()
    return Text(
        f"{content['source']}: {out['fitted']} runs fitted, {out['held']} hidden "
        f"({name} above {number(out['largest'] / out['factor'])}, within {out['factor']:g} of the largest)\n"
        f"forecast over up to {out['largest'] / out['edge']:.3g} times the largest {name} fitted "
        f"· {content['resamples']} resamples",
        style="bold",
    )


def _table(content: dict[str, Any], rows: str, title: str, order: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style="bold")
    table.add_column("law", no_wrap=True)
    for head in ("log score", "in 50%", "in 90%", "rms", "bias", "R² fitted", "drift/e-fold"):
        table.add_column(head, justify="right", no_wrap=True)
    for name in order:
        law = content["laws"][name]
        found = law[rows]
        table.add_row(
            name, f"{found['log_score']:.3f}", f"{found['coverage_50']:.0%}", f"{found['coverage_90']:.0%}",
            f"{found['rms']:.2%}", f"{found['bias']:+.2%}", f"{law['in_sample']['r2']:.4f}",
            f"{law['drift']['rate']:.2%}",
        )  # fmt: skip
    return table


def _margin(content: dict[str, Any], rows: str) -> str:
    margin = content["margin" if rows == "all" else "margin_frontier"]
    if margin["second"] is None:
        return f"{margin['first']} is ranked alone"
    error = "" if margin["error"] is None else f" ± {margin['error']:.3f}"
    clear = margin["error"] is not None and margin["log_score"] > 2 * margin["error"]
    return (
        f"first: {margin['first']}, by {margin['log_score']:.3f}{error} nats a run over {margin['second']}"
        + ("" if clear else ": no clear difference")
    )


def _outliers(content: dict[str, Any]) -> str:
    found = content["outliers"]
    if not found["runs"]:
        return f"outliers of {found['law']}: none beyond 5 robust deviations"
    named = ", ".join(f"{each['run']} ({each['deviations']:+.1f})" for each in found["runs"][:_SHOWN])
    more = f" and {len(found['runs']) - _SHOWN} more" if len(found["runs"]) > _SHOWN else ""
    text = f"outliers of {found['law']}, in robust deviations: {named}{more}"
    if found["without"] is None:
        return text + "\n  without them too few rows are left to fit"
    rows = "all" if found["without"]["all"] else "frontier"
    with_, less = content["laws"][found["law"]], found["without"]
    constants = ", ".join(
        f"{name} {number(value)} -> {number(less['parameters'][name])}"
        for name, value in with_["parameters"].items()
    )
    return (
        f"{text}\n  without them: log score {with_[rows]['log_score']:.3f} -> {less[rows]['log_score']:.3f}, "
        f"rms {with_[rows]['rms']:.2%} -> {less[rows]['rms']:.2%}\n  {constants}"
    )


def _influence(found: dict[str, Any]) -> str:
    shifts = ", ".join(f"{each['run']} {each['forecast']:+.2%}" for each in found["shifts"][:_SHOWN])
    return f"one run left out moves the forecast of {found['law']} most: {shifts}"
