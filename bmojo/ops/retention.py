"""Retention: which entries of a read-out are kept beyond its ring.

At the edges e of chunks of C tokens, candidates are the slots and the C entries that leave the ring
of R, e - C - R <= i < e - R. The M of the lowest cost stay, of equal costs the newer; what is gone
is gone. The cost of entry i is ``base_i + (e - i) / h``, with

- ``redundancy``: base the largest k_i . k_j over the entries i < j < e of the same document with
  the same answer, -1 if there is none: what can be had again is not kept;
- ``random``: base -log2 of a number in (0, 1) that depends on seed and position in the document;
- ``recent`` and ``first``: base 0, and age counts for, or against, the entry alone.

The last three are chance and habit: every rule must beat them.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bmojo.ops.positions import TokenPositions
from bmojo.ops.readout import Entries, scrambled
from bmojo.types import Array, Float, Int

Rule = Literal["redundancy", "random", "recent", "first"]

VACANT = -1
"""Position of a vacant slot."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """Slots, in order of position, vacant ones first.

    Attributes:
      entries: in the slots.
      position: of each in its row, ``VACANT`` where a slot is.
      base: of the cost.
    """

    entries: Entries
    position: Int[Array, "B ... M"]
    base: Float[Array, "B ... M"]

    def at(self, index: Int[Array, "B"]) -> "Kept":
        """Of sets (B, S, M), one for each row."""

        def pick(x: Array, axis: int = 1) -> Array:
            shape = [1] * x.ndim
            shape[0] = len(index)
            return jnp.take_along_axis(x, index.reshape(shape), axis=axis).squeeze(axis)

        k, answers = pick(self.entries.k), pick(self.entries.answers)
        entries = Entries(k, answers, pick(self.entries.hashes, 2))
        return Kept(entries, pick(self.position), pick(self.base))


@dataclasses.dataclass(frozen=True)
class Retention:
    """A rule.

    Attributes:
      size: M, slots.
      rule: see above.
      half_life: h, tokens; 0: age does not count. Of ``redundancy`` and ``random``.
      seed: of ``random``.
    """

    size: int
    rule: Rule = "redundancy"
    half_life: float = 0.0
    seed: int = 0

    @property
    def rate(self) -> float:
        """The cost of a token of age."""
        return {"recent": 1.0, "first": -1.0}.get(
            self.rule, 1 / self.half_life if self.half_life else 0.0
        )

    def sets(self, kept: Kept, recent: Entries, at: TokenPositions, ring: int, chunk: int) -> Kept:
        """The slots before the call, and after each edge in it.

        No gradient flows through the choice.

        Args:
          kept: the slots before the call.
          recent: the R + C entries before the call, and those of its L tokens. That of the last
            token has no answer yet.
          at: the tokens of the call.
          ring: R.
          chunk: C.

        Returns:
          Sets (B, S, M), S = 1 + ceil(L / C): a token at ``position`` reads set ``position // C``,
          counted from the chunk of the token before the call. S = 1 where L is.
        """
        position, behind = at.position, ring + chunk
        rows, length = position.shape
        first, before = position[:, 0], (position[:, 0] - 1) // chunk
        both = kept.entries.joined(recent)
        fixed: Entries = jax.lax.stop_gradient(both)
        start = jnp.broadcast_to(jnp.arange(self.size, dtype=jnp.int32), (rows, self.size))
        begin = (start, kept.position, jax.lax.stop_gradient(kept.base))

        def step(now: tuple[Array, Array, Array], j: Array) -> Any:
            edge = (before + j) * chunk - first
            reached = edge < at.lengths
            case = (fixed, now, edge, first, at.segment_pos, behind, chunk)
            after = jax.lax.cond(reached.any(), lambda: self._refresh(*case), lambda: now)
            kept = [jnp.where(reached[:, None], *x) for x in zip(after, now, strict=True)]
            return tuple(kept), tuple(kept)

        if length == 1:  # most tokens are no edge
            (index, *rest), _ = step(begin, jnp.int32(1))
            moved = (index != start).any()
            entries = jax.lax.cond(moved, lambda: both.take(index), lambda: kept.entries)
            entries = Entries(
                entries.k[:, None], entries.answers[:, None], entries.hashes[:, :, None]
            )
            return Kept(entries, *(x[:, None] for x in rest))
        edges = jnp.arange(1, 1 - (-length // chunk), dtype=jnp.int32)
        _, found = jax.lax.scan(step, begin, edges)
        index, places, base = (
            jnp.concatenate([x[:, None], jnp.moveaxis(y, 0, 1)], axis=1)
            for x, y in zip(begin, found, strict=True)
        )
        return Kept(both.take(index), places, base)

    def _refresh(
        self,
        both: Entries,
        now: tuple[Array, Array, Array],
        edge: Int[Array, "B"],
        first: Int[Array, "B"],
        segment_pos: Int[Array, "B L"],
        behind: int,
        chunk: int,
    ) -> tuple[Array, Array, Array]:
        """Indices among slots and recent entries, positions and bases of the slots after an edge.

        ``edge`` counts from the first token of the call, at position ``first``.
        """
        index, places, base = now
        size, place = self.size, jnp.clip(edge, 0, segment_pos.shape[1] - 1)
        # 1. The last R + C entries before the edge; what lies in its document.
        reach = jnp.take_along_axis(segment_pos, place[:, None], axis=1)
        window = size + place[:, None] + jnp.arange(behind, dtype=jnp.int32)
        distance = jnp.arange(behind, 0, -1, dtype=jnp.int32)
        here = distance <= reach
        leaving_age = jnp.broadcast_to(distance[:chunk], (len(edge), chunk))
        age = jnp.concatenate([(first + edge)[:, None] - places, leaving_age], axis=1)
        candidate = jnp.concatenate([(places >= 0), here[:, :chunk]], axis=1) & (age <= reach)
        # 2. The bases of candidates.
        if self.rule == "redundancy":
            held, new = both.take(index), both.take(window[:, behind - chunk :])
            base = jnp.maximum(base, _likest(held, new, here[:, None, behind - chunk :]))
            newer = jnp.arange(behind) > jnp.arange(chunk)[:, None]
            leaving = both.take(window[:, :chunk])
            base_new = _likest(leaving, both.take(window), here[:, None] & newer)
        elif self.rule == "random":
            base_new = -jnp.log2(_uniform(reach - distance[:chunk], self.seed)).astype(base.dtype)
        else:
            base_new = jnp.zeros((len(edge), chunk), base.dtype)
        # 3. The cheapest, of equal ones the newer, in order of time.
        bases = jnp.concatenate([base, base_new.astype(base.dtype)], axis=1)
        cost = jnp.where(candidate, bases + age * jnp.asarray(self.rate, base.dtype), jnp.inf)
        lowest, chosen = jax.lax.top_k(-cost[:, ::-1], size)
        chosen = jnp.where(lowest > -jnp.inf, cost.shape[1] - 1 - chosen, VACANT)
        chosen = jnp.sort(chosen, axis=1)
        pick = lambda x: jnp.take_along_axis(x, jnp.maximum(chosen, 0), axis=1)  # noqa: E731
        index = pick(jnp.concatenate([index, window[:, :chunk]], axis=1))
        places = jnp.where(chosen < 0, VACANT, (first + edge)[:, None] - pick(age))
        return index, places, jnp.where(chosen < 0, -1, pick(bases))


def _likest(some: Entries, others: Entries, counts: Array) -> Float[Array, "B M"]:
    """The largest product with a key that has the same answer and counts; -1 if there is none."""
    products = jnp.einsum("bip,bjp->bij", some.k, others.k)
    same = (some.answers[..., None] == others.answers[:, None]) & counts
    return jnp.where(same, products, -1).max(axis=-1)


def _uniform(position: Int[Array, "..."], seed: int) -> Float[Array, "..."]:
    """Numbers in (0, 1) that look random, of 24 bits."""
    x = scrambled(position.astype(jnp.uint32) + jnp.uint32(seed * 0x9E3779B9 % 2**32))
    return ((x ^ (x >> 16)) >> 8).astype(jnp.float32) / 2**24 + 2.0**-25
