"""The decoder of the recipe `small` in PyTorch, eager: a peer for benchmarks/peers.py, which starts it.

Runs under an interpreter that has PyTorch and NumPy and not this project. `python peers_torch.py ORDER`:
the file ORDER is JSON (see benchmarks/peers.py); commands are lines on standard input, each answered by
one JSON object. B batch, S sequence, D model, H heads, N head size, F hidden, V vocabulary.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x_BHSN: Tensor, cos_SN: Tensor, sin_SN: Tensor) -> Tensor:
    """Rotary positions by halves; cos and sin repeat over the two halves, sin negative in the first."""
    a, b = x_BHSN.chunk(2, dim=-1)
    return x_BHSN * cos_SN + torch.cat([b, a], dim=-1) * sin_SN


class Block(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        d, h, n, f, eps = (shape[name] for name in ("d_model", "n_heads", "d_head", "d_ff", "norm_eps"))
        self.h, self.n = h, n
        self.norm_attention = nn.RMSNorm(d, eps=eps)
        self.qkv = nn.Linear(d, 3 * h * n, bias=False)
        self.out = nn.Linear(h * n, d, bias=False)
        self.norm_mlp = nn.RMSNorm(d, eps=eps)
        self.gate = nn.Linear(d, f, bias=False)
        self.up = nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x_BSD: Tensor, cos_SN: Tensor, sin_SN: Tensor) -> Tensor:
        batch, seq_len, _ = x_BSD.shape
        qkv_BSC = self.qkv(self.norm_attention(x_BSD))
        q, k, v = qkv_BSC.view(batch, seq_len, 3 * self.h, self.n).transpose(1, 2).chunk(3, dim=1)
        q, k = (rotate(x, cos_SN, sin_SN) for x in (q, k))
        out_BHSN = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BSD = x_BSD + self.out(out_BHSN.transpose(1, 2).reshape(batch, seq_len, -1))
        normed_BSD = self.norm_mlp(x_BSD)
        return x_BSD + self.down(F.silu(self.gate(normed_BSD)) * self.up(normed_BSD))


class Decoder(nn.Module):
    def __init__(self, shape: dict[str, Any], seq_len: int) -> None:
        super().__init__()
        d, n = shape["d_model"], shape["d_head"]
        self.embed = nn.Embedding(shape["vocab_size"], d)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape["n_layers"]))
        self.norm_final = nn.RMSNorm(d, eps=shape["norm_eps"])
        angles = np.arange(seq_len)[:, None] * shape["rope_theta"] ** (-np.arange(0, n, 2) / n)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.register_buffer("cos", torch.from_numpy(np.concatenate([cos, cos], axis=-1)))
        self.register_buffer("sin", torch.from_numpy(np.concatenate([-sin, sin], axis=-1)))

    def forward(self, tokens_BS: Tensor) -> Tensor:
        x_BSD = self.embed(tokens_BS) * self.embed.embedding_dim**0.5
        for block in self.blocks:
            x_BSD = block(x_BSD, self.cos, self.sin)
        return F.linear(self.norm_final(x_BSD), self.embed.weight)


def load(model: Decoder, weights: Any) -> None:
    """The weights that our decoder starts from, by its own names."""

    def put(target: Tensor, value: np.ndarray) -> None:
        target.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    with torch.no_grad():
        put(model.embed.weight, weights["embed_VD"])
        put(model.norm_final.weight, weights["norm_final/gain_D"])
        for layer, block in enumerate(model.blocks):
            w = {
                name[len("blocks/") :]: weights[name][layer] for name in weights if name.startswith("blocks/")
            }
            d = len(w["norm_attention/gain_D"])
            heads = [w[f"attention/w_{role}"].reshape(d, -1) for role in ("q_DHN", "k_DKN", "v_DKN")]
            put(block.norm_attention.weight, w["norm_attention/gain_D"])
            put(block.qkv.weight, np.concatenate(heads, axis=1).T)
            put(block.out.weight, w["attention/w_o_HND"].reshape(-1, d).T)
            put(block.norm_mlp.weight, w["norm_mlp/gain_D"])
            put(block.gate.weight, w["mlp/w_gate_DF"].T)
            put(block.up.weight, w["mlp/w_up_DF"].T)
            put(block.down.weight, w["mlp/w_down_FD"].T)


def adamw(model: Decoder, o: dict[str, Any], fused: bool) -> torch.optim.AdamW:
    """Matrices decay, norm gains do not. `fused` False leaves the choice to PyTorch: a loop on a CPU."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": o["weight_decay"]}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, o["lr"], (o["b1"], o["b2"]), o["eps"], fused=True if fused else None)


def main() -> None:
    with open(sys.argv[1]) as file:
        order = json.load(file)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    arrays = np.load(order["arrays"])
    model = Decoder(order["config"]["model"], order["config"]["seq_len"])
    load(model, {name: arrays[name] for name in arrays if name != "tokens"})
    optimizer = adamw(model, order["config"]["optimizer"], order["fused"])
    tokens_BS1 = torch.from_numpy(arrays["tokens"].astype(np.int64))
    inputs_BS, targets_BS = tokens_BS1[:, :-1].contiguous(), tokens_BS1[:, 1:].contiguous()

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(inputs_BS).flatten(0, 1), targets_BS.flatten())
        loss.backward()
        if order["config"]["optimizer"]["clip"] > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), order["config"]["optimizer"]["clip"])
        optimizer.step()
        return loss.detach()

    for line in sys.stdin:
        began = time.process_time()
        losses = [step() for _ in range(int(line))]
        seconds = time.process_time() - began
        answer = {"cpu_seconds": seconds, "losses": [float(x) for x in losses], "version": torch.__version__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
