"""The answers of `scaling predict` as text, at most 100 columns; the first line is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from scaling.amounts import human

WIDTH = 98
_LABEL = 12


def answer_lines(found: dict[str, Any]) -> list[str]:
    """The answer of `analysis.answer.answer`."""
    best = found["optimum"]
    out = wrap(_headline(found), WIDTH)
    out += _row("size", f"N {human(best['n'])}{_sure(best['n_interval'])}")
    tokens = f"D {human(best['d'])}{_sure(best['d_interval'])}"
    ratio = f"{best['tokens_per_parameter']:.3g} per parameter{_sure(best['tokens_per_parameter_interval'])}"
    out += _row("tokens", f"{tokens}; {ratio}")
    if found["text"]:
        out += _row("text", _text(found["text"]))
    law = _sure(best["loss_interval"], _loss)
    law = f"; law alone{law}" if law else ""
    out += _row("loss", f"{_loss(best['loss'])} nats/token{_of_a_run(found['interval'])}{law}")
    out += _row("training", _training(found))
    if found["serving"]:
        out += _row("serving", _serving(found["serving"]))
    if found["total"]["tokens_dollars"]:
        out += _row("text costs", _money(found["total"]["tokens_dollars"]))
    if found["serving"] or found["total"]["tokens_dollars"]:
        out += _row("total", _total(found["total"]))
    if found["instead"]:
        out += _row("instead", _instead(found["instead"], found["total"]["currency"]))
    out += _row("off by", _regret(found["regret"]))
    if found["run"]:
        out += _row("to build", _run(found["run"]))
    used = [rule for rule in found["hyperparameters"] if rule["used"]]
    for i, rule in enumerate(used or found["hyperparameters"]):
        out += _row("" if i else "train with", _rule(rule))
    if used:
        out += _row("", _others(rule for rule in found["hyperparameters"] if not rule["used"]))
    if found["approaches"]:
        others = (
            f"{name} N* {human(entry['n'])}, D* {human(entry['d'])}"
            for name, entry in found["approaches"].items()
        )
        out += _row("others say", "; ".join(others))
    if found["approaches"] and (line := found["straight_line"]):
        out += _row("", f"the straight line through the envelope: {_loss(line['loss'])}"
                    f"{_sure(line['interval'], _loss)}")  # fmt: skip
    out += _row("beyond", _beyond(found["warnings"]))
    for warning in found["warnings"]:
        if warning["kind"] != "range":
            out += _row("beware", warning["sentence"])
    return out + _row("by", _by(found))


def _headline(found: dict[str, Any]) -> str:
    question, best, model = found["question"], found["optimum"], found["model"]
    shape = f"{human(best['n'])} parameters on {human(best['d'])} tokens"
    loss = f"loss {_loss(best['loss'])}{_sure(found['interval'], _loss)}"
    if model is not None:
        said = (
            f"{model['name']} on {human(model['d'])} tokens ({model['d_is']}) reaches loss "
            f"{_loss(model['loss'])}{_sure(model.get('interval'), _loss)}"
        )
        if found["instead"] is None:
            return f"{said}; nothing reaches it for less."
        saved = found["instead"]["saved_share"]
        return f"{said}; {shape} reach it for {100 * saved:.3g}% less."
    given = {
        "flops": lambda value: f"{value:.4g} FLOPs",
        "dollars": lambda value: _money(value),
        "chip_hours": lambda value: f"{value:,.6g} {found['price']['hardware']}-hours",
        "loss": lambda value: f"loss {value:g}",
    }
    name = next(name for name in given if question[name] is not None)
    if name == "loss":
        price = found["price"]["dollars"]
        cost = f"{found['flops']:.3g} FLOPs{_sure(best['flops_interval'], _short)}"
        money = "" if price is None else f", {_money(price)}"
        return f"Loss {question['loss']:g} takes {shape}: {cost}{money}."
    return f"{given[name](question[name])}: train {shape}, {loss} nats/token."


def _beyond(warnings: Sequence[dict[str, Any]]) -> str:
    """Where the answer lies outside the fitted runs."""
    words = {"c": "C", "n": "N", "d": "D", "d/n": "D/N"}
    said = [
        f"{words[w['what']]} {w['factor']:.3g} times the {'most' if w['factor'] > 1 else 'least'}"
        for w in warnings
        if w["kind"] == "range"
    ]
    return f"outside the fitted runs: {', '.join(said)} of any of them" if said else ""


def _training(found: dict[str, Any]) -> str:
    price, best = found["price"], found["optimum"]
    said = (
        f"{best['flops']:.4g} FLOPs{_sure(best['flops_interval'], _short)} on {price['devices']:,} "
        f"{price['hardware']} at {100 * price['utilisation']:g}% of {price['precision']} peak: "
        f"{_days(price['days'])}, {human(price['chip_hours'])} chip-hours"
    )
    if price["dollars"] is not None:
        rate = f"{price['dollars_per_hour']:g} $/h"
        dated = f", {price['price_date']}" if price["price_date"] else ""
        said += f", {_money(price['dollars'])}{_sure(price['dollars_interval'], _money)} ({rate}{dated})"
    if price["mwh"] is not None:
        said += f", {price['mwh']:,.3g} MWh" if price["mwh"] >= 0.001 else f", {1e6 * price['mwh']:.3g} Wh"
    return said


def _serving(serving: dict[str, Any]) -> str:
    parts = []
    for name in ("prefill", "decode"):
        part = serving[name]
        if part["tokens"]:
            money = "" if part["dollars"] is None else f", {_money(part['dollars'])}"
            at = f"at {100 * part['utilisation']:g}%"
            parts.append(f"{name} {human(part['tokens'])} tokens {at}: {part['flops']:.3g} FLOPs{money}")
    return f"{'; '.join(parts)} ({serving['hardware']})"


def _total(total: dict[str, Any]) -> str:
    dollars = total["currency"] == "dollars"
    show = _money if dollars else lambda value: f"{value:.4g} FLOPs"
    return show(total["cost"]) + _sure(total["cost_interval"], _money if dollars else lambda x: f"{x:.3g}")


def _instead(other: dict[str, Any], currency: str) -> str:
    saved = _money(other["saved"]) if currency == "dollars" else f"{other['saved']:.3g} FLOPs"
    share = f"{100 * other['saved_share']:.3g}%"
    sure = _sure(other["saved_share_interval"], lambda x: f"{100 * x:.2g}%")
    cost = _money(other["cost"]) if currency == "dollars" else f"{other['cost']:.4g} FLOPs"
    return (
        f"{other['what']}, {human(other['n'])} on {human(other['d'])} tokens, comes to {cost} for the same "
        f"loss: {saved} saved, {share}{sure}"
    )


def _regret(rows: Sequence[dict[str, Any]]) -> str:
    said = []
    for row in rows:
        if row["n_over_optimum"] == 1:
            sure = row["loss_interval"]
            if sure and sure[1] is not None:
                said.append(f"N* itself, not known better, up to +{sure[1]:.2g} nats")
        else:
            dearer = row["extra_cost"]
            more = "no cost will do" if dearer is None else f"+{100 * dearer:.3g}%"
            more = more if dearer is None or dearer < 2 else f"{1 + dearer:.3g} times the cost"
            lost = "beyond the budget" if row["loss"] is None else f"+{row['loss']:.2g} nats"
            said.append(f"{row['n_over_optimum']:g} N* {lost} or {more}")
    return "; ".join(said) + " (loss at equal cost, or cost at equal loss)"


def _text(text: dict[str, Any]) -> str:
    said = (
        f"{human(text['unique'])} unique tokens, {text['epochs']:.3g} epochs{_sure(text['epochs_interval'])}"
    )
    if text["epochs"] > 1:
        said += (
            f", worth {human(text['worth_tokens'])} new ones; {text['cost_over_unlimited']:.3g} times the "
            "cost with text without end"
        )
    constants = f"R_D* {text['R_D']:.4g}, R_N* {text['R_N']:.4g} of {text['source']}"
    caveats = "; ".join(f"{name}*: {words}" for name, words in text["not_determined"].items())
    return f"{said}. {constants}" + (f" ({caveats})" if caveats else "")


def _run(run: dict[str, Any]) -> str:
    return (
        f"run {run['run_id']}: width {run['d_model']}, {run['n_layers']} layers, N {human(run['n'])}, "
        f"{run['steps']:,} steps of {run['batch_tokens']:,} tokens, {run['flops']:.4g} FLOPs; loss "
        f"{_loss(run['loss'])}{_of_a_run(run['interval'])}"
    )


def _rule(rule: dict[str, Any]) -> str:
    """One rule's hyperparameters, and how far from its data they are."""
    lr = rule["lr_interval"] or rule["lr_over_sizes"]
    batch = rule["batch_interval"] or rule["batch_over_sizes"]
    said = [f"lr {rule['lr']:.3g}{_sure(lr, lambda x: f'{x:.2g}')}"]
    if rule["batch"] is not None:
        said.append(f"batch {human(rule['batch'])} tokens{_sure(batch)}")
    if rule["weight_decay"] is not None:
        said.append(f"weight decay {rule['weight_decay']:g}")
    for name in ("warmup", "cooldown"):
        if rule[name] is not None:
            said.append(f"{name} {100 * rule[name]:.3g}%")
    return f"{', '.join(said)}: {rule['rule']}, {_far(rule)}"


