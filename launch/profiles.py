"""Facts about a cluster, kept out of every experiment: a TOML file for each engine, or several.

    launch/profiles/<name>.toml              shipped: examples, used by --dry-run when the user has none
    ~/.config/scaling/profiles/<name>.toml   the user's own ($XDG_CONFIG_HOME in place of ~/.config)

`name` is the engine's unless --profile gives another, or a path. Each engine has a dataclass of its fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from scaling.config import Placement, from_dict
from scaling.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What every engine's profile has. A subclass adds its own fields and says how many chips a run takes."""

    engine: str
    placement: Placement = field(default_factory=Placement)  # how runs are run there: mesh, remat, device
    chip: str = ""  # as `scaling cost --hardware` names it: its peak prices the runs
    utilisation: float = 0.4  # of the chip's dense bf16 peak (MFU) that a price is made with
    dollars_per_chip_hour: float | None = None  # in place of the table's
    start_seconds: float = 60.0  # that a run holds its chips before its first step: imports, compilation
    retry_minutes: float = 60.0  # how long a run is started again without a new checkpoint of its own

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise UserError(f"utilisation is {self.utilisation}; give a fraction above 0 and at most 1.")
        for name in ("dollars_per_chip_hour", "start_seconds", "retry_minutes"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{name} is {value}; give 0 or more.")

    @property
    def chips(self) -> float:
        """Chips that one run holds while it trains; a fraction where several share one."""
        return 1.0


def users_folder() -> Path:
    """Where the user's own profiles lie."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "scaling" / "profiles"


def load_profile(
    engine: str, profile_type: type[Any], named: str | None = None, *, example: bool = False
) -> tuple[Profile, Path]:
    """The profile of an engine and the file that it is of.

    `named` is a path or a name; None is the user's own of the engine's name, or with `example` the shipped
    one where the user has none. Raises UserError when there is none, it is no TOML, is of another engine, or
    has a field that is misspelt, missing or of the wrong type.
    """
    path = _find(engine, named, example)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"profile {path} cannot be read ({error.strerror}); give a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"profile {path} is not TOML: {error}.") from None
    if values.get("engine") != engine:
        raise UserError(
            f'profile {path}: engine is {values.get("engine")!r}; write engine = "{engine}", or give '
            "--on that engine."
        )
    _check_names(profile_type, values, f"profile {path}: ")
    if isinstance(values.get("placement"), dict):
        _check_names(Placement, values["placement"], f"profile {path}: placement.")
    try:
        return from_dict(profile_type, values), path
    except UserError as error:
        raise UserError(f"profile {path}: {error}") from None


def shipped(name: str) -> Path:
    """Path of an example that comes with the package, whether or not it exists."""
    return Path(str(resources.files("launch"))) / "profiles" / f"{name}.toml"


def _find(engine: str, named: str | None, example: bool) -> Path:
    if named and (named.endswith(".toml") or "/" in named):
        path = Path(named).expanduser()
        if not path.is_file():
            raise UserError(f"--profile is {named!r}, which is no file; give the path of a TOML profile.")
        return path
    own = users_folder() / f"{named or engine}.toml"
    if own.is_file():
        return own
    if (named or example) and shipped(named or engine).is_file():
        return shipped(named or engine)
    if named:
        known = sorted(
            path.stem for path in (*users_folder().glob("*.toml"), *shipped("").parent.glob("*.toml"))
        )
        raise UserError(
            f"--profile is {named!r}; known are {', '.join(known)}, or give the path of a TOML file."
        )
    raise UserError(
        f"there is no profile {own}, which says what this cluster is; copy {shipped(engine)} there and make "
        "it yours, or give --profile."
    )


def _check_names(cls: type[Any], values: dict[str, Any], where: str) -> None:
    known = [one.name for one in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
            raise UserError(f"{where}{name} is no field of it; {hint}")
