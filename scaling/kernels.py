"""Which form of attention a step is compiled with. The one place of that rule; it needs no device.

    splash  TPU: Pallas, blocks of queries and keys (scaling/model/splash.py)
    cudnn   GPU: cuDNN's flash attention (scaling/model/fused.py)
    plain   anywhere: written out, scores and all (scaling/model/attention.py), what the others must equal

`splash` and `cudnn` write no scores to memory. The choice is made from configuration and lengths alone, so
that a step compiled ahead of time, for a device that is not here, is the step that will run: `platform` is
then that of the target's devices, as it is in `scaling.step.make_forward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from scaling.config import ModelConfig
from scaling.errors import UserError

LANES = 128  # a TPU's vector registers are so wide: blocks of positions are multiples of it


class Kernel(NamedTuple):
    name: str  # splash, cudnn or plain
    reason: str  # why it is plain where a fused one exists; else empty


def attention_kernel(
    asked: str,
    platform: str,
    model: ModelConfig,
    seq_len: int,
    dtype: str = "bfloat16",
    mesh: Mapping[str, int] | None = None,
) -> Kernel:
    """The form for `asked` (`placement.attention`): plain, or where the platform's kernel serves it, that.

    `dtype` is that of activations, `mesh` the sizes of mesh axes by name (none: one device).
    Raises UserError where `fused` is asked for and nothing fused serves.
    """
    if platform == "cpu":
        if asked == "fused":
            raise UserError(
                "placement.attention is 'fused', which a CPU has no kernel for; give 'auto' or 'plain'."
            )
        return Kernel("plain", "")
    name, why_not = {"tpu": ("splash", _not_splash), "gpu": ("cudnn", _not_cudnn)}[platform]
    if asked == "plain":
        return Kernel("plain", "placement.attention is 'plain'")
    reason = why_not(model, seq_len, dtype)
    if (mesh or {}).get("context", 1) > 1:
        reason = "devices split sequences (mesh axis context)"
    if reason and asked == "fused":
        raise UserError(
            f"placement.attention is 'fused', but {name} does not serve this: {reason}; give 'auto'."
        )
    return Kernel("plain", f"{name}: {reason}") if reason else Kernel(name, "")


def _not_splash(model: ModelConfig, seq_len: int, dtype: str) -> str:
    if seq_len % LANES:
        return f"seq_len {seq_len} is no multiple of {LANES}"
    return ""


def _not_cudnn(model: ModelConfig, seq_len: int, dtype: str) -> str:
    if dtype not in ("bfloat16", "float16"):
        return f"activations are {dtype}, not bfloat16"
    if model.d_head % 8 or model.d_head > LANES:
        return f"model.d_head {model.d_head} is no multiple of 8 up to {LANES}"
    if model.attention_cap:
        return "model.attention_cap caps scores"
    if model.document_mask:
        return "model.document_mask tells documents apart"
    return ""
