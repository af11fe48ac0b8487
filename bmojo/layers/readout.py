"""Verbatim read-out: a part of the model beside its head that answers with stored tokens.

With final features h_t, key k_t and query q_t divided by their norms, n_t entries read and
l_t the log-sum-exp of the scores (:mod:`bmojo.ops.readout`):

    scale_t = exp(tau) (1 + beta log(n_t / 1024) / log 1024)
    g_t     = sigmoid(h_t . w_g + b_g + lambda (l_t - 15)), 0 where nothing is read
    p_t     = (1 - g_t) head_t + g_t c_t

Token t reads the entries i with e - R <= i < t of its document, e being the last edge of chunks of
C tokens at or before it, so that the ring holds R to R + C - 1 entries behind each token; and those
in M slots, chosen at e among all that left the ring before (:mod:`bmojo.ops.retention`).
"""

import dataclasses
import math
from typing import ClassVar, Unpack, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.protocol import MakesMixer, Options
from bmojo.ops.axes import Names
from bmojo.ops.positions import Positions, TokenPositions, next_tail
from bmojo.ops.readout import (
    IMPLEMENTATIONS,
    Entries,
    Implementation,
    Lookup,
    Query,
    Stretch,
    copy_distribution,
    log_share,
    ngram_hashes,
)
from bmojo.ops.retention import VACANT, Kept, Retention, Rule
from bmojo.ops.time_sharding import SequenceShard, TimeContext, open_context
from bmojo.types import Array, Float, Int, UInt32, at_least_float32

USUAL_ENTRIES = 1024
"""n_0, entries at which the scale is exp(tau)."""

USUAL_LSE = 15.0
"""Log-sum-exp of the scores at which lambda does nothing."""


