"""The sections of a report after its first screen: budgets, laws, runs, forecasts, how to do it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

from analysis import report_html as h
from analysis.forecast import code_version
from analysis.isoflop import READINGS
from analysis.plots.optimum import NAMES
from analysis.plots.style import count_name, human
from analysis.report_answer import notes
from analysis.report_figures import Figure
from analysis.report_html import Html
from analysis.report_study import Answer, Study

_LIBRARIES = ("jax", "flax", "optax", "numpy", "scipy", "pandas", "matplotlib")


def budgets(study: Study, answers: Sequence[Answer]) -> Html:
    """The compute-optimal run of several budgets; those measured are told from those extrapolated."""
    if not answers or study.fit is None:
        return Html("")
    top = max(row["c"] for row in study.fit["rows"])
    rows, marks = [], []
    for answer in answers:
        best, (low, high) = answer.optimum, answer.run_interval
        beyond = "" if answer.flops <= top * 1.001 else f"{answer.flops / top:.3g}x"
        sizes = [human(best["n"]), _between(best["n_interval"], human)]
        tokens = [
            human(best["d"]),
            _between(best["d_interval"], human),
            f"{best['tokens_per_parameter']:.3g}",
        ]
        losses = [f"{best['loss']:.3f}", f"{low:.3f} to {high:.3f}", beyond]
        rows.append([h.scientific(answer.flops), *sizes, *tokens, *losses])  # fmt: skip
        marks.append("key" if study.budget and abs(answer.flops / study.budget - 1) < 1e-6 else "")
    head = "FLOPs|N*|90%|D*|90%|D*/N*|loss|90%, new run|beyond the runs"
    caption = "By the fitted law, losses in nats/token. The marked row is the budget of the answer above."
    return h.section("budgets", "Compute-optimal runs", h.table(head, rows, caption=caption, marks=marks))


def figures(drawn: Sequence[Figure], folder: str) -> Html:
    if not drawn:
        return Html("")
    parts = []
    for figure in drawn:
        links = [(f"{folder}/{path.name}", path.suffix[1:].upper()) for path in figure.others]
        parts.append(Html(f"<h3>{h.esc(figure.title)}</h3>"))
        parts.append(h.image(figure.svg, figure.alt, figure.caption, links))
    return h.section("figures", "Figures", *parts)


def laws(study: Study) -> Html:
    """The three approaches side by side, then every law with constants, intervals and certificate."""
    fit = study.fit
    if fit is None:
        return Html("")
    parts = [Html("<h3>Three approaches to N* and D*</h3>"), _approaches(fit)]
    if said := fit.get("why", {}).get("sentences"):
        parts += [h.p("Where they part, and why:"), h.bullets(said)]
    for name, law in sorted(fit["laws"].items(), key=lambda item: item[0] != "chinchilla"):
        parts += [Html(f"<h3>{h.esc(_title(name, law))}</h3>"), *_law(law)]
    if fit["skipped"]:
        parts.append(
            h.bullets(f"{name} is not fitted: it {reason}." for name, reason in fit["skipped"].items())
        )
    return h.section("laws", "Laws", *parts)


def _approaches(fit: dict[str, Any]) -> Html:
    rows = []
    for name in ("envelope", *READINGS, "parametric"):
        entry = fit["approaches"].get(name, {"skipped": "was not asked for"})
        if "skipped" in entry:
            rows.append([NAMES[name], h.DASH, h.DASH, h.DASH, h.DASH, entry["skipped"]])
            continue
        points = f"{len(entry['points'])} points" if name != "parametric" else f"{fit['rows_used']} runs"
        size = [f"{entry['a']:.3f}", _between(entry["a_interval"], _third)]
        tokens = [f"{entry['b']:.3f}", _between(entry["b_interval"], _third)]
        rows.append([NAMES[name], *size, *tokens, points])
    caption = "N* grows as C to the a, D* as C to the b. They add up to 1 only where a token costs 6N FLOPs."
    return h.table("approach|a|90%|b|90%|from", rows, caption=caption, text={0, 5})


def _title(name: str, law: dict[str, Any]) -> str:
    """`L(N, D): chinchilla` from the law's formula and name."""
    return f"{law['formula'].split(' = ')[0]}: {name.split('_')[0].capitalize()}"


