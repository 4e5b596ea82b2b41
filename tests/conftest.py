"""What every test stands on: one XLA thread, a cache that is not the user's, and honest skips.

The environment is set here, at import, before any test module imports JAX; subprocesses inherit it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from scaling.config import Placement
from scaling.environment import training_environment

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "tests"  # kept between runs: the prepared corpus and the compiled steps

_ACCELERATORS = (
    ("jax_cuda13_plugin", "/dev/nvidia0"),
    ("jax_cuda12_plugin", "/dev/nvidia0"),
    ("libtpu", "/dev/accel0"),
)


def _accelerator() -> str | None:
    """The installed plugin whose device is here, without starting JAX."""
    for plugin, device in _ACCELERATORS:
        if importlib.util.find_spec(plugin) and Path(device).exists():
            return plugin
    return None


def _environment() -> None:
    os.environ["SCALING_CACHE"] = str(CACHE)
    # As in a run: one XLA thread, since the same step differs in its last bits between one and two; and a
    # compilation cache, since compiling is most of what the training tests cost.
    os.environ |= training_environment(Placement(), str(CACHE / "xla"))
    # wandb: nothing of the user's, neither key nor cache, and off where a test does not ask for it.
    os.environ["WANDB_MODE"] = "disabled"
    os.environ["NETRC"] = str(CACHE / "netrc")
    for kind in ("CACHE", "CONFIG", "DATA"):
        os.environ[f"WANDB_{kind}_DIR"] = str(CACHE / "wandb")
    if _accelerator() is None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and "cuda" not in (_accelerator() or ""):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def _forbidden(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """A skip that continuous integration does not allow: it has all that a test can need but a GPU or TPU."""
    if os.environ.get("SCALING_CI") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return False
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return not re.search(r"\b(GPU|TPU)\b", reason)


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _forbidden(report):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped under SCALING_CI=1, where nothing but a GPU or TPU may be missing: {report.longrepr}"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report
