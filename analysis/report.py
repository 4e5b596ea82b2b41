"""Reports: one self-contained HTML page for a study, its figures as files, and the numbers behind them.

    reports/<name>/index.html      opens offline, figures inlined, prints
    reports/<name>/figures/        every figure as PNG, PDF, SVG and CSV
    reports/<name>/runs.csv        every run with every count
    reports/<name>/numbers.csv     the numbers of the answer, verdict, next runs and other tables, unrounded

Of a table there is its fit alone: no run folders, no loss curves, no forecast to keep. What is missing (too
few runs for a law, no forecast yet) is said on the page and is no error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis import report_answer, report_sections
from analysis.report_figures import Figure, draw_all
from analysis.report_html import page
from analysis.report_next import Candidate, candidates
from analysis.report_numbers import numbers
from analysis.report_study import Answer, Study, answers, of_table, read_study
from analysis.score import Forecast, load_forecasts
from scaling.errors import UserError
from scaling.files import whole, write_whole

FIGURES = "figures"


def build(
    sweep_folder: str | Path | None,
    fit: dict[str, Any] | None,
    forecasts: Sequence[Forecast] = (),
    out_dir: str | Path | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of a folder of runs, or (None) of a fit's table; returns the path of its index.html.

    `fit`: a fit file's content, or None (then `notes` should say why). `forecasts`: all kept ones of this
    study. `out_dir`: by default reports/<name of the folder>. Raises UserError where there are no runs.
    """
    if sweep_folder is not None:
        study = read_study(Path(sweep_folder), fit, forecasts, notes)
    else:
        assert fit is not None
        study = of_table(fit)
    out = Path(out_dir) if out_dir is not None else Path("reports") / study.stem
    figures, dropped = draw_all(study, out / FIGURES)
    study.notes.extend(dropped)
    with whole(out / "runs.csv") as temporary:
        study.runs.to_csv(temporary, index=False)
    found, following = _found(study)
    with whole(out / "numbers.csv") as temporary:
        numbers(study, found, following).to_csv(temporary, index=False)
    path = out / "index.html"
    write_whole(path, _render(study, figures, found, following))
    return path


def render(study: Study, figures: Sequence[Figure]) -> str:
    """The page of a study with the figures given, as HTML."""
    return _render(study, figures, *_found(study))


def _found(study: Study) -> tuple[list[Answer], list[Candidate]]:
    """The answers for each budget shown, and the runs that would sharpen the one asked for."""
    if study.fit is None or study.budget is None or not study.has_surface:
        return [], []
    return answers(study.fit, _budgets(study)), candidates(study.fit, study.budget)


def _render(
    study: Study, figures: Sequence[Figure], found: Sequence[Answer], following: Sequence[Candidate]
) -> str:
    asked = next((a for a in found if a.flops == study.budget), None)
    sections = [
        report_answer.opening(study, asked),
        report_answer.evidence(study),
        report_answer.sharpen(study, asked, following),
        report_sections.figures(figures, FIGURES),
        report_sections.budgets(study, found),
        report_sections.laws(study),
        report_sections.runs(study),
        report_sections.forecasts(study),
        report_sections.reproduce(study),
        report_sections.footer(),
    ]
    return page(f"{study.name}: scaling report", sections)


def _budgets(study: Study) -> list[float]:
    """Decades from the smallest budget fitted to about 100 times the largest, and the one asked about."""
    if study.fit is None or study.budget is None:
        return []
    flops = [row["c"] for row in study.fit["rows"]]
    first, last = np.floor(np.log10(min(flops))), np.ceil(np.log10(max(flops)))
    decades = [10.0**k for k in range(int(first), int(last) + 3)]
    return sorted({*decades, study.budget})


def find_folder(name: str, runs: str | Path = "runs", fits: str | Path = "fits") -> Path:
    """The folder of a launched sweep by name, a folder of runs by path, or else a fit file by name or path.

    Raises UserError when there is none of them.
    """
    for path in (Path(name), Path(runs) / name):
        if path.is_dir() and any(path.glob("*/config.json")):
            return path
    for path in (Path(name), Path(fits) / f"{name}.json"):
        if path.is_file() and path.suffix == ".json":
            return path
    if Path(name).is_file():
        fit = Path(fits) / f"{Path(name).stem}.json"
        hint = f"`scaling report {fit.stem}`" if fit.is_file() else f"`scaling fit {name}` first"
        raise UserError(f"{name} is a table, and a report is of its fit: {hint}.")
    known = sorted({p.parent.parent.name for p in Path(runs).glob("*/*/config.json")})
    if Path(name).is_dir() or (Path(runs) / name).is_dir():
        raise UserError(f"{name} has no run folders; `scaling launch` makes them.")
    hint = (
        f"{runs} holds {', '.join(known)}"
        if known
        else f"{runs} holds no launched sweep: `scaling launch` first"
    )
    raise UserError(f"{name!r} is neither a launched sweep, a folder of runs nor a fit; {hint}.")


def fit_for(folder: Path, fits: str | Path = "fits") -> tuple[dict[str, Any] | None, list[str]]:
    """The saved fit of these runs if it is of exactly these rows, else a fit made now; and notes.

    None where the runs carry no law yet; the note says why.
    """
    from analysis.fit import fit, load_fit
    from analysis.table import load

    try:
        runs = load(str(folder))
    except UserError as error:
        return None, [str(error)]
    saved = Path(fits) / f"{folder.resolve().name}.json"
    if saved.exists():
        stored = load_fit(saved)
        same = {(row["run"], row["loss"]) for row in stored["rows"]}
        if same == set(zip(runs.runs, runs.column("loss").tolist(), strict=True)):
            return stored, []
    try:
        return fit(runs), [
            f"{saved} is not of these runs; fitted again" if saved.exists() else f"fitted {folder} now"
        ]
    except UserError as error:
        return None, [str(error)]


def forecasts_of(folder: Path, forecasts: str | Path = "forecasts") -> tuple[list[Forecast], list[str]]:
    """Registered forecasts whose target belongs to this folder's study; and notes on unreadable files."""
    notes: list[str] = []
    name = folder.resolve().name
    here = {path.parent.name for path in folder.glob("*/config.json")}
    found = [
        forecast
        for forecast in load_forecasts(forecasts, None, notes)
        if forecast.run_id in here
        or forecast.record["target"].get("sweep") == name
        or (forecast.record.get("fit") or {}).get("name") == name
    ]
    return found, notes
