"""What the `mup` package makes of a small decoder: the numbers that our table is tested against.

    python -m venv mup-env && mup-env/bin/pip install torch mup
    mup-env/bin/python benchmarks/mup_package.py > tests/scaling/mup_package.json

Needs neither this project nor JAX. Parameters carry our names; variances are of the drawn values.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import mup
import torch
from mup.init import normal_ as mup_normal
from torch import nn

BASE = {"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "d_head": 16, "d_ff": 64}
WIDE = {"d_model": 256, "n_heads": 16, "n_kv_heads": 8, "d_head": 16, "d_ff": 512}
VOCAB, LAYERS, LR, DECAY = 512, 2, 1.0, 0.1


class Block(nn.Module):
    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        d, n = shape["d_model"], shape["d_head"]
        self.norm_attention, self.norm_mlp = nn.RMSNorm(d), nn.RMSNorm(d)
        self.w_q_DHN = nn.Linear(d, shape["n_heads"] * n, bias=False)
        self.w_k_DKN = nn.Linear(d, shape["n_kv_heads"] * n, bias=False)
        self.w_v_DKN = nn.Linear(d, shape["n_kv_heads"] * n, bias=False)
        self.w_o_HND = nn.Linear(shape["n_heads"] * n, d, bias=False)
        self.w_gate_DF, self.w_up_DF = (nn.Linear(d, shape["d_ff"], bias=False) for _ in range(2))
        self.w_down_FD = nn.Linear(shape["d_ff"], d, bias=False)


class Decoder(nn.Module):
    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        self.embed_VD = nn.Embedding(VOCAB, shape["d_model"])
        self.blocks = nn.ModuleList(Block(shape) for _ in range(LAYERS))
        self.norm_final = nn.RMSNorm(shape["d_model"])
        self.head_DV = mup.MuReadout(shape["d_model"], VOCAB, bias=False)


def based(shape: dict[str, int]) -> Decoder:
    """A decoder that knows the base, every matrix drawn with the base's 1 / sqrt(fan_in)."""
    twice = {name: size * (1 if name == "d_head" else 2) for name, size in BASE.items()}
    model = Decoder(shape)
    mup.set_base_shapes(model, Decoder(BASE), delta=Decoder(twice))
    fans = {name: p.shape[1] for name, p in Decoder(BASE).named_parameters() if p.ndim == 2}
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            mup_normal(p, std=fans[name] ** -0.5)
    return model


def described(shape: dict[str, int]) -> dict[str, Any]:
    model = based(shape)
    optimizer = mup.MuAdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, Any] = {}
    for name, p in model.named_parameters():
        group = groups[id(p)]
        parts = [part for part in name.split(".") if part != "weight" and not part.isdecimal()]
        found[parts[-1]] = {
            "variance": float(p.detach().var()) if p.ndim == 2 else 0.0,
            "values": p.numel(),
            "rate": group["lr"] / LR,
            "weight_decay": group["weight_decay"] / DECAY,
            "eps": group["eps"] / 1e-8,
        }
    return {"shape": shape, "readout": 1 / model.head_DV.width_mult(), "parameters": found}


def main() -> None:
    versions = {name: version(name) for name in ("mup", "torch")}
    command = "python benchmarks/mup_package.py"
    content = {"versions": versions, "command": command, "base": described(BASE), "wide": described(WIDE)}
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
