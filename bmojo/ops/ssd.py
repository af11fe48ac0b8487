"""State-space duality: Mamba-2's recurrence, one decay per head, as chunkwise matmuls."""

from typing import Literal

import jax
import jax.numpy as jnp

from bmojo.ops import chunks
from bmojo.ops.axes import on_each_device
from bmojo.ops.implementations import Implementations
from bmojo.ops.masks import finite_gradient
from bmojo.ops.native.scan import ssd as ssd_native
from bmojo.types import Array, Bool, Float, at_least_float32

CHUNK_SIZE = 64
Implementation = Literal["auto", "xla", "native"]

IMPLEMENTATIONS = Implementations("Mamba-2's scan", ("xla", "native"), "xla", "xla")

INPUTS = ("batch", None, "heads", None)
STATES = ("batch", None, None)
LAST = ("batch", "heads", None, None)


def ssd(
    x: Float[Array, "B L H P"],
    dt: Float[Array, "B L H"],
    A: Float[Array, "H"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B H P N"],
    start: Bool[Array, "B L"] | None = None,
    chunk_size: int = CHUNK_SIZE,
    implementation: str = "auto",
) -> tuple[Float[Array, "B L H P"], Float[Array, "B H P N"]]:
    """y_t = h_t C_t with h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, for every head.

    The block decomposition of Mamba-2 (arXiv 2405.21060, section 6): within a chunk the map
    from inputs to outputs is a masked matrix, between chunks a state is carried. Its
    derivatives keep the states at chunk boundaries only. Decays are never divided by. A token
    with dt = 0 leaves the state as it is.

    Args:
      x: inputs.
      dt: step sizes, not negative.
      A: continuous-time transition of each head, negative.
      B: input map, shared by all heads.
      C: output map, shared by all heads.
      state: h before the first token.
      start: true where a document starts: h_{t-1} counts as zero there. None: nowhere.
      chunk_size: the most tokens of a chunk.
      implementation: ``auto``, ``native`` (a kernel for CPUs, which the machine's C++ compiler
        makes; reverse derivatives of first order only) or ``xla``.

    Returns:
      y in the dtype of ``x``, and h after the last token. Computation and h are in float32,
      or wider if an operand is wider.

    Raises:
      ValueError: as :func:`bmojo.ops.recurrence.selective_scan`.
    """
    name = IMPLEMENTATIONS.resolve(implementation)
    if chunk_size < 1:
        raise ValueError(f"chunk_size: must be at least 1, got {chunk_size}")
    out_dtype, length = x.dtype, x.shape[1]
    wide = at_least_float32(*(v.dtype for v in (x, dt, A, B, C, state)))
    x, dt, A, B, C, state = (v.astype(wide) for v in (x, dt, A, B, C, state))
    if length == 1:
        y, state = _step(x, dt, A, B, C, state, start)
        return y.astype(out_dtype), state
    if name == "native":
        operands = [x, dt, A, B, C, state] + ([] if start is None else [start])
        heads = ("batch", None, "heads")
        names = (INPUTS, heads, ("heads",), STATES, STATES, LAST, ("batch", None))

        def kernel(*operands: Array) -> tuple[Array, Array]:
            x, dt, A, B, C, state, *begun = operands
            return ssd_native(x, dt, A, B, C, state, begun[0] if begun else None, chunk_size)

        run = on_each_device(kernel, names[: len(operands)], (INPUTS, LAST))
        y, state = run(*operands)
        return y.astype(out_dtype), state

    count, size = chunks.plan(length, chunk_size)
    inputs = {"x": x, "dt": dt, "B": B, "C": C}
    if start is not None:
        inputs["start"] = start

    @jax.checkpoint
    def chunk(h, now):
        return _chunk(h, A, **now)

    cut = {name: chunks.split(v, count, size) for name, v in inputs.items()}
    state, y = jax.lax.scan(chunk, state, cut)
    return chunks.join(y, length).astype(out_dtype), state


def _step(x, dt, A, B, C, state, start):
    """One token."""
    if start is not None:
        state = jnp.where(start[..., None, None], 0, state)
    update = (dt[..., None] * x)[:, 0, :, :, None] * B[:, :, None, :]
    state = jnp.exp(dt[:, 0] * A)[..., None, None] * state + update
    return jnp.einsum("bhpn,bn->bhp", state, C[:, 0])[:, None], state


def _chunk(h, A, x, dt, B, C, start=None):
    """All tokens of one chunk, from the state before it."""
    if start is not None:
        lost, (h, x, dt, B, C) = _cleared(h, x, dt, B, C, start)
    log_decay = jnp.swapaxes(dt * A, 1, 2)
    since_start = jnp.cumsum(log_decay, axis=-1)

    # decays[b, h, t, s]: what is left at t of what came in at s; nothing before s, nor
    # across the start of a document. Each exponent is a sum of its own over s < r <= t: as
    # differences of one running sum, and in the derivatives, small ones beside large ones
    # would drown in rounding.
    causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), log_decay.dtype))
    after = jnp.tril(causal, -1) * log_decay[..., :, None]
    between = jnp.einsum("tr,bhrs->bhts", causal, after, precision="highest")
    linked = causal > 0
    first: Array | bool = True
    if start is not None:
        document = jnp.cumsum(start, axis=1)
        linked = linked & (document[:, None, :, None] == document[:, None, None, :])
        first = (document == 0)[:, None]
    decays = jnp.exp(jnp.where(linked, between, -jnp.inf))
    from_state = jnp.exp(jnp.where(first, since_start, -jnp.inf))

    inner = x * dt[..., None]
    scores = jnp.einsum("btn,bsn->bts", C, B)
    y = jnp.einsum("bhts,bshp->bthp", scores[:, None] * decays, inner)
    y = y + jnp.einsum("bhpn,btn,bht->bthp", h, C, from_state)
    h = from_state[:, :, -1, None, None] * h + jnp.einsum(
        "bhs,bshp,bsn->bhpn", decays[:, :, -1], inner, B
    )
    if start is not None:
        h, y = finite_gradient((h, y))
        h = jnp.where(lost[:, -1, :, None, None], jnp.nan, h)
        y = jnp.where(lost[..., None], jnp.nan, y)
    return h, y


def _cleared(h, x, dt, B, C, start):
    """Which outputs (B, L, H) are lost to what is not finite, and finite operands.

    The products of a chunk join documents with weights of zero, which would not stop it.
    """
    good = jnp.isfinite(dt) & jnp.isfinite(x).all(-1)
    good &= (jnp.isfinite(B) & jnp.isfinite(C)).all(-1)[..., None]
    step = jnp.arange(dt.shape[1])[:, None]
    last = jax.lax.cummax(jnp.where(good, -2, step), axis=1)
    last = jnp.where(jnp.isfinite(h).all((2, 3))[:, None], last, jnp.maximum(last, -1))
    first = jax.lax.cummax(jnp.where(start[..., None], step, -1), axis=1)
    return last >= first, [jnp.where(jnp.isfinite(v), v, 0) for v in (h, x, dt, B, C)]
