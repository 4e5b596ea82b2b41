"""A sweep is data: named runs, the question they answer, the design that made them, what it refused.

It can be printed, counted, priced and diffed before anything runs; launching stores it as
`runs/<name>/sweep.json`. No JAX here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from scaling.config import RunConfig, from_dict, to_dict
from scaling.errors import UserError
from scaling.files import write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEYS = {"name", "question", "design", "runs", "run_ids", "refused"}


@dataclass(frozen=True)
class Refusal:
    """A cell that the design asked for and did not get: its name, and why in one phrase."""

    label: str
    reason: str


@dataclass(frozen=True)
class Sweep:
    """Named runs, in launch order.

    `design` is plain JSON data: the kind, its arguments, and `cells`, one record for each run with
    its `label` (and `budget` in FLOPs, `matmul` convention, where the design had one).
    Raises UserError when the name cannot be a folder, no run is left, or a run stands twice.
    """

    name: str
    question: str
    design: dict[str, Any]
    runs: tuple[RunConfig, ...]
    refused: tuple[Refusal, ...] = field(default=())

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(f"sweep name {self.name!r} cannot name a folder; use letters, digits, . _ or -.")
        if not self.runs:
            raise UserError(f"sweep {self.name!r} has no run; give it at least one.")
        first: dict[str, int] = {}
        for number, run_id in enumerate(self.run_ids, 1):
            if run_id in first:
                raise UserError(
                    f"runs {first[run_id]} and {number} of sweep {self.name!r} are the same experiment "
                    f"({run_id}); leave one out or change its seed."
                )
            first[run_id] = number

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(run.run_id for run in self.runs)

    def labels(self) -> tuple[str, ...]:
        """A readable name for each run, in order: the design's, or width and tokens."""
        cells = self.design.get("cells", [])
        if len(cells) == len(self.runs):
            return tuple(str(cell["label"]) for cell in cells)
        return tuple(f"d{run.model.d_model}-{run.tokens:.3g}" for run in self.runs)

    def budgets(self) -> tuple[float | None, ...]:
        """The budget in FLOPs that each run was cut for; None where the design had none."""
        cells = self.design.get("cells", [])
        if len(cells) == len(self.runs):
            return tuple(cell.get("budget") for cell in cells)
        return (None,) * len(self.runs)

    def to_json(self) -> dict[str, Any]:
        """Plain data: `runs` holds whole configs, `run_ids` their ids in the same order."""
        return {
            "name": self.name,
            "question": self.question,
            "design": self.design,
            "run_ids": list(self.run_ids),
            "runs": [to_dict(run) for run in self.runs],
            "refused": [asdict(refusal) for refusal in self.refused],
        }

    @staticmethod
    def from_json(values: Any, source: str = "sweep") -> Sweep:
        """The inverse of `to_json`; `source` names the file in errors.

        Raises UserError on an unknown or missing field, or a run whose recorded id is not its own.
        """
        if not isinstance(values, dict):
            raise UserError(f"{source} is not a JSON object; give a sweep written by `scaling plan --out`.")
        if unknown := set(values) - _KEYS:
            known = ", ".join(sorted(_KEYS))
            raise UserError(f"{source} has unknown field {min(unknown)!r}; a sweep has {known}.")
        if missing := {"name", "runs"} - set(values):
            raise UserError(f"{source} has no field {min(missing)!r}; give it one.")
        for key, kind in (("runs", list), ("run_ids", list), ("refused", list), ("design", dict)):
            if not isinstance(values.get(key, kind()), kind):
                shape = "a list" if kind is list else "an object"
                raise UserError(f"{source}: {key} is {values[key]!r}; give {shape}.")
        runs = tuple(
            from_dict(RunConfig, run, f"runs[{number}]") for number, run in enumerate(values["runs"])
        )
        for number, (run, run_id) in enumerate(zip(runs, values.get("run_ids", []), strict=False)):
            if run.run_id != run_id:
                raise UserError(
                    f"{source}: runs[{number}] hashes to {run.run_id}, not to its run_ids entry {run_id}; "
                    "a changed config is a new run, so remove run_ids."
                )
        return Sweep(
            name=str(values["name"]),
            question=str(values.get("question", "")),
            design=values.get("design", {}),
            runs=runs,
            refused=tuple(from_dict(Refusal, refusal, "refused") for refusal in values.get("refused", [])),
        )

    def write(self, path: str | Path) -> None:
        write_json(path, self.to_json())


def read_sweep(path: str | Path) -> Sweep:
    """The sweep stored in a JSON file, or the RunConfig of one run as a sweep by the file's name.

    Raises UserError when it is neither.
    """
    try:
        values = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); give one that `scaling plan --out` wrote.") from None
    if isinstance(values, dict) and {"model", "optimizer", "seq_len"} <= values.keys():
        name = Path(path).stem if Path(path).stem != "config" else Path(path).resolve().parent.name
        return Sweep(name=name, question="", design={}, runs=(from_dict(RunConfig, values),))
    return Sweep.from_json(values, str(path))


def known_experiments() -> list[str]:
    """Names of the studies in `experiments/`."""
    package = importlib.import_module("experiments")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_sweep(name_or_path: str | Path, root: str | Path = "runs", **options: Any) -> Sweep:
    """The sweep meant by a study's name, a .py file with `sweep()`, a sweep JSON, one run's RunConfig, or a
    launched sweep.

    `options` (seed, data, target, ...) go to the study's `sweep`; those that are None are left to
    its defaults. Raises UserError when nothing has this name, listing what there is, and when an
    option is given that the study does not take.
    """
    given = {name: value for name, value in options.items() if value is not None}
    make = _study(name_or_path)
    if make is not None:
        if unknown := set(given) - set(inspect.signature(make).parameters):
            raise UserError(f"sweep {str(name_or_path)!r} takes no option {min(unknown)!r}; leave it out.")
        return make(**given)
    path = Path(name_or_path)
    stored = path if path.is_file() else Path(root) / str(name_or_path) / "sweep.json"
    if not stored.is_file():
        launched = (p.parent.name for p in Path(root).glob("*/sweep.json"))
        known = ", ".join(sorted({*known_experiments(), *launched}))
        raise UserError(
            f"no sweep {str(name_or_path)!r}; known are {known}; "
            "or give the path of a sweep JSON, or of a .py file with a function `sweep`."
        )
    if given := {name: value for name, value in given.items() if name != "data"}:  # says where its text lies
        raise UserError(
            f"{stored} is a sweep already made: option {min(given)!r} is not for it; leave it out."
        )
    return read_sweep(stored)


def study_options(name_or_path: str | Path) -> set[str]:
    """Names of the options that a study's `sweep` takes; empty for a sweep that is already made."""
    make = _study(name_or_path)
    return set(inspect.signature(make).parameters) if make else set()


def _study(name_or_path: str | Path) -> Callable[..., Sweep] | None:
    path = Path(name_or_path)
    module: ModuleType
    if path.suffix == ".py" and path.is_file():
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader, path  # a .py file always has both
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    elif str(name_or_path) in known_experiments():
        module = importlib.import_module(f"experiments.{name_or_path}")
    else:
        return None
    if not callable(getattr(module, "sweep", None)):
        raise UserError(f"{name_or_path} has no function `sweep`; write one that returns a Sweep.")
    return module.sweep