@dataclasses.dataclass(frozen=True)
class ReadoutConfig(MakesMixer):
    """A verbatim read-out.

    Attributes:
      ring: R, entries behind the last chunk edge that every token reads.
      slots: M, entries kept beyond the ring. Both 0: no read-out.
      rule: which are kept, see :mod:`bmojo.ops.retention`.
      half_life: tokens of age by which the cost of a kept entry grows by one; 0: age is free.
      seed: of the rule ``random``.
      chunk: C, tokens between two edges.
      d_key: width of keys and queries.
      orders: the n of the suffix matches: the score of an entry is higher if the last n tokens
        before its answer are the last n tokens now; (): none.
      implementation: see :func:`bmojo.ops.readout.log_share`.
    """

    ring: int = 1024
    slots: int = 0
    rule: Rule = "redundancy"
    half_life: float = 0.0
    seed: int = 0
    chunk: int = 128
    d_key: int = 32
    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12)
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        self._check_positive("chunk", "d_key")
        for name in ("ring", "slots", "half_life"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be at least 0, got {getattr(self, name)}")
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule: must be one of {get_args(Rule)}, got {self.rule!r}")
        if any(n < 1 for n in self.orders) or sorted(set(self.orders)) != list(self.orders):
            raise ValueError(f"orders: must ascend from 1 or more, got {self.orders}")
        IMPLEMENTATIONS.check(self.implementation)

    @property
    def implementations(self) -> dict[str, str]:
        """The implementation of the read-out on this machine."""
        return {"read-out": IMPLEMENTATIONS.describe(self.implementation)} if self.reads else {}

    @property
    def reads(self) -> bool:
        """Whether there is anything to read."""
        return self.ring + self.slots > 0

    @property
    def held(self) -> int:
        """Entries behind each token, the last of which waits for its answer."""
        return self.ring + self.chunk - (self.slots == 0)

    def _make(self, d_model: int, **options: Unpack[Options]) -> "Readout":
        return Readout(d_model, self, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReadoutState:
    """The ring, oldest entry first, and the slots.

    Attributes:
      positions: of the rows.
      k: keys of the last R + C - 1 tokens (one more with slots); the last of them waits for the
        token after it.
      tokens: those tokens, and before them as many as the longest n-gram at the first key needs.
      kept: the slots at the last edge; those of an earlier document count as vacant.
    """

    positions: Positions
    k: Float[Array, "B T P"]
    tokens: Int[Array, "B S"]
    kept: Kept


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Look:
    """The tokens of a call, to be scored or predicted.

    Attributes:
      lookup: tokens and entries.
      gate: logit of g_t without the part of l_t.
      gate_lse: lambda.
      implementation: of the read-out.
    """

    lookup: Lookup
    gate: Float[Array, "B L"]
    gate_lse: Float[Array, ""]
    implementation: str = dataclasses.field(metadata={"static": True})

    def part(self, first: Array, size: int) -> "Look":
        """The same for ``size`` tokens from ``first`` on."""
        gate = jax.lax.dynamic_slice_in_dim(self.gate, first, size, 1)
        lookup = self.lookup.part(first, size)
        return dataclasses.replace(self, lookup=lookup, gate=gate)


class Readout(nnx.Module):
    """Keys, queries and gate from final features."""

    axes: ClassVar[dict[str, Names]] = {"proj.kernel": ("embed", None)}
    undecayed: ClassVar[tuple[str, ...]] = ("log_scale", "length", "match", "gate", "gate_lse")

    def __init__(self, d_model: int, config: ReadoutConfig, **options: Unpack[Options]) -> None:
        """Draw the projection of keys and queries; the gate starts nearly shut."""
        self.config, self.d_model = config, d_model
        param_dtype = options["param_dtype"]
        self.proj = nnx.Linear(d_model, 2 * config.d_key, use_bias=False, **options)
        self.gate_proj = nnx.Linear(
            d_model, 1, use_bias=False, kernel_init=nnx.initializers.zeros, **options
        )
        number = lambda *x: nnx.Param(jnp.array(x, param_dtype).reshape(()))  # noqa: E731
        self.log_scale, self.length = number(2.0), number(0.0)
        self.gate, self.gate_lse = number(-3.0), number(0.0)
        self.match = nnx.Param(jnp.full((len(config.orders),), 0.3, param_dtype))

    def __call__(
        self,
        h: Float[Array, "B L D"],
        tokens: Int[Array, "B L"],
        state: ReadoutState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Look, ReadoutState]:
        """Place the tokens behind the ring.

        Args:
          h: final features.
          tokens: of the call.
          state: of the read-out; as a mixer's, as are the following.
          segment_ids: document of each token.
          lengths: valid tokens of each row.
        """
        number, config = at_least_float32(h.dtype), self.config
        context, before, at, positions = open_context(
            self.init_state, state, h, segment_ids, lengths
        )
        # 1. Keys and queries of norm 1; the tail of what came before.
        q, k = jnp.split(self.proj(h).astype(number), 2, axis=-1)
        q, k = (x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-12) for x in (q, k))
        tail_k, tail_tokens = context.tail((before.k, before.tokens), (k, tokens))
        # 2. Entries, and the n-grams that end at the tokens of the call.
        length, held = tokens.shape[1], tail_k.shape[1]
        recent, own = self._entries(tail_k, tail_tokens, k, tokens, at.segment_pos)
        # 3. What each token reads: a stretch of the ring, and the valid slots of the last edge.
        place = jnp.broadcast_to(held + jnp.arange(length, dtype=jnp.int32), at.position.shape)
        chunk = at.position % config.chunk
        stretches = [Stretch(place, jnp.minimum(at.segment_pos, chunk + config.ring))]
        bands, spans, kept = [recent], [(config.ring + config.chunk - 1, 1, 1)], before.kept
        if config.slots:
            band, stretch, kept = self._slots(before, context, at, recent, (k, tokens))
            bands.append(band)
            stretches.append(stretch)
            spans.append((config.slots, config.slots, config.chunk))
        # 4. The scale, by the number of entries read.
        count = sum(stretch.reach for stretch in stretches)
        count = jnp.log(jnp.maximum(count, 1).astype(number)) / math.log(USUAL_ENTRIES) - 1
        scale = jnp.exp(self.log_scale[...].astype(number))
        scale = scale * (1 + self.length[...].astype(number) * count)
        query = Query(q, scale, jnp.moveaxis(own, 0, 2), tuple(stretches))
        match = self.match[...].astype(number)
        lookup = Lookup(query, match, tuple(bands), spans=tuple(spans))
        gate = self.gate_proj(h)[..., 0].astype(number) + self.gate[...].astype(number)
        # 5. The ring after the valid tokens.
        rings = (before.k, before.tokens) if context.size == 1 else (tail_k, tail_tokens)
        after = ReadoutState(positions, *next_tail(rings, (k, tokens), lengths), kept)
        look = Look(lookup, gate, self.gate_lse[...].astype(number), config.implementation)
        return look, context.last(after)

    def _entries(
        self,
        tail_k: Float[Array, "B T P"],
        tail_tokens: Int[Array, "B S"],
        k: Float[Array, "B L P"],
        tokens: Int[Array, "B L"],
        segment_pos: Int[Array, "B L"],
    ) -> tuple[Entries, UInt32[Array, "n B L"]]:
        """The last T entries before some tokens, and theirs; and the tokens' own n-grams."""
        words = jnp.concatenate([tail_tokens, tokens], axis=1)
        behind, held = tail_tokens.shape[1], tail_k.shape[1]
        steps = jnp.arange(-behind, 0, dtype=jnp.int32)
        places = jnp.concatenate([segment_pos[:, :1] + steps, segment_pos], axis=1)
        of_entries, own = ngram_hashes(words, places, self.config.orders)
        answers = jnp.roll(words[:, behind - held :], -1, axis=1)
        k = jnp.concatenate([tail_k, k], axis=1)
        return Entries(k, answers, of_entries[:, :, behind - held :]), own[:, :, behind:]

    def _slots(
        self,
        before: ReadoutState,
        context: TimeContext,
        at: TokenPositions,
        recent: Entries,
        new: tuple[Float[Array, "B L P"], Int[Array, "B L"]],
    ) -> tuple[Entries, Stretch, Kept]:
        """The slots of all edges as a band, what each token reads of it, and those after the call.

        The choice is serial: of a sequence over several devices each makes it for all of them.
        """
        config, everywhere = self.config, at
        rule = Retention(config.slots, config.rule, config.half_life, config.seed)
        if context.size > 1:
            k, tokens, position, segment_pos = context.gather((*new, at.position, at.segment_pos))
            recent, _ = self._entries(before.k, before.tokens, k, tokens, segment_pos)
            lengths = at.lengths * context.size
            everywhere = TokenPositions(position, segment_pos, None, None, lengths)
        sets = rule.sets(before.kept, recent, everywhere, config.ring, config.chunk)
        first = (everywhere.position[:, 0] - 1) // config.chunk
        which = at.position // config.chunk - first[:, None]
        # A document that started after an edge reads none of the slots of that edge.
        newest = jnp.take_along_axis(sets.position[..., -1], which, axis=1)
        count = (sets.position != VACANT).sum(axis=-1, dtype=jnp.int32)
        count = jnp.take_along_axis(count, which, axis=1)
        reach = jnp.where(newest >= at.position - at.segment_pos, count, 0)
        flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
        entries = sets.entries
        band = Entries(
            entries.k.reshape(len(entries.k), -1, config.d_key),
            flat(entries.answers),
            entries.hashes.reshape(*entries.hashes.shape[:2], -1),
        )
        last = everywhere.position[:, 0] + everywhere.lengths - 1
        reached = last // config.chunk - first
        return band, Stretch((which + 1) * config.slots, reach), sets.at(reached)

    def init_state(self, batch_size: int) -> ReadoutState:
        """The state before the first token."""
        config, number = self.config, at_least_float32(self.proj.dtype)
        orders, size, slots = config.orders, config.held, (batch_size, config.slots)
        k = jnp.zeros((batch_size, size, config.d_key), number)
        tokens = jnp.zeros((batch_size, size + max(orders, default=1) - 1), jnp.int32)
        entries = Entries(
            jnp.zeros((*slots, config.d_key), number),
            jnp.zeros(slots, jnp.int32),
            jnp.zeros((len(orders), *slots), jnp.uint32),
        )
        kept = Kept(entries, jnp.full(slots, VACANT, jnp.int32), jnp.full(slots, -1, number))
        return ReadoutState(Positions.zero(batch_size), k, tokens, kept)

    def flops_per_token(self, length: int) -> float:
        """Projections, and products and sums over the mean number of entries."""
        ring, chunk = self.config.ring, self.config.chunk
        read = min(length / 2, ring + chunk / 2 + self.config.slots)
        return self.d_model * (4.0 * self.config.d_key + 2) + read * (
            4 * self.config.d_key + len(self.config.orders)
        )


def mixed_loss(look: Look, losses: Array, targets: Array) -> Array:
    """-log p_t(target), from the head's -log head_t(target)."""
    share, lse = log_share(look.lookup, targets, look.implementation)
    shut, opened = log_gate(look, lse)
    return -jnp.logaddexp(shut - losses, _add(opened, share))


def mixed_log_probabilities(
    look: Look, logits: Float[Array, "B A V"], at: Int[Array, "B A"] | None = None
) -> Float[Array, "B A V"]:
    """Logarithm of p_t of all tokens, or of those ``at`` some places of the call."""
    if at is not None:
        gate = jnp.take_along_axis(look.gate, at, axis=1)
        look = dataclasses.replace(look, gate=gate, lookup=look.lookup.take(at))
    copied, lse = copy_distribution(look.lookup, logits.shape[-1], look.implementation)
    shut, opened = log_gate(look, lse)
    head = jax.nn.log_softmax(logits, axis=-1) + shut[..., None]
    copied = jnp.where(copied > 0, jnp.log(jnp.where(copied > 0, copied, 1)), -jnp.inf)
    return jnp.logaddexp(head, _add(opened[..., None], copied))


def log_gate(look: Look, lse: Array) -> tuple[Array, Array]:
    """log(1 - g_t) and log g_t: 0 and -inf where nothing is read."""
    some = lse > -jnp.inf
    logit = look.gate + look.gate_lse * (jnp.where(some, lse, USUAL_LSE) - USUAL_LSE)
    return (
        jnp.where(some, jax.nn.log_sigmoid(-logit), 0),
        jnp.where(some, jax.nn.log_sigmoid(logit), -jnp.inf),
    )


def _add(a: Array, b: Array) -> Array:
    """Sum of logarithms; -inf, without a gradient, where one of them is."""
    some = (a > -jnp.inf) & (b > -jnp.inf)
    return jnp.where(some, jnp.where(some, a, 0) + jnp.where(some, b, 0), -jnp.inf)
