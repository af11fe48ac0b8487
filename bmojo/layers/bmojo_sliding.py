"""The sliding form of B'MOJO-F, as the authors' released code has it."""

import dataclasses
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.bmojo_config import MemoryOptions
from bmojo.layers.heads import KeyValues, MemoryHeads
from bmojo.layers.protocol import Aux, AuxRequest, Mixer, Options, State, unchanged
from bmojo.ops.attention_mass import memory_mass
from bmojo.ops.masks import Slots, memory_keys
from bmojo.ops.memory_attention import memory_attention
from bmojo.ops.positions import Positions, next_tail
from bmojo.ops.time_sharding import SequenceShard, open_context
from bmojo.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class SlidingBMojoConfig(MemoryOptions):
    """B'MOJO-F whose query i sees tokens at [i-W+1, i] and SSM outputs at [i-2W+1, i-W].

    Attributes:
      window: W, tokens that a query sees verbatim, its own included, and SSM outputs.
      n_heads: query heads.
      n_kv_heads: key-value heads, a divisor of n_heads; None: n_heads.
      fading: config of the fading cell, any mixer.
      tokens: as in :class:`bmojo.layers.bmojo.BMojoConfig`: 'ssm', 'conv' or 'input'.
      read_fading: add the SSM's output to the layer's output.
      tie_projections: SSM outputs share the key and value projections of tokens.
      attention_implementation: see :mod:`bmojo.ops.memory_attention`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError(f"window: must be at least 1, got {self.window}")
        if self.fading is None:
            raise ValueError("fading: the sliding form needs a cell, whose outputs it attends to")

    def _make(self, d_model: int, **options: Unpack[Options]) -> "SlidingBMojo":
        return SlidingBMojo(d_model, self, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlidingBMojoState:
    """The layer's memory between two calls.

    Attributes:
      positions: of each row.
      fading: state of the fading cell.
      inputs: the last inputs, for ``tokens='conv'``.
      window: keys and values of the last W - 1 tokens.
      faded: those of the last 2 W - 1 SSM outputs.
    """

    positions: Positions
    fading: State
    inputs: Float[Array, "... inputs D"]
    window: KeyValues
    faded: KeyValues


class SlidingBMojo(nnx.Module):
    """out_t = y_t + W_o Attn(q_t; window, SSM outputs before the window), y = SSM(u)."""

    groups: ClassVar[dict[str, str]] = {"fading": "ssm"}

    def __init__(
        self, d_model: int, config: SlidingBMojoConfig, **options: Unpack[Options]
    ) -> None:
        """Make the fading cell and the heads."""
        assert config.fading is not None
        self.config, self.d_model, self.dtype = config, d_model, options["dtype"]
        self.fading: Mixer = config.fading.make(d_model, **options)
        self.heads = MemoryHeads(
            d_model,
            config.n_heads,
            config.n_kv_heads,
            tokens=config.tokens,
            own_fading=not config.tie_projections,
            **options,
        )

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: SlidingBMojoState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Mix L new tokens; see :class:`bmojo.layers.protocol.Mixer`."""
        if not u.size:
            return unchanged(self, u, state, aux)
        config, window, heads = self.config, self.config.window, self.heads
        context, before, tokens, positions = open_context(
            self.init_state, state, u, segment_ids, lengths
        )

        # 1. Fading memory and contextualised tokens.
        y, fading = self.fading(u, context.inner(before.fading), segment_ids, lengths)
        q, new, inputs = heads.contextualised(u, y, before.inputs, tokens.segment_pos, context)
        tied = config.tie_projections
        faded = heads.key_values(y) if tied else heads.fading_key_values(y)
        tail, outputs = context.tail((before.window, before.faded), (new, faded))

        # 2. A chunk may see the SSM outputs of the two chunks before it, by their distance.
        held = jax.tree.map(lambda old, x: _two_chunks_back(old, x, window), outputs, faded)
        distance = jnp.arange(2 * window, 0, -1, dtype=jnp.int32)
        slots = Slots(
            held.k, held.v, jnp.broadcast_to(distance, (*held.k.shape[:2], 1, 2 * window))
        )

        # 3. One softmax over both, output and next state.
        operands = (new.k, new.v, tail.k, tail.v, tokens.segment_pos)
        options: dict[str, Any] = {"window": window, "slots": slots}
        options["slot_range"] = (window, 2 * window)
        implementation = config.attention_implementation
        mixed = memory_attention(q, *operands, **options, implementation=implementation)
        out = heads.output(mixed)
        out = out + y if config.read_fading else out
        tails = next_tail((inputs, tail, outputs), (u, new, faded), lengths)
        after = dataclasses.replace(
            context.last(SlidingBMojoState(positions, (), *tails)), fading=fading
        )
        if aux is None:
            return out, after
        found = Aux(q, new.k, new.v) if aux.entries else Aux()
        if aux.bins:
            keys = memory_keys(*operands, **options, num_fading=2 * window)
            found = dataclasses.replace(found, mass=memory_mass(q, keys, aux.bins))
        return out, after, found

    def init_state(self, batch_size: int, capacity: int | None = None) -> SlidingBMojoState:
        """Nothing seen: zero fading state, empty windows; ``capacity`` is unused."""
        return SlidingBMojoState(
            positions=Positions.zero(batch_size),
            fading=self.fading.init_state(batch_size, capacity),
            inputs=jnp.zeros((batch_size, self.heads.reach, self.d_model), self.dtype),
            window=self.heads.empty(batch_size, self.config.window - 1),
            faded=self.heads.empty(batch_size, 2 * self.config.window - 1),
        )

    def flops_per_token(self, length: int) -> float:
        """The cell, the projections, and attention to W tokens and W outputs at most."""
        window, d_kv = self.config.window, self.heads.n_kv_heads * self.heads.d_head
        seen = min(window, (length + 1) / 2) + max(0.0, min(window, (length + 1) / 2 - window))
        projections = self.heads.projection_flops() + 4.0 * self.d_model * d_kv
        return self.fading.flops_per_token(length) + projections + 4.0 * self.d_model * seen


def _two_chunks_back(
    tail: Float[Array, "B T G P"], x: Float[Array, "B L G P"], window: int
) -> Float[Array, "B C M G P"]:
    """For each chunk of the call the M = 2 W entries before it."""
    rows, chunks = x.shape[0], -(-x.shape[1] // window)
    past = jnp.pad(jnp.concatenate([tail, x], axis=1), [(0, 0), (1, 0), (0, 0), (0, 0)])
    past = past[:, : (chunks + 1) * window].reshape(rows, chunks + 1, window, *x.shape[2:])
    return jnp.concatenate([past[:, :-1], past[:, 1:]], axis=2)
