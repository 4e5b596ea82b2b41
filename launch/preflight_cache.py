"""Answers of the compiler kept on disk, by everything that they depend on."""

from __future__ import annotations

import ast
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
    for name, text in sorted(sources().items()):
        digest.update(os.fsencode(name) + b"\0" + text)
    return digest.hexdigest()


def sources(first: str = "launch.preflight_worker") -> dict[str, bytes]:
    """What a step is compiled from: every module of the project that the worker imports, by its name."""
    found: dict[str, bytes] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        path = ROOT / Path(*name.split(".")).with_suffix(".py")
        if name in found or not path.is_file():
            continue
        found[name] = path.read_bytes()
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found
