"""The selective scan: Mamba's diagonal, input-dependent recurrence.

One public function, several implementations that agree; kernels run on each device of a mesh on
its own channels. Derivatives of all of them need
O(L * channels) memory: only the states at chunk boundaries are kept, the others are computed
again in the backward pass.
"""

from typing import Any, Literal

import jax.numpy as jnp

from bmojo.ops import scan_associative, scan_sequential
from bmojo.ops.axes import on_each_device
from bmojo.ops.implementations import Implementations
from bmojo.ops.native.scan import scan as scan_native
from bmojo.types import Array, Bool, Float, at_least_float32

Implementation = Literal["auto", "associative", "sequential", "native", "pallas"]
Loop = Literal["auto", "associative", "sequential"]
"""The implementations of recurrences without kernels."""

LOOPS = ("associative", "sequential")
SELECTIVE = Implementations(
    "selective scan", (*LOOPS, "native", "pallas"), "pallas", "associative", cpu="sequential"
)
COMPANION = Implementations("companion scan", LOOPS, "associative", "associative", cpu="sequential")

CHANNELS = ("batch", None, "inner")
STATES = ("batch", None, None)
LAST = ("batch", "inner", None)


def _kernel(*operands: Any) -> tuple[Array, Array]:
    from bmojo.ops.pallas import scan  # not needed on a CPU

    return scan.scan(*operands)


IMPLEMENTATIONS = {
    "associative": scan_associative.scan,
    "sequential": scan_sequential.scan,
    "native": scan_native,
    "pallas": _kernel,
}


def selective_scan(
    x: Float[Array, "B L E"],
    dt: Float[Array, "B L E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B E N"],
    start: Bool[Array, "B L"] | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
) -> tuple[Float[Array, "B L E"], Float[Array, "B E N"]]:
    """y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, for every channel.

    Equations 2 and 3 of Mamba (arXiv 2312.00752), the transition discretized by zero-order
    hold and the input by Euler's rule. Decays are never divided by, so that a decay may
    vanish. A token with dt = 0 leaves the state as it is.

    Args:
      x: inputs.
      dt: step sizes, not negative.
      A: continuous-time transition, negative.
      B: input map, shared by all channels.
      C: output map, shared by all channels.
      state: h before the first token.
      start: true where a document starts: h_{t-1} counts as zero there. None: nowhere.
      implementation: ``auto``, ``native`` (a kernel for CPUs, which the machine's C++ compiler
        makes), ``sequential`` (loops in time), ``associative`` (parallel in time within a
        chunk) or ``pallas`` (a kernel for TPUs or GPUs; elsewhere it is interpreted, for
        tests). Derivatives in forward mode: ``associative`` alone; of second order: not by
        ``native`` and ``pallas``.
      chunk_size: the most tokens between two states that the backward pass keeps. None: a
        good one for the implementation.

    Returns:
      y in the dtype of ``x``, and h after the last token. Computation and h are in float32,
      or wider if an operand is wider.

    Raises:
      ValueError: there is no such implementation, ``chunk_size`` is less than 1, or a kernel
        was asked for by name and cannot run here or at these sizes.
    """
    name = SELECTIVE.resolve(implementation)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: must be at least 1, got {chunk_size}")
    out_dtype, length = x.dtype, x.shape[1]
    wide = at_least_float32(*(v.dtype for v in (x, dt, A, B, C, state)))
    x, dt, A, B, C, state = (v.astype(wide) for v in (x, dt, A, B, C, state))

    if length == 1:
        if start is not None:
            state = jnp.where(start[:, :, None], 0, state)
        state = jnp.exp(dt[:, 0, :, None] * A) * state + (dt * x)[:, 0, :, None] * B
        y = jnp.sum(state * C, axis=-1)[:, None]
        return y.astype(out_dtype), state

    if name == "pallas" and implementation == "auto":
        from bmojo.ops.pallas import scan

        reason = scan.unfit(A.shape[0], A.shape[1], A.dtype)
        if reason is not None:
            name = SELECTIVE.instead(name, "associative", reason)
    operands = [x, dt, A, B, C, state] + ([] if start is None else [start])

    def run(*operands: Array) -> tuple[Array, Array]:
        own = operands if start is not None else (*operands, None)
        return IMPLEMENTATIONS[name](*own, chunk_size)

    if name in ("native", "pallas"):
        names = (CHANNELS, CHANNELS, ("inner", None), STATES, STATES, LAST, ("batch", None))
        run = on_each_device(run, names[: len(operands)], (CHANNELS, LAST))
    y, state = run(*operands)
    return y.astype(out_dtype), state
