"""Attention as a mixer: over the whole past, or over a sliding window."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.heads import Heads, KeyValues, check_heads
from bmojo.layers.norm import check_epsilon
from bmojo.layers.protocol import Aux, AuxRequest, MakesMixer, Options, unchanged
from bmojo.ops.attention_mass import causal_mass, memory_mass
from bmojo.ops.masks import memory_keys
from bmojo.ops.memory_attention import (
    IMPLEMENTATIONS,
    Implementation,
    causal_attention,
    memory_attention,
)
from bmojo.ops.positions import Positions, TokenPositions, next_tail
from bmojo.ops.rotary import rotate
from bmojo.ops.time_sharding import SequenceShard, TimeContext, open_context
from bmojo.types import Array, Float, Int

NOWHERE = 2**30
"""Position of padding: beyond any capacity."""


@dataclasses.dataclass(frozen=True)
class AttentionConfig(MakesMixer):
    """Attention over the past.

    Attributes:
      n_heads: query heads; d_model must be a multiple, unless d_head is set.
      n_kv_heads: key-value heads, a divisor of n_heads; None: n_heads.
      window: tokens that a query sees, its own included; None: the whole past.
      rope: rotary position embedding. Without window its angles are of the age in the document in
        float32, 0.01 wrong at 2^17 tokens.
      rope_theta: its base.
      max_length: tokens that the state of full attention holds where nobody asks for more.
      attention_implementation: 'auto' (the fastest here), 'xla' (any device), 'native' (C++
        kernels for CPUs) or 'pallas' (kernels for TPUs and GPUs); see
        :mod:`bmojo.ops.memory_attention`.
      d_head: width of a head; None: d_model / n_heads.
      qkv_bias: biases of queries, keys and values, as in Qwen-2.
      o_bias: a bias of the output projection.
      qk_norm: RMSNorm of each query and key over its channels, before rotation, as in Qwen-3
        (arXiv 2010.04245).
      norm_epsilon: of these norms.
    """

    n_heads: int = 4
    n_kv_heads: int | None = None
    window: int | None = None
    rope: bool = False
    rope_theta: float = 10000.0
    max_length: int = 2048
    attention_implementation: Implementation = "auto"
    d_head: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        IMPLEMENTATIONS.check(self.attention_implementation)
        check_heads(self.n_heads, self.n_kv_heads)
        if self.window is not None and self.window < 1:
            raise ValueError(
                f"window: counts the query's own token, so it is at least 1, got {self.window}"
            )
        self._check_positive("max_length", "d_head")
        check_epsilon(self.norm_epsilon)
        if self.rope_theta <= 0:
            raise ValueError(f"rope_theta: must be positive, got {self.rope_theta}")

    @property
    def implementations(self) -> dict[str, str]:
        """The implementation of the attention on this machine."""
        return {"attention": IMPLEMENTATIONS.describe(self.attention_implementation)}

    def _make(self, d_model: int, **options: Unpack[Options]) -> "Attention":
        return Attention(d_model, self, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionState:
    """Keys and values of the past.

    Attributes:
      positions: of each row.
      past: with a window, the last W - 1 tokens in order of time, not rotated; without,
        ``capacity`` places of which the first ``positions.position`` are taken.
    """

    positions: Positions
    past: KeyValues


class Attention(nnx.Module):
    """softmax(q k^T) v over the past or a window of it, without or with rotary positions."""

    def __init__(self, d_model: int, config: AttentionConfig, **options: Unpack[Options]) -> None:
        """Make the projections of queries, keys, values and output.

        Raises:
          ValueError: n_heads does not divide d_model, or leaves heads of odd width to rotate.
        """
        self.config, self.d_model = config, d_model
        d_head = config.d_head or d_model // config.n_heads
        if config.rope and d_head % 2:
            width = config.d_head or f"{d_model} / {config.n_heads}"
            raise ValueError(
                f"rope: heads must have an even width, got {width}; "
                "change n_heads or d_head, or set it to False"
            )
        self.heads = Heads(
            d_model,
            config.n_heads,
            config.n_kv_heads,
            d_head=config.d_head,
            qkv_bias=config.qkv_bias,
            o_bias=config.o_bias,
            qk_norm=config.norm_epsilon if config.qk_norm else None,
            **options,
        )

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: AttentionState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Attend; see :class:`bmojo.layers.protocol.Mixer`.

        Outputs beyond the capacity of a full attention's state are NaN: the tokens no longer
        fit, and a wrong number must not look right.
        """
        if not u.size:
            return unchanged(self, u, state, aux)
        config, first = self.config, state is None
        reach = u.shape[1] * (state.size if isinstance(state, SequenceShard) else 1)

        def empty(rows: int) -> AttentionState:
            return self.init_state(rows, max(reach, config.max_length))

        context, before, tokens, positions = open_context(empty, state, u, segment_ids, lengths)
        q, new = self.heads.queries(u), self.heads.key_values(u)
        if config.rope and config.window is None:
            q = rotate(q, tokens.segment_pos, config.rope_theta)
            new = KeyValues(rotate(new.k, tokens.segment_pos, config.rope_theta), new.v)

        implementation = config.attention_implementation
        if config.window is not None:
            tail = context.tail(before.past, new)
            after = context.last(AttentionState(positions, next_tail(tail, new, lengths)))
            k, past_k = new.k, tail.k
            if config.rope:  # a window needs differences alone, which are exact at any age
                here = jnp.broadcast_to(jnp.arange(u.shape[1]), u.shape[:2])
                back = jnp.broadcast_to(jnp.arange(1 - config.window, 0), past_k.shape[:2])
                q, k = (rotate(x, here, config.rope_theta) for x in (q, k))
                past_k = rotate(past_k, back, config.rope_theta)
            operands = (k, new.v, past_k, tail.v, tokens.segment_pos)
            mixed = memory_attention(
                q, *operands, window=config.window, implementation=implementation
            )
        else:
            past = self._written(before.past, new, tokens, context)
            after = AttentionState(context.last(positions), past)
            if first:
                k, v, position = new.k, new.v, None
            else:
                end = reach if context.first else None  # nothing lies further
                k, v, position = past.k[:, :end], past.v[:, :end], tokens.position
            mixed = causal_attention(q, k, v, tokens.segment_pos, position, implementation)
            if not first:
                full = tokens.position >= past.k.shape[1]
                mixed = jnp.where(full[..., None, None], jnp.nan, mixed)
        out = self.heads.output(mixed)
        if aux is None:
            return out, after
        found = Aux(q, new.k, new.v) if aux.entries else Aux()
        if aux.bins and config.window is not None:
            keys = memory_keys(*operands, window=config.window)
            found = dataclasses.replace(found, mass=memory_mass(q, keys, aux.bins))
        elif aux.bins:
            mass = causal_mass(q, past.k, tokens.segment_pos, tokens.position, aux.bins)
            found = dataclasses.replace(found, mass=mass)
        return out, after, found

    def _written(
        self, past: KeyValues, new: KeyValues, tokens: TokenPositions, context: TimeContext
    ) -> KeyValues:
        """Keys and values of all tokens by position, those of the call among them."""
        where = tokens.position
        if tokens.valid is not None:
            where = jnp.where(tokens.valid, where, NOWHERE)
        where, every = context.gather((where, new))
        write = _write if context.size == 1 else _write_run
        return jax.tree.map(lambda old, x: write(old, x, where), past, every)

    def init_state(self, batch_size: int, capacity: int | None = None) -> AttentionState:
        """Nothing seen: W - 1 empty places, or ``capacity`` (default max_length) without window."""
        if self.config.window is not None:
            places = self.config.window - 1
        else:
            places = self.config.max_length if capacity is None else capacity
        return AttentionState(Positions.zero(batch_size), self.heads.empty(batch_size, places))

    def flops_per_token(self, length: int) -> float:
        """Projections, and scores and mixing over the keys that an average query sees."""
        seen = (length + 1) / 2
        if self.config.window is not None:
            seen = min(self.config.window, seen)
        width = self.heads.n_heads * self.heads.d_head
        return self.heads.projection_flops() + 4.0 * width * seen


def _write(past: Array, new: Array, where: Int[Array, "B L"]) -> Array:
    """Put tokens at their positions; what has no place is dropped."""
    rows = jnp.arange(past.shape[0])[:, None]
    return past.at[rows, where].set(new.astype(past.dtype), mode="drop")


def _write_run(past: Array, new: Array, where: Int[Array, "B L"]) -> Array:
    """:func:`_write` of tokens at positions that follow one another.

    XLA cannot partition a scatter over the axes that remain within a manual one.
    """
    index = jnp.arange(past.shape[1], dtype=jnp.int32) - where[:, :1]
    inside = (index >= 0) & (index < new.shape[1])
    safe = jnp.clip(index, 0, new.shape[1] - 1)[..., None, None]
    held = jnp.take_along_axis(new.astype(past.dtype), safe, axis=1)
    return jnp.where(inside[..., None, None], held, past)
