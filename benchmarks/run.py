"""`python -m benchmarks.run [NAME ...]`: run, print Markdown tables, write results/<name>-<device>.json.

A benchmark is a module here, named in BENCHMARKS, with

    rows() -> list of {"what": str, "unit": str, "values": [float, ...]}, a value for each repeat
    missing() -> str | None    optional: one sentence saying what it lacks here, when it then is left out

imported and run in a process of its own, so that none finds another's memory, threads or settings;
a library that may be absent is imported within its functions. In the table `what` is a row and
`unit` a column; a cell shows the median of the values, and their least and largest. Times are CPU seconds on
one thread where there is no accelerator, so that what else runs on the machine does not count: a
comparison with a peer takes its turns within one repeat, and has a row or unit of its own for the ratio.
Where a benchmark has more to keep than medians show, further keys of a row go into its file as they are.

A benchmark that fails is said so at the end, exit code 1, and the others run.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scaling.config import Placement
from scaling.environment import has_accelerator, training_environment
from scaling.files import write_json

# In the order of the tables.
BENCHMARKS = (
    "step", "packing", "launcher", "peers", "compile", "fit", "ranking", "scale", "many", "data", "start",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("numpy", "scipy", "jax", "jaxlib", "flax", "optax", "grain", "array_record", "torch", "nanodo")


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}.")
    failed = []
    for name in names or BENCHMARKS:
        found = measure(name)
        if "rows" in found:
            path = RESULTS / f"{name}-{re.sub(r'[^a-z0-9]+', '-', found['device'].lower()).strip('-')}.json"
            write_json(path, found)
            print(f"### {name}, on {found['device']}\n\n{table(found['rows'])}\n\n{os.path.relpath(path)}\n")
        else:
            print(f"### {name}\n\n{found['missing']}\n")
            failed += [name] * found["failed"]
        sys.stdout.flush()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def measure(name: str) -> dict[str, Any]:
    """What is kept of one benchmark, or under `missing` why it did not run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.run", "--one", name, str(path)]
        environment = os.environ | training_environment(Placement())  # NumPy and XLA read it at their start
        code = subprocess.run(command, env=environment, check=False).returncode
        if code:
            return {"missing": f"It ended with exit code {code}.", "failed": True}
        return json.loads(path.read_text())


def one(name: str, path: Path) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "missing") and (missing := module.missing()):
        write_json(path, {"missing": missing, "failed": False})
        return
    rows = module.rows()
    write_json(path, {"benchmark": name, "device": device(), "versions": versions(), "rows": rows})


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each `what`, a column for each `unit`, in the order in which they come."""
    units = list(dict.fromkeys(row["unit"] for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        cells.setdefault(row["what"], {})[row["unit"]] = _cell(row["values"])
    lines = [["", *units], ["---", *["---:"] * len(units)]]
    lines += [[what, *(of.get(unit, "") for unit in units)] for what, of in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(values: list[float]) -> str:
    median, least, largest = (_number(f(values)) for f in (statistics.median, min, max))
    return median if least == largest else f"{median} ({least} to {largest})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def device() -> str:
    """The accelerator that JAX would use, or the processor's name."""
    if has_accelerator():
        import jax

        return jax.devices()[0].device_kind
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a peer that is not compared here
            continue
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:]))
