"""Heads: the projections of an attention, and the tokens that B'MOJO's are made from."""

import dataclasses
from typing import ClassVar, Literal, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.norm import RMSNorm
from bmojo.layers.protocol import Options
from bmojo.ops.axes import RULES, Names, constrain
from bmojo.ops.convolution import causal_convolution
from bmojo.ops.native import library
from bmojo.ops.time_sharding import TimeContext
from bmojo.types import Array, Float, Int

TOKEN_TAPS = 4
"""Taps of the convolution of ``tokens='conv'``."""


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


@jax.custom_vjp
def gradient_barrier(x: tuple[Array, ...]) -> tuple[Array, ...]:
    """``x``, whose gradients are summed before anything else is done with them.

    XLA's CPU compiler joins the sum of two gradients to the transpose that the product behind it
    needs, and then reads both of them across memory, several times as slowly. A kernel that does
    nothing stands between, where there are kernels and no mesh; XLA's own barrier is gone by the
    time that its compiler joins loops. Derivatives of first order in reverse mode only.
    """
    return x


def _summed(_: None, grads: tuple[Array, ...]) -> tuple[tuple[Array, ...]]:
    if RULES.get() is None and library.unfit() is None:
        grads = tuple(map(library.copy, grads))
    return (grads,)


gradient_barrier.defvjp(lambda x: (x, None), _summed)


