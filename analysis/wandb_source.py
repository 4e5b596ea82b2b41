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


def load_project(path: str) -> pd.DataFrame:
    """Every run of `entity/project`, or of `project` of the default entity, oldest first.

    Columns: run_id, run_name, group, status, then the scalars of config and summary, nested names joined by
    dots; of one name in both the summary counts, as it was measured. Values keep the units they were logged
    in. Raises UserError when wandb is missing, has no key, does not answer, or knows no such project or no
    run in it.
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
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Any) -> dict[str, Any]:
    summary = _flat(run.summary_metrics)
    status = _STATUS.get(run.state, run.state)
    if status != "running" and summary.get("status") in _OUTCOMES:
        status = summary["status"]
    own = {"run_id": run.id, "run_name": run.name, "group": run.group, "status": status}
    return {**own, **{k: v for k, v in (_flat(run.config) | summary).items() if k not in own}}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Scalars by dotted name; lists, media and wandb's own underscored entries left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith("_"):
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            flat[prefix + key] = _NOT_FINITE.get(value, value)
        elif isinstance(value, bool | int | float):
            flat[prefix + key] = value
    return flat
