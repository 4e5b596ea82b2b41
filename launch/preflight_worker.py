"""The process that compiles a training step for chips that are not here; one job a line, one answer a line.

A process of its own: what JAX and libtpu are told at start holds for good, a compiler that hangs or
runs out of memory is killed, and the caller needs no JAX at all.

A job is {"config": RunConfig, "mesh": {axis: size}, "remat": str, "microbatches": int,
"topology": {"platform": "tpu" | "cuda", ...arguments of get_topology_desc}}. Its answer is
{"fits": bool, "total": bytes, "arguments": bytes, "available": bytes or null, "seconds": float,
"cpu_seconds": float, ...} per device, arguments 0 where a refusal does not tell them, or {"error": text}.
"""

from __future__ import annotations

import json
import math
import os
import queue
import re
import resource
import sys
import threading
import time
from typing import Any

# Half the time of the default level, within 3% of its memory.
OPTIMISATION = "O1"
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT]?)"


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one job."""
    from jax.errors import JaxRuntimeError

    start, spent = time.perf_counter(), time.process_time()
    try:
        found = _compile(job)
    except JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            return {"error": text.splitlines()[0]}
        found = exhausted(text)
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - spent}
    return found | {name: round(value, 2) for name, value in took.items()}


def _compile(job: dict[str, Any]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from scaling.config import OptimizerConfig, Placement, RunConfig, from_dict
    from scaling.memory import token_bytes
    from scaling.model.decoder import abstract
    from scaling.model.params import check_divides
    from scaling.optimizer import hyper
    from scaling.step import _abstract_state, compiled_leaf_step, forward_of

    config: RunConfig = from_dict(RunConfig, job["config"])
    micro, topology = job["microbatches"], dict(job["topology"])
    placement = Placement(mesh=job["mesh"], remat=job["remat"], microbatches=micro)
    shardings = _shardings(topology, job["mesh"])
    platform = "gpu" if topology["platform"] == "cuda" else "tpu"
    check_divides(abstract(config.model)[1], shardings)
    forward = forward_of(config, placement, platform, shardings)
    step = compiled_leaf_step(forward, config.model, shardings)
    state, _ = _abstract_state(config.model, shardings, forward.rules)
    tokens = jax.ShapeDtypeStruct(
        (micro, config.batch_size // micro, config.seq_len + 1),
        {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[token_bytes(config.model.vocab_size)],
    )
    h = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in hyper(OptimizerConfig(lr=1.0), 1.0)}
    used = step.lower(jax.tree.leaves(state), tokens, h).compile().memory_analysis()
    outputs = used.output_size_in_bytes - used.alias_size_in_bytes
    return {
        "fits": True,
        "total": used.argument_size_in_bytes + used.temp_size_in_bytes + outputs,
        "arguments": used.argument_size_in_bytes,
        "temporaries": used.temp_size_in_bytes,
        "outputs": outputs,
        "code": used.generated_code_size_in_bytes,
        "peak": used.peak_memory_in_bytes,
        "available": None,
    }


def _shardings(topology: dict[str, Any], mesh: dict[str, int]) -> Any:
    """The mesh over devices of a topology; fewer devices than it has leave the rest to other runs."""
    from jax.experimental import mesh_utils, topologies
    from jax.sharding import AxisType, Mesh

    from scaling.sharding import MESH_AXES, Shardings

    devices = topologies.get_topology_desc(**topology).devices
    sizes = [mesh.get(axis, 1) for axis in MESH_AXES]
    grid = mesh_utils.create_device_mesh(sizes, devices[: math.prod(sizes)], allow_split_physical_axes=True)
    return Shardings(Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)))


def exhausted(text: str) -> dict[str, Any]:
    """Sizes out of the compiler's refusal, which says `... HLO temporaries (23.52G) exceeds available HBM
    (15.75G)` or `Used 38.02G of 15.75G hbm` with the parts below.
    """

    def size(*patterns: str) -> float:
        found = next(filter(None, (re.search(p, text) for p in patterns)), None)
        return float(found[1]) * _UNITS[found[2]] if found else 0.0

    return {
        "fits": False,
        "total": size(rf"temporaries \({_SIZE}\)", rf"Used {_SIZE} of"),  # arguments are in it
        "arguments": size(rf"arguments\s+{_SIZE}"),
        "available": size(rf"available HBM \({_SIZE}\)", rf"of {_SIZE} hbm") or None,
        "said": text[:2000],
    }


def _listen(lines: queue.Queue[str]) -> None:
    """Jobs as they come; when no more can come the caller is gone, and nobody waits for what is compiling."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def main() -> None:
    import jax

    jax.config.update("jax_optimization_level", OPTIMISATION)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        line = lines.get()
        try:
            found = answer(json.loads(line))
        except Exception as error:  # said by the caller, who knows which shape it was
            found = {"error": f"{type(error).__name__}: {error}"}
        found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        jax.clear_caches()
        print("preflight " + json.dumps(found), flush=True)  # libraries may print too


if __name__ == "__main__":
    main()
