"""Our training step beside its peers' on one core: tokens per CPU second, interleaved.

    python -m benchmarks.peers --torch-python VENV/bin/python \\
        --nanodo CHECKOUT --nanodo-python VENV/bin/python

Each side trains the same shape on the same batch in a process of its own, all on one core, one thread each;
they take turns, A B A B, and medians over the turns are compared. PyTorch must compute the same function:
from our weights it must report our losses over the first steps, updates included, or nothing is written.
nanodo (github.com/google-deepmind/nanodo) has other positions, norms and activation; ours trains with GELU
and LayerNorm beside it. A peer whose option is not given is left out; neither is part of this project.
Writes results/peers-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import RESULTS, device, versions
from scaling.accounting import counts
from scaling.config import DataConfig, Placement, RunConfig, to_dict
from scaling.environment import training_environment
from scaling.files import write_json
from scaling.recipes import RECIPES

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "peers"  # of compiled steps: a second run starts at once
WIDTHS = (104, 152, 360)  # of the recipe's family: about .3M, .9M and 11M parameters
SEQ_LEN = 128
TOKENS = 4096  # a step
TURNS = 5
SECONDS = 1.5  # CPU seconds of a turn, about
SAME_STEPS = 2  # first losses that our step and PyTorch's must share ...
SAME_RTOL = 1e-4  # ... so nearly


@dataclass
class Side:
    """One of those compared: a process that answers a number of steps with its CPU seconds and losses."""

    name: str
    argv: Sequence[str]
    config: RunConfig
    extra: dict[str, Any]

    def start(self, folder: Path, arrays: Path, core: int) -> None:
        order = {"config": to_dict(self.config), "arrays": str(arrays), **self.extra}
        path = folder / f"{re.sub(r'[^a-z]+', '-', self.name)}.json"
        path.write_text(json.dumps(order))
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *self.argv, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ) | training_environment(Placement(device="cpu"), str(CACHE)),
        )

    def run(self, steps: int | str) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"error: {self.name} ended with exit code {self.process.wait()} and no answer.")
        return json.loads(answer)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def run_config(width: int, **model: Any) -> RunConfig:
    """The recipe's shape of a width, without what its attention adds to a plain decoder's."""
    recipe = RECIPES["small"]
    config = recipe.run(recipe.model(width), DataConfig(name="random", fingerprint=""), 1e7)
    shape = replace(config.model, windows=(), qk_norm=False, **model)
    return replace(config, model=shape, seq_len=SEQ_LEN, batch_size=TOKENS // SEQ_LEN)


def save_arrays(config: RunConfig, path: Path) -> None:
    """The weights that `config` starts from, by path, and one batch of `tokens`, as a .npz."""
    import jax

    from scaling.sharding import make_shardings
    from scaling.step import init_state

    params = init_state(config, make_shardings(Placement(device="cpu"))).params
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {"/".join(str(k.key) for k in path if hasattr(k, "key")): np.asarray(x) for path, x in leaves}
    shape = (config.batch_size, config.seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, np.uint8)
    np.savez(path, tokens=tokens, **named)


def compare(sides: Sequence[Side], same: bool, turns: int, seconds: float, core: int) -> list[dict[str, Any]]:
    """Rows of one shape: `values` are tokens a CPU second, one for each turn."""
    config = sides[0].config
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_arrays(config, folder / "arrays.npz")
        try:
            for side in sides:
                side.start(folder, folder / "arrays.npz", core)
            answers = [side.run(SAME_STEPS) for side in sides]
            first = [answer["losses"] for answer in answers]
            for side, losses in zip(sides[1:], first[1:], strict=True):
                if same and not np.allclose(losses, first[0], rtol=SAME_RTOL):
                    sys.exit(f"error: {side.name} is not the same function: losses {losses}, {first[0]}.")
            warm = [side.run(1)["cpu_seconds"] for side in sides]
            steps = [max(1, round(seconds / one)) for one in warm]
            took: list[list[float]] = [[] for _ in sides]
            products = []
            for _ in range(turns):
                for side, count, times in zip(sides, steps, took, strict=True):
                    times.append(side.run(count)["cpu_seconds"] / count)
                products.append(sides[0].run("products")["gflop_per_cpu_second"])
        finally:
            for side in sides:
                if hasattr(side, "process"):
                    side.stop()
    size = counts(config.model, config.seq_len)
    flops = size.flops_per_token["matmul"]
    return [
        {
            "what": side.name,
            "parameters": size.n["total"],
            "tokens_per_step": TOKENS,
            "seq_len": SEQ_LEN,
            "unit": "tokens/CPU second",
            "values": [TOKENS / s for s in times],
            "gflop_per_cpu_second": flops * TOKENS / statistics.median(times) / 1e9,
            "gflop_per_cpu_second_of_products_alone": statistics.median(products),
            "ours_over_this": statistics.median(times) / statistics.median(took[0]),
            "first_losses": answer["losses"],
            "version": answer["version"],
        }
        for side, times, answer in zip(sides, took, answers, strict=True)
    ]


def ours(config: RunConfig) -> Side:
    return Side("ours", [sys.executable, "-m", "benchmarks.peers_ours"], config, {})


def torch_sides(config: RunConfig, python: str) -> list[Side]:
    argv = [python, str(HERE / "peers_torch.py")]
    default = Side("torch, AdamW as it comes (a loop)", argv, config, {"fused": False})
    return [ours(config), default, Side("torch, fused AdamW", argv, config, {"fused": True})]


def nanodo_config(width: int) -> RunConfig:
    """Its shape: heads that divide the width, as near the recipe's number as go, and no gate."""
    wanted = run_config(width).model.n_heads
    heads = min((h for h in range(1, width) if width % (2 * h) == 0), key=lambda h: (abs(h - wanted), -h))
    shape = {"n_heads": heads, "n_kv_heads": heads, "d_head": width // heads, "d_ff": 4 * width}
    return run_config(width, norm="layer", mlp="gelu", **shape)


def nanodo_sides(config: RunConfig, python: str, checkout: str) -> list[Side]:
    argv = [python, str(HERE / "peers_nanodo.py")]
    return [ours(config), Side("nanodo", argv, config, {"checkout": checkout})]


def missing() -> str | None:
    """Why `make bench` leaves this out here."""
    if "PEERS_TORCH_PYTHON" in os.environ or importlib.util.find_spec("torch"):
        return None
    return (
        "Left out: PyTorch is not installed here; set PEERS_TORCH_PYTHON to an interpreter that has it "
        "(pip install torch numpy, the CPU build)."
    )


def rows() -> list[dict[str, Any]]:
    """As `make bench` takes it: PyTorch, and nanodo where PEERS_NANODO names its checkout."""
    python = os.environ.get("PEERS_TORCH_PYTHON", sys.executable)
    checkout = os.environ.get("PEERS_NANODO")
    found = []
    for width in WIDTHS:
        compared = compare(torch_sides(run_config(width), python), True, TURNS, SECONDS, 0)
        if checkout:
            with_nanodo = os.environ.get("PEERS_NANODO_PYTHON", sys.executable)
            theirs = nanodo_config(width)
            compared += compare(nanodo_sides(theirs, with_nanodo, checkout), False, TURNS, SECONDS, 0)
        for row in compared:
            named = {"what": f"{row['parameters']:,} parameters, {row['what']}"}
            found.append(row | named)
            found.append(named | {"unit": "ours / this", "values": [row["ours_over_this"]]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch and NumPy")
    parser.add_argument("--nanodo", help="a checkout of google-deepmind/nanodo")
    parser.add_argument("--nanodo-python", default=sys.executable, help="an interpreter that can import it")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="CPU seconds of a turn, about")
    parser.add_argument("--core", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for width in args.widths:
        groups = []
        if args.torch_python:
            groups.append((torch_sides(run_config(width), args.torch_python), True))
        if args.nanodo:
            theirs = nanodo_config(width)
            groups.append((nanodo_sides(theirs, args.nanodo_python, args.nanodo), False))
        for sides, same in groups:
            found = compare(sides, same, args.turns, args.seconds, args.core)
            show(found)
            rows += found
            here = device()  # written at once: the next shape takes minutes, and may be broken off
            path = RESULTS / f"peers-{re.sub(r'[^a-z0-9]+', '-', here.lower()).strip('-')}.json"
            write_json(path, {"benchmark": "peers", "device": here, "versions": versions(), "rows": rows})


def show(rows: Sequence[dict[str, Any]]) -> None:
    limit = rows[0]["gflop_per_cpu_second_of_products_alone"]
    print(f"{rows[0]['parameters']:,} parameters, {TOKENS:,} tokens a step, sequences of {SEQ_LEN}")
    print(f"  {'matrix products alone':<36} {'':>22} {limit:>6.1f} GFLOP/CPU s")
    for row in rows:
        rate = statistics.median(row["values"])
        print(
            f"  {row['what']:<36} {rate:>9,.0f} tokens/CPU s {row['gflop_per_cpu_second']:>6.1f} GFLOP/CPU s"
            f"   ours / this {row['ours_over_this']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
