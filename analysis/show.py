"""Fits and predictions as text for a terminal. Numbers shown are rounded; files hold them whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.law import Law
from analysis.roles import role

_COUNTS = {"given": "as given", "6nd": "6ND"}
# What a law's derived quantities are, where the name alone does not say.
_DERIVED = {
    "a": "N* ~ C^a where C = 6ND",
    "b": "D* ~ C^b where C = 6ND",
    "tokens_per_parameter": "D*/N* where C = 6ND",
}


def console() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=110)


def number(value: float | None) -> str:
    """Three to five significant digits; powers of ten beyond a million."""
    if value is None:
        return "-"
    size = abs(value)
    if size and (size >= 1e6 or size < 1e-3):
        return f"{value:.3e}"
    return f"{value:,.0f}" if size >= 1e4 else f"{value:.4g}"


def between(interval: list[float | None] | None) -> str:
    """A 90% interval; an open side has no end."""
    if interval is None or interval == [None, None]:
        return "open"
    low, high = interval
    if low is None or high is None:
        return f"≥ {number(low)}" if high is None else f"≤ {number(high)}"
    return f"{number(low)} to {number(high)}"


def fit_text(content: dict[str, Any]) -> RenderableType:
    """Laws with their constants, intervals and certificates, the three approaches, the optimum."""
    parts: list[RenderableType] = [_heading(content), ""]
    for name, law in content["laws"].items():
        parts += [_law(name, law, content), ""]
    if content["skipped"]:
        parts += [Text(f"not fitted  {name}: {reason}") for name, reason in content["skipped"].items()] + [""]
    if _of_sizes(content):
        parts += [_approaches(content), ""]
    if content["optimum"]:
        parts += [_optimum(content), ""]
    return Group(*parts)


def _heading(content: dict[str, Any]) -> Text:
    kept, drawn = content["conventions"], content["bootstrap"]
    names = {key: _COUNTS.get(value, value) for key, value in kept.items()}
    noise = content.get("noise")
    return Text(
        f"{content['source']}: {_count(content['rows_used'], 'row')}"
        + (f" of {_count(drawn['runs'], 'run')}" if drawn["runs"] != content["rows_used"] else "")
        + (f", {len(content['rows_dropped'])} left out" if content["rows_dropped"] else "")
        + (f" · N {names['n']}, C {names['c']}\n" if "n" in content["rows"][0] else "\n")
        + f"objective: {_objective(content['objective'])}"
        f" · intervals: {drawn['level']:.0%}, {drawn['resamples']:,} resamples by {drawn['unit']}"
        + (f"\n{_noise(noise)}" if noise else ""),
        style="bold",
    )


def _of_sizes(content: dict[str, Any]) -> bool:
    """Whether the laws are of the loss in N, D and C alone: the approaches are about nothing else."""
    if not {"n", "d", "c", "loss"} <= content["rows"][0].keys():
        return False
    laws = content["laws"].values()
    return all(set(law["inputs"]) <= {"n", "d", "c"} and law["output"] == "loss" for law in laws)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _objective(stated: dict[str, Any]) -> str:
    delta = f" {stated['delta']:g}" if stated["delta"] else ""
    return f"sum of {stated['name']}{delta} of {stated['residual']} ({stated['space']} space)"


def _noise(found: dict[str, Any]) -> str:
    used = "residuals are divided by it" if found["used"] else "the fit does not use it"
    where = f" at {number(found['at'])} FLOPs, as C^-{found['power']:.2f}" if found["at"] else ""
    return (
        f"noise of one run, from {found['settings']} settings with repeated seeds: {found['sigma']:.2%} "
        f"({found['interval'][0]:.2%} to {found['interval'][1]:.2%}){where}; {used}"
    )


def _law(name: str, law: dict[str, Any], content: dict[str, Any]) -> RenderableType:
    kind = "row" if law["rows"] == "all" else "frontier row"
    n_count = f", N {_COUNTS.get(law['n_count'], law['n_count'])}" if law["n_count"] else ""
    rms = f"{law['rms']:.2%}" if content["objective"]["space"] == "log" else f"{law['rms']:.4g}"
    title = Text.assemble(
        (name, "bold"),
        f"  {law['formula']}\n  {law['source']}\n  {_count(len(law['rows_used']), kind)}{n_count} · rms {rms}"
        f" · objective {law['objective']:.10g} · {law['resampling']} resamples",
    )
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for justify in ("left", "right", "right", "left"):
        numbers = justify == "right"
        table.add_column(no_wrap=numbers, justify=justify, min_width=14 if numbers else None)
    for constant, value in law["parameters"].items():
        unit, meaning = law["units"][constant], law["meanings"][constant]
        words = law["not_determined"].get(constant)
        held = constant in law["fixed"]
        table.add_row(
            constant,
            _pretty(words) if words else _precise(value),
            "held" if held else "" if words else between(law["intervals"][constant]),
            meaning + (f", {unit}" if unit else ""),
        )
    for constant, value in law["derived"].items():
        interval = between(law["derived_intervals"][constant])
        table.add_row(constant, number(value), interval, _DERIVED.get(constant, "derived"))
    return Group(title, table, _certificate(law["certificate"]))


def _precise(value: float) -> str:
    """Six digits: constants rounded to three move a law's predictions by percents."""
    return f"{value:.5e}" if value and not 1e-3 <= abs(value) < 1e6 else f"{value:.6g}"


