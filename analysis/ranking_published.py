"""`scaling published --ranking`: laws ranked on published sets, the largest compute of each held out.

What of which set is ranked on stands in analysis/ranking_sets.toml. The result holds

    kind        "published ranking"; by, factor, resamples, seed, objective
    sets        [{set, title, rows, fitted, held, beyond, frontier, laws: {name: {all, frontier, r2, drift}},
                first, margin, first_frontier, margin_frontier}], beyond: largest x over the largest fitted
    overall     {all, frontier}: {laws: [{law, log_score, coverage_90, sets}], margin: {first, second,
                log_score, error, sets}}: means over the sets in which every law listed has a score, each set
                counting once; the error is over sets, since hidden runs of one set share what the law misses
    missing     {set: why it could not be had}

and no row of any set.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.newton import Objective
from analysis.published import Estimation, NotHere, PublishedSet, find, table
from analysis.published_fits import as_runs
from analysis.ranking import rank
from scaling.errors import UserError

_CHOICES = Path(__file__).with_name("ranking_sets.toml")


def rank_published(
    sets: Mapping[str, PublishedSet],
    folder: Path | None,
    by: str = "c",
    factor: float = 10.0,
    resamples: int = 200,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Rank every law on each of `sets` that can be had; see the top of the module.

    Raises UserError when none can be had, and for a file that is there but is not the set.
    """
    found, missing = [], {}
    for choice in tomllib.loads(_CHOICES.read_text())["rankings"]:
        item = sets.get(choice["set"])
        if item is None:
            continue
        try:
            path = find(item, folder)
        except NotHere as error:
            missing[item.name] = str(error)
            continue
        say(f"{choice['title']} ({item.name})")
        rows = Estimation(
            title=choice["title"], rows="", published=(), select=choice.get("select", {}),
            drop_largest=choice.get("drop_largest", 0),
        ).chosen(table(item, path))  # fmt: skip
        content = rank(
            as_runs(choice["title"], rows), None, by, factor, Objective(), resamples, seed, examine=False
        )
        found.append({"set": item.name, "title": choice["title"]} | _figures(content))
    if not found:
        raise UserError(
            "none of the published sets can be had: "
            + "; ".join(reason.rstrip(".") for reason in list(missing.values())[:2]) + "."
        )  # fmt: skip
    return {
        "kind": "published ranking", "by": by, "factor": factor, "resamples": resamples, "seed": seed,
        "objective": Objective().describe(), "sets": found,
        "overall": {rows: _overall(found, rows) for rows in ("all", "frontier")}, "missing": missing,
    }  # fmt: skip


def _figures(content: Mapping[str, Any]) -> dict[str, Any]:
    """A ranking without what it says of single runs."""
    out = content["hold_out"]
    return {
        "rows": content["rows"], "fitted": out["fitted"], "held": out["held"],
        "beyond": out["largest"] / out["edge"], "frontier": out["frontier"],
        "laws": {
            name: {
                "all": law["all"], "frontier": law["frontier"], "r2": law["in_sample"]["r2"],
                "drift": law["drift"]["rate"],
            }
            for name, law in content["laws"].items()
        },
        "first": (content["ranking"] or [None])[0], "margin": content["margin"],
        "first_frontier": (content["ranking_frontier"] or [None])[0],
        "margin_frontier": content["margin_frontier"],
    }  # fmt: skip


def _overall(found: Sequence[Mapping[str, Any]], rows: str) -> dict[str, Any] | None:
    """Laws that have a score in every set, by its mean."""
    names = [
        name for name in found[0]["laws"]
        if all(name in each["laws"] and each["laws"][name][rows] for each in found)
    ]  # fmt: skip
    if not names:
        return None
    score = {name: np.array([each["laws"][name][rows]["log_score"] for each in found]) for name in names}
    inside = {name: np.mean([each["laws"][name][rows]["coverage_90"] for each in found]) for name in names}
    order = sorted(names, key=lambda name: -score[name].mean())
    margin: dict[str, Any] = {
        "first": order[0], "second": None, "log_score": None, "error": None, "sets": len(found)
    }  # fmt: skip
    if len(order) > 1:
        apart = score[order[0]] - score[order[1]]
        error = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else None
        margin |= {"second": order[1], "log_score": float(apart.mean()), "error": error}
    laws = [
        {"law": name, "log_score": float(score[name].mean()), "coverage_90": float(inside[name]),
         "sets": len(found)}
        for name in order
    ]  # fmt: skip
    return {"laws": laws, "margin": margin}


def published_ranking_text(content: Mapping[str, Any]) -> RenderableType:
    """Laws by sets: log score and, in brackets, the share of hidden runs in the 90% interval."""
    parts: list[RenderableType] = [
        Text(
            f"runs within {content['factor']:g} of the largest {content['by'].upper()} hidden: mean log "
            "score, nats a run, and the share of hidden\nruns inside the 90% interval; * first of its set",
            style="bold",
        )
    ]
    for rows, title in (("all", "every hidden run"), ("frontier", "hidden runs of the frontier")):
        if content["overall"][rows]:
            parts += ["", _table(content, rows, title), Text(_margin(content["overall"][rows]["margin"]))]
    return Group(*parts)


def _table(content: Mapping[str, Any], rows: str, title: str) -> Table:
    """Sets down, laws across: the better laws first."""
    first = "first" if rows == "all" else "first_frontier"
    order = [each["law"] for each in content["overall"][rows]["laws"]]
    grid = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
    grid.add_column("set", no_wrap=True)
    grid.add_column("hidden", justify="right", no_wrap=True)
    for name in order:
        grid.add_column(name.replace("_", "\n_", 1), justify="right", no_wrap=True)
    for each in content["sets"]:
        cells = [_cell(each["laws"][name][rows], name == each[first]) for name in order]
        other = each[first] if each[first] not in order else None
        held = each["held"] if rows == "all" else each["frontier"]
        grid.add_row(each["title"], str(held), *cells)
        if other:
            grid.add_row(Text(f"  {other}: {_cell(each['laws'][other][rows], True)}", style="dim"))
    means = [f"{law['log_score']:.2f} {law['coverage_90']:.0%}" for law in content["overall"][rows]["laws"]]
    grid.add_row("mean over sets", "", *means, style="bold")
    return grid


def _cell(score: Mapping[str, Any] | None, first: bool) -> str:
    if score is None:
        return "-"
    return f"{'*' if first else ''}{score['log_score']:.2f} {score['coverage_90']:.0%}"


def _margin(margin: Mapping[str, Any]) -> str:
    if margin["second"] is None:
        return f"first: {margin['first']}, which alone has a score in every set"
    error = "" if margin["error"] is None else f" ± {margin['error']:.3f}"
    return (
        f"first: {margin['first']}, by {margin['log_score']:.3f}{error} nats a run over {margin['second']} "
        f"(standard error over {margin['sets']} sets)"
    )
