"""B'MOJO: eidetic memory, fading memory and a sliding window under one softmax."""

import dataclasses
from typing import Any, ClassVar, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.layers.bmojo_config import BMojoOptions, BMojoState
from bmojo.layers.eidetic_memory import EideticMemory, eidetic_slots, fading_slots, freeze
from bmojo.layers.heads import KeyValues, MemoryHeads
from bmojo.layers.protocol import Aux, AuxRequest, Mixer, Options, unchanged
from bmojo.ops.attention_mass import memory_mass
from bmojo.ops.masks import EIDETIC, NEVER, AttentionKeys, Slots, memory_keys
from bmojo.ops.memory_attention import memory_attention
from bmojo.ops.positions import Positions, next_tail
from bmojo.ops.selection import VACANT, InnovationSelection
from bmojo.ops.time_sharding import SequenceShard, open_context
from bmojo.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class BMojoConfig(BMojoOptions):
    """The layer of arXiv 2407.06324, section 3.

    Attributes:
      window: W, tokens that a query sees verbatim, its own included, and the length of a
        chunk. 0: no attention at all, the mixer is its fading cell.
      n_heads: query heads.
      n_kv_heads: key-value heads, a divisor of n_heads; None: n_heads.
      fading: config of the fading cell, any mixer; None: none, for a plain window.
      tokens: the tokens that keys, values and eidetic slots are made from: 'ssm' is the input
        plus the SSM's output there, 'conv' the input plus a short causal convolution of it,
        'input' the bare input.
      read_fading: add the SSM's output to the layer's output.
      tie_projections: fading slots share the key and value projections of tokens.
      attention_implementation: 'auto' (the fastest here), 'xla' (any device), 'native' (C++
        kernels for CPUs) or 'pallas' (kernels for TPUs and GPUs); see
        :mod:`bmojo.ops.memory_attention`.
      num_fading: m_f, fading slots: the last SSM outputs before the chunk.
      num_eidetic: m_e, eidetic slots: the most surprising tokens before the chunk. 0 is
        B'MOJO-F.
      span: k, SSM outputs that the predictor of the innovation averages.
      normalize_innovation: scale each channel's residual by its running variance.
    """

    def _make(self, d_model: int, **options: Unpack[Options]) -> "Mixer":
        if self.window == 0 and self.fading is not None:
            return self.fading.make(d_model, **options)
        return BMojo(d_model, self, **options)


