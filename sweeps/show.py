"""A plan as text."""

from __future__ import annotations

from typing import Any

from rich.console import Console

COLUMNS = (
    ("cell", "label", "{}"),
    ("run", "run_id", "{}"),
    ("width", "d_model", "{}"),
    ("layers", "n_layers", "{}"),
    ("N", "n", "{:,}"),
    ("D", "tokens", "{:,}"),
    ("D/N", "tokens_per_parameter", "{:.3g}"),
    ("batch", "batch_tokens", "{:,}"),
    ("steps", "steps", "{:,}"),
    ("from", "first_step", "{:,}"),
    ("lr", "lr", "{:.3g}"),
    ("C", "flops", "{:.4g}"),
    ("epochs", "epochs", "{:.2g}"),
    ("time", "seconds", "{:.0f} s"),
)
DROPPED_FIRST = ("run", "layers", "epochs", "batch", "lr", "C")
QUANTITIES = {
    "a": ("exponent a of N* ~ C^a", "{:.3f}"),
    "n_star": ("N* at the target", "{:,.0f}"),
    "loss": ("loss at the target", "{:.3f}"),
}


def show(plan: dict[str, Any], console: Console | None = None) -> None:
    """Print what `sweeps.plan.report` returned."""
    console = console or Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no edge
    console.print(f"{plan['name']}: {plan['question']}")
    _print_table(plan["cells"], console)
    console.print("N: parameters, total; D and batch: tokens; C: training FLOPs, matmul; time: one worker.")
    for refusal in plan["refused"]:
        console.print(f"refused {refusal['label']}: {refusal['reason']}")
    for profile in plan["design"].get("profiles", []):
        if profile["at_edge"]:
            console.print(
                f"at the edge: budget {profile['budget']:.3g} has its expected optimum, "
                f"{profile['expected_n']:,.0f} parameters, at the end of its sizes and will only bound it"
            )
    console.print(_summary(plan))


def _print_table(cells: list[dict[str, Any]], console: Console) -> None:
    """Whole columns only: the least needed go first where the terminal is narrow.

    Lines made here: of a sweep of 10,000 runs rich's own table takes a minute.
    """
    columns = [column for column in COLUMNS if any(cell[column[1]] for cell in cells)]
    text = {title: [_text(cell[key], form) for cell in cells] for title, key, form in columns}
    widths = {title: max(map(len, [title, *column])) for title, column in text.items()}
    for title in DROPPED_FIRST:
        if sum(widths.values()) + 2 * len(widths) > console.width:
            widths.pop(title, None)
    edges = {title: "<" if title in ("cell", "run") else ">" for title in widths}
    padded = [[f"{one:{edges[t]}{w}}" for one in (t, *text[t])] for t, w in widths.items()]
    head, *lines = ("  ".join(row).rstrip() for row in zip(*padded, strict=True))
    console.out(head, style="bold", highlight=False)
    console.out("\n".join(lines), highlight=False)


def _text(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


def _summary(plan: dict[str, Any]) -> str:
    totals, price, target, intervals = (plan[key] for key in ("totals", "price", "target", "intervals"))
    lines = [
        f"total    {totals['runs']} runs, {totals['flops']:.3g} FLOPs over {totals['decades']:.2g} decades, "
        f"{totals['tokens']:,} tokens"
    ]
    if totals["branches"]:
        lines.append(
            f"saved    {totals['saved']:.0%}: {totals['branches']} runs start from the state of a longer one "
            f"after the steps under `from`, {totals['flops_trained']:.3g} FLOPs are trained"
        )
    if price:
        lines.append(
            f"price    {_clock(price['wall_seconds'])} on {price['workers']} workers, "
            f"{price['worker_seconds']:,.0f} worker seconds: {price['compile_seconds']:,.0f} to compile "
            f"what no cache holds, {price['validation_seconds']:,.0f} to validate (rate {price['source']})"
        )
    if target:
        time = f", {_clock(target['seconds'])} on one worker" if target["seconds"] else ""
        ratio = target["flops"] / totals["largest_flops"]
        lines.append(
            f"target   {target['flops']:.3g} FLOPs, {ratio:.3g} times the "
            f"largest run: width {target['d_model']}, N {target['n']:,}, D {target['tokens']:,}, "
            f"{target['steps']:,} steps{time}{_repeats(target['epochs'])}"
        )
    if intervals:
        lines.append(
            f"expected 90% intervals if the prior were true and each loss off by {intervals['noise']:.2%} "
            f"({intervals['grids']} simulated grids)"
        )
        for key, (title, form) in QUANTITIES.items():
            one = intervals["intervals"][key]
            low, high, truth = (form.format(one[name]) for name in ("low", "high", "truth"))
            lines.append(f"         {title}: {low} to {high} (prior {truth})")
        lines.append(f"         prior: {intervals['prior']}")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _repeats(epochs: float | None) -> str:
    return f"; {epochs:.3g} epochs of the text, more than a forecast allows" if epochs and epochs > 1 else ""