def _pretty(words: str) -> str:
    return words.replace(">=", "≥").replace("<=", "≤")


def _certificate(found: dict[str, Any]) -> Text:
    second = found["second_solver"]
    words = [
        "certified" if found["converged"] else "NOT CERTIFIED",
        f"gradient {found['gradient']:.0e}",
        "Hessian singular" if found["condition"] is None else f"Hessian condition {found['condition']:.0f}",
        "exact fit" if second is None else f"scipy ends {second:+.0e} from it",
    ]
    if found["starts"] > 1:
        words.append(f"{round(found['agree'] * found['starts'])} of {found['starts']} starts end here")
    if found["at_bounds"]:
        words.append(f"at its bound: {', '.join(found['at_bounds'])}")
    return Text("  " + " · ".join(words), style="dim" if found["converged"] else "bold red")


_APPROACHES = {
    "envelope": "1 envelope",
    "isoflop": "2 isoFLOP, parabola",
    "isoflop_akima": "2 isoFLOP, Akima",
    "isoflop_surface": "2 isoFLOP, surface",
    "parametric": "3 parametric",
}


def _approaches(content: dict[str, Any]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), title="Growth with compute", title_justify="left")
    for column in ("approach", "a in N* ~ C^a", "interval", "b in D* ~ C^b", "interval ", "from"):
        table.add_column(column, no_wrap=column != "from", overflow="fold")
    skipped, refused = [], dict[str, list[str]]()
    for name, entry in content["approaches"].items():
        for part in entry.get("budgets", []):
            if "refused" in part and part["rows"] >= 3:
                reason = f"{part['c']:.3g} FLOPs: {part['refused']}"
                refused.setdefault(reason, []).append(_APPROACHES[name].removeprefix("2 isoFLOP, "))
        if "skipped" in entry:
            skipped.append(Text(f"skipped  {_APPROACHES[name]}: {entry['skipped']}"))
            continue
        source = {"envelope": f"{len(entry['points'])} runs", "parametric": "the surface"}
        table.add_row(
            _APPROACHES[name], f"{entry['a']:.3f}", between(entry["a_interval"]),
            f"{entry['b']:.3f}", between(entry["b_interval"]),
            source.get(name, f"{len(entry['points'])} budgets"),
        )  # fmt: skip
    parts: list[RenderableType] = [table] if table.rows else []
    parts += [*skipped, *(Text(f"refused  {why} ({', '.join(by)})") for why, by in refused.items())]
    if said := content.get("why", {}).get("sentences"):
        parts += ["", Text("Where the approaches part, and why", style="italic"), *(Text(t) for t in said)]
    return Group(*parts)


def _optimum(content: dict[str, Any]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), title="Compute-optimal runs", title_justify="left")
    for column in ("C, FLOPs", "N*", "interval", "D*, tokens", "D*/N*", "loss, nats/token", "interval "):
        table.add_column(column, no_wrap=True)
    for row in content["optimum"]:
        table.add_row(
            f"{row['flops']:.0e}", number(row["n"]), between(row["n_interval"]), number(row["d"]),
            f"{row['tokens_per_parameter']:.3g}", f"{row['loss']:.4g}", between(row["loss_interval"]),
        )  # fmt: skip
    return table


def laws_text(laws: Iterable[Law]) -> RenderableType:
    """The law table: the flags of what each reads and gives, its formula and where it comes from."""
    lines = []
    for law in laws:
        reads = " ".join(role(name).flag for name in law.inputs) + (" --run" if law.prepare else "")
        flags = f"{reads} -> {role(law.output).flag}"
        lines.append(Text.assemble((f"{law.name:<18}", "bold"), f"{flags:<32}{law.formula}\n  {law.source}"))
    return Group(*lines)
