"""The project's own machinery: what continuous integration lets pass, and what the package ships."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CASES = {
    "system package": ("import pytest\ndef test(): pytest.skip('needs chromium')", 1),
    "system package, by mark": (
        "import pytest\n@pytest.mark.skipif(True, reason='no slurm')\ndef test(): pass",
        1,
    ),
    "whole module": ("import pytest\npytest.importorskip('a_module_that_is_not_there')", 2),
    "GPU": ("import pytest\ndef test(): pytest.skip('needs a GPU')", 0),
    "TPU, by mark": ("import pytest\n@pytest.mark.skipif(True, reason='needs a TPU')\ndef test(): pass", 0),
    "expected failure": ("import pytest\n@pytest.mark.xfail\ndef test(): assert False", 0),
    "nothing skipped": ("def test(): pass", 0),
}


def _pytest(folder: Path, body: str, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "test_case.py").write_text(body + "\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)]
    environment = {**os.environ, "SCALING_CI": ci, "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", CASES)
def test_continuous_integration_allows_no_skip_but_an_accelerators(case: str, tmp_path: Path) -> None:
    body, code = CASES[case]
    assert _pytest(tmp_path, body, ci="1").returncode == code


def test_a_forbidden_skip_names_its_reason(tmp_path: Path) -> None:
    assert "needs chromium" in _pytest(tmp_path, CASES["system package"][0], ci="1").stdout


def test_outside_continuous_integration_skips_pass(tmp_path: Path) -> None:
    assert _pytest(tmp_path, CASES["system package"][0], ci="").returncode == 0


def test_every_requirement_is_pinned() -> None:
    """`make` installs the runtime and the `dev` extra with constraints.txt: a name it lacks floats."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "pins only: no index, hash or path"
    pinned = {_canonical(line) for line in lines}
    wanted = {_canonical(r) for r in project["dependencies"] + project["optional-dependencies"]["dev"]}
    assert wanted <= pinned


def _canonical(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name.group()).lower()
