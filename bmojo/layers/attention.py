"""Attention as a mixer: over the whole past, or over a sliding window."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers import kernels
from bmojo.layers.heads import Heads, KeyValues, check_heads
from bmojo.layers.protocol import SequenceShard
from bmojo.layers.sight import Sight
from bmojo.layers.time_sharding import UNSHARDED, TimeContext, open_context
from bmojo.layers.trace import Trace
from bmojo.ops.attention import causal_spread, rotate, spread_view
from bmojo.ops.attention_choice import Implementation, check_implementation
from bmojo.ops.convolution import next_tail
from bmojo.ops.positions import Positions, TokenPositions
from bmojo.types import Array, DType, Float, Int

NOWHERE = 2**30
"""Position of padding: beyond any capacity."""


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Attention over the past.

    Attributes:
      n_heads: query heads; d_model must be a multiple.
      n_kv_heads: key-value heads, a divisor of n_heads; None: n_heads.
      window: tokens that a query sees, its own included; None: the whole past.
      rope: rotary position embedding.
      rope_theta: its base.
      max_length: tokens that the state of full attention holds where nobody asks for more.
      attention_implementation: 'auto', 'xla' or 'pallas'; see
        :mod:`bmojo.ops.attention_choice`.
    """

    n_heads: int = 4
    n_kv_heads: int | None = None
    window: int | None = None
    rope: bool = False
    rope_theta: float = 10000.0
    max_length: int = 2048
    attention_implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        check_implementation(self.attention_implementation, "attention_implementation")
        check_heads(self.n_heads, self.n_kv_heads)
        if self.window is not None and self.window < 1:
            raise ValueError(
                f"window: counts the query's own token, so it is at least 1, got {self.window}"
            )
        if self.max_length < 1:
            raise ValueError(f"max_length: must be at least 1, got {self.max_length}")
        if self.rope_theta <= 0:
            raise ValueError(f"rope_theta: must be positive, got {self.rope_theta}")

    def make(
        self, d_model: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ) -> "Attention":
        """Make the mixer."""
        return Attention(d_model, self, rngs=rngs, dtype=dtype, param_dtype=param_dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionState:
    """Keys and values of the past.

    Attributes:
      positions: position of each row.
      past: with a window, the last W - 1 tokens in order of time; without, ``capacity``
        places of which the first ``positions.position`` are taken.
    """

    positions: Positions
    past: KeyValues


class Attention(nnx.Module):
    """softmax(q k^T) v over the past or a window of it, without or with rotary positions."""

    def __init__(
        self,
        d_model: int,
        config: AttentionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ) -> None:
        """Make the projections of queries, keys, values and output.

        Raises:
          ValueError: n_heads does not divide d_model, or leaves heads of odd width to rotate.
        """
        self.config, self.d_model = config, d_model
        if config.rope and d_model // config.n_heads % 2:
            raise ValueError(
                f"rope: heads must have an even width, got {d_model} / {config.n_heads}; "
                "change n_heads, or set it to False"
            )
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.heads = Heads(d_model, config.n_heads, config.n_kv_heads, **options)

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: AttentionState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], AttentionState]:
        """Attend; see :class:`bmojo.layers.protocol.Mixer`.

        Outputs beyond the capacity of a full attention's state are NaN: the tokens no longer
        fit, and a wrong number must not look right.
        """
        fresh = state is None
        context, state = open_context(state, lengths)
        reach = None
        if state is None:
            reach = context.size * u.shape[1]
            state = self.init_state(u.shape[0], max(reach, self.config.max_length))
        span, q, new, seen, after = self._project(u, state, segment_ids, lengths, context)
        if self.config.window is not None:
            sight = self._sight(new, seen, span)
            mixed = kernels.attend(q, sight, self.config.attention_implementation)
        elif fresh:
            name = self.config.attention_implementation
            mixed = kernels.attend_causally(q, new.k, new.v, span.segment_pos, name)
        else:
            k, v = seen.k[:, :reach], seen.v[:, :reach]  # no further, where nothing came before
            name = self.config.attention_implementation
            mixed = kernels.attend_causally(q, k, v, span.segment_pos, name, span.position)
            full = span.position >= seen.k.shape[1]
            mixed = jnp.where(full[..., None, None], jnp.nan, mixed)
        return self.heads.output(mixed), after

    def trace(
        self,
        u: Float[Array, "B L D"],
        state: AttentionState,
        lengths: Int[Array, "B"] | None = None,
        *,
        bins: int,
    ) -> Trace:
        """What a call would look at; see :class:`bmojo.layers.trace.Trace`."""
        span, q, new, seen, _ = self._project(u, state, None, lengths, UNSHARDED)
        if self.config.window is not None:
            spread = spread_view(q, self._sight(new, seen, span).view(), bins)
        else:
            spread = causal_spread(q, seen.k, span.segment_pos, span.position, bins)
        rows, length = span.position.shape
        nothing = jnp.zeros((rows, length, 0), jnp.int32)
        return Trace(spread, nothing, jnp.zeros((rows, 0), spread.dtype))

    def _project(
        self,
        u: Array,
        state: AttentionState,
        segment_ids: Array | None,
        lengths: Array | None,
        context: TimeContext,
    ) -> tuple[TokenPositions, Array, KeyValues, KeyValues, AttentionState]:
        """Where the tokens are, their queries, keys and values, other keys, and the next state.

        The other keys are those of the window's tokens before these, or, without a window,
        of all tokens by position.
        """
        span, positions = context.advance(state.positions, u.shape[1], segment_ids, lengths)
        q, new = self.heads.queries(u), self.heads.key_values(u)
        if self.config.rope:
            q = rotate(q, span.segment_pos, self.config.rope_theta)
            new = KeyValues(rotate(new.k, span.segment_pos, self.config.rope_theta), new.v)
        if self.config.window is None:
            where = span.position
            if span.valid is not None:
                where = jnp.where(span.valid, where, NOWHERE)
            where, every = context.gather((where, new))
            write = _write if context.size == 1 else _write_run
            seen = jax.tree.map(lambda old, x: write(old, x, where), state.past, every)
            return span, q, new, seen, AttentionState(context.last(positions), seen)
        seen = context.tail(state.past, new)
        after = jax.tree.map(lambda tail, x: next_tail(tail, x, lengths), seen, new)
        return span, q, new, seen, context.last(AttentionState(positions, after))

    def _sight(self, new: KeyValues, tail: KeyValues, span: TokenPositions) -> Sight:
        """What the window shows."""
        assert self.config.window is not None
        return Sight(self.config.window, new, tail, span.segment_pos)

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
        return self.heads.projection_flops() + 4.0 * self.d_model * seen


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
