"""Matched entries: the newest entries whose last n tokens equal those of a query.

Entry i of a row is its token at position i. It is appended once it has left the ring: a query sees
the entries ``since <= i < until``, ``until`` being the last chunk edge less the ring, and ``since``
the start of its document or the oldest of the newest ``capacity`` entries. Of these it reads the
``cap`` newest of its own n-gram. (Longest matches by LZ77; infini-gram, arXiv 2401.17377.)

An :class:`NgramIndex` holds entries sorted by n-gram and position, so that those a query reads lie
side by side, and two binary searches find them. Training, segments and decoding differ in nothing
but the sizes of the index and of the call:

    matches, index = match(index, ngram, tokens, position, segment_pos, until, appended, after)
    matches.newest(cap)                    # positions (B, L, cap)
    matches.part(first, size).newest(cap)  # of a block of queries

Adding E entries to N costs a sort of E and O(N) moves, once a chunk when tokens come one by one; a
query costs O(log N + cap). Nothing here is differentiable, and nothing holds pairs of tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bmojo.types import Array, Bool, Int, UInt32

VACANT = jnp.iinfo(jnp.int32).max
"""Position where an index holds nothing; it sorts behind all others."""

FEW = 64
"""Queries for which a search looks at 15 places at once: fewer steps, more work."""


@dataclasses.dataclass(frozen=True)
class Ngram:
    """Keys of n-grams: two words of 32 bits.

    The ids of n tokens stand in them one beside the other where they fit (``exact``: n up to 8 for
    bytes, up to 4 for ids below 2**16); else the words are two hashes.
    """

    n: int
    vocab_size: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n: must be at least 1, got {self.n}")

    @property
    def _per_word(self) -> int:
        """Ids that stand in a word."""
        return 32 // max(1, (self.vocab_size - 1).bit_length())

    @property
    def exact(self) -> bool:
        """Whether equal keys are equal n-grams for certain."""
        return self.n <= 2 * self._per_word

    def keys(self, tokens: Int[Array, "B K"]) -> UInt32[Array, "2 B K"]:
        """Key of the last n tokens at each place; what is before the first counts as token 0."""
        ids = tokens.astype(jnp.uint32)
        behind = [jnp.pad(ids, [(0, 0), (j, 0)])[:, : ids.shape[1]] for j in range(self.n)]
        if not self.exact:
            return jnp.stack([_hash(behind, seed) for seed in (0x9E3779B9, 0x7F4A7C15)])
        bits, words = 32 // self._per_word, [jnp.zeros_like(ids), jnp.zeros_like(ids)]
        for j, x in enumerate(behind):
            word, place = divmod(j, self._per_word)
            words[word] |= x << (bits * place)
        return jnp.stack(words)


def _hash(tokens: list[Array], seed: int) -> Array:
    total = jnp.full_like(tokens[0], seed)
    for x in tokens:
        total = (total ^ x) * jnp.uint32(0x85EBCA6B)
        for shift, factor in ((15, seed | 1), (13, 0xC2B2AE35)):
            total = (total ^ (total >> shift)) * jnp.uint32(factor)
    return total ^ (total >> 16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NgramIndex:
    """Entries sorted by the words of their n-gram, then by position; vacant places are last."""

    high: UInt32[Array, "B N"]
    low: UInt32[Array, "B N"]
    position: Int[Array, "B N"]

    @classmethod
    def empty(cls, rows: int, size: int = 0) -> "NgramIndex":
        """An index of ``size`` vacant places."""
        words = jnp.full((rows, size), 0xFFFFFFFF, jnp.uint32)
        return cls(words, words, jnp.full((rows, size), VACANT, jnp.int32))

    def add(
        self, keys: UInt32[Array, "2 B E"], position: Int[Array, "B E"], there: Bool[Array, "B E"]
    ) -> "NgramIndex":
        """An index of N + E places with entries added where ``there``."""
        keys = jnp.where(there, keys, jnp.uint32(0xFFFFFFFF))
        position = jnp.where(there, position.astype(jnp.int32), VACANT)
        new = NgramIndex(*jax.lax.sort((*keys, position), dimension=1, num_keys=3))
        if not self.position.shape[1]:
            return new
        # Entry j of the new ones comes behind j of them and those here that precede it.
        rows, own = jnp.ogrid[: position.shape[0], : position.shape[1]]
        total = self.position.shape[1] + position.shape[1]
        place = self.rank(new.high, new.low, new.position) + own
        is_new = jnp.zeros((position.shape[0], total), jnp.int32).at[rows, place].set(1)
        count = jnp.cumsum(is_new, axis=1, dtype=jnp.int32)
        source = jnp.where(is_new, self.position.shape[1] + count - 1, jnp.arange(total) - count)

        def merge(old: Array, new: Array) -> Array:
            return jnp.take_along_axis(jnp.concatenate([old, new], axis=1), source, axis=1)

        return jax.tree.map(merge, self, new)

    def newest(self, size: int, until: Int[Array, "B"]) -> "NgramIndex":
        """An index of ``size`` places with the entries ``until - size <= position < until``."""
        behind = until[:, None] - self.position
        kept = (behind > 0) & (behind <= size)
        place = jnp.where(kept, jnp.cumsum(kept, axis=1, dtype=jnp.int32) - 1, size)
        rows = jnp.arange(len(until))[:, None]

        def squeeze(x: Array, vacant: Array) -> Array:
            return vacant.at[rows, place].set(x, mode="drop")

        return jax.tree.map(squeeze, self, NgramIndex.empty(len(until), size))

    def rank(
        self, high: UInt32[Array, "B Q"], low: UInt32[Array, "B Q"], position: Int[Array, "B Q"]
    ) -> Int[Array, "B Q"]:
        """Number of entries that precede an n-gram at a position."""
        size, bits = self.position.shape[1], 4 if position.shape[1] <= FEW else 1
        steps = -(-size.bit_length() // bits)
        asked = ((self.position, position), (self.low, low), (self.high, high))

        def step(number: Array, found: Array) -> Array:
            stride = 1 << bits * (steps - 1 - number)
            probe = found[..., None] + stride * jnp.arange(1, 1 << bits)
            before = jnp.zeros(probe.shape, bool)
            for own, other in asked:  # from the last word to the first, which counts first
                x = jax.vmap(jnp.take)(own, jnp.minimum(probe, size) - 1)
                before = (x < other[..., None]) | (x == other[..., None]) & before
            return found + stride * (before & (probe <= size)).sum(-1, dtype=jnp.int32)

        return jax.lax.fori_loop(0, steps, step, jnp.zeros(position.shape, jnp.int32))

    def find(
        self, keys: UInt32[Array, "2 B Q"], since: Int[Array, "B Q"], until: Int[Array, "B Q"]
    ) -> "Matches":
        """Entries of n-grams with ``since <= position < until``."""
        high, low = (jnp.concatenate([x, x], axis=1) for x in keys)
        ends = self.rank(high, low, jnp.concatenate([since, until], axis=1))
        first, end = jnp.split(ends, 2, axis=1)
        return Matches(self, end, jnp.maximum(end - first, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matches:
    """Entries of each query in an index: the ``count`` places before ``end``, the newest last."""

    index: NgramIndex
    end: Int[Array, "B Q"]
    count: Int[Array, "B Q"]

    def newest(self, cap: int) -> Int[Array, "B Q cap"]:
        """Positions of the ``cap`` newest, the newest first, -1 where there are fewer."""
        back = jnp.arange(cap)
        place = jnp.maximum(self.end[..., None] - 1 - back, 0)
        position = jax.vmap(jnp.take)(self.index.position, place)
        return jnp.where(back < self.count[..., None], position, -1)

    def part(self, first: Array, size: int) -> "Matches":
        """Those of ``size`` queries from ``first`` on."""
        end, count = (
            jax.lax.dynamic_slice_in_dim(x, first, size, 1) for x in (self.end, self.count)
        )
        return Matches(self.index, end, count)


def match(
    index: NgramIndex,
    ngram: Ngram,
    tokens: Int[Array, "B K"],
    position: Int[Array, "B L"],
    segment_pos: Int[Array, "B K"],
    until: Int[Array, "B L"],
    appended: Int[Array, "B"],
    after: Int[Array, "B"],
    capacity: int | None = None,
) -> tuple[Matches, NgramIndex]:
    """The entries that the tokens of a call read, and the index after it.

    Entries count along [T before the call | L of the call]; the tokens before are to reach back
    to n - 1 before the entry at ``appended``, or to the start of the document.

    Args:
      index: of the rows; its size is its capacity, or 0 if nothing is carried.
      ngram: of the matches.
      tokens: of the entries.
      position: of the call's tokens in their rows.
      segment_pos: of the entries, tokens of the same document before each.
      until: entries before it are appended when the token comes; at most ``position``.
      appended: entries before it are in the index.
      after: ``until`` of the last valid token of each row; ``appended`` where there is none.
      capacity: newest appended entries that are read; None: the size of the index, or all if
        nothing is carried.
    """
    length, size = position.shape[1], index.position.shape[1]
    past, capacity = tokens.shape[1] - length, capacity or size or tokens.shape[1]
    # 1. Position of each entry, and whether its document has n tokens up to it.
    entry = jnp.concatenate([position[:, :1] + jnp.arange(-past, 0), position], axis=1)
    whole = jnp.minimum(segment_pos, jnp.arange(tokens.shape[1])) + 1 >= ngram.n

    # 2. The index with the entries that are not there yet.
    def add(index: NgramIndex) -> NgramIndex:
        return index.add(ngram.keys(tokens), entry, whole & (entry >= appended[:, None]))

    since = jnp.maximum(position - segment_pos[:, past:], until - capacity)
    keys = ngram.keys(tokens[:, max(past - ngram.n + 1, 0) :])[:, :, -length:]
    query = (keys, since, jnp.where(whole[:, past:], until, since))
    if length == 1 and size:  # most tokens append nothing
        some = (after > appended).any()
        index = jax.lax.cond(some, lambda x: add(x).newest(size, after), lambda x: x, index)
        return index.find(*query), index
    everything = add(index)
    return everything.find(*query), everything.newest(size, after)
