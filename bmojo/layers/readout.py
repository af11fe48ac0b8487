"""Verbatim read-out: a part of the model beside its head that answers with stored tokens.

With final features h_t, key k_t and query q_t divided by their norms, n_t entries read and
l_t the log-sum-exp of the scores (:mod:`bmojo.ops.readout`):

    scale_t = exp(tau) (1 + beta log(n_t / 1024) / log 1024)
    g_t     = sigmoid(h_t . w_g + b_g + lambda (l_t - 15)), 0 where nothing is read
    p_t     = (1 - g_t) head_t + g_t c_t

Token t reads the entries i with e - R <= i < t of its document, e being the last edge of chunks of
C tokens at or before it, so that the ring holds R to R + C - 1 entries behind each token; and those
in M slots, chosen at e among all that left the ring before (:mod:`bmojo.ops.retention`); and of all
that left it, those that match the last tokens (:mod:`bmojo.ops.matching`).
"""

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple, Unpack, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.protocol import MakesMixer, Options
from bmojo.ops.axes import Names
from bmojo.ops.matching import Ngram, NgramIndex, match
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
from bmojo.types import Array, Bool, Float, Int, UInt32, at_least_float32

USUAL_ENTRIES = 1024
"""n_0, entries at which the scale is exp(tau)."""

