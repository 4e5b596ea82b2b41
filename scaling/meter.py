"""Where the time of a run's steps goes, and what part of the accelerators' peak its FLOPs are.

The host fetches the tokens of step t, dispatches step t, then waits for step t - 1, which the device works on
meanwhile, and logs it. All seconds are means per step between the first finished step, which pays for
compilation, and the last:

    step      by the clock, from one step's end to the next's: data + dispatch + log + wait + other
    data      the host fetching tokens       }
    dispatch  the host handing a step over   } while the device works on the step before
    log       the host writing a row         }
    wait      the host with nothing to do but wait for the device
    other     of the host: checkpoints, the progress line, votes of several processes
    device    from when a step could start (dispatched, the one before it seen done) to when it was seen
              done: the device's own time where the host waits, and at most that where it does not

A run whose `wait` is near 0 is bound by its host.
"""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import jax

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.hardware import find
from scaling.rate import flops_per_step

PARTS = ("data", "dispatch", "log", "wait", "other", "device")

# What JAX calls a device -> its chip in scaling/hardware.toml, and how many such devices a chip is.
_KINDS: tuple[tuple[str, str, int], ...] = (
    (r"TPU v2", "v2", 2),
    (r"TPU v3", "v3", 2),
    (r"TPU v4", "v4", 1),
    (r"TPU v5( lite|e)", "v5e", 1),
    (r"TPU v5p?", "v5p", 1),
    (r"TPU v6( lite|e)", "v6e", 1),
    (r"TPU7x", "tpu7x", 2),
    (r"NVIDIA A100-(SXM4|PCIE)-40GB", "a100-40", 1),
    (r"NVIDIA A100-SXM4-80GB|NVIDIA A100 80GB PCIe", "a100-80", 1),
    (r"NVIDIA H100 80GB HBM3", "h100", 1),  # the PCIe and NVL cards are slower
    (r"NVIDIA H200", "h200", 1),
    (r"NVIDIA B200", "b200", 1),
    (r"NVIDIA L4", "l4", 1),
    (r"NVIDIA GeForce RTX 4090", "rtx4090", 1),
)


def peak_flops(device: jax.Device, dtype: Any) -> float | None:
    """Dense FLOP/s of one JAX device for products of `dtype`; None where the table does not list it.

    float32 products run as TensorFloat-32 on NVIDIA cards and in bfloat16 passes on TPUs by default
    (`jax.lax.Precision.DEFAULT`), so that is the peak they are held against. A CPU has none: the table's
    is not this machine's.
    """
    if device.platform == "cpu":
        return None
    known = ((name, count) for kind, name, count in _KINDS if re.fullmatch(kind, device.device_kind))
    name, devices_per_chip = next(known, (device.device_kind, 1))  # else an entry of the user's file
    try:
        peaks = find(name).flops_per_second
    except UserError:
        return None
    wanted = ("bf16",) if jax.numpy.dtype(dtype).itemsize == 2 else ("tf32", "bf16", "fp32")
    return next((peaks[precision] / devices_per_chip for precision in wanted if precision in peaks), None)


def memory_peak(devices: list[jax.Device]) -> int | None:
    """Most bytes ever held on one of this process's devices; None where the backend does not count."""
    stats = [device.memory_stats() or {} for device in devices if device.process_index == jax.process_index()]
    found = [of["peak_bytes_in_use"] for of in stats if "peak_bytes_in_use" in of]
    return max(found, default=None)


@dataclass
class Clock:
    """Wall and CPU seconds of a run, carried across resumes."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    share: float = 1.0  # of the process's CPU time that is this run's: 1/P in a pack of P
    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=time.process_time)

    def wall(self) -> float:
        return round(self.seconds + time.perf_counter() - self._wall, 3)

    def read(self) -> dict[str, float]:
        cpu = (time.process_time() - self._cpu) * self.share
        return {"seconds": self.wall(), "cpu_seconds": round(self.cpu_seconds + cpu, 3)}


class Meter:
    """Told by the training loop what it has just done; read by the progress line and the summary."""

    def __init__(self, config: RunConfig, devices: list[jax.Device], dtype: Any) -> None:
        self._steps, self._tokens_per_step = config.steps, config.batch_size * config.seq_len
        self._flops, self._devices = flops_per_step(config), devices
        peak = peak_flops(devices[0], dtype)
        self._peak = peak and peak * len(devices)
        self._seconds = self._counted = dict.fromkeys(PARTS, 0.0)
        self._dispatched: deque[float] = deque()  # when each step under way was
        self._began: float | None = None  # when the first step was seen done
        self._last = self._seen = time.perf_counter()
        self._done = 0  # steps since the first

    def lap(self, part: str) -> None:
        """The time since the last call went to `part`."""
        now = time.perf_counter()
        self._seconds[part] += now - self._last
        self._last = now

    def dispatch(self) -> None:
        """A step is about to be handed to the device; its tokens are there."""
        self.lap("data")
        self._dispatched.append(self._last)

    def done(self) -> None:
        """The oldest step under way was seen done: its metrics have been read."""
        self.lap("wait")
        since = max(self._dispatched.popleft(), self._seen)
        self._seen = self._last
        if self._began is None:
            self._began, self._seconds = self._seen, dict.fromkeys(PARTS, 0.0)
        else:
            self._done += 1
            self._seconds["device"] += self._seen - since
            self._counted = self._seconds.copy()  # what comes after belongs to the next step

    @property
    def step_seconds(self) -> float | None:
        return (self._seen - self._began) / self._done if self._began is not None and self._done else None

    @property
    def mfu(self) -> float | None:
        """FLOPs of the model, by the `matmul` count, over what all devices could do in that time."""
        return self._flops / self.step_seconds / self._peak if self._peak and self.step_seconds else None

    def report(self, step: int, loss: float | None) -> dict[str, Any]:
        """For the progress line, with `step` just dispatched."""
        each = self.step_seconds
        return {
            "step": step,
            "steps": self._steps,
            "loss": loss,
            "tokens_per_second": each and self._tokens_per_step / each,
            "mfu": self.mfu,
            "seconds_left": each and (self._steps - step) * each,
        }

    def summary(self) -> dict[str, Any]:
        """Of the steps since this start of the run; null where there were fewer than two."""
        each = self.step_seconds
        parts = {part: seconds / self._done if each else None for part, seconds in self._counted.items()}
        return {
            "step_seconds": {"step": each, **parts},
            "model_flops_per_second": each and self._flops / each,
            "mfu": self.mfu,
            "memory_peak_bytes": memory_peak(self._devices),
        }
