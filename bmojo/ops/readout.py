"""Verbatim read-out: attention over entries that answer with a stored token.

Entry i is the key of token i and the token that followed it. Token t reads some entries of its
document, with scores

    s_ti = scale_t q_t . k_i + sum_n bias_n [the last n tokens at t and at i are the same]

and its copy distribution is c_t(v) = sum_i softmax_i(s_ti) [token_{i+1} = v]. (Neural cache, arXiv
1612.04426; pointer sentinel, 1609.07843; suffix matches as in prediction by partial matching.)
Nothing here holds scores of all pairs of tokens, nor a row of the vocabulary for each token.

Entries lie in several places: in bands, of which each token reads a stretch, and in a stock, from
which each token picks some by their indices. Every place gives sums of exponentials, which add up.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bmojo.ops import readout_native
from bmojo.ops.axes import on_each_device
from bmojo.ops.implementations import Implementations
from bmojo.types import Array, Float, Int, UInt32, at_least_float32

Implementation = Literal["auto", "xla", "native"]

IMPLEMENTATIONS = Implementations("read-out", ("xla", "native"), "xla", "xla")

BLOCK = 128
"""Tokens whose scores exist at once."""

STOCK_BLOCK = 32
"""The same where each token reads entries of its own."""

NO_NGRAM_OF_ENTRY, NO_NGRAM_OF_QUERY = 0, 1
"""Hashes where fewer than n tokens of the document are there; they equal no other."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Entries:
    """Stored tokens.

    Attributes:
      k: keys, of norm 1.
      answers: the tokens after those of the keys.
      hashes: of the n-grams that end at the tokens of the keys (:func:`ngram_hashes`).
    """

    k: Float[Array, "B ... P"]
    answers: Int[Array, "B ..."]
    hashes: UInt32[Array, "B n ..."]

    @property
    def flat(self) -> "Entries":
        """Entries (B, S, M) in one row behind each other."""
        rows, width = len(self.k), self.k.shape[-1]
        hashes = self.hashes.reshape(*self.hashes.shape[:2], -1)
        return Entries(self.k.reshape(rows, -1, width), self.answers.reshape(rows, -1), hashes)

    def joined(self, other: "Entries") -> "Entries":
        """These and others behind them."""
        return Entries(
            jnp.concatenate([self.k, other.k.astype(self.k.dtype)], axis=1),
            jnp.concatenate([self.answers, other.answers], axis=1),
            jnp.concatenate([self.hashes, other.hashes], axis=2),
        )

    def put(self, index: Int[Array, "B K"], other: "Entries") -> "Entries":
        """With others at some places; those behind the last are left out."""
        rows, orders, _ = jnp.ogrid[: len(index), : self.hashes.shape[1], :1]
        return Entries(
            self.k.at[rows[..., 0], index].set(other.k.astype(self.k.dtype), mode="drop"),
            self.answers.at[rows[..., 0], index].set(other.answers, mode="drop"),
            self.hashes.at[rows, orders, index[:, None]].set(other.hashes, mode="drop"),
        )

    def take(self, index: Int[Array, "B ..."]) -> "Entries":
        """Those at some places of a row."""
        flat = index.reshape(len(index), -1)
        k = jnp.take_along_axis(self.k, flat[..., None], axis=1)
        answers = jnp.take_along_axis(self.answers, flat, axis=1)
        hashes = jnp.take_along_axis(self.hashes, flat[:, None], axis=2)
        shape, orders = index.shape, hashes.shape[1]
        return Entries(
            k.reshape(*shape, k.shape[-1]),
            answers.reshape(shape),
            hashes.reshape(shape[0], orders, *shape[1:]),
        )


class Stretch(NamedTuple):
    """The entries ``place - reach <= i < place`` of a band, for each token."""

    place: Int[Array, "B L"]
    reach: Int[Array, "B L"]