def _far(rule: dict[str, Any]) -> str:
    beyond = rule["extrapolation"]
    if beyond is None:
        return "its range is not known"
    return f"{beyond:.3g} times beyond its data" if beyond > 1 else "inside its data"


def _others(rules: Iterable[dict[str, Any]]) -> str:
    """The rules that the run does not follow, in short."""
    said = []
    for rule in rules:
        batch = "" if rule["batch"] is None else f" at {human(rule['batch'])} tokens"
        said.append(f"{rule['rule']} lr {rule['lr']:.3g}{batch}, {_far(rule)}")
    return f"other rules: {'; '.join(said)}" if said else ""


def _by(found: dict[str, Any]) -> str:
    kept = {name: {"given": "as given", "6nd": "6ND"}.get(v, v) for name, v in found["conventions"].items()}
    level = "90% intervals from its resamples" if found["optimum"]["n_interval"] else "no intervals"
    over = found["flops_over_largest_fitted"]
    reach = "" if over is None else f"; {over:.3g} times the largest fitted compute"
    return f"{found['law']} of {found['fit']} (N {kept['n']}, C {kept['c']}), {level}{reach}"


def points_lines(points: Any, most: int = 40) -> list[str]:
    """The predictions of `scaling predict --at`; `points`: analysis.points.Points."""
    rows = points.rows
    names = [name for name in rows[0] if name not in ("row", "run", "loss", "interval", "measured")]
    measured = points.score is not None
    head = ["run", *(name.upper() if len(name) == 1 else name for name in names), "loss", "90% of a run"]
    table = [head + (["measured"] if measured else [])]
    for row in rows[:most]:
        cells = [row["run"][:28], *(human(row[name], 4) for name in names), _loss(row["loss"])]
        cells.append("none" if row["interval"] is None else " to ".join(map(_loss, row["interval"])))
        if measured:
            cells.append("" if row["measured"] is None else _loss(row["measured"]))
        table.append(cells)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table)
    out = ["  ".join(line).rstrip() for line in padded]
    if len(rows) > most:
        out.append(f"... and {len(rows) - most} more: --out FILE.csv or --json has all")
    if score := points.score:
        inside = (
            "" if score["inside_90"] is None else f", {100 * score['inside_90']:.3g}% inside the 90% interval"
        )
        out.append(f"{score['rows']} measured: rms error {100 * score['rms_error']:.3g}%{inside}")
    return out


def _row(label: str, text: str) -> list[str]:
    lines = wrap(text, WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False)
    return [f"{label if i == 0 else '':<{_LABEL}}{line}" for i, line in enumerate(lines)]


def _sure(interval: Sequence[float | None] | None, show: Any = human) -> str:
    """` (low to high)`; nothing where there is none, or no width."""
    if interval is None or interval[0] == interval[1]:
        return ""
    low, high = interval
    if low is None or high is None:
        return " (open)" if low is None else f" ({show(low)} or more)"
    if low and abs(high / low - 1) < 1e-9:
        return ""
    return f" ({show(low)} to {show(high)})"


def _of_a_run(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f", one new run{_sure(interval, _loss)}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _loss(value: float) -> str:
    return f"{value:.4f}" if value < 10 else f"{value:.4g}"


def _money(value: float) -> str:
    return f"${human(value)}" if value >= 1e3 else f"${value:,.2f}" if value >= 0.01 else f"${value:.2g}"


def _days(days: float) -> str:
    if days >= 2:
        return f"{days:,.3g} days"
    return f"{24 * days:.3g} hours" if days >= 1 / 12 else f"{86_400 * days:.3g} seconds"
