"""A sequence cut over the devices of a mesh axis: what the devices before leave to this one.

The functions run inside ``jax.shard_map`` over one mesh axis, device i holding the i-th of
``size`` equal parts (shards) of the time axis. They name no other axis of the mesh and can be
differentiated. In mixers they are behind :class:`bmojo.ops.time_sharding.ShardedContext`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from bmojo.ops.positions import Positions, advance
from bmojo.types import Array, Int

Tree = TypeVar("Tree")
Transition = tuple[Array, Array]
"""A linear map of a state and what is added to it: (a, b) of h -> a h + b."""


def shift(tree: Tree, by: int, axis: str, size: int) -> Tree:
    """The value of the device ``by`` places before; zeros where there is none."""
    pairs = [(device, device + by) for device in range(size - by)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, pairs), tree)


def halo(
    x: Shaped[Array, "B L *rest"],
    count: int,
    axis: str,
    size: int,
    first: Shaped[Array, "B T *rest"] | None = None,
) -> Shaped[Array, "B T *rest"]:
    """The last T = ``count`` entries before this shard, from as many devices back as it takes.

    ``x`` are the shard's entries, ``first`` the T entries before the first shard (None: zeros).
    """
    if first is None:
        first = jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)
    elif first.shape[1] != count:
        raise ValueError(f"first: must hold count = {count} entries, got {first.shape[1]}")
    length = x.shape[1]
    hops = min(size - 1, -(-count // length))
    if hops == 0:
        return first
    # Of the device furthest back only the end is needed.
    rest = min(length, count - (hops - 1) * length)
    near = [shift(x[:, length - rest :], hops, axis, size)]
    near += [shift(x, back, axis, size) for back in range(hops - 1, 0, -1)]
    missing = count - rest - (hops - 1) * length
    widths = [(0, 0), (missing, 0)] + [(0, 0)] * (x.ndim - 2)
    received = jnp.pad(jnp.concatenate(near, axis=1), widths).astype(first.dtype)

    # Ahead of what the devices before hold comes the end of ``first``.
    passed = jax.lax.axis_index(axis).astype(jnp.int32) * length
    older = jnp.concatenate([first, jnp.zeros_like(first)], axis=1)
    older = jax.lax.dynamic_slice_in_dim(older, jnp.minimum(passed, count), count, axis=1)
    is_older = jnp.arange(count, dtype=jnp.int32) < count - passed
    return jnp.where(is_older.reshape(count, *(1,) * (x.ndim - 2)), older, received)


def exclusive_scan(
    combine: Callable[[Tree, Tree], Tree], first: Tree, element: Tree, axis: str, size: int
) -> Tree:
    """``first`` combined with the elements of all devices before this one, in their order.

    ``combine`` is an associative function of (earlier, later); elements have the structure, shapes
    and dtypes of ``first``. Takes 1 + ceil(log2(size)) rounds of communication (Hillis and
    Steele's scan).
    """
    if size == 1:
        return first
    index = jax.lax.axis_index(axis)

    def choose(condition: Array, yes: Tree, no: Tree) -> Tree:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)

    value = choose(index == 0, first, shift(element, 1, axis, size))
    back = 1
    while back < size:
        value = choose(index >= back, combine(shift(value, back, axis, size), value), value)
        back *= 2
    return value


def last(tree: Tree, axis: str, size: int) -> Tree:
    """The last device's value, on every device."""
    here = jax.lax.axis_index(axis) == size - 1
    return jax.tree.map(lambda x: jax.lax.psum(jnp.where(here, x, 0).astype(x.dtype), axis), tree)


def gather(tree: Tree, axis: str) -> Tree:
    """Arrays (B, L, ...) of all shards joined along time, on every device."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis, axis=1, tiled=True), tree)


def positions_before(
    positions: Positions, length: int, segment_ids: Int[Array, "B L"] | None, axis: str, size: int
) -> Positions:
    """Positions of the rows before this shard of L tokens, from those before the first shard."""
    passed = jax.lax.axis_index(axis).astype(jnp.int32) * length
    position = positions.position + passed
    if segment_ids is None:
        return Positions(position, positions.segment_pos + passed, positions.segment)
    segment = halo(segment_ids, 1, axis, size, positions.segment[:, None])[:, 0]
    unborn = jnp.zeros_like(positions.segment_pos)
    span, after = advance(Positions(position, unborn, segment), length, segment_ids)
    assert span.start is not None
    nothing = jnp.zeros(positions.segment_pos.shape, bool)
    first, element = (nothing, positions.segment_pos), (span.start.any(axis=1), after.segment_pos)
    _, segment_pos = exclusive_scan(add_in_document, first, element, axis, size)
    return Positions(position, segment_pos, segment)


def in_document(combine: Callable[[Tree, Tree], Tree]) -> Callable[[Any, Any], Any]:
    """``combine`` on pairs (a document started, value): zeros stand for what was before a start.

    What is before is replaced and not multiplied by zero, which keeps what is not finite.
    """

    def both(left: tuple[Array, Tree], right: tuple[Array, Tree]) -> tuple[Array, Tree]:
        (reset_l, before), (reset_r, after) = left, right

        def kept(x: Array) -> Array:
            return jnp.where(reset_r.reshape(reset_r.shape + (1,) * (x.ndim - reset_r.ndim)), 0, x)

        return reset_l | reset_r, combine(jax.tree.map(kept, before), after)

    return both


add_in_document = in_document(jnp.add)


def compose(left: Transition, right: Transition) -> Transition:
    """First ``left``, then ``right``, with transitions that multiply elementwise."""
    (a, b), (c, d) = left, right
    return c * a, c * b + d


def compose_matrices(left: Transition, right: Transition) -> Transition:
    """First ``left``, then ``right``, with matrices (..., R, R) and vectors (..., R)."""
    (a, b), (c, d) = left, right
    # Sums of products rather than matmuls: full precision on every device.
    product = jnp.sum(c[..., :, :, None] * a[..., None, :, :], axis=-2)
    return product, jnp.sum(c * b[..., None, :], axis=-1) + d
