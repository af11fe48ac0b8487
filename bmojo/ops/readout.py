"""Verbatim read-out: attention over entries that answer with a stored token.

Entry i is the key of token i and the token that followed it. Token t reads the entries of its
document that lie at most ``reach_t`` tokens back, with scores

    s_ti = scale_t q_t . k_i + sum_n bias_n [the last n tokens at t and at i are the same]

and its copy distribution is c_t(v) = sum_i softmax_i(s_ti) [token_{i+1} = v]. (Neural cache, arXiv
1612.04426; pointer sentinel, 1609.07843; suffix matches as in prediction by partial matching.)
Nothing here holds scores of all pairs of tokens, nor a row of the vocabulary for each token.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

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

ROWS = ("batch", None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lookup:
    """The tokens of a call, and the entries that they may read.

    Entries count along [T before the call | L of the call]; token t of the call is at T + t.

    Attributes:
      q: queries, of norm 1.
      scale: factor of the products.
      reach: entries back that each token reads, at most T + t.
      segment_pos: tokens of the same document before each token.
      k: keys, of norm 1.
      tokens: of the entries. The answer of an entry is the token after it.
      hashes: of the n-grams that end at each, for each order (:func:`ngram_hashes`).
      bias: added to the score where the n-grams are the same, for each order.
      orders: the n, ascending.
    """

    q: Float[Array, "B L P"]
    scale: Float[Array, "B L"]
    reach: Int[Array, "B L"]
    segment_pos: Int[Array, "B L"]
    k: Float[Array, "B K P"]
    tokens: Int[Array, "B K"]
    hashes: UInt32[Array, "n B K"]
    bias: Float[Array, "n"]
    orders: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def part(self, first: Array, size: int) -> "Lookup":
        """``size`` tokens of the call from ``first`` on, and the entries up to the last of them."""

        def cut(x: Array, size: int, axis: int = 1) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, size, axis)

        entries = self.k.shape[1] - self.q.shape[1] + size
        now: dict[str, Any] = {}
        now |= {n: cut(getattr(self, n), size) for n in ("q", "scale", "reach", "segment_pos")}
        now |= {n: cut(getattr(self, n), entries) for n in ("k", "tokens")}
        return dataclasses.replace(self, **now, hashes=cut(self.hashes, entries, 2))


def ngram_hashes(tokens: Int[Array, "B K"], orders: Sequence[int]) -> UInt32[Array, "n B K"]:
    """A hash of the last n tokens at each place, for each order n.

    What lies before the first token counts as token 0; the caller knows where a document begins.
    """
    x = tokens.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    total, power, found = jnp.zeros_like(x), 1, []
    for n in range(1, max(orders, default=0) + 1):
        shifted = jnp.pad(x, [(0, 0), (n - 1, 0)])[:, : x.shape[1]]
        total, power = total + shifted * jnp.uint32(power), power * 0x01000193 % 2**32
        if n in orders:
            found.append(total)
    return jnp.stack(found) if found else jnp.zeros((0, *x.shape), jnp.uint32)


def log_share(
    lookup: Lookup, targets: Int[Array, "B L"], implementation: str = "auto", block: int = BLOCK
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Log of c_t(target_t), and the log-sum-exp of the scores of each token.

    -inf where no entry answers so, or where none is read; no gradient flows from there.

    Args:
      lookup: tokens and entries.
      targets: a token for each.
      implementation: ``auto``, ``native`` (a kernel for CPUs; reverse derivatives of first order
        only) or ``xla``.
      block: tokens at once, by ``xla``. The backward pass computes their scores again.
    """

    def one(s: Array, answers: Array, targets: Array) -> tuple[Array, Array]:
        right = jnp.where(answers[:, None] == targets[..., None], s, -jnp.inf)
        return _log_sum_exp(right), _log_sum_exp(s)

    if IMPLEMENTATIONS.resolve(implementation) == "native":
        right, lse = _by_kernel(lookup, targets, None, readout_native.share, (ROWS, ROWS))
    else:
        right, lse = _by_blocks(lookup, targets, block, one)
    return jnp.where(right > -jnp.inf, right - jnp.where(lse > -jnp.inf, lse, 0), right), lse


def copy_distribution(
    lookup: Lookup,
    size: int,
    at: Int[Array, "B A"] | None = None,
    implementation: str = "auto",
) -> tuple[Float[Array, "B A V"], Float[Array, "B A"]]:
    """c_t(v) for all of ``size`` tokens v, zeros where nothing is read, and the log-sum-exp.

    Args:
      lookup: tokens and entries.
      size: V.
      at: places in the call that are wanted; None: all.
      implementation: see :func:`log_share`; derivatives are by ``xla`` in any case.
    """
    if IMPLEMENTATIONS.resolve(implementation) == "native":
        return _copied_by_kernel(size, lookup, at)
    return _copied(size, lookup, at)


def _copied(size: int, lookup: Lookup, at: Array | None) -> tuple[Array, Array]:
    def one(s: Array, answers: Array, targets: Array) -> tuple[Array, Array]:
        lse = _log_sum_exp(s)
        weights = jnp.exp(s - jnp.where(lse > -jnp.inf, lse, 0)[..., None])
        rows, places = jnp.ogrid[: s.shape[0], : s.shape[1]]
        nothing = jnp.zeros((*s.shape[:2], size), s.dtype)
        return nothing.at[rows[..., None], places[..., None], answers[:, None]].add(weights), lse

    if at is None:
        return _by_blocks(lookup, jnp.zeros_like(lookup.reach), BLOCK, one)
    place, q, scale, reach, segment_pos = _query(lookup, at)
    own = jnp.take_along_axis(lookup.hashes, place[None], axis=2)
    distance = place[..., None] - jnp.arange(lookup.k.shape[1])
    s = _scores(lookup, q, scale, reach, segment_pos, own, lookup.k, lookup.hashes, distance)
    return one(s, jnp.roll(lookup.tokens, -1, axis=1), at)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _copied_by_kernel(size: int, lookup: Lookup, at: Array | None) -> tuple[Array, Array]:
    within = dataclasses.replace(lookup, tokens=jnp.clip(lookup.tokens, 0, size - 1))
    kernel = functools.partial(readout_native.copied, size=size)
    return _by_kernel(within, None, at, kernel, ((*ROWS, None), ROWS))