class Query(NamedTuple):
    """The tokens of a call, as they look for entries.

    Attributes:
      q: queries, of norm 1.
      scale: factor of the products.
      own: hashes of the n-grams that end at the tokens.
      stretches: what is read of each band.
      matched: indices of entries in the stock, -1: none; None: there is no stock.
    """

    q: Float[Array, "B L P"]
    scale: Float[Array, "B L"]
    own: UInt32[Array, "B L n"]
    stretches: tuple[Stretch, ...]
    matched: Int[Array, "B L N"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lookup:
    """The tokens of a call, and the entries that they may read.

    Attributes:
      query: the tokens.
      bias: added to the score where the n-grams are the same, for each order.
      bands: entries (B, K) of which each token reads a stretch.
      stock: entries (B, K) of which each token reads those with its indices, or None.
      spans: for each band: the longest stretch, and by how many entries the stretches of how many
        tokens in succession advance.
      consecutive: the tokens are so.
    """

    query: Query
    bias: Float[Array, "n"]
    bands: tuple[Entries, ...]
    stock: Entries | None = None
    spans: tuple[tuple[int, int, int], ...] = dataclasses.field(
        default=(), metadata={"static": True}
    )
    consecutive: bool = dataclasses.field(default=True, metadata={"static": True})

    def part(self, first: Array, size: int) -> "Lookup":
        """``size`` tokens of the call from ``first`` on."""
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, first, size, 1)  # noqa: E731
        return dataclasses.replace(self, query=jax.tree.map(cut, self.query))

    def take(self, at: Int[Array, "B A"]) -> "Lookup":
        """The tokens at some places of the call."""

        def pick(x: Array) -> Array:
            index = at.reshape(*at.shape, *(1,) * (x.ndim - 2))
            return jnp.take_along_axis(x, index, axis=1)

        return dataclasses.replace(self, query=jax.tree.map(pick, self.query), consecutive=False)