def _law(law: dict[str, Any]) -> list[Html]:
    loose = law["not_determined"]
    rows = [
        [name, "" if name in loose else h.number(value, 6), _between(law["intervals"][name], h.number),
         law["units"][name], loose.get(name, "")]
        for name, value in law["parameters"].items()
    ]  # fmt: skip
    rows += [
        [
            name,
            h.number(value),
            _between(law["derived_intervals"][name], h.number),
            "",
            "exponent of C if C = 6ND",
        ]
        for name, value in law["derived"].items()
    ]
    runs = f"{len(law['rows_used'])} runs" + (" on the frontier" if law["rows"] == "frontier" else "")
    counted = f", N {count_name(law['n_count'])}" if law["n_count"] else ""
    quality = f"rms {100 * law['rms']:.2f}% · objective {law['objective']:.8g}"
    about = h.p(h.code(law["formula"]), f" · {law['source']} · {runs}{counted} · {quality}")
    table = h.table("constant|value|90%|unit|", rows, text={0, 3, 4})
    return [about, table, _certificate(law["certificate"])]


def _certificate(certificate: dict[str, Any]) -> Html:
    word = "Certified optimum" if certificate["converged"] else "NOT certified as an optimum"
    second = certificate["second_solver"]
    facts = [f"gradient {certificate['gradient']:.1e}"]
    if certificate["condition"] is not None:
        facts.append(f"Hessian positive, condition {certificate['condition']:.3g}")
    if second is not None:
        facts.append(f"a second solver ends {_near(second)}")
    if certificate["starts"] > 1:
        facts.append(f"{certificate['agree']:.0%} of {certificate['starts']} starts agree")
    if certificate["at_bounds"]:
        facts.append(f"at a bound: {', '.join(certificate['at_bounds'])}")
    return h.p(h.strong(word), ": ", "; ".join(facts), ".", kind="muted")


def _near(second: float) -> str:
    if abs(second) < 1e-9:
        return "at the same objective"
    return f"{abs(second):.1e} {'above' if second > 0 else 'BELOW'} in objective, relatively"


def runs(study: Study) -> Html:
    """Every run folder, those that ended badly marked; what the design refused; notes."""
    table = study.runs
    if study.folder is None:
        every = Html('Every row with its loss and that of the law: <a href="runs.csv">runs.csv</a>.')
        return h.section("runs", f"Runs ({len(table)})", h.p(every), *_left_out(study))
    rows, marks = [], []
    for run in table.to_dict("records"):
        loss, se = run["loss"], run["loss_se"]
        sizes = [human(run["n_total"]), human(run["tokens"]), h.scientific(run["c_matmul"])]
        how = [h.number(run["lr"], 3), human(run["batch_tokens"]), f"{run['steps']:,}"]
        shape = [str(run["d_model"]), str(run["n_layers"])]
        who = [h.code(run["run_id"]), run["role"], run["status"]]
        rows.append([*who, *sizes, h.fixed(loss), h.fixed(se), *how, *shape, run["note"] or ""])
        marks.append(
            "bad" if run["status"] in ("diverged", "failed") else "key" if run["role"] == "target" else ""
        )
    head = "run|role|status|N (total)|tokens|FLOPs|loss|s.e.|peak lr|batch, tokens|steps|width|layers|note"
    parts = [
        h.p(
            Html('FLOPs in the matmul count; every count and column: <a href="runs.csv">runs.csv</a>.'),
            kind="muted",
        )
    ]
    parts.append(h.table(head, rows, text={0, 1, 2, 13}, marks=marks))
    parts += _left_out(study)
    return h.section("runs", f"Runs ({len(table)})", *parts)


