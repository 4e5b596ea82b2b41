"""How a forward pass is evaluated: changes speed, memory and rounding, never the function computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.config import ModelConfig, Placement
from scaling.kernels import attention_kernel
from scaling.sharding import Shardings

# What the backward pass of a layer finds stored; the rest it computes again.
#   none       everything
#   dots       results of the weight matrices
#   attention  the output of attention, dear to compute and small to keep
#   full       nothing but the layer's input
_POLICIES = jax.checkpoint_policies
REMAT: dict[str, Any] = {
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "attention": _POLICIES.save_only_these_names("attention"),
    "full": _POLICIES.nothing_saveable,
}


# On an AMD EPYC core (512 KiB of L2, 32 MiB of L3) the best of .25 to 4 MiB at .3M and .9M parameters.
PIECE_BYTES = 2**20
PIECE_LEAST = 256  # fewer rows no longer fill a matrix product

MASKED = 1e29  # logits that attention may not see are -1e30


@dataclass(frozen=True)
class Execution:
    dtype: Any = jnp.float32  # of activations and of the weights they meet
    unroll: bool = False  # walk the layers in straight-line code instead of a loop
    remat: str = "none"  # name of a policy above
    platform: str = "cpu"  # of the devices that will run it
    attention: str = "plain"  # as `placement.attention`; scaling.kernels names the form it leads to
    query_blocks: int = 1  # causal attention in this many blocks of queries
    piece_tokens: int = 0  # the gradient of at most so many tokens at once; 0: of the whole batch
    loss_chunks: int = 0  # see scaling.loss
    shardings: Shardings | None = None  # None: one device
    taps: dict[str, jax.Array] | None = field(default=None, compare=False)  # None: nothing is measured

    def attention_kernel(self, model: ModelConfig, seq_len: int) -> str:
        """The form of attention for sequences of this length: a name of scaling.kernels."""
        mesh = self.shardings.mesh.shape if self.shardings else None
        dtype = jnp.dtype(self.dtype).name
        return attention_kernel(self.attention, self.platform, model, seq_len, dtype, mesh).name

    def rows(self, x_BSD: jax.Array) -> jax.Array:
        """Activations in the layout that layers work on: rows (T, D) on one device, on several (B, S, D).

        Matrices multiply rows fastest, on a CPU above all; axes that devices split do not join.
        """
        return self.split_rows(x_BSD) if self.shardings else x_BSD.reshape(-1, x_BSD.shape[-1])

    def split_rows(self, x_BSD: jax.Array) -> jax.Array:
        return self.split(x_BSD, ("batch", "sequence", None))

    def weight(self, param: nnx.Variable, dtype: Any = None) -> jax.Array:
        """A parameter as it meets activations: rounded, then gathered from the devices that share it.

        Sharded over `fsdp` a weight is only stored; what is multiplied is whole but for `tensor`.
        """
        value = param[...].astype(dtype or self.dtype)
        if self.shardings is None:
            return value
        axes = param.get_metadata()["axes"][-value.ndim :]  # a scan takes the layer axis off
        return self.split(value, tuple(None if axis == "embed" else axis for axis in axes))

    def look_up(self, table_VD: jax.Array, tokens_BS: jax.Array) -> jax.Array:
        """Rows of the table, (B, S, D)."""
        if self.shardings is None or not self.shardings.explicit:
            return table_VD[tokens_BS]
        return table_VD.at[tokens_BS].get(out_sharding=self.shardings.spec(("batch", None, None)))

    def join(self, equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
        """Contract axes that devices may split, into activations (..., D): the end of a layer's branch."""
        explicit = self.shardings is not None and self.shardings.explicit
        places = self.shardings.spec(("batch", "sequence", None)) if self.shardings and explicit else None
        return jnp.einsum(equation, x, weight, out_sharding=places)

    def reshape(self, x: jax.Array, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> jax.Array:
        """`x` in another shape, laid out by logical axes, for shapes that cut an axis which devices split."""
        if self.shardings and self.shardings.explicit:
            return jax.lax.reshape(x, shape, out_sharding=self.shardings.spec(axes))
        return self.split(x.reshape(shape), axes)

    def split(self, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        """`x` laid out over the devices by logical axes."""
        return self.shardings.constrain(x, axes) if self.shardings else x

    def tap(self, name: str, x: jax.Array) -> None:
        """Where asked, keep the mean |x|, () float32, of what passes here. Masked logits do not count."""
        if self.taps is not None:
            size = jnp.abs(x.astype(jnp.float32))
            self.taps[name] = jnp.mean(size, where=size < MASKED)

    def tapped(self) -> dict[str, jax.Array] | None:
        """What was kept since the last call, out of the loop over layers that traced it."""
        if self.taps is None:
            return None
        kept = dict(self.taps)
        self.taps.clear()
        return kept

    def tap_layers(self, tapped: dict[str, jax.Array] | None) -> None:
        """Keep what the layers' own calls of `tap` gave, (L,) float32 each."""
        if self.taps is not None and tapped is not None:
            self.taps.update(tapped)

    def rematerialised(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        return layer if self.remat == "none" else jax.checkpoint(layer, policy=REMAT[self.remat])


def execution(
    placement: Placement, platform: str, model: ModelConfig, shardings: Shardings | None = None
) -> Execution:
    """The fastest form for a platform: on CPU unrolled layers, blocked attention and pieces, in float32."""
    cpu = platform == "cpu"
    several = shardings is not None and shardings.mesh.size > 1
    dtype = placement.compute_dtype
    if dtype == "auto":
        dtype = "float32" if cpu else "bfloat16"
    return Execution(
        jnp.dtype(dtype).type,
        unroll=cpu,
        platform=platform,
        attention=placement.attention,
        remat=placement.remat,
        query_blocks=2 if cpu and not several else 1,
        piece_tokens=cached_tokens(model) if cpu and not several else 0,
        loss_chunks=placement.loss_chunks,
        shardings=shardings if several else None,
    )


def cached_tokens(model: ModelConfig) -> int:
    """Tokens whose widest activations, in float32, fit PIECE_BYTES; at least PIECE_LEAST."""
    heads = (model.n_heads + 2 * model.n_kv_heads) * model.d_head
    return max(PIECE_LEAST, PIECE_BYTES // (4 * max(heads, model.d_ff)))
