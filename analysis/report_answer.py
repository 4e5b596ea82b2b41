"""The first screen of a report: the question, the answer, and whether the forecast held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis import report_html as h
from analysis.plots.style import count_name, human
from analysis.report_html import Html
from analysis.report_next import Candidate
from analysis.report_study import Answer, Study, budget_groups
from analysis.score import Forecast


def opening(study: Study, answer: Answer | None) -> Html:
    """Heading, question, answer and verdict."""
    question = study.question or "How do loss, best size and best number of tokens follow compute?"
    parts = [h.Html(f"<h1>{h.esc(study.name)}</h1>"), h.p(question, kind="question")]
    parts.append(_contents(study))
    parts.append(_answer(study, answer))
    parts.append(_verdict(study))
    if study.headline is not None:
        parts.append(_scores(study.headline))
    return Html("<header>\n" + "\n".join(parts) + "\n</header>")


def _contents(study: Study) -> Html:
    links = [("evidence", "What it rests on"), ("sharpen", "What would sharpen it")]
    links += [
        (name, name.capitalize()) for name in ("figures", "budgets", "laws", "runs", "forecasts", "reproduce")
    ]
    missing = set() if study.fit else {"evidence", "budgets", "laws"}
    if study.folder is None:
        missing.add("forecasts")
    if not study.has_surface:
        missing |= {"budgets", "sharpen"}
    items = "".join(f'<a href="#{name}">{text}</a>' for name, text in links if name not in missing)
    return Html(f'<nav aria-label="Sections">{items}</nav>')


def _answer(study: Study, answer: Answer | None) -> Html:
    if answer is None:
        why = "too few runs are finished" if study.fit is None else _no_surface(study.fit)
        return h.p(h.strong("No answer yet. "), f"No law L(N, D) is fitted: {why}.", kind="verdict")
    best, sizes = answer.optimum, _size_name(study)
    low, high = answer.run_interval
    ratio, spread = best["tokens_per_parameter"], best["tokens_per_parameter_interval"]
    boxes = [
        h.card(f"Parameters N* ({sizes})", human(best["n"]), interval_text(best["n_interval"], human)),
        h.card("Training tokens D*", human(best["d"]), interval_text(best["d_interval"], human)),
        h.card("Loss of a new run, nats/token", f"{best['loss']:.3f}", f"90%: {low:.3f} to {high:.3f}"),
        h.card("Tokens per parameter", f"{ratio:.3g}", interval_text(spread, _short)),
    ]
    which = "the target's budget" if study.headline else "ten times the largest budget fitted"
    assert study.fit is not None
    count = count_name(study.fit["conventions"]["c"])
    lead = h.p("Compute-optimal at ", h.strong(Html(f"{h.scientific(answer.flops)} FLOPs")),
               f" (C {count}; {which}), by the fitted law:")  # fmt: skip
    return Html(f"{lead}\n{h.cards(boxes)}")


def _size_name(study: Study) -> str:
    assert study.fit is not None
    return count_name(study.fit["laws"]["chinchilla"].get("n_count") or study.fit["conventions"]["n"])


def _no_surface(fit: dict[str, Any]) -> str:
    return f"it {fit['skipped'].get('chinchilla', 'was not asked for')}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def interval_text(interval: Sequence[float] | None, write: Any) -> str:
    """`90%: low to high` in the words of `write`; says so where the data leave it open."""
    return f"90%: {write(interval[0])} to {write(interval[1])}" if interval else "90%: open"


def _verdict(study: Study) -> Html:
    forecast = study.headline
    if forecast is None:
        head, how = "No forecast is registered. ", ("scaling forecast", " writes one down before its run.")
        if study.folder is None:
            head, how = "Not tested. ", ("scaling score", " hides the largest runs and forecasts them.")
        tested = "Nothing here has been tested beyond the runs that were fitted; "
        return h.p(h.strong(head), tested, h.code(how[0]), how[1], kind="verdict")
    target, (low, high) = forecast.record["target"], forecast.interval
    said = (
        f"{forecast.loss:.4f} nats/token (90%: {low:.4f} to {high:.4f}) for run {forecast.run_id} at "
        f"{target['flops_over_largest_fitted']:.3g} times the largest fitted compute, written down "
        f"{forecast.registered_at[:16].replace('T', ' ')} UTC"
    )
    said += (
        " before the run"
        if forecast.record.get("registered_before_run", True)
        else " after the run had begun"
    )
    measured = forecast.measured
    if measured is None:
        return h.p(h.strong("Forecast not yet tested. "), f"It says {said}. ", h.code("scaling verify"),
                   " trains the run and scores it.", kind="verdict")  # fmt: skip
    if measured.get("loss") is None:
        return h.p(h.strong(f"The target run {measured.get('status', 'failed')}. "),
                   f"The forecast was {said}; there is no loss to compare.", kind="verdict bad")  # fmt: skip
    return _tested(measured, said)


def _tested(measured: dict[str, Any], said: str) -> Html:
    inside = measured["inside_90"]
    head = "The forecast held: inside" if inside else "The forecast missed: outside"
    straight = measured.get("straight_line") or {}
    share = measured.get("error_over_drop")
    drop = f", {100 * share:.1f}% of the drop from the best fitted run" if share is not None else ""
    line = ""
    if straight:
        line = f" The straight line in log-log was off by {h.percent(straight['relative_error'])}."
    text = (
        f"Forecast {said}. Measured {measured['loss']:.4f}: off by {measured['error']:+.4f} nats/token "
        f"({h.percent(measured['relative_error'])}{drop}).{line}"
    )
    return h.p(h.strong(f"{head} its 90% interval. "), text, kind="verdict good" if inside else "verdict bad")


def _scores(forecast: Forecast) -> Html:
    """Forecast and straight line beside the measurement."""
    measured = forecast.measured or {}
    line = forecast.straight_line
    rows = [
        _score_row("law L(N, D)", forecast.loss, forecast.interval, measured.get("loss"), measured),
        _score_row("straight line in log-log", line.get("loss"), line.get("interval"), measured.get("loss"),
                   measured.get("straight_line") or {}),
    ]  # fmt: skip
    head = "forecast|nats/token|90% interval|measured|error|error, %|of the drop|inside 90%"
    se = measured.get("loss_se")
    what = f"Target run {forecast.run_id}. Error is measured less forecast."
    what += f" The measured loss has a standard error of {se:.4f}." if se else ""
    return h.table(head, rows, caption=what)


def _score_row(
    name: str,
    loss: float | None,
    span: Sequence[float] | None,
    measured: float | None,
    errors: dict[str, Any],
) -> list[str]:
    inside, share = errors.get("inside_90"), errors.get("error_over_drop")
    error = errors.get("error")
    return [
        name,
        h.fixed(loss),
        f"{span[0]:.4f} to {span[1]:.4f}" if span else h.DASH,
        h.fixed(measured),
        f"{error:+.4f}" if error is not None else h.DASH,
        h.percent(errors.get("relative_error")),
        f"{100 * share:.1f}%" if share is not None else h.DASH,
        h.DASH if inside is None else "yes" if inside else "no",
    ]


def evidence(study: Study) -> Html:
    """How many runs, over what, counted how, fitted how well."""
    fit = study.fit
    if fit is None:
        return Html("")
    rows = fit["rows"]
    flops, groups = np.array([row["c"] for row in rows]), budget_groups(fit)
    decades = float(np.log10(flops.max() / flops.min()))
    conventions, objective = fit["conventions"], fit["objective"]
    dropped = len(fit["rows_dropped"])
    spent = study.spent()
    span = f"{h.scientific(flops.min())} to {h.scientific(flops.max())}"
    sizes, compute = count_name(conventions["n"]), count_name(conventions["c"])
    pairs: list[tuple[str, object]] = [
        ("Runs fitted", f"{fit['rows_used']}, {dropped or 'none'} left out{' by name' if dropped else ''}"),
        ("Budgets", Html(f"{len(groups)}, from {span} FLOPs: {decades:.2f} decades")),
        ("Sizes", _span(rows, "n") + f" parameters ({sizes})"),
        ("Training tokens", _span(rows, "d")),
        ("Counting", f"N {sizes}, C {compute}, D tokens seen; loss in nats per token"),
        ("Objective", _objective(objective, weighed="noise" in rows[0])),
    ]  # fmt: skip
    if noise := fit.get("noise"):
        pairs.append(("Noise of one run", _noise(noise)))
    if study.has_surface:
        law = fit["laws"]["chinchilla"]
        converged = "converged, certified" if law["certificate"]["converged"] else "NOT certified"
        pairs.insert(1, ("Law", Html(f"{h.code(law['formula'])} ({h.esc(law['source'])})")))
        if study.budget is not None:
            far = f"{study.budget / flops.max():.3g} times the largest compute fitted"
            pairs.append(("Extrapolation", far))
        pairs.append(
            ("Residuals of L(N, D)", f"{100 * law['rms']:.2f}% rms of the loss; the optimum is {converged}")
        )
    boot = fit["bootstrap"]
    pairs.append(("Intervals", f"{boot['level']:.0%}, {boot['resamples']:,} resamples by {boot['unit']}"))
    if spent["flops"]:
        cost = f" FLOPs, {spent['cpu_seconds']:,.0f} CPU s" if spent["cpu_seconds"] else " FLOPs"
        pairs.append(("All runs together", Html(f"{h.scientific(spent['flops'])}{cost}")))
    pairs.append(("Fit", Html(f"fingerprint {h.code(fit['fingerprint'])}")))
    return h.section("evidence", "What it rests on", h.facts(pairs), *notes(study))


def notes(study: Study) -> list[Html]:
    return [Html("<h3>Notes</h3>"), h.bullets(study.notes)] if study.notes else []


_PARTS = {
    "law": ("the law's constants", "more runs, at sizes and tokens that tell its terms apart"),
    "scatter": ("the scatter of single runs about the law", "repeats of runs with other seeds"),
    "drift": ("how far the law may drift beyond the runs", "runs of larger compute"),
}


def sharpen(study: Study, answer: Answer | None, following: Sequence[Candidate]) -> Html:
    """What the loss's interval is made of, and which further runs would narrow the answer most."""
    if answer is None:
        return Html("")
    parts: list[Html] = []
    widths = {name: width for name, width in answer.parts.items() if width}
    if widths:
        most = max(widths, key=lambda name: widths[name])
        each = ", ".join(f"{_PARTS[name][0]} {100 * width:.2f}%" for name, width in widths.items())
        said = f"The loss's interval comes from {each} (half-widths, each alone). The largest is "
        remedy = f": {_PARTS[most][1]} would narrow it most."
        parts.append(h.p(said, h.strong(_PARTS[most][0]), remedy))
    if following:
        parts += _next_runs(following)
    elif not widths:
        parts.append(h.p("The fit keeps too few resamples to tell."))
    return h.section("sharpen", "What would sharpen it", *parts)


