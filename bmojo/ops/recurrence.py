"""The selective scan: Mamba's diagonal, input-dependent recurrence, and who computes it.

One public function, several implementations that agree. Derivatives of all of them need
O(L * channels) memory: only the states at chunk boundaries are kept, the others are computed
again in the backward pass.
"""

import functools
import logging
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from bmojo.ops import scan_associative, scan_sequential
from bmojo.ops.native import library
from bmojo.ops.native import scan as scan_native
from bmojo.types import Array, Bool, Float, at_least_float32

Implementation = Literal["auto", "associative", "sequential", "native", "pallas"]
Loop = Literal["auto", "associative", "sequential"]
"""The implementations that recurrences without a kernel have."""


def _kernel(*operands: Any) -> tuple[Array, Array]:
    from bmojo.ops.pallas import scan  # not needed on a CPU

    return scan.scan(*operands)


IMPLEMENTATIONS = {
    "associative": scan_associative.scan,
    "sequential": scan_sequential.scan,
    "native": scan_native.scan,
    "pallas": _kernel,
}

logger = logging.getLogger(__name__)


def check_implementation(name: str, kernels: bool = True) -> None:
    """Raise ValueError unless there is an implementation of that name.

    Args:
      name: of the implementation.
      kernels: whether the recurrence has any.
    """
    names = get_args(Implementation if kernels else Loop)
    if name not in names:
        raise ValueError(f"implementation: must be one of {', '.join(names)}, got {name!r}")


def resolve(name: str, kernels: bool = True) -> str:
    """The implementation that a name stands for: ``auto`` asks JAX for its backend.

    ``auto`` is ``native`` on a CPU if the recurrence has kernels and this machine can compile
    them, else ``sequential``; ``pallas`` on a TPU or GPU if the recurrence has kernels, and
    ``associative`` elsewhere.

    Raises:
      ValueError: there is no implementation of that name, or it is ``native`` and the backend
        is no CPU, or this machine cannot compile it.
    """
    check_implementation(name, kernels)
    why = library.unfit() if name == "native" else None
    if why is not None:
        raise ValueError(f"implementation: no native kernels: {why}")
    return _automatic(jax.default_backend(), kernels) if name == "auto" else name


@functools.cache
def _automatic(backend: str, kernels: bool) -> str:
    what = "selective scan" if kernels else "companion scan"
    choice = "sequential" if backend == "cpu" else "associative"
    if kernels and backend in ("tpu", "gpu", "cuda", "rocm"):
        choice = "pallas"
    if kernels and backend == "cpu":
        why = library.why_not()
        if why is not None:
            logger.info("%s on cpu: sequential in place of native: %s", what, why)
            return choice
        choice = "native"
    logger.info("%s on %s: %s", what, backend, choice)
    return choice


def _at(name: str, implementation: str, A: Float[Array, "E N"]) -> str:
    """``name``, or what ``auto`` takes in place of a kernel that cannot run at these sizes."""
    if name != "pallas" or implementation != "auto":
        return name
    from bmojo.ops.pallas import scan

    why = scan.unfit(A.shape[0], A.shape[1], A.dtype)
    if why is None:
        return name
    _say(why)
    return "associative"


@functools.cache
def _say(why: str) -> None:
    logger.info("selective scan: associative in place of pallas: %s", why)


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
    name = resolve(implementation)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: must be at least 1, got {chunk_size}")
    out_dtype, length = x.dtype, x.shape[1]
    wide = at_least_float32(*(v.dtype for v in (x, dt, A, B, C, state)))
    x, dt, A, B, C, state = (v.astype(wide) for v in (x, dt, A, B, C, state))

    if length == 1:
        decay = jnp.exp(dt[:, 0, :, None] * A)
        if start is not None:
            decay = jnp.where(start[:, :, None], 0, decay)
        state = decay * state + (dt * x)[:, 0, :, None] * B
        y = jnp.sum(state * C, axis=-1)[:, None]
    else:
        run = IMPLEMENTATIONS[_at(name, implementation, A)]
        y, state = run(x, dt, A, B, C, state, start, chunk_size)
    return y.astype(out_dtype), state