def ngram_hashes(
    tokens: Int[Array, "B K"], segment_pos: Int[Array, "B K"], orders: Sequence[int]
) -> tuple[UInt32[Array, "B n K"], UInt32[Array, "B n K"]]:
    """A hash of the last n tokens at each place, for each order n: of entries, and of queries.

    They differ only where the document, with ``segment_pos`` tokens before, has fewer than n: such
    an entry equals no query. Hashes have 32 bits; other n-grams are the same with chance 2^-32.
    """
    x = scrambled(tokens.astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    total, power, found = jnp.zeros_like(x), 1, []
    for n in range(1, max(orders, default=0) + 1):
        shifted = jnp.pad(x, [(0, 0), (n - 1, 0)])[:, : x.shape[1]]
        total, power = total + shifted * jnp.uint32(power), power * 0x01000193 % 2**32
        if n in orders:
            hashed = jnp.where(total <= NO_NGRAM_OF_QUERY, total + 2, total)
            found.append((hashed, segment_pos + 1 >= n))
    if not found:
        none = jnp.zeros((len(x), 0, x.shape[1]), jnp.uint32)
        return none, none
    hashed, whole = (jnp.stack(x, axis=1) for x in zip(*found, strict=True))
    entry, query = jnp.uint32(NO_NGRAM_OF_ENTRY), jnp.uint32(NO_NGRAM_OF_QUERY)
    return jnp.where(whole, hashed, entry), jnp.where(whole, hashed, query)


def scrambled(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Whole numbers, one for one, whose high bits look random."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x


def log_share(
    lookup: Lookup, targets: Int[Array, "B L"], implementation: str = "auto", block: int = BLOCK
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Log of c_t(target_t), and the log-sum-exp of the scores of each token.

    -inf where no entry answers so, or where none is read; no gradient flows from there.

    Args:
      lookup: tokens and entries.
      targets: a token for each.
      implementation: ``auto``, ``native`` (a kernel for CPUs; reverse derivatives of first order
        only; the stock by XLA) or ``xla``.
      block: tokens at once, by ``xla``. The backward pass computes their scores again.
    """
    native = IMPLEMENTATIONS.resolve(implementation) == "native"

    def one(s: Array, answers: Array, targets: Array) -> tuple[Array, Array]:
        right = jnp.where(answers == targets[..., None], s, -jnp.inf)
        return _log_sum_exp(right), _log_sum_exp(s)

    def run(lookup: Lookup, targets: Array) -> tuple[Array, Array]:
        found = []
        for index, band in enumerate(lookup.bands):
            if native:
                found.append(readout_native.share(_operands(lookup, index, targets)))
            else:
                found.append(_by_blocks(lookup, band, index, targets, block, one))
        if lookup.stock is not None:
            found.append(_by_blocks(lookup, lookup.stock, None, targets, STOCK_BLOCK, one))
        right, lse = (_log_sum_exp(jnp.stack(x, axis=-1)) for x in zip(*found, strict=True))
        return right, lse

    right, lse = _on_each_device(run, lookup, targets, (2, 2))
    return jnp.where(right > -jnp.inf, right - jnp.where(lse > -jnp.inf, lse, 0), right), lse


def copy_distribution(
    lookup: Lookup, size: int, implementation: str = "auto"
) -> tuple[Float[Array, "B L V"], Float[Array, "B L"]]:
    """c_t(v) for all of ``size`` tokens v, zeros where nothing is read, and the log-sum-exp.

    Args:
      lookup: tokens and entries.
      size: V.
      implementation: see :func:`log_share`; derivatives are by ``xla`` in any case, and by
        ``auto`` single tokens too, for which the kernel would turn all keys.
    """
    run, single = functools.partial(_copied, size), lookup.query.scale.shape[1] == 1
    if implementation == "auto" and single:
        implementation = "xla"
    if IMPLEMENTATIONS.resolve(implementation) == "native":
        run = functools.partial(_copied_by_kernel, size)
    none = jnp.zeros(lookup.query.scale.shape, jnp.int32)
    return _on_each_device(lambda lookup, _: run(lookup), lookup, none, (3, 2))


def _copied(size: int, lookup: Lookup, native: bool = False) -> tuple[Array, Array]:
    def one(s: Array, answers: Array, targets: Array) -> tuple[Array, Array]:
        lse = _log_sum_exp(s)
        weights = jnp.exp(s - jnp.where(lse > -jnp.inf, lse, 0)[..., None])
        rows, places = jnp.ogrid[: s.shape[0], : s.shape[1]]
        nothing = jnp.zeros((*s.shape[:2], size), s.dtype)
        answers = jnp.broadcast_to(answers, s.shape)
        return nothing.at[rows[..., None], places[..., None], answers].add(weights), lse

    none, found = jnp.zeros(lookup.query.scale.shape, jnp.int32), []
    for index, band in enumerate(lookup.bands):
        if native:
            answers = jnp.clip(band.answers, 0, size - 1)
            within = dataclasses.replace(band, answers=answers)
            bands = (*lookup.bands[:index], within, *lookup.bands[index + 1 :])
            operands = _operands(dataclasses.replace(lookup, bands=bands), index, none)
            found.append(readout_native.copied(operands, size))
        else:
            found.append(_by_blocks(lookup, band, index, none, BLOCK, one))
    if lookup.stock is not None:
        found.append(_by_blocks(lookup, lookup.stock, None, none, STOCK_BLOCK, one))
    if len(found) == 1:
        return found[0]
    lse = _log_sum_exp(jnp.stack([lse for _, lse in found], axis=-1))
    rest = jnp.where(lse > -jnp.inf, lse, 0)
    parts = [c * jnp.exp(own - rest)[..., None] for c, own in found]
    return functools.reduce(jnp.add, parts), lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _copied_by_kernel(size: int, lookup: Lookup) -> tuple[Array, Array]:
    return _copied(size, lookup, native=True)


def _copied_save(size: int, lookup: Lookup) -> Any:
    return _copied_by_kernel(size, lookup), lookup


def _copied_gradient(size: int, saved: Lookup, grads: Any) -> Any:
    return jax.vjp(functools.partial(_copied, size), saved)[1](grads)


_copied_by_kernel.defvjp(_copied_save, _copied_gradient)


def _on_each_device(function: Any, lookup: Lookup, targets: Array, axes: tuple[int, ...]) -> Any:
    """``function`` of the rows of each device; results have so many axes."""

    def names(path: Any, x: Array) -> tuple[str | None, ...]:
        field = path[-1].name if hasattr(path[-1], "name") else ""
        return tuple("batch" if axis == 0 and field != "bias" else None for axis in range(x.ndim))

    leaves, tree = jax.tree.flatten((lookup, targets))
    paths = jax.tree_util.tree_leaves_with_path((lookup, targets))
    made = tuple(("batch", *(None,) * (n - 1)) for n in axes)
    run = on_each_device(
        lambda *leaves: function(*jax.tree.unflatten(tree, leaves)),
        [names(*x) for x in paths],
        made,
    )
    return run(*leaves)


def _operands(lookup: Lookup, index: int, targets: Array) -> readout_native.Operands:
    """Operands of the kernel for one band."""
    query, band = lookup.query, lookup.bands[index]
    q, own = query.q * query.scale[..., None], jnp.swapaxes(query.own, 1, 2)
    whole = (*query.stretches[index], targets, band.answers)
    return readout_native.operands(q, band.k, lookup.bias, whole, band.hashes, own)


def _scores(query: Query, bias: Array, entries: Entries, read: Array) -> Float[Array, "B Q K"]:
    """Scores of entries (B, K), or (B, Q, K) for each query; -inf where one is not ``read``."""
    wide = at_least_float32(query.q.dtype)
    alike = entries.k.ndim == 3
    equation = "bqp,bkp->bqk" if alike else "bqp,bqkp->bqk"
    s = jnp.einsum(equation, query.q, entries.k, preferred_element_type=wide)
    s = s * query.scale[..., None]
    for n in range(entries.hashes.shape[1]):
        hashes = entries.hashes[:, n]
        same = query.own[..., n, None] == (hashes[:, None] if alike else hashes)
        s = s + jnp.where(same, bias[n], 0)
    return jnp.where(read, s, -jnp.inf)


def _by_blocks(
    lookup: Lookup,
    entries: Entries,
    band: int | None,
    targets: Array,
    block: int,
    function: Callable[..., tuple[Array, Array]],
) -> tuple[Array, Array]:
    """``function`` of (scores (B, Q, K), answers, targets (B, Q)) of blocks of tokens.

    Of a band, or of the stock (None).
    """
    (rows, length), held = targets.shape, entries.k.shape[1]
    block = min(block, length)
    count = -(-length // block)
    padding = count * block - length

    @jax.checkpoint
    def run(bias: Array, entries: Entries, query: Query, targets: Array) -> tuple[Array, Array]:
        if band is None:
            assert query.matched is not None
            some, read = entries.take(jnp.maximum(query.matched, 0)), query.matched >= 0
            return function(_scores(query, bias, some, read), some.answers, targets)
        place, reach = query.stretches[band]
        index = jnp.arange(held)[None]
        if lookup.consecutive:  # what one token reads, and what is added up to the last
            span, entries_on, tokens_on = lookup.spans[band]
            width = min(held, span + entries_on * -(-(block - 1) // tokens_on))
            index = jnp.minimum(place[:, :1] - span, held - width) + jnp.arange(width)
            index = jnp.where(index < 0, held, index)
            entries = entries.take(jnp.minimum(index, held - 1))
        index = index[:, None]
        read = (index < place[..., None]) & (index >= (place - reach)[..., None])
        return function(_scores(query, bias, entries, read), entries.answers[:, None], targets)

    if count == 1:
        return run(lookup.bias, entries, lookup.query, targets)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, padding), *[(0, 0)] * (x.ndim - 2)], mode="edge")
        return jnp.moveaxis(x.reshape(rows, count, block, *x.shape[2:]), 1, 0)

    xs = jax.tree.map(cut, (lookup.query, targets))
    found = jax.lax.map(lambda x: run(lookup.bias, entries, *x), xs)
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :length]  # noqa: E731
    return jax.tree.map(join, found)


def _log_sum_exp(s: Array) -> Array:
    """Over the last axis; -inf, without a gradient, where all scores are."""
    some = (s > -jnp.inf).any(axis=-1)
    total = jax.nn.logsumexp(jnp.where(some[..., None], s, 0), axis=-1)
    return jnp.where(some, total, -jnp.inf)
