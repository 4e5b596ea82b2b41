"""A wandb project as a table: one row per run, whoever logged it.

Runs mirrored by this project (scaling/tracking.py) come back with the columns of the runs table; a
stranger's runs have what their config and summary hold, under dotted names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling import wandb_session
from scaling.errors import UserError
from scaling.wandb_session import reason

_TIMEOUT_SECONDS = 20
# wandb's words for how a run ended, where they are not ours. The rest is kept: crashed, failed, running, ...
_STATUS = {"finished": "done"}
# A finished process may have logged a diverged or stopped run.
_OUTCOMES = ("done", "diverged", "failed", "stopped")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as wandb writes them


def load_project(path: str, notes: list[str] | None = None) -> pd.DataFrame:
    """Every run of `entity/project`, or of `project` of the default entity, oldest first.

    Columns: run_id, run_name, group, status, then the scalars of config and summary, nested names joined by
    dots; of one name in both the summary counts, as it was measured. Values keep the units they were logged
    in. Raises UserError when wandb is missing, has no key, does not answer, or knows no such project or no
    run in it, and for values that `row_of` refuses; what it notes goes to `notes`.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; `pip install wandb`, or give the runs as CSV.") from None
    if not wandb_session.has_key():
        raise UserError("wandb has no API key here; run `wandb login` or set WANDB_API_KEY.")
    try:
        # Not lazy: lazy runs fetch their config and summary one request at a time.
        runs = list(wandb.Api(timeout=_TIMEOUT_SECONDS).runs(path, per_page=100, lazy=False))
    except Exception as error:  # wandb raises many kinds, and wraps those of its transport
        wandb_session.abandon()
        if isinstance(error, ValueError):
            why, mend = "is not there", "give ENTITY/PROJECT"
        else:
            why, mend = "cannot be read", "check the network, the key and the name"
        raise UserError(f"wandb project {path!r} {why} ({reason(error)}); {mend}.") from None
    if not runs:
        raise UserError(f"wandb project {path!r} has no runs; give another project.")
    notes = [] if notes is None else notes
    rows = [
        row_of(run.id, run.name, run.group, run.state, run.config, run.summary_metrics, notes) for run in runs
    ]
    return pd.DataFrame(rows)


def row_of(
    run_id: str, name: str, group: str | None, state: str, config: Mapping[str, Any],
    summary: Mapping[str, Any], notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    """A run as a row. Of a name in both config and summary the summary's value counts, but two losses of one
    name are both kept, as config.NAME and summary.NAME, and noted: which one is meant is not known here.

    Raises UserError where one name holds two values within the config or the summary (a.b beside {a: {b}}).
    """
    found, measured = _flat(config, "config", run_id), _flat(summary, "summary", run_id)
    status = _STATUS.get(state, state)
    if status != "running" and measured.get("status") in _OUTCOMES:
        status = measured["status"]
    own = {"run_id": run_id, "run_name": name, "group": group, "status": status}
    for key in [
        key for key in found if key in measured and _is_loss(key) and _differ(found[key], measured[key])
    ]:
        said = f"{key!r} is a loss in the config and in the summary: kept as config.{key} and summary.{key}"
        if said not in notes:
            notes.append(said)
        found[f"config.{key}"], measured[f"summary.{key}"] = found.pop(key), measured.pop(key)
    return {**own, **{k: v for k, v in (found | measured).items() if k not in own}}


def _is_loss(name: str) -> bool:
    return name.lower().endswith("loss")


def _differ(first: Any, second: Any) -> bool:
    """Numbers that are not the same; a loss of the config that is a word names a kind of loss."""
    numbers = isinstance(first, int | float) and isinstance(second, int | float)
    return numbers and first != second


def _flat(values: Mapping[str, Any], what: str, run_id: str, prefix: str = "") -> dict[str, Any]:
    """Scalars by dotted name; lists, media and wandb's own underscored entries left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith("_"):
            continue
        if isinstance(value, Mapping):
            inner = _flat(value, what, run_id, f"{prefix}{key}.")
        elif isinstance(value, str):
            inner = {prefix + key: _NOT_FINITE.get(value, value)}
        elif isinstance(value, bool | int | float):
            inner = {prefix + key: value}
        else:
            continue
        for name in inner.keys() & flat.keys():
            if flat[name] != inner[name]:
                raise UserError(
                    f"wandb run {run_id} has two values of one name in its {what} ({name}: {flat[name]} and "
                    f"{inner[name]}); rename one of them in wandb, or export the runs as CSV."
                )
        flat |= inner
    return flat
