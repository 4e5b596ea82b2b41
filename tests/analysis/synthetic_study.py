"""A study nobody trained: run folders whose losses come from a known law, for figures and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scaling.accounting import counts
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig, to_dict
from scaling.files import write_json, write_whole
from scaling.runs import RunFolder

TRUTH = {"A": 45.0, "B": 150.0, "E": 1.3, "alpha": 0.44, "beta": 0.45}
BUDGETS = (6e9, 1.5e10, 3.6e10, 9e10, 2.2e11)
WIDTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128)
SEQ = 128
DATA = DataConfig(name="synthetic", fingerprint="0" * 12)


def true_loss(n: float, tokens: float) -> float:
    t = TRUTH
    return t["E"] + t["A"] / n ** t["alpha"] + t["B"] / tokens ** t["beta"]


def config(width: int, tokens: float, seed: int = 0) -> RunConfig:
    heads = max(1, width // 16)
    model = ModelConfig(
        n_layers=max(1, width // 32),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=16,
        d_ff=8 * (width // 3),
    )
    batch = max(1, round(2048 * (tokens / 1e6) ** 0.5 / SEQ))
    return RunConfig(
        model=model,
        data=DATA,
        optimizer=OptimizerConfig(lr=0.01 * (width / 64) ** -0.5),
        seq_len=SEQ,
        batch_size=batch,
        steps=max(4, round(tokens / (batch * SEQ))),
        seed=seed,
    )


def n_of(run: RunConfig) -> int:
    return counts(run.model, run.seq_len).n["total"]


def flops_of(run: RunConfig) -> float:
    return counts(run.model, run.seq_len).flops_per_token["matmul"] * run.tokens


def grid() -> list[RunConfig]:
    """30 runs: six widths around the optimum of each of five budgets."""
    runs = []
    for flops in BUDGETS:
        choices = [
            config(w, flops / counts(config(w, 1e5).model, SEQ).flops_per_token["matmul"]) for w in WIDTHS
        ]
        best = int(np.argmin([true_loss(n_of(r), r.tokens) for r in choices]))
        first = min(max(0, best - 3), len(choices) - 6)
        runs += choices[first : first + 6]
    return runs


def target_run(multiple: float = 10.1) -> RunConfig:
    flops = multiple * max(BUDGETS)
    choices = [
        config(w, flops / counts(config(w, 1e5).model, SEQ).flops_per_token["matmul"])
        for w in (48, 64, 80, 96, 112, 128, 160, 192, 224)
    ]
    return min(choices, key=lambda r: true_loss(n_of(r), r.tokens))


def write_run(root: Path, run: RunConfig, noise: float, status: str = "done", rows: int = 400) -> RunFolder:
    folder = RunFolder(root / run.run_id)
    folder.create(run, Placement())
    count = counts(run.model, run.seq_len)
    n, final = count.n["total"], true_loss(count.n["total"], run.tokens) * np.exp(noise)
    steps = np.unique(np.linspace(1, run.steps, min(rows, run.steps)).astype(int))
    rng = np.random.default_rng(run.steps + run.model.d_model)
    last = steps[-1] if status == "done" else steps[len(steps) // 3]
    lines = []
    for step in steps[steps <= last]:
        tokens = int(step) * run.batch_size * run.seq_len
        loss = min(5.55, true_loss(n, tokens) * 1.06 ** (1 - step / run.steps)) * np.exp(rng.normal(0, 0.012))
        if status == "diverged":
            loss = loss + 3 * (step / last) ** 20
        lines.append(
            {
                "step": int(step),
                "tokens": tokens,
                "loss": float(loss),
                "lr": 1e-2,
                "grad_norm": 1.0,
                "seconds": step * 0.01,
            }
        )
    write_whole(folder.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "loss": float(final) if status == "done" else None,
        "loss_se": 0.003 if status == "done" else None,
        "val_tokens": 262144,
        "train_loss": lines[-1]["loss"],
        "steps": run.steps,
        "tokens": run.tokens,
        "seconds": run.steps * 0.01,
        "cpu_seconds": run.steps * 0.01,
        "tokens_per_second": 1e5,
        "device": "cpu",
        "unique_tokens": 12_000_000,
        "epochs": run.tokens / 12e6,
        "counts": count.flat(run.tokens),
        "notes": [],
    }
    if status == "diverged":
        summary |= {"diverged_step": int(last)}
    if status == "failed":
        folder.fail("worker was killed <twice>")
    else:
        folder.finish(status, summary)
    return folder


def write_study(root: Path, noise: float = 0.005, target: bool = True, seed: int = 1) -> Path:
    """`root` as a launched sweep: 30 finished runs, one diverged, one failed, and the target run."""
    rng = np.random.default_rng(seed)
    runs = grid()
    for run in runs:
        write_run(root, run, rng.normal(0, noise))
    bad = [config(64, 2e6, seed=7), config(48, 1e6, seed=8)]
    write_run(root, bad[0], 0.0, "diverged")
    write_run(root, bad[1], 0.0, "failed")
    if target:
        write_run(root, target_run(), 0.002)
    write_json(
        root / "sweep.json",
        {
            "name": root.name,
            "question": "How large a model, on how many tokens?",
            "design": {"kind": "isoflop"},
            "runs": [to_dict(r) for r in [*runs, *bad]],
            "refused": [],
        },
    )
    return root
