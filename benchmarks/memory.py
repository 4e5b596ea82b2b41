"""Device memory: scaling/memory.py against steps compiled for TPU slices that need not be here.

    pip install 'libtpu==0.0.42.*'
    python -m benchmarks.memory

Compiles CASES one after another on the CPU (a quarter of an hour on two cores), prints the table and
writes results/memory-tpu-topologies.json. `temporaries` and `arguments` are the compiler's own plan,
per device.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launch.preflight_compile import Compiler
from launch.preflight_layouts import recipe_of
from launch.preflight_targets import find_target
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, to_dict
from scaling.files import write_json
from scaling.memory import training

OUT = Path(__file__).parent / "results" / "memory-tpu-topologies.json"
MODELS: dict[str, dict[str, Any]] = {
    "135M": {"n_layers": 12, "d_model": 768, "n_heads": 12, "n_kv_heads": 12, "d_head": 64, "d_ff": 2048},
    "1B": {"n_layers": 16, "d_model": 2048, "n_heads": 16, "n_kv_heads": 8, "d_head": 128, "d_ff": 5632},
    "8B": {"n_layers": 32, "d_model": 4096, "n_heads": 32, "n_kv_heads": 8, "d_head": 128, "d_ff": 14336},
    "70B": {"n_layers": 80, "d_model": 8192, "n_heads": 64, "n_kv_heads": 8, "d_head": 128, "d_ff": 28672},
}
VOCABULARY = {"135M": 32768, "1B": 32768, "8B": 128256, "70B": 128256}
# model, slice, mesh, remat, sequences a step, tokens a sequence, microbatches
Case = tuple[str, str, dict[str, int], str, int, int, int]
CASES: tuple[Case, ...] = (
    ("135M", "v5e-1", {}, "none", 2, 1024, 1),
    ("135M", "v5e-1", {}, "dots", 4, 1024, 1),
    ("135M", "v5e-1", {}, "full", 8, 2048, 1),
    ("135M", "v5e-16", {"fsdp": 16}, "none", 16, 1024, 1),
    ("135M", "v5e-16", {"fsdp": 16}, "full", 64, 1024, 1),
    ("135M", "v6e-16", {"data": 4, "tensor": 4}, "dots", 16, 1024, 1),
    ("1B", "v5p-128", {"fsdp": 64}, "none", 64, 2048, 1),
    ("1B", "v5p-128", {"fsdp": 16, "tensor": 4}, "dots", 64, 2048, 1),
    ("1B", "v5p-128", {"fsdp": 64}, "attention", 64, 2048, 1),
    ("1B", "v5p-128", {"fsdp": 64}, "full", 256, 2048, 1),
    ("1B", "v5p-128", {"fsdp": 64}, "full", 256, 2048, 4),
    ("1B", "v6e-16", {"fsdp": 16}, "dots", 16, 2048, 1),
    ("1B", "v5e-16", {"fsdp": 4, "tensor": 4}, "full", 16, 2048, 1),
    ("8B", "v5p-1024", {"fsdp": 512}, "full", 512, 4096, 1),
    ("8B", "v5p-1024", {"fsdp": 64, "tensor": 8}, "none", 64, 4096, 1),
    ("8B", "v6e-256", {"fsdp": 256}, "full", 256, 2048, 1),
    ("70B", "v5p-8192", {"fsdp": 512, "tensor": 8}, "full", 512, 4096, 1),
)


def config(case: Case) -> RunConfig:
    name, _, _, _, batch, seq_len, _ = case
    return RunConfig(
        model=ModelConfig(**MODELS[name], vocab_size=VOCABULARY[name], tied=False),
        data=DataConfig(name="any", fingerprint=""),
        optimizer=OptimizerConfig(lr=1.0),
        seq_len=seq_len,
        batch_size=batch,
        steps=1,
    )


def row(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """Measured bytes beside those of scaling/memory.py."""
    name, target, mesh, remat, batch, seq_len, micro = case
    recipe = recipe_of(config(case), find_target(target), mesh)
    ours = training(
        config(case).model,
        seq_len=seq_len,
        batch=batch,
        mesh=mesh,
        remat=remat,
        microbatches=micro,
        tiled=True,
        recipe=recipe,
    )
    total = found["arguments"] + found["temporaries"] + found["outputs"]
    return {
        "model": name,
        "shape": to_dict(config(case).model),
        "target": target,
        "mesh": mesh,
        "remat": remat,
        "batch": batch,
        "seq_len": seq_len,
        "microbatches": micro,
        "recipe": recipe,
        "compiled": {key: found[key] for key in ("arguments", "temporaries", "outputs", "peak")},
        "expected": vars(ours),
        "arguments_ratio": ours.arguments / found["arguments"],
        "total_ratio": ours.total / total,
    }


def main() -> None:
    rows = []
    with Compiler() as compiler:
        for case in CASES:
            target = find_target(case[1])
            topology = target.topology if case[2] else target.one
            found = compiler.compile(
                {
                    "config": to_dict(config(case)),
                    "mesh": case[2],
                    "remat": case[3],
                    "microbatches": case[6],
                    "topology": topology,
                }
            )
            if "error" in found:
                sys.exit(f"error: {case}: {found['error']}")
            rows.append(row(case, found))
            show(rows[-1])
    write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "libtpu")}
    command = "python -m benchmarks.memory"
    write_json(OUT, {"benchmark": "memory", "command": command, "versions": versions, "rows": rows})


def show(found: dict[str, Any]) -> None:
    mesh = ",".join(f"{axis}={size}" for axis, size in found["mesh"].items()) or "one chip"
    real = found["compiled"]
    total = real["arguments"] + real["temporaries"] + real["outputs"]
    print(
        f"{found['model']:<5} {found['target']:<9} {mesh:<17} {found['remat']:<10} "
        f"{found['batch']:>4} x {found['seq_len']} / {found['microbatches']}  compiled {total / 1e9:7.3f} "
        f"GB  ours {found['expected']['total'] / 1e9:7.3f}  {found['total_ratio']:.3f}  "
        f"arguments {found['arguments_ratio']:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
