"""The companion recurrence: an input-dependent autoregression per channel.

z_t = a_{t,1} z_{t-1} + ... + a_{t,R} z_{t-R} + x_t is a state-space model in controllable
canonical form: its state is s_t = (z_{t-R+1}, ..., z_t), its transition A_t shifts the state by
one place and has (a_{t,R}, ..., a_{t,1}) as its last row. Derivations: docs/math/realization.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Inexact

from bmojo.ops import chunks
from bmojo.ops.recurrence import COMPANION
from bmojo.types import Array, Bool, Float, at_least_float32

CHUNK_SIZES = {"associative": 64, "sequential": 32}


def companion_scan(
    x: Float[Array, "B L E"],
    a: Float[Array, "B L E R"],
    state: Float[Array, "B E R"],
    start: Bool[Array, "B L"] | None = None,
    valid: Bool[Array, "B L"] | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
) -> tuple[Float[Array, "B L E R"], Float[Array, "B E R"]]:
    """s_t = A_t s_{t-1} + e_R x_t for every channel, with companion transitions A_t.

    Derivatives to all operands need O(L * channels * R) memory, transitions of size R x R
    being kept for one chunk at a time.

    Args:
      x: inputs.
      a: coefficients by lag: ``a[..., i - 1]`` multiplies z_{t-i}.
      state: s before the first token; the oldest value first, the latest last.
      start: as in :func:`bmojo.ops.recurrence.selective_scan`, like ``chunk_size``.
      valid: false at tokens that leave the state as it is, which wins over ``start``. None:
        all count.
      implementation: ``auto`` (``sequential`` on a CPU, else ``associative``), ``sequential``
        (loops in time) or ``associative`` (an associative scan over pairs of matrix and
        vector within a chunk).
      chunk_size: tokens of a chunk.

    Returns:
      The states s_t after every token, and after the last. Both in float32, or wider if an
      operand is wider; z_{t-j} is ``states[..., R - 1 - j]``.

    Raises:
      ValueError: if there is no such implementation, or ``chunk_size`` is less than 1.
    """
    name = COMPANION.resolve(implementation)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: {chunk_size} is less than 1")
    wide = at_least_float32(x.dtype, a.dtype, state.dtype)
    x, a, state = x.astype(wide), a.astype(wide), state.astype(wide)
    inputs = {"x": x, "a": a}
    if start is not None:
        inputs["start"] = start
    if valid is not None:
        inputs["valid"] = valid
    length = x.shape[1]
    if length == 0:
        return jnp.zeros((x.shape[0], 0, *state.shape[1:]), wide), state
    # The order goes to the front: R planes of channels, rather than channels of R numbers.
    first = jnp.moveaxis(state, -1, 0)
    if length == 1:
        final = _step(first, {k: v[:, 0] for k, v in inputs.items()})
        states = jnp.moveaxis(final, 0, -1)
        return states[:, None], states

    count, size = chunks.plan(length, chunk_size or CHUNK_SIZES[name])
    if valid is None and count * size > length:
        inputs["valid"] = jnp.ones((x.shape[0], length), bool)
    cut = {k: jnp.swapaxes(chunks.split(v, count, size), 1, 2) for k, v in inputs.items()}
    final, states = jax.lax.scan(jax.checkpoint(_CHUNKS[name]), first, cut)
    states = jnp.einsum("ctrbe->cbter", states)
    return chunks.join(states, length), jnp.moveaxis(final, 0, -1)


def expand_polynomial(*factors: Inexact[Array, "*#batch _"]) -> Inexact[Array, "*batch _"]:
    """The product of polynomials, given and returned by their coefficients, lowest first."""
    product = factors[0]
    for factor in factors[1:]:
        n, m = product.shape[-1], factor.shape[-1]
        shape = jnp.broadcast_shapes(product.shape[:-1], factor.shape[:-1])
        total = jnp.zeros((*shape, n + m - 1), jnp.result_type(product, factor))
        for i in range(m):
            total = total.at[..., i : i + n].add(product * factor[..., i : i + 1])
        product = total
    return product


def _step(state: Float[Array, "R B E"], now: dict[str, Array]) -> Float[Array, "R B E"]:
    """One token: shift the state, append the new value."""
    past = state
    if "start" in now:
        past = jnp.where(now["start"][:, None], 0, past)
    by_lag = jnp.flip(past, 0)
    z = now["x"] + jnp.sum(jnp.moveaxis(now["a"], -1, 0) * by_lag, axis=0)
    after = jnp.concatenate([past[1:], z[None]])
    if "valid" in now:
        after = jnp.where(now["valid"][:, None], after, state)
    return after


def _sequential(
    state: Float[Array, "R B E"], now: dict[str, Array]
) -> tuple[Float[Array, "R B E"], Float[Array, "T R B E"]]:
    """The states of one chunk, token by token."""

    def step(carry, token):
        after = _step(carry, token)
        return after, after

    return jax.lax.scan(step, state, now)


def _associative(
    state: Float[Array, "R B E"], now: dict[str, Array]
) -> tuple[Float[Array, "R B E"], Float[Array, "T R B E"]]:
    """The states of one chunk, all at once."""
    x, a = now["x"], jnp.moveaxis(now["a"], -1, 1)
    order = a.shape[1]
    shift = jnp.eye(order, k=1, dtype=x.dtype)[:, :, None, None]
    transition = jnp.broadcast_to(shift, (x.shape[0], order, *a.shape[1:]))
    transition = transition.at[:, -1].set(jnp.flip(a, 1))
    update = jnp.zeros_like(a).at[:, -1].set(x)
    start = now["start"] if "start" in now else jnp.zeros(x.shape[:2], bool)
    start = start[:, None, None, :, None]
    if "valid" in now:
        same = jnp.eye(order, dtype=x.dtype)[:, :, None, None]
        transition = jnp.where(now["valid"][:, None, None, :, None], transition, same)
        update = jnp.where(now["valid"][:, None, :, None], update, 0)
        start &= now["valid"][:, None, None, :, None]
    state = jnp.where(start[0, 0], 0, state)
    update = update.at[0].add(jnp.sum(transition[0] * state, axis=1))

    def compose(earlier, later):
        # Sums of products, not a matmul: full precision on every device, and no batches of
        # tiny matrices. What is before the start of a document is replaced by zeros.
        (reset, A, b), (anew, A_next, b_next) = earlier, later
        A, b = jnp.where(anew, 0, A), jnp.where(anew[:, 0], 0, b)
        product = jnp.sum(A_next[:, :, :, None] * A[:, None], axis=2)
        return reset | anew, product, jnp.sum(A_next * b[:, None], axis=2) + b_next

    _, _, states = jax.lax.associative_scan(compose, (start, transition, update), axis=0)
    return states[-1], states


_CHUNKS: dict[str, Callable] = {"associative": _associative, "sequential": _sequential}
