"""Environment of a training process. Set before JAX is imported: XLA reads it once, at start."""

from __future__ import annotations

import os

from scaling.config import Placement


def training_environment(placement: Placement, cache: str | None = None) -> dict[str, str]:
    """Variables that make a process train as `placement` says; merge them into its environment.

    One XLA thread is what makes a resumed CPU run equal the uninterrupted one bit for bit:
    `NPROC` sizes XLA's pool (`--xla_cpu_multi_thread_eigen=false` does not). On CPU, LLVM level 1
    shortens compilation and leaves the compiled step as fast. `cache` is a folder shared by every
    process of a sweep, so that each shape is compiled once.
    """
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if placement.threads:
        names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env |= dict.fromkeys(names, str(placement.threads))
    if placement.device == "cpu":
        env["JAX_PLATFORMS"] = "cpu"
    if placement.device == "cpu" or (placement.device == "auto" and not has_accelerator()):
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_backend_optimization_level" not in flags:
            env["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=1".strip()
    if cache:
        env |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return env


def has_accelerator() -> bool:
    """Whether this machine shows an NVIDIA GPU or a TPU, without importing JAX."""
    paths = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0")
    return any(os.path.exists(path) for path in paths)
