"""The law so far: fitted in the background to the runs that are done, again when there are more."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from launch.status import SweepStatus
from scaling.errors import UserError

FEWEST = 8  # runs done, before a law is tried
MORE = 1.1  # times as many as at the last fit, or all that there will be
REST = 10.0  # times what the last fit took is let pass before the next: training comes first
RESAMPLES = 100
CURVE = 48  # points


class FitSoFar:
    """What the page says of the law. Asking starts a fit where one is due, and never waits for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said: dict[str, Any] = {"state": "waiting", "version": 0, "runs": 0}
        self._tried, self._rest_until = 0, 0.0
        self._thread: threading.Thread | None = None

    def so_far(self, found: SweepStatus) -> dict[str, Any]:
        """state: waiting (for runs), fitting (the first), done, or none (no law in them; `note` says why)."""
        done = found.totals()["done"]
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and self._due(found, done):
            self._tried = done
            self._thread = threading.Thread(target=self._fit, args=(found, done), daemon=True)
            self._thread.start()
            busy = True
        state = "fitting" if busy and self._said["state"] == "waiting" else self._said["state"]
        return self._said | {"state": state, "done": done, "fewest": FEWEST}

    def _due(self, found: SweepStatus, done: int) -> bool:
        if done < FEWEST or done == self._tried or time.monotonic() < self._rest_until:
            return False
        moves = any(run.status in ("running", "queued", "pending") for run in found.runs)
        return not moves or done >= MORE * self._tried

    def _fit(self, found: SweepStatus, done: int) -> None:
        began = time.monotonic()
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # on Linux of this thread alone
        try:
            said = {"state": "done", **law(self._folder, found)}
        except UserError as error:
            said = {"state": "none", "note": str(error)}
        # Anything else: a law that cannot be fitted must not end the page.
        except Exception as error:
            said = {"state": "none", "note": f"{type(error).__name__}: {error}"}
        took = time.monotonic() - began
        self._rest_until = time.monotonic() + REST * took
        self._said = said | {
            "version": self._said["version"] + 1,
            "runs": done,
            "took": took,
            "at": time.time(),
        }


def law(folder: Path, found: SweepStatus) -> dict[str, Any]:
    """The surface L(N, D) of the finished runs, and along each budget of the sweep its profile and optimum.

    Loss in nats/token, N as the fit counts it. Raises UserError where the runs carry no law.
    """
    from analysis.fit import fit
    from analysis.optimum import SURFACE, compute_optimal, cost_of, surface
    from analysis.table import load

    content = fit(load(str(folder)), [SURFACE], resamples=RESAMPLES)
    parameters_K, _ = surface(content)
    cost = cost_of(content)
    shown = [
        _profile(
            content, budget, [run.n_total for run in found.runs if run.budget == budget], parameters_K, cost
        )
        for budget in sorted({run.budget for run in found.runs if run.budget})
    ]
    largest = max(row["c"] for row in content["rows"])
    best = compute_optimal(content, 10 * largest)
    fitted = content["laws"][SURFACE]
    return {
        "law": SURFACE,
        "form": "E + A / N^alpha + B / D^beta",
        "parameters": _plain(fitted["parameters"]),
        "intervals": _plain(fitted["intervals"]),
        "converged": bool(fitted["certificate"]["converged"]),
        "rows": len(content["rows"]),
        "resamples": RESAMPLES,
        "profiles": shown,
        "further": _plain(best),
    }


def _profile(content: dict[str, Any], flops: float, sizes: list[int], parameters_K: Any, cost: Any) -> Any:
    """The law's loss along one budget, over the sizes that the sweep has there."""
    import numpy as np

    from analysis.optimum import compute_optimal

    log_n = np.linspace(np.log(min(sizes) / 1.3), np.log(max(sizes) * 1.3), CURVE)
    log_d = np.log(flops) - cost.per_token(log_n)
    A, B, E, alpha, beta = parameters_K
    loss = E + A * np.exp(-alpha * log_n) + B * np.exp(-beta * log_d)
    best = compute_optimal(content, flops)
    return {
        "budget": flops,
        "curve": [[float(n), float(one)] for n, one in zip(np.exp(log_n), loss, strict=True)],
        **_plain({name: best[name] for name in ("n", "loss", "n_interval")}),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Finite numbers and pairs of them as JSON has them, None for others."""
    import math

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return float(value) if value is not None and math.isfinite(value) else None

    return {name: plain(value) for name, value in values.items()}