class Heads(nnx.Module):
    """The projections of grouped-query attention (arXiv 2305.13245)."""

    groups: ClassVar[dict[str, str]] = {"": "attention"}
    axes: ClassVar[dict[str, Names]] = {
        "q_proj.kernel": ("embed", "heads"),
        "k_proj.kernel": ("embed", "kv_heads"),
        "v_proj.kernel": ("embed", "kv_heads"),
        "o_proj.kernel": ("heads", "embed"),
        "q_proj.bias": ("heads",),
        "k_proj.bias": ("kv_heads",),
        "v_proj.bias": ("kv_heads",),
    }
    undecayed: ClassVar[tuple[str, ...]] = tuple(f"{x}_proj.bias" for x in "qkvo")

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None,
        *,
        d_head: int | None = None,
        qkv_bias: bool = False,
        o_bias: bool = False,
        qk_norm: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Make four projections; ``qk_norm`` is the epsilon of norms of queries and keys.

        Raises:
          ValueError: d_model is not a multiple of n_heads, and the heads have no width.
        """
        if d_head is None and d_model % n_heads:
            raise ValueError(f"n_heads: must divide d_model = {d_model}, got {n_heads}")
        self.d_model, self.n_heads = d_model, n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.d_head = d_head or d_model // n_heads
        self.dtype = options["dtype"]
        d_inner, d_kv = n_heads * self.d_head, self.n_kv_heads * self.d_head
        self.q_proj = nnx.Linear(d_model, d_inner, use_bias=qkv_bias, **options)
        self.k_proj = nnx.Linear(d_model, d_kv, use_bias=qkv_bias, **options)
        self.v_proj = nnx.Linear(d_model, d_kv, use_bias=qkv_bias, **options)
        self.o_proj = nnx.Linear(d_inner, d_model, use_bias=o_bias, **options)
        if qk_norm is not None:
            self.q_norm = RMSNorm(self.d_head, epsilon=qk_norm, **options)
            self.k_norm = RMSNorm(self.d_head, epsilon=qk_norm, **options)

    def queries(self, u: Float[Array, "*rest D"]) -> Float[Array, "*rest H P"]:
        """W_q u, cut into heads, and normed if there are norms."""
        q = self._cut(self.q_proj(u), self.n_heads, "heads")
        return self.q_norm(q) if hasattr(self, "q_norm") else q

    def key_values(self, u: Float[Array, "*rest D"]) -> KeyValues:
        """W_k u and W_v u, cut into heads, the keys normed if there are norms."""
        projected = gradient_barrier((self.k_proj(u), self.v_proj(u)))
        k, v = (self._cut(x, self.n_kv_heads, "kv_heads") for x in projected)
        return KeyValues(self.k_norm(k) if hasattr(self, "k_norm") else k, v)

    def output(self, mixed: Float[Array, "*rest H P"]) -> Float[Array, "*rest D"]:
        """W_o of the joined heads."""
        return self.o_proj(mixed.reshape(*mixed.shape[:-2], self.n_heads * self.d_head))

    def _cut(self, x: Array, heads: int, name: str) -> Array:
        x = x.reshape(*x.shape[:-1], heads, self.d_head)
        if RULES.get() is None:
            return x
        return constrain(x, "batch", *(None,) * (x.ndim - 3), name, None)

    def empty(self, batch_size: int, places: int) -> KeyValues:
        """Places for keys and values of tokens to come."""
        zeros = jnp.zeros((batch_size, places, self.n_kv_heads, self.d_head), self.dtype)
        return KeyValues(zeros, zeros)

    def projection_flops(self) -> float:
        """Forward operations per token of the four projections."""
        return 4.0 * self.d_model * (self.n_heads + self.n_kv_heads) * self.d_head


class MemoryHeads(Heads):
    """The heads of B'MOJO: keys and values of contextualised tokens and of fading slots.

    Attributes:
      reach: inputs before the call that its tokens are made from.
    """

    groups: ClassVar[dict[str, str]] = {"conv_kernel": "ssm", "": "attention"}
    axes: ClassVar[dict[str, Names]] = {
        **Heads.axes,
        "fading_k_proj.kernel": ("embed", "kv_heads"),
        "fading_v_proj.kernel": ("embed", "kv_heads"),
        "conv_kernel": (None, "embed"),
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None,
        *,
        tokens: Literal["ssm", "conv", "input"],
        own_fading: bool,
        **options: Unpack[Options],
    ) -> None:
        """Make the projections, with ``own_fading`` also keys' and values' of fading slots."""
        super().__init__(d_model, n_heads, n_kv_heads, **options)
        self.tokens = tokens
        self.reach = TOKEN_TAPS - 1 if tokens == "conv" else 0
        if own_fading:
            d_kv = self.n_kv_heads * self.d_head
            self.fading_k_proj = nnx.Linear(d_model, d_kv, use_bias=False, **options)
            self.fading_v_proj = nnx.Linear(d_model, d_kv, use_bias=False, **options)
        if tokens == "conv":
            key, shape = options["rngs"].params(), (TOKEN_TAPS, d_model)
            draw = jax.random.uniform(key, shape, options["param_dtype"], -1.0, 1.0)
            self.conv_kernel = nnx.Param(draw * TOKEN_TAPS**-0.5)

    def contextualised(
        self,
        u: Float[Array, "B L D"],
        y: Float[Array, "B L D"],
        inputs: Float[Array, "B T D"],
        segment_pos: Int[Array, "B L"],
        context: TimeContext,
    ) -> tuple[Float[Array, "B L H P"], KeyValues, Float[Array, "B T D"]]:
        """Queries of u, and keys and values of contextualised tokens: u + y, u + conv(u) or u.

        ``inputs`` are those before the tokens of all devices, for the convolution. Returned
        behind the keys and values are the inputs before this device's tokens.
        """
        tokens = u + y if self.tokens == "ssm" else u
        if self.tokens == "conv":
            inputs = context.tail(inputs, u)
            kernel = self.conv_kernel[...].astype(u.dtype)
            tokens = u + causal_convolution(u, kernel, inputs, segment_pos)
        return self.queries(u), self.key_values(tokens), inputs

    def fading_key_values(self, y: Float[Array, "*rest D"]) -> KeyValues:
        """Keys and values of outputs of the fading memory by projections of their own."""
        projected = self.fading_k_proj(y), self.fading_v_proj(y)
        return KeyValues(*(self._cut(x, self.n_kv_heads, "kv_heads") for x in projected))