class BMojo(nnx.Module):
    """out_t = y_t + W_o Attn(q_t; window, fading and eidetic slots), y = SSM(u).

    The chunked form of arXiv 2407.06324, section 3.2: time is cut into chunks of W tokens, and
    the slots that a chunk sees are frozen at its start.
    :func:`bmojo.layers.bmojo_reference.bmojo_reference`
    is the same layer token by token.
    """

    groups: ClassVar[dict[str, str]] = {"fading": "ssm"}

    def __init__(self, d_model: int, config: BMojoOptions, **options: Unpack[Options]) -> None:
        """Make the fading cell and the heads."""
        self.config, self.d_model, self.dtype = config, d_model, options["dtype"]
        self.rule = InnovationSelection(
            config.num_eidetic, config.span, config.normalize_innovation
        )
        cell = None if config.fading is None else config.fading.make(d_model, **options)
        self.fading: Mixer | None = nnx.data(cell)
        self.heads = MemoryHeads(
            d_model,
            config.n_heads,
            config.n_kv_heads,
            tokens=config.tokens,
            own_fading=config.num_fading > 0 and not config.tie_projections,
            **options,
        )

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: BMojoState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Mix L new tokens; see :class:`bmojo.layers.protocol.Mixer`."""
        if not u.size:
            return unchanged(self, u, state, aux)
        config, window, heads, rule = self.config, self.config.window, self.heads, self.rule
        context, before, tokens, positions = open_context(
            self.init_state, state, u, segment_ids, lengths
        )
        # Tokens of the current chunk that precede the call; None: it begins at a chunk edge.
        offset = None if context.first else tokens.position[:, 0] % window

        # 1. Fading memory: y = SSM(u).
        y, fading = jnp.zeros_like(u), before.fading
        if self.fading is not None:
            y, fading = self.fading(u, context.inner(before.fading), segment_ids, lengths)

        # 2. Contextualised tokens: queries from u, keys and values from u + y.
        q, new, inputs = heads.contextualised(u, y, before.inputs, tokens.segment_pos, context)
        outputs, tail = context.tail((before.outputs, before.window), (y, new))

        # 3. Innovation: how badly the last outputs predict y.
        score, power = None, before.eidetic.chosen.power
        if config.num_eidetic:
            seen = before.positions.segment_pos, positions.segment_pos
            chosen = before.eidetic.chosen
            score, power = rule.score(chosen, y, outputs, tokens, lengths, context, seen)

        # 4. Slots frozen at chunk edges: the last outputs, and the tokens of largest innovation.
        edges, eidetic = [], before.eidetic
        if config.num_fading:
            held, distance = fading_slots(outputs, y, config.num_fading, window, offset)
            tied = config.tie_projections
            faded = heads.key_values(held) if tied else heads.fading_key_values(held)
            edges.append(Slots(faded.k, faded.v, distance))
        if score is not None:
            selected, eidetic = eidetic_slots(
                rule, before.eidetic, score, power, new, tokens, window, offset, context
            )
            edges.append(selected)
        slots, frozen = freeze(before.slots, edges, before.stored, tokens, window, offset, context)

        # 5. One softmax over window, fading and eidetic keys.
        operands = (new.k, new.v, tail.k, tail.v, tokens.segment_pos)
        options: dict[str, Any] = {"window": window, "slots": slots, "offset": offset}
        implementation = config.attention_implementation
        mixed = memory_attention(q, *operands, **options, implementation=implementation)

        # 6. Output and next state.
        out = heads.output(mixed)
        out = out + y if config.read_fading else out
        inputs, outputs, tail = next_tail((inputs, outputs, tail), (u, y, new), lengths)
        after = BMojoState(positions, (), inputs, outputs, tail, frozen, eidetic, before.stored)
        after = dataclasses.replace(context.last(after), fading=fading)
        if aux is None:
            return out, after
        found = Aux(q, new.k, new.v, score) if aux.entries else Aux(innovation=score)
        if aux.bins:
            keys = memory_keys(*operands, **options, num_fading=config.num_fading)
            held = held_positions(keys, tokens.position)
            found = dataclasses.replace(found, mass=memory_mass(q, keys, aux.bins), held=held)
        return out, after, found

    def init_state(self, batch_size: int, capacity: int | None = None) -> BMojoState:
        """Nothing seen: zero fading state, empty window, vacant slots; ``capacity`` is unused."""
        config, rows = self.config, batch_size
        slots = config.num_fading + config.num_eidetic
        shapes = (
            (rows, places, self.heads.n_kv_heads, self.heads.d_head)
            for places in (config.window - 1, config.num_eidetic, slots, 0)
        )
        window, kept, frozen, stored = (jnp.zeros(shape, self.dtype) for shape in shapes)
        vacant = jnp.full((rows, 1, slots), NEVER, jnp.int32)
        count = max(config.span if config.num_eidetic else 0, config.num_fading)
        return BMojoState(
            positions=Positions.zero(rows),
            fading=() if self.fading is None else self.fading.init_state(rows, capacity),
            inputs=jnp.zeros((rows, self.heads.reach, self.d_model), self.dtype),
            outputs=jnp.zeros((rows, count, self.d_model), self.dtype),
            window=KeyValues(window, window),
            slots=Slots(frozen, frozen, vacant),
            eidetic=EideticMemory(
                self.rule.init_state(rows, self.d_model, self.dtype), KeyValues(kept, kept)
            ),
            stored=Slots(stored, stored, vacant[..., :0]),
        )

    def flops_per_token(self, length: int) -> float:
        """The cell, the projections, and attention to W + m_f + m_e keys at most."""
        config = self.config
        cell = 0.0 if self.fading is None else self.fading.flops_per_token(length)
        d_kv = self.heads.n_kv_heads * self.heads.d_head
        seen = min(config.window, (length + 1) / 2)
        seen += config.num_fading + min(config.num_eidetic, length)
        faded = 4.0 * self.d_model * d_kv * config.num_fading / config.window
        return cell + self.heads.projection_flops() + faded + 4.0 * self.d_model * seen


def held_positions(keys: AttentionKeys, position: Int[Array, "B L"]) -> Int[Array, "B L slots"]:
    """Positions of the tokens in the eidetic slots that each query sees, VACANT where none is."""
    chosen = np.flatnonzero(keys.tier == EIDETIC)
    rows, blocks, _, block = keys.mask.shape[:4]
    seen, distance = (
        x[:, :, 0][..., chosen].reshape(rows, blocks * block, -1)[:, : position.shape[1]]
        for x in (keys.mask, keys.distance)
    )
    return jnp.where(seen, position[..., None] - distance, VACANT)