def _next_runs(following: Sequence[Candidate]) -> list[Html]:
    best = following[0]
    which = f"{human(best.n)} parameters on {human(best.d)} tokens"
    left = (
        f" ({best.over_best:g} times the best size of its budget) would narrow N* most: its interval would "
        f"shrink to {100 * best.n_left:.0f}% of its width."
    )
    lead = h.p("Of the runs tried on paper, one of ", h.strong(which), left)
    rows = []
    for run in following[:5]:
        sizes = [human(run.n), human(run.d), h.scientific(run.flops), f"{run.over_best:g}"]
        rows.append([*sizes, f"{100 * run.n_left:.0f}%", f"{100 * run.loss_left:.0f}%"])
    caption = "One further run each, if it scatters as those fitted; shares of the present 90% intervals."
    head = "N|tokens|FLOPs|N over its best|left of N*'s|left of the law's loss"
    return [lead, h.table(head, rows, caption=caption, text=set())]


def _objective(objective: dict[str, Any], weighed: bool) -> str:
    delta = f" (δ = {objective['delta']:g})" if objective.get("delta") else ""
    name = {"huber": "Huber", "l1": "absolute value", "lsq": "square"}[objective["name"]]
    residual = objective["residual"]
    return f"sum over runs of {name}{delta} of " + (
        f"({residual}) / noise of the run" if weighed else f"the residual in {residual}"
    )


def _noise(noise: dict[str, Any]) -> Html:
    """What repetitions scatter by, at which compute and how it falls, and how many they are."""
    low, high = (h.percent(end, signed=False) for end in noise["interval"])
    fall = Html("")
    if noise["at"] is not None:
        fall = Html(f" at {h.scientific(noise['at'])} FLOPs, falling as C<sup>-{noise['power']:.2g}</sup>")
    unused = "" if noise["used"] else "; the fit does not use it"
    return Html(
        f"{h.percent(noise['sigma'], signed=False)} of the loss (90%: {low} to {high}){fall}, from "
        f"{noise['rows']} runs of {noise['settings']} settings that differ in their seed alone{unused}"
    )


def _span(rows: list[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows]
    return f"{human(min(values))} to {human(max(values))}"