def _left_out(study: Study) -> list[Html]:
    parts = []
    dropped = study.fit["rows_dropped"] if study.fit else []
    if dropped:
        remarks = study.runs.set_index("run_id")["note"].to_dict()
        reasons = [f"{row['run']}: {remarks.get(row['run']) or row['reason']}" for row in dropped]
        parts += [Html("<h3>Left out of the fit</h3>"), h.bullets(reasons)]
    if study.refused:
        parts.append(Html("<h3>Refused by the design before launch</h3>"))
        parts.append(h.bullets(f"{r.get('label', '?')}: {r.get('reason', '?')}" for r in study.refused))
    return parts if study.fit else parts + notes(study)


def forecasts(study: Study) -> Html:
    """All forecasts kept; the first for each target is the one that counts."""
    if study.folder is None:
        return Html("")
    if not study.forecasts:
        return h.section("forecasts", "Forecasts", h.p("None is registered for this study."))
    first = {id(forecast) for forecast in study.counting}
    rows, marks = [], []
    for forecast in sorted(study.forecasts, key=lambda f: (f.registered_at, f.path.name)):
        low, high = forecast.interval
        measured = forecast.measured or {}
        counts = id(forecast) in first
        when = forecast.registered_at[:19].replace("T", " ")
        what = [
            h.code(forecast.run_id),
            "yes" if counts else "no",
            h.scientific(forecast.record["target"]["flops"]),
        ]
        said = [
            f"{forecast.loss:.4f}",
            f"{low:.4f} to {high:.4f}",
            h.fixed(forecast.straight_line.get("loss")),
        ]
        came = [h.fixed(measured.get("loss")), h.percent(measured.get("relative_error"))]
        seal = "intact" if forecast.intact else "CHANGED after registration"
        rows.append([when, *what, *said, *came, h.code(forecast.fingerprint), seal, forecast.path.name])
        marks.append("" if forecast.intact and not counts else "key" if forecast.intact else "bad")
    head = "registered, UTC|target run|counts|FLOPs|forecast|90%|straight line|measured|error|fit|seal|file"
    caption = "Every forecast is kept; of several for one target the first counts. Losses in nats/token."
    method = (study.headline.record["forecast"].get("interval_method") or "") if study.headline else ""
    spread = h.p("The interval is the spread of: ", method, ".", kind="muted") if method else Html("")
    table = h.table(head, rows, caption=caption, text={0, 1, 2, 9, 10, 11}, marks=marks)
    return h.section("forecasts", f"Forecasts ({len(rows)})", table, spread)


def reproduce(study: Study) -> Html:
    """The commands of the chain, and the versions that made this page."""
    name = study.stem
    commands = [f"scaling launch {name}", f"scaling fit {study.folder}"]
    if study.folder is None and study.fit is not None:
        commands = [f"scaling fit {study.fit['source']}  # with the columns named as before"]
    if study.headline is not None:
        commands.append(f"scaling forecast {name} --flops {study.headline.record['target']['flops']:.6g}")
        commands.append(f"scaling verify {study.headline.run_id}")
    commands.append(f"scaling report {name}")
    libraries = ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))
    pairs = [("Code", code_version()), ("Python", platform.python_version()), ("Libraries", libraries)]
    devices = sorted({str(d) for d in study.runs.get("device", pd.Series()).dropna()})
    if devices:
        pairs.append(("Trained on", ", ".join(devices)))
    if study.headline is not None:
        pairs.append(("Forecast made by", str(study.headline.record.get("code_version", ""))))
    return h.section("reproduce", "How to do it again", h.pre(commands), h.facts(pairs))


def footer(now: datetime | None = None) -> Html:
    moment = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    return Html(
        f"<footer>Made {moment} by <code>scaling report</code>. This file loads nothing else.</footer>"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _third(value: float) -> str:
    return f"{value:.3f}"


def _between(interval: Sequence[float | None] | None, write: Any) -> str:
    low, high = interval or (None, None)
    if low is None or high is None:
        return "open" if low is high else f">= {write(low)}" if high is None else f"<= {write(high)}"
    return f"{write(low)} to {write(high)}"
