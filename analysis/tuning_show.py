"""A tuning and critical batches as text."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.tuning_laws import horizon

WIDTH = 100
_WORDS = {"lr": "learning rate", "batch": "batch"}


def tuning_text(content: dict[str, Any]) -> RenderableType:
    """The optima by cell, what is refused and what to run next, the laws, published rules beside them."""
    parts: list[RenderableType] = [*_heading(content), _cells(content)]
    refused = [cell for cell in content["cells"] if cell["refused"]]
    if refused:
        parts += [Text(""), Text("refused", style="bold")]
        parts += [_line(f"{cell['label']}: {cell['refused']}") for cell in refused]
    parts += _next(content["cells"])
    parts += _laws(content["laws"])
    if content["rules"]:
        parts += [Text(""), _rules(content["rules"])]
    return Group(*parts)


def _line(text: str, indent: int = 2, style: str = "") -> RenderableType:
    """A line whose continuations stand further in, so that items can be told apart."""
    more = " " * (indent + 4)
    wrapped = textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=more)
    return Text("\n".join(wrapped), style=style)


def _heading(content: dict[str, Any]) -> list[RenderableType]:
    noise, count = content["noise"], len(content["cells"])
    counted = {"given": "as given"}.get(content["conventions"]["n"], content["conventions"]["n"])
    words = f"{content['name']}: {count} cell{'s' * (count != 1)}, N {counted}"
    parts: list[RenderableType] = [Text(words, style="bold")]
    if noise:
        df = f", {_count(noise['df'])} degrees of freedom" if noise["df"] else ""
        parts.append(Text(f"noise of a run {noise['sigma']:.2g} nats per token ({noise['how']}{df})"))
    return parts


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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


def _between(interval: list[float] | None, digits: int = 3) -> str:
    return "-" if interval is None else ", ".join(f"{end:.{digits}g}" for end in interval)


def _next(cells: list[dict[str, Any]]) -> list[RenderableType]:
    asked = [cell for cell in cells if cell["next"]]
    if not asked:
        return []
    parts: list[RenderableType] = [Text(""), Text("run next", style="bold")]
    for cell in asked:
        rows = "; ".join(
            ", ".join(f"{_WORDS[name]} {value:.4g}" for name, value in row.items()) for row in cell["next"]
        )
        again = ", another seed of each" if cell["seeds"] else ""
        parts.append(_line(f"{cell['label']}: {rows}{again}"))
    return parts


def _laws(laws: dict[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(""), Text("laws", style="bold")]
    for name, law in laws.items():
        if name == "skipped":
            parts += [_line(f"no law of the {output}: {why}") for output, why in law.items()]
            continue
        whole = laws.get(law["output"])
        if whole and law is not whole and set(law["inputs"]) <= set(whole["inputs"]):
            continue  # the same exponent without the other input: in the file
        exponents = []
        for letter, value in law["constants"].items():
            interval = law["intervals"][letter]
            close = f" ({interval[0]:.3g}, {interval[1]:.3g})" if interval and letter != "k" else ""
            exponents.append(f"{letter} {value:.3g}{close}")
        parts.append(_line(f"{law['formula']}: {', '.join(exponents)}"))
        scatter = f"; optima scatter by {law['scatter'] - 1:.0%} beyond their intervals" if law["df"] else ""
        held = f"; {law['fixed']}" if law["fixed"] else ""
        parts.append(_line(f"{law['cells']} cells{held}{scatter}", 4, "dim"))
    found = horizon(laws)
    if found:
        low_high = f" ({found['interval'][0]:.3g}, {found['interval'][1]:.3g})" if found["interval"] else ""
        parts.append(_line(f"token horizon: rate ~ (T0/T)^p, p {found['p']:.3g}{low_high}; {found['fixed']}"))
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
    if ratio is None:
        return "-"
    span = f" ({ratio['low']:.3g} to {ratio['high']:.3g})" if ratio["high"] > ratio["low"] else ""
    return f"{ratio['median']:.3g}{span}"


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
            f"{cell['b_crit']:.4g}", f"{cell['b_star']:.4g}", _between(cell["b_star_interval"], 4),
        )  # fmt: skip
    against = f"those at a batch of {content['reference']:g}" if content["reference"] else "the least, E_min"
    words = f"B*: where the examples to the target are {content['excess']:g} times {against}"
    parts: list[RenderableType] = [table, Text(words, style="dim")]
    for law in content["laws"]:
        constants = ", ".join(
            f"{name} {value:.5g}" + (f" ({law['intervals'][name][0]:.3g}, {law['intervals'][name][1]:.3g})"
                                     if law["intervals"][name] else "")
            for name, value in law["constants"].items()
        )  # fmt: skip
        parts.append(_line(f"{law['formula']}: {constants}", 0))
    return Group(*parts)