def _copied_save(size: int, lookup: Lookup, at: Array | None) -> Any:
    return _copied_by_kernel(size, lookup, at), (lookup, at)


def _copied_gradient(size: int, saved: Any, grads: Any) -> Any:
    return jax.vjp(functools.partial(_copied, size), *saved)[1](grads)


_copied_by_kernel.defvjp(_copied_save, _copied_gradient)


def _query(lookup: Lookup, at: Int[Array, "B A"] | None) -> tuple[Array, ...]:
    """Place, query, scale, reach and segment_pos of some tokens of the call."""
    past = lookup.k.shape[1] - lookup.q.shape[1]
    query = (lookup.q, lookup.scale, lookup.reach, lookup.segment_pos)
    if at is None:
        at = jnp.broadcast_to(jnp.arange(lookup.q.shape[1]), lookup.reach.shape)
        return past + at, *query
    picked = (
        jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1) for x in query
    )
    return past + at, *picked


def _by_kernel(
    lookup: Lookup, targets: Array | None, at: Array | None, kernel: Any, results: Any
) -> Any:
    """What a kernel gives for the tokens of the call, or some of them."""
    place, q, scale, reach, segment_pos = _query(lookup, at)
    if targets is None:
        targets = jnp.zeros_like(reach)

    def run(*arrays: Any) -> Any:
        return kernel(readout_native.operands(lookup.orders, *arrays))

    floats = (q * scale[..., None], lookup.k, lookup.bias)
    whole = (place, reach, segment_pos, targets, lookup.tokens)
    names = ((*ROWS, None), (*ROWS, None), (None,), *(ROWS,) * 5, (None, *ROWS))
    return on_each_device(run, names, results)(*floats, *whole, lookup.hashes)


def _scores(
    lookup: Lookup,
    q: Float[Array, "B Q P"],
    scale: Float[Array, "B Q"],
    reach: Int[Array, "B Q"],
    segment_pos: Int[Array, "B Q"],
    own: UInt32[Array, "n B Q"],
    k: Float[Array, "B K P"],
    hashes: UInt32[Array, "n B K"],
    distance: Int[Array, "... Q K"],
) -> Float[Array, "B Q K"]:
    """Scores of some entries, -inf where an entry is not read."""
    s = jnp.einsum("bqp,bkp->bqk", q, k, preferred_element_type=at_least_float32(q.dtype))
    s = s * scale[..., None]
    for index, n in enumerate(lookup.orders):
        same = own[index][..., None] == hashes[index][:, None]
        same &= distance <= segment_pos[..., None] + 1 - n
        s = s + jnp.where(same, lookup.bias[index], 0)
    return jnp.where((distance >= 1) & (distance <= reach[..., None]), s, -jnp.inf)


def _by_blocks(
    lookup: Lookup, targets: Array, block: int, function: Callable[..., tuple[Array, Array]]
) -> tuple[Array, Array]:
    """``function`` of (scores (B, Q, K), answers (B, K), targets (B, Q)) of blocks of tokens."""
    (rows, length), past = targets.shape, lookup.k.shape[1] - targets.shape[1]
    block = min(block, length)
    count = -(-length // block)
    padding = count * block - length

    # 1. The tokens by blocks, and for each block the entries up to its last token.
    def of_tokens(x: Array, axis: int = 1) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, padding)
        x = jnp.pad(x, widths).reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    places = jnp.arange(count)[:, None] * block + jnp.arange(past + block)

    def of_entries(x: Array, axis: int = 1) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, past + length + padding - x.shape[axis])
        return jnp.moveaxis(jnp.take(jnp.pad(x, widths), places, axis=axis), axis, 0)

    per_token = (lookup.q, lookup.scale, lookup.reach, lookup.segment_pos, targets)
    answers = lookup.tokens[:, 1:]
    xs = (
        *map(of_tokens, per_token),
        of_tokens(lookup.hashes[:, :, past:], 2),
        *map(of_entries, (lookup.k, answers)),
        of_entries(lookup.hashes, 2),
    )
    distance = past + jnp.arange(block)[:, None] - jnp.arange(past + block)

    # 2. Scores and result of a block.
    @jax.checkpoint
    def run(bias: Array, now: Any) -> tuple[Array, Array]:
        q, scale, reach, segment_pos, targets, own, k, answers, hashes = now
        with_bias = dataclasses.replace(lookup, bias=bias)
        s = _scores(with_bias, q, scale, reach, segment_pos, own, k, hashes, distance)
        return function(s, answers, targets)

    run = functools.partial(run, lookup.bias)
    if count == 1:
        found = run(jax.tree.map(lambda x: x[0], xs))
    else:
        found = jax.lax.map(run, xs)
        found = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:]), found)
    return found[0][:, :length], found[1][:, :length]


def _log_sum_exp(s: Array) -> Array:
    """Over the last axis; -inf, without a gradient, where all scores are."""
    some = (s > -jnp.inf).any(axis=-1)
    total = jax.nn.logsumexp(jnp.where(some[..., None], s, 0), axis=-1)
    return jnp.where(some, total, -jnp.inf)
