"""Queries, keys, values and output of an attention: what its mixers have in common."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.axes import Names, constrain
from bmojo.layers.gradient_barrier import gradient_barrier
from bmojo.types import Array, DType, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Keys and values of some tokens."""

    k: Float[Array, "... G P"]
    v: Float[Array, "... G P"]


def check_heads(n_heads: int, n_kv_heads: int | None) -> None:
    """Raise ValueError unless the heads can be grouped."""
    if n_heads < 1:
        raise ValueError(f"n_heads: must be at least 1, got {n_heads}")
    if n_kv_heads is not None and (n_kv_heads < 1 or n_heads % n_kv_heads):
        raise ValueError(f"n_kv_heads: must divide n_heads = {n_heads}, got {n_kv_heads}")


class Heads(nnx.Module):
    """The projections of grouped-query attention (arXiv 2305.13245)."""

    axes: ClassVar[dict[str, Names]] = {
        "q_proj.kernel": ("embed", "heads"),
        "k_proj.kernel": ("embed", "kv_heads"),
        "v_proj.kernel": ("embed", "kv_heads"),
        "o_proj.kernel": ("heads", "embed"),
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ) -> None:
        """Make four projections without bias.

        Raises:
          ValueError: d_model is not a multiple of n_heads.
        """
        if d_model % n_heads:
            raise ValueError(f"n_heads: must divide d_model = {d_model}, got {n_heads}")
        self.d_model, self.n_heads = d_model, n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.d_head = d_model // n_heads
        self.dtype = dtype
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        d_kv = self.n_kv_heads * self.d_head
        self.q_proj = nnx.Linear(d_model, d_model, **options)
        self.k_proj = nnx.Linear(d_model, d_kv, **options)
        self.v_proj = nnx.Linear(d_model, d_kv, **options)
        self.o_proj = nnx.Linear(d_model, d_model, **options)

    def queries(self, u: Float[Array, "*rest D"]) -> Float[Array, "*rest H P"]:
        """W_q u, cut into heads."""
        return self._cut(self.q_proj(u), self.n_heads, "heads")

    def key_values(self, u: Float[Array, "*rest D"]) -> KeyValues:
        """W_k u and W_v u, cut into heads."""
        k, v = self.k_proj(u), self.v_proj(u)
        return self.cut_key_values(gradient_barrier(k), gradient_barrier(v))

    def cut_key_values(self, k: Float[Array, "*rest D"], v: Float[Array, "*rest D"]) -> KeyValues:
        """Projected keys and values, cut into heads."""
        return KeyValues(*(self._cut(x, self.n_kv_heads, "kv_heads") for x in (k, v)))

    def output(self, mixed: Float[Array, "*rest H P"]) -> Float[Array, "*rest D"]:
        """W_o of the joined heads."""
        return self.o_proj(mixed.reshape(*mixed.shape[:-2], self.d_model))

    def _cut(self, x: Array, heads: int, name: str) -> Array:
        x = x.reshape(*x.shape[:-1], heads, self.d_head)
        return constrain(x, "batch", *(None,) * (x.ndim - 3), name, None)

    def empty(self, batch_size: int, places: int) -> KeyValues:
        """Places for keys and values of tokens to come."""
        zeros = jnp.zeros((batch_size, places, self.n_kv_heads, self.d_head), self.dtype)
        return KeyValues(zeros, zeros)

    def projection_flops(self) -> float:
        """Forward operations per token of the four projections."""
        return 4.0 * self.d_model * (self.d_model + self.n_kv_heads * self.d_head)
