"""Answers of the compiler kept on disk, by everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from launch.preflight_compile import ROOT, Compilers
from scaling.data.text import cache_folder
from scaling.files import write_json

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda13-plugin")
# What a step is compiled from: another version of it, another answer.
SOURCES = (
    "scaling/step.py", "scaling/loss.py", "scaling/optimizer.py", "scaling/sharding.py",
    "scaling/config.py", "scaling/model", "scaling/parametrisation.py", "scaling/arch/activations.py",
    "scaling/arch/norms.py", "launch/preflight_worker.py",
)  # fmt: skip


class Cached:
    """Compilers that are asked only what was not answered before; `asked` counts what they were asked."""

    def __init__(self, compiler: Compilers | None = None, folder: Path | None = None) -> None:
        self.compiler = compiler or Compilers()
        self._counting = threading.Lock()
        self.folder = folder or cache_folder() / "preflight"
        self.asked = 0

    def __enter__(self) -> Cached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.compiler.close()

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        """As `Compiler.compile`. Errors are not kept: the next call may fare better."""
        path = self.folder / f"{_key(job)}.json"
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(path.read_text())
            if kept["job"] == job:
                return kept["answer"]
        with self._counting:
            self.asked += 1
        answer = self.compiler.compile(job)
        if "error" not in answer:
            with contextlib.suppress(OSError):  # a full or read-only disk costs time, not the answer
                write_json(path, {"job": job, "versions": _versions(), "answer": answer})
        return answer


def _key(job: dict[str, Any]) -> str:
    text = json.dumps([job, _versions(), _sources()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(os.fsencode(file.relative_to(ROOT)) + b"\0" + file.read_bytes())
    return digest.hexdigest()