ROOM = 4096
"""Places of a store for entries that earlier tokens of a call read and later ones do not."""

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
      matches: further entries that left the ring and that each token reads, the newest whose last
        ``match_order`` tokens are the last tokens now; 0: none.
      match_order: n of the matches.
      capacity: N, entries that left the ring and may match, the newest; of a size in memory.
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
    matches: int = 0
    match_order: int = 4
    capacity: int = 65536
    chunk: int = 128
    d_key: int = 32
    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12)
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        self._check_positive("chunk", "d_key", "match_order", "capacity")
        for name in ("ring", "slots", "half_life", "matches"):
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
        return self.ring + self.slots + self.matches > 0

    @property
    def held(self) -> int:
        """Entries behind each token, the last of which waits for its answer."""
        return self.ring + self.chunk - (self.slots + self.matches == 0)

    def _make(self, d_model: int, **options: Unpack[Options]) -> "Readout":
        return Readout(d_model, self, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Store:
    """The newest entries that left the ring; that at position p in place p mod their number.

    Attributes:
      entries: ``capacity + ROOM``; none if none are matched.
      index: of the n-grams of the newest ``capacity``.
    """

    entries: Entries
    index: NgramIndex


Tail = tuple[Array, ...]
"""Keys, hashes, tokens and segment_pos of some tokens; there may be more of the last two."""


class Whole(NamedTuple):
    """The tokens of a call on all devices.

    Attributes:
      at: their positions.
      recent: the last entries before them, and theirs.
      words: the last tokens before them, and they.
      behind: tokens of the same document before each.
    """

    at: TokenPositions
    recent: Entries
    words: Int[Array, "B S+L"]
    behind: Int[Array, "B S+L"]

    def set_of(self, position: Int[Array, "B L"], chunk: int) -> Int[Array, "B L"]:
        """Which of the sets of slots (:meth:`Retention.sets`) are read at some positions."""
        if self.at.position.shape[1] == 1:
            return jnp.zeros_like(position)
        return position // chunk - (self.at.position[:, :1] - 1) // chunk

    def last_set(self, chunk: int) -> Int[Array, "B"]:
        """The set after the last valid token."""
        last = self.at.position[:, 0] + self.at.lengths - 1
        return self.set_of(last[:, None], chunk)[:, 0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReadoutState:
    """The ring, oldest entry first, and the slots.

    Attributes:
      positions: of the rows.
      k: keys of the last R + C - 1 tokens, or one more if entries are kept beyond the ring; the
        last of them waits for the token after it.
      hashes: of the n-grams that end at them.
      tokens: those tokens, and before them as many as the longest n-gram at the first key needs.
      segment_pos: tokens of the same document before each.
      kept: the slots at the last edge; those of an earlier document count as vacant.
      store: the entries that left the ring.
    """

    positions: Positions
    k: Float[Array, "B T P"]
    hashes: UInt32[Array, "B T n"]
    tokens: Int[Array, "B S"]
    segment_pos: Int[Array, "B S"]
    kept: Kept
    store: Store


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

    def __init__(
        self,
        d_model: int,
        config: ReadoutConfig,
        vocab_size: int = 2**31,
        **options: Unpack[Options],
    ) -> None:
        """Draw the projection of keys and queries; the gate starts nearly shut."""
        self.config, self.d_model, self.vocab_size = config, d_model, vocab_size
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
        # 1. Keys and queries of norm 1, and the n-grams that end at the tokens.
        q, k = jnp.split(self.proj(h).astype(number), 2, axis=-1)
        q, k = (x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-12) for x in (q, k))
        words = context.tail((before.tokens, before.segment_pos), (tokens, at.segment_pos))
        of_entries, own = self._hashes(words, (tokens, at.segment_pos))
        # 2. The last entries before the call, and its own.
        old = before.k, before.hashes, before.tokens, before.segment_pos
        new = k, of_entries, tokens, at.segment_pos
        tail = *context.tail(old[:2], new[:2]), *words
        length, held, recent = tokens.shape[1], before.k.shape[1], _entries(tail, new)
        # 3. What each token reads: a stretch of the ring; valid slots of the last edge; matches.
        place = jnp.broadcast_to(held + jnp.arange(length, dtype=jnp.int32), at.position.shape)
        chunk = at.position % config.chunk
        stretches = [Stretch(place, jnp.minimum(at.segment_pos, chunk + config.ring))]
        bands, spans = [recent], [(config.ring + config.chunk - 1, 1, 1)]
        sets, stock, matched = None, None, None
        whole = self._whole(old, context, at, recent, new)
        if config.slots:
            sets = self._sets(before, whole)
            bands.append(sets.entries.flat)
            stretches.append(self._valid(sets, whole, at))
            spans.append((config.slots, config.slots, config.chunk))
        if config.matches:
            stock, matched, stored = self._matches(before, context, whole, at, sets)
        # 4. The scale, by the number of entries read.
        count = functools.reduce(jnp.add, [stretch.reach for stretch in stretches])
        if matched is not None:
            count = count + (matched >= 0).sum(axis=-1)
        count = jnp.log(jnp.maximum(count, 1).astype(number)) / math.log(USUAL_ENTRIES) - 1
        scale = jnp.exp(self.log_scale[...].astype(number))
        scale = scale * (1 + self.length[...].astype(number) * count)
        query = Query(q, scale, own, tuple(stretches), matched)
        match = self.match[...].astype(number)
        lookup = Lookup(query, match, tuple(bands), stock, tuple(spans))
        gate = self.gate_proj(h)[..., 0].astype(number) + self.gate[...].astype(number)
        # 5. The ring, slots and store after the valid tokens.
        rings = old if context.size == 1 else tail
        kept = before.kept if sets is None else sets.at(whole.last_set(config.chunk))
        store = before.store if stock is None else stored
        after = ReadoutState(positions, *next_tail(rings, new, lengths)[:4], kept, store)
        look = Look(lookup, gate, self.gate_lse[...].astype(number), config.implementation)
        return look, context.last(after)

    def _hashes(
        self, old: Tail, new: Tail
    ) -> tuple[UInt32[Array, "B L n"], UInt32[Array, "B L n"]]:
        """Hashes of the n-grams that end at new tokens, as of entries and as of queries.

        ``old`` and ``new`` are tokens and their segment_pos.
        """
        orders = self.config.orders
        before = max(orders, default=1) - 1
        words, places = (
            jnp.concatenate([x[:, x.shape[1] - before :], y], axis=1)
            for x, y in zip(old, new, strict=True)
        )
        of_entries, own = (
            jnp.swapaxes(x[:, :, before:], 1, 2) for x in ngram_hashes(words, places, orders)
        )
        return of_entries, own

    def _whole(
        self, old: Tail, context: TimeContext, at: TokenPositions, recent: Entries, new: Tail
    ) -> Whole:
        """The tokens of all devices: what is kept of them is a choice that each makes alike."""
        if context.size > 1 and (self.config.slots or self.config.matches):
            new, position = context.gather((new, at.position))
            recent, lengths = _entries(old, new), at.lengths * context.size
            at = TokenPositions(position, new[3], None, None, lengths)
        words, behind = (jnp.concatenate(x, axis=1) for x in zip(old[2:], new[2:], strict=True))
        return Whole(at, recent, words, behind)

    def _sets(self, before: ReadoutState, whole: Whole) -> Kept:
        """The slots of all edges."""
        config = self.config
        rule = Retention(config.slots, config.rule, config.half_life, config.seed)
        return rule.sets(before.kept, whole.recent, whole.at, config.ring, config.chunk)

    def _valid(self, sets: Kept, whole: Whole, at: TokenPositions) -> Stretch:
        """What each token reads of the slots: a document that started after their edge nothing."""
        which = whole.set_of(at.position, self.config.chunk)
        newest = jnp.take_along_axis(sets.position[..., -1], which, axis=1)
        count = (sets.position != VACANT).sum(axis=-1, dtype=jnp.int32)
        count = jnp.take_along_axis(count, which, axis=1)
        reach = jnp.where(newest >= at.position - at.segment_pos, count, 0)
        return Stretch((which + 1) * self.config.slots, reach)

    def _matches(
        self,
        before: ReadoutState,
        context: TimeContext,
        whole: Whole,
        at: TokenPositions,
        sets: Kept | None,
    ) -> tuple[Entries, Int[Array, "B L N"], Store]:
        """The stock, what each token reads of it, and the store after the call.

        Entries are appended when they leave the ring. The stock is the store before the call, if
        there was anything, and behind it the recent entries, from which the call appends.
        """
        config = self.config
        ngram = Ngram(config.match_order, self.vocab_size)
        position, first = whole.at.position, whole.at.position[:, :1]
        edge_of = lambda x: x // config.chunk * config.chunk - config.ring  # noqa: E731
        appended, until = edge_of(first[:, 0] - 1), edge_of(position)
        last = edge_of(first[:, 0] + whole.at.lengths - 1)
        # 1. Positions of the matches of this device's tokens.
        call = (ngram, whole.words, position, whole.behind, until, appended, last)
        found, index = match(before.store.index, *call, config.capacity)
        if context.first:  # nothing that an index could hold
            found, _ = match(NgramIndex.empty(len(first)), *call, config.capacity)
        length = at.position.shape[1]
        if context.size > 1:
            found = found.part(at.position[0, 0] - first[0, 0], length)
        places = found.newest(config.matches)
        # 2. Those in slots are read there.
        if sets is not None:
            stretch = self._valid(sets, whole, at)
            flat = sets.position.reshape(len(first), -1)
            places = jnp.where(_among(flat, stretch, places), -1, places)
        # 3. The store with the entries that the call appends: at most C more than its tokens.
        held, past = before.store.entries, whole.recent.k.shape[1] - position.shape[1]
        entry = appended[:, None] + jnp.arange(position.shape[1] + config.chunk, dtype=jnp.int32)
        source = jnp.clip(entry - first + past, 0, whole.recent.k.shape[1] - 1)
        append = (entry >= (last - held.k.shape[1])[:, None]) & (entry < last[:, None])
        place = jnp.where(append & (entry >= 0), entry % held.k.shape[1], held.k.shape[1])
        stored = held.put(place, whole.recent.take(source))
        # 4. Where the matches lie: in the store, which has room for what a call overwrites. Of a
        #    longer call, and where nothing came before, among the recent entries too.
        near = places - first[..., None] + past
        if context.first:
            stock, matched = whole.recent, near
        elif position.shape[1] + config.chunk <= ROOM:
            stock, matched = stored, places % held.k.shape[1]
        else:
            stock = held.joined(whole.recent)
            matched = jnp.where(near < 0, places % held.k.shape[1], held.k.shape[1] + near)
        return stock, jnp.where(places < 0, -1, matched), Store(stored, index)

    def init_state(self, batch_size: int) -> ReadoutState:
        """The state before the first token."""
        config, number = self.config, at_least_float32(self.proj.dtype)
        orders, size = config.orders, config.held
        k = jnp.zeros((batch_size, size, config.d_key), number)
        longest = max(*orders, config.match_order if config.matches else 1, 1)
        tokens = jnp.zeros((batch_size, size + longest - 1), jnp.int32)

        def vacant(count: int) -> Entries:
            shape = (batch_size, count)
            hashes = jnp.zeros((batch_size, len(orders), count), jnp.uint32)
            return Entries(
                jnp.zeros((*shape, config.d_key), number), jnp.zeros(shape, jnp.int32), hashes
            )

        nothing = jnp.full((batch_size, config.slots), -1, number)
        kept = Kept(vacant(config.slots), nothing.astype(jnp.int32), nothing)
        size = config.capacity if config.matches else 0
        room = size + ROOM if size else 0
        store = Store(vacant(room), NgramIndex.empty(batch_size, size))
        # Before the first token lies no document.
        hashes = jnp.zeros((*k.shape[:2], len(orders)), jnp.uint32)
        return ReadoutState(Positions.zero(batch_size), k, hashes, tokens, tokens - 1, kept, store)

    def flops_per_token(self, length: int) -> float:
        """Projections, and products and sums over the mean number of entries."""
        ring, chunk = self.config.ring, self.config.chunk
        read = min(length / 2, ring + chunk / 2 + self.config.slots + self.config.matches)
        return self.d_model * (4.0 * self.config.d_key + 2) + read * (
            4 * self.config.d_key + len(self.config.orders)
        )


def _entries(old: Tail, new: Tail) -> Entries:
    """Entries of the last tokens before some, and of these; the last has no answer yet."""
    k, hashes, words, _ = (
        jnp.concatenate([x, y.astype(x.dtype)], axis=1) for x, y in zip(old, new, strict=True)
    )
    answers = jnp.roll(words[:, words.shape[1] - k.shape[1] :], -1, axis=1)
    return Entries(k, answers, jnp.swapaxes(hashes, 1, 2))


def _among(
    positions: Int[Array, "B S"], stretch: Stretch, asked: Int[Array, "B L N"]
) -> Bool[Array, "B L N"]:
    """Whether stretches of ascending positions hold those asked for, by binary search."""
    low = jnp.broadcast_to((stretch.place - stretch.reach)[..., None], asked.shape)
    end = jnp.broadcast_to(stretch.place[..., None], asked.shape)
    value = jax.vmap(lambda x, index: x[jnp.minimum(index, len(x) - 1)])

    def step(_: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = found
        middle = (low + high) // 2
        below = (value(positions, middle) < asked) & (low < high)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    steps = positions.shape[1].bit_length()
    place, _ = jax.lax.fori_loop(0, steps, step, (low, end))
    return (place < end) & (value(positions, place) == asked)


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
