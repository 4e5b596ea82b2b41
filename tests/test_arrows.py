"""Imports point one way: sweeps → scaling, launch → sweeps and scaling, analysis → the parts of scaling that
need no device, and nobody imports experiments. The command line may call on everything, when a command runs.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("scaling", "sweeps", "experiments", "launch", "analysis")

# What analysis may use of scaling: the records of runs, shapes of models and what they cost, never what
# trains them.
# `price` turns FLOPs into time and money, which is what an answer for a budget is about.
RECORDS = {
    "accounting", "amounts", "arch", "config", "errors", "files", "hardware", "price", "recipes", "runs",
    "wandb_session",
}  # fmt: skip
DEVICE = ("jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets")

ALLOWED = {
    "scaling": set(),
    "sweeps": {"scaling"},
    "launch": {"scaling", "sweeps"},
    "analysis": {"scaling"},
    "experiments": {"scaling", "sweeps", "launch", "analysis"},
}
# Only inside functions: sweeps simulate and choose by a fit, launch shows one.
LAZY = {"sweeps": {"analysis"}, "launch": {"analysis"}}


class Import(NamedTuple):
    where: str  # file:line
    package: str
    command_line: bool
    module: str
    lazy: bool  # inside a function
    for_types: bool  # under `if TYPE_CHECKING`


def _imports() -> Iterator[Import]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            where = path.relative_to(ROOT)
            for node, lazy, for_types in _import_nodes(ast.parse(path.read_text()), False, False):
                for module in _modules(node, where):
                    name = f"{where}:{node.lineno}"
                    yield Import(
                        name, package, where.parts[:2] == ("scaling", "cli"), module, lazy, for_types
                    )


def _import_nodes(
    node: ast.AST, lazy: bool, for_types: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy, for_types
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        types = for_types or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        yield from _import_nodes(child, inside, types)


def _modules(node: ast.Import | ast.ImportFrom, where: Path) -> list[str]:
    """Full names; `from a import b` is both a and, for a package of ours, a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{where}:{node.lineno}: relative import"
    assert node.module
    if node.module in PACKAGES:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [node.module]


IMPORTS = list(_imports())


def test_the_walk_sees_imports() -> None:
    """So that the tests below cannot pass by looking at nothing."""
    assert {i.package for i in IMPORTS} == set(PACKAGES)
    assert any(i.lazy for i in IMPORTS)
    assert any(i.module == "jax" and i.package == "scaling" for i in IMPORTS)


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for i in IMPORTS:
        target = i.module.split(".")[0]
        if target not in PACKAGES or target == i.package:
            continue
        allowed = ALLOWED[i.package] | (LAZY.get(i.package, set()) if i.lazy else set())
        if i.command_line and (i.lazy or i.for_types):
            continue
        if target not in allowed:
            wrong.append(f"{i.where} imports {i.module}")
    assert not wrong


def test_every_import_is_declared() -> None:
    """In pyproject.toml, by the distribution that provides the module: at run time, or by an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = _names(project["dependencies"])
    extras = {name for extra in project["optional-dependencies"].values() for name in _names(extra)}
    providers = packages_distributions()
    wrong = []
    for i in IMPORTS:
        top = i.module.split(".")[0]
        if top in PACKAGES or top in sys.stdlib_module_names:
            continue
        found = _names(providers.get(top, [top]))
        if not found & (runtime | extras if i.lazy else runtime):
            wrong.append(f"{i.where} imports {i.module}")
    assert not wrong


def _names(requirements: list[str]) -> set[str]:
    """Distribution names in their canonical form."""
    found = [re.match(r"[\w.-]+", requirement) for requirement in requirements]
    return {re.sub(r"[-_.]+", "-", name.group()).lower() for name in found if name}


def test_analysis_uses_only_the_records_of_runs() -> None:
    wrong = [
        f"{i.where} imports {i.module}"
        for i in IMPORTS
        if i.package == "analysis"
        and (
            i.module.split(".")[0] in DEVICE
            or (i.module.startswith("scaling.") and i.module.split(".")[1] not in RECORDS)
        )
    ]
    assert not wrong


def test_the_records_of_runs_need_no_device() -> None:
    """What analysis may import must not bring the training code in by another door."""
    names = [f"scaling.{name}" for name in sorted(RECORDS) if (ROOT / "scaling" / f"{name}.py").exists()]
    assert not _heavy(names) & {*DEVICE, "scaling.train", "scaling.model", "scaling.data", "wandb"}


@pytest.mark.parametrize("package", ["analysis", "sweeps"])
def test_planning_and_fitting_take_no_device(package: str) -> None:
    """Every module of the package, really imported, in a process of its own."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]
    assert not _heavy(names) & {*DEVICE, "scaling.train", "scaling.model"}


def test_help_imports_no_numbers() -> None:
    loaded = _heavy(["scaling.cli.main"])
    assert not loaded & {*DEVICE, "numpy", "pandas", "scipy", "matplotlib", "wandb", "rich", "pyarrow"}
    assert not loaded & {"sweeps", "launch", "analysis", "experiments"}


def _heavy(names: list[str]) -> set[str]:
    """Modules, to two levels, that are loaded once `names` are imported."""
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {".".join(name.split(".")[:depth]) for name in done.stdout.split() for depth in (1, 2)}
