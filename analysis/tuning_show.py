"""A tuning and critical batches as text."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.tuning_laws import horizon

_WORDS = {"lr": "learning rate", "batch": "batch"}


def tuning_text(content: dict[str, Any]) -> RenderableType:
    """The optima by cell, what is refused and what to run next, the laws, published rules beside them."""
    parts: list[RenderableType] = [_heading(content), _cells(content)]
    refused = [cell for cell in content["cells"] if cell["refused"]]
    if refused:
        parts += [Text(""), Text("refused", style="bold")]
        parts += [Text(f"  {cell['label']}: {cell['refused']}") for cell in refused]
    parts += _next(content["cells"])
    parts += _laws(content["laws"])
    if content["rules"]:
        parts += [Text(""), _rules(content["rules"])]
    return Group(*parts)


def _heading(content: dict[str, Any]) -> Text:
    noise = content["noise"]
    words = f"{content['name']}: {len(content['cells'])} cells, N {content['conventions']['n']}"
    if noise:
        df = f", {noise['df']:.3g} degrees of freedom" if noise["df"] else ""
        words += f"; noise of a run {noise['sigma']:.2g} nats ({noise['how']}{df})"
    return Text(words, style="bold")


def _cells(content: dict[str, Any]) -> RenderableType:
    found = [cell for cell in content["cells"] if cell["optimum"]]
    if not found:
        return Text("no cell has an optimum")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("optimum of", no_wrap=True)
    swept = [name for name in ("lr", "batch") if any(name in cell["swept"] for cell in found)]
    for name in swept:
        table.add_column({"lr": "rate", "batch": "batch"}[name], justify="right")
        table.add_column(f"{content['level']:.0%} interval", justify="right")
    for name in ("loss", "runs"):
        table.add_column(name, justify="right")
    for cell in found:
        optimum = cell["optimum"]
        row = [cell["label"]]
        for name in swept:
            value = optimum.get(name, cell[name])
            row += [f"{value:.3g}" if value else "-", _between(optimum.get(f"{name}_interval"))]
        lost = f" ({cell['diverged']} lost)" if cell["diverged"] else ""
        table.add_row(*row, f"{optimum['loss']:.4f}", f"{cell['used']}/{cell['rows']}{lost}")
    return table


def _between(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3g}, {interval[1]:.3g}"


def _next(cells: list[dict[str, Any]]) -> list[RenderableType]:
    asked = [cell for cell in cells if cell["next"]]
    if not asked:
        return []
    parts: list[RenderableType] = [Text(""), Text("run next", style="bold")]
    for cell in asked:
        rows = "; ".join(
            ", ".join(f"{_WORDS[name]} {value:.4g}" for name, value in row.items()) for row in cell["next"]
        )
        parts.append(Text(f"  {cell['label']}: {rows}{', another seed of each' if cell['seeds'] else ''}"))
    return parts


def _laws(laws: dict[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(""), Text("laws", style="bold")]
    for name, law in laws.items():
        if name == "skipped":
            parts += [Text(f"  {why}") for why in law.values()]
            continue
        whole = laws.get(law["output"])
        if whole and law is not whole and set(law["inputs"]) <= set(whole["inputs"]):
            continue  # the same exponent without the other input: in the file
        exponents = []
        for letter, value in law["constants"].items():
            interval = law["intervals"][letter]
            close = f" ({interval[0]:.3g}, {interval[1]:.3g})" if interval and letter != "k" else ""
            exponents.append(f"{letter} {value:.3g}{close}")
        parts.append(Text(f"  {law['formula']}: {', '.join(exponents)}"))
        scatter = f"; optima scatter by {law['scatter'] - 1:.0%} beyond their intervals" if law["df"] else ""
        parts.append(Text(f"    {law['cells']} cells; {law['fixed']}{scatter}", style="dim"))
    found = horizon(laws)
    if found:
        low_high = f" ({found['interval'][0]:.3g}, {found['interval'][1]:.3g})" if found["interval"] else ""
        parts.append(
            Text(f"  token horizon: rate ~ (T0/T)^p, p {found['p']:.3g}{low_high}; {found['fixed']}")
        )
    return parts if len(parts) > 2 else []


def _rules(rules: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("published rule")
    for name in ("our rate over it", "our batch over it", "beyond its data"):
        table.add_column(name, justify="right")
    for rule in rules:
        beyond = rule["extrapolation"]
        table.add_row(
            rule["rule"],
            _ratio(rule["lr_ratio"]),
            _ratio(rule["batch_ratio"]),
            "-" if beyond < 1.005 else f"{beyond:.3g} x",
        )
    return table


def _ratio(ratio: dict[str, float] | None) -> str:
    return "-" if ratio is None else f"{ratio['median']:.3g} ({ratio['low']:.3g} to {ratio['high']:.3g})"


def critical_text(content: dict[str, Any]) -> RenderableType:
    """Critical batches by size, and their law."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "size",
        "batches",
        "S_min",
        "E_min",
        "E_min / S_min",
        "B*",
        f"{content['level']:.0%} interval",
    ):
        table.add_column(name, justify="left" if name == "size" else "right")
    for cell in content["cells"]:
        if cell["refused"]:
            table.add_row(cell["label"], str(cell["batches"]), cell["refused"])
            continue
        table.add_row(
            cell["label"], str(cell["batches"]), f"{cell['s_min']:.4g}", f"{cell['e_min']:.4g}",
            f"{cell['b_crit']:.4g}", f"{cell['b_star']:.4g}", _between(cell["b_star_interval"]),
        )  # fmt: skip
    words = (
        f"B*: where the examples to the target are {content['excess']:g} times those at a batch of "
        f"{content['reference']:g} (0: of the smallest batches)"
    )
    parts: list[RenderableType] = [table, Text(words, style="dim")]
    for law in content["laws"]:
        constants = ", ".join(
            f"{name} {value:.5g}" + (f" ({law['intervals'][name][0]:.3g}, {law['intervals'][name][1]:.3g})"
                                     if law["intervals"][name] else "")
            for name, value in law["constants"].items()
        )  # fmt: skip
        parts.append(Text(f"{law['formula']}: {constants}"))
    return Group(*parts)
