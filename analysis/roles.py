"""The roles that columns of a table play in laws: what each means, its units, the names it goes by.

A law's inputs and its output are roles (`analysis.law.Law.inputs`, `.output`); the command line has a flag
for each role listed here and `--column ROLE=COLUMN` for a role that only a law of your own knows.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from analysis.newton import Array
from scaling.errors import UserError

COUNT_UNITS = {"1": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
FLOP_UNITS = {"FLOP": 1.0, "PF-days": 8.64e19}
LOSS_UNITS = {"nats": 1.0, "bits": math.log(2), "perplexity": math.nan}  # nan: not a factor, a logarithm
SHARE_UNITS = {"1": 1.0, "percent": 0.01}
_AMOUNT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*([kKMBT]?)", re.ASCII)
NO_UNITS = {"1": 1.0}
RUN_NAMES = ("run", "run_id", "run_name", "name")  # columns that name a run, lower case


@dataclass(frozen=True)
class Role:
    """`units`: name -> factor to the unit used inside; the first is the default. `common`: lower-case
    names under which the column is found when no flag names it."""

    name: str
    meaning: str
    units: dict[str, float]
    common: tuple[str, ...]
    zero: bool = False  # may be zero

    @property
    def unit(self) -> str:
        return next(iter(self.units))

    @property
    def flag(self) -> str:
        return f"--{self.name}" if self.name in ROLES else f"--column {self.name}=COLUMN"

    @property
    def unit_flag(self) -> str:
        return f"--{self.name}-unit " if self.name in ("n", "d", "c", "loss") else f"--unit {self.name}="


ROLES = {
    role.name: role
    for role in (
        Role(
            "n", "parameters", COUNT_UNITS,
            ("n", "params", "parameters", "n_params", "num_params", "n_total", "model_size"),
        ),
        Role(
            "d", "training tokens", COUNT_UNITS,
            ("d", "tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens"),
        ),
        Role(
            "c", "training FLOPs", FLOP_UNITS,
            ("c", "flops", "flop", "compute", "train_flops", "training_flops", "c_matmul"),
        ),
        Role(
            "loss", "final loss per token", LOSS_UNITS,
            ("loss", "val_loss", "validation_loss", "final_loss", "eval_loss", "l"),
        ),
        Role("unique", "unique training tokens", COUNT_UNITS, ("unique", "unique_tokens", "u", "n_unique")),
        Role("epochs", "passes over the unique tokens", NO_UNITS, ("epochs", "n_epochs", "num_epochs")),
        Role("experts", "experts of a layer", COUNT_UNITS, ("experts", "n_experts", "num_experts")),
        Role("granularity", "width of a dense layer over that of an expert", NO_UNITS, ("granularity", "g")),
        Role("lr", "learning rate", NO_UNITS, ("lr", "learning_rate", "peak_lr", "max_lr")),
        Role("batch", "batch", COUNT_UNITS, ("batch", "batch_tokens", "batch_size", "bs")),
        Role("steps", "optimizer steps", COUNT_UNITS, ("steps", "step", "n_steps", "num_steps")),
        Role("accuracy", "share of answers that are right", SHARE_UNITS, ("accuracy", "acc"), zero=True),
        Role("error", "share of answers that are wrong", SHARE_UNITS, ("error", "error_rate"), zero=True),
        Role("noise", "standard error of what is fitted", NO_UNITS, ()),
    )
}  # fmt: skip


def role(name: str) -> Role:
    """The role of this name; one that is not listed is a positive number without a unit."""
    return ROLES.get(name) or Role(name, name, COUNT_UNITS, (name.lower(),))


def plain(column: str) -> str:
    """How a column is called whoever logged it: val/loss, val.loss and Val-Loss are val_loss; what only says
    where it was kept (config., summary., hparams.) is left out."""
    name = re.sub(r"[\s/.\-:]+", "_", str(column).strip().lower())
    return re.sub(r"^_*(config|summary|hparams|args)_(?=.)", "", name)


def check_unit(name: str, unit: str) -> None:
    """Raise UserError unless `unit` is one of the role's, or a positive number to multiply by."""
    found = role(name)
    if unit not in found.units and not _factor(unit) > 0:
        known = ", ".join(found.units)
        raise UserError(
            f"{found.unit_flag}{unit} is not a unit of {found.meaning}; choose from {known}, "
            "or give the number that one of it stands for."
        )


def amount(value: object) -> float:
    """A number, or one as people write it: 85M, 1.2B, 3,000. NaN where it is none."""
    found = _AMOUNT.fullmatch(str(value).strip().replace(",", "").replace("_", ""))
    return float(found[1]) * COUNT_UNITS[found[2].replace("K", "k") or "1"] if found else math.nan


def convert(name: str, unit: str, values_P: Array) -> Array:
    """`values_P` of a role in `unit`, in the role's own unit (parameters, tokens, FLOPs, nats/token)."""
    if name == "loss" and unit == "perplexity":
        return np.log(values_P)
    return values_P * role(name).units.get(unit, _factor(unit))


def _factor(unit: str) -> float:
    try:
        factor = float(unit)
    except ValueError:
        return math.nan
    return factor if math.isfinite(factor) else math.nan
