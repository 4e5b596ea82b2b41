"""The few pieces of HTML a report is made of. Every text that goes in is escaped here."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

DASH = "\N{EN DASH}"


class Html(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


def esc(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value), quote=True)


def page(title: str, sections: Iterable[str]) -> str:
    """The whole document from its template, which carries its own styles and loads nothing."""
    template = Template((files("analysis") / "templates" / "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=esc(title), body="\n".join(s for s in sections if s))


def section(identity: str, heading: str, *parts: str) -> Html:
    return Html(
        f'<section id="{esc(identity)}">\n<h2>{esc(heading)}</h2>\n' + "\n".join(parts) + "\n</section>"
    )


def p(*parts: object, kind: str = "") -> Html:
    css = f' class="{kind}"' if kind else ""
    return Html(f"<p{css}>{''.join(esc(x) for x in parts)}</p>")


def strong(value: object) -> Html:
    return Html(f"<strong>{esc(value)}</strong>")


def code(value: object) -> Html:
    return Html(f"<code>{esc(value)}</code>")


def pre(lines: Sequence[str]) -> Html:
    return Html(f"<pre>{esc(chr(10).join(lines))}</pre>")


def bullets(items: Iterable[object]) -> Html:
    return Html("<ul>" + "".join(f"<li>{esc(item)}</li>" for item in items) + "</ul>")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    rows = "".join(f"<dt>{esc(name)}</dt><dd>{esc(value)}</dd>" for name, value in pairs)
    return Html(f'<dl class="facts">{rows}</dl>')


def card(name: str, value: str, interval: str) -> Html:
    return Html(
        f'<div class="card"><div class="name">{esc(name)}</div><div class="value">{esc(value)}</div>'
        f'<div class="interval">{esc(interval)}</div></div>'
    )


def cards(items: Iterable[str]) -> Html:
    return Html(f'<div class="cards">{"".join(items)}</div>')


def table(
    columns: str,
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    text: frozenset[int] | set[int] = frozenset({0}),
    marks: Sequence[str] = (),
) -> Html:
    """A table that scrolls sideways by itself. `columns`: headings joined by |; those in `text` are set left.
    `marks`: a CSS class for each row."""
    head = columns.split("|")
    css = [' class="text"' if i in text else "" for i in range(len(head))]
    titles = "".join(f'<th scope="col"{c}>{esc(h)}</th>' for h, c in zip(head, css, strict=True))
    body = []
    for number, row in enumerate(rows):
        mark = marks[number] if number < len(marks) else ""
        cells = "".join(f"<td{c}>{esc(value)}</td>" for value, c in zip(row, css, strict=True))
        body.append(f'<tr class="{mark}">{cells}</tr>' if mark else f"<tr>{cells}</tr>")
    top = f'<p class="caption muted">{esc(caption)}</p>\n' if caption else ""
    # tabindex: a keyboard must be able to scroll what a finger can. The caption stays outside, where
    # it wraps to the page and not to the table.
    return Html(
        f'{top}<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def image(path: Path, alt: str, caption: str, links: Sequence[tuple[str, str]] = ()) -> Html:
    """A figure inlined as a data address, on a light plate so that it reads on a dark page.

    `links`: (relative address, text) of the same figure in other formats.
    """
    kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
    data = base64.b64encode(path.read_bytes()).decode()
    also = ", ".join(f'<a href="{esc(address)}">{esc(text)}</a>' for address, text in links)
    return Html(
        f'<figure><div class="plate"><img src="data:{kind};base64,{data}" alt="{esc(alt)}"></div>'
        f"<figcaption>{esc(caption)}{f' <span>{also}</span>' if also else ''}</figcaption></figure>"
    )


def scientific(value: float | None, digits: int = 3) -> Html:
    """FLOPs: 2.2 x 10^11."""
    if value is None or not math.isfinite(value):
        return Html(DASH)
    if value == 0:
        return Html("0")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    head = "" if mantissa == "1" else f"{mantissa}&times;"
    return Html(f"{head}10<sup>{int(exponent)}</sup>")


def number(value: float | None, digits: int = 4) -> str:
    """A plain number with `digits` significant digits, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{float(f'{value:.{digits}g}'):.{max(0, digits - 1 - math.floor(math.log10(abs(value) or 1)))}f}"


def fixed(value: float | None) -> str:
    """A loss: four decimals, a dash where there is none."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.4f}"


def percent(value: float | None, signed: bool = True) -> str:
    """A share as a percentage, signed by default."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:+.2f}%" if signed else f"{100 * value:.2f}%"
