"""Who computes an attention: XLA, or kernels for TPUs and GPUs, or for CPUs.

``auto`` is ``pallas`` on a TPU or GPU, ``native`` on a CPU with a C++ compiler, and ``xla``
elsewhere. ``xla`` takes over, and a log line says so once for each reason, where

- memory is renewed at every token: the token form of B'MOJO;
- a call has fewer than ``FEWEST`` tokens, such as a step of decoding;
- full attention is on a device that JAX's own kernels, which compute it, are not for, or it
  looks at tokens before the call (``pallas`` only);
- with ``auto`` only, the kernels cannot run at these sizes, or cannot be compiled on this
  machine. By name that is an error.
"""

import functools
import logging
from typing import Literal, get_args

import jax

from bmojo.ops.native import library
from bmojo.types import Array, Float

Implementation = Literal["auto", "xla", "pallas", "native"]

FEWEST = 16
"""Tokens of a call that kernels are worth while for: a block has no fewer rows."""

ACCELERATORS = ("tpu", "gpu", "cuda", "rocm")

logger = logging.getLogger(__name__)


def check_implementation(name: str, field: str = "implementation") -> None:
    """Raise ValueError, naming ``field``, unless there is an implementation of that name."""
    names = get_args(Implementation)
    if name not in names:
        raise ValueError(f"{field}: must be one of {', '.join(names)}, got {name!r}")


def resolve(name: str) -> str:
    """The implementation that a name stands for: ``auto`` asks JAX for its backend.

    Raises:
      ValueError: there is no implementation of that name, or it is ``native`` where there are
        no such kernels.
    """
    check_implementation(name)
    if name == "native":
        why = library.unfit()
        if why is not None:
            raise ValueError(f"attention_implementation: no native kernels: {why}; take 'xla'")
    return _automatic(jax.default_backend()) if name == "auto" else name


@functools.cache
def _automatic(backend: str) -> str:
    if backend in ACCELERATORS:
        choice = "pallas"
    else:
        why = library.unfit()
        choice = "native" if why is None else "xla"
        if backend == "cpu" and why is not None:
            logger.warning("attention by xla in place of native: %s", why)
    logger.info("attention on %s: %s", backend, choice)
    return choice


def choose(
    q: Float[Array, "B L H P"], window: int | None, num_slots: int, implementation: str = "auto"
) -> str:
    """Who computes the attention of these queries to a window and slots: ``xla`` or a kernel.

    Args:
      q: queries.
      window: W; None: every query has keys of its own.
      num_slots: of a chunk.
      implementation: ``auto``, ``xla``, ``pallas`` or ``native``.

    Raises:
      ValueError: there is no such implementation, or a kernel was asked for by name and cannot
        run at these sizes or on this machine.
    """
    name = resolve(implementation)
    if name == "xla":
        return name
    if window is None:
        return _instead(name, implementation, "memory that is renewed at every token has no kernel")
    if q.shape[1] < FEWEST:
        return _instead(name, implementation, f"calls of fewer than {FEWEST} tokens need none")
    if name == "native":
        return name
    from bmojo.ops.pallas import attention  # not needed on a CPU

    return _unless(
        attention.unfit(q.shape[1], window, num_slots, q.shape[3], q.dtype), implementation
    )


def choose_causal(
    q: Float[Array, "B L H P"], implementation: str = "auto", first: bool = True
) -> str:
    """Who computes full attention: ``xla`` or a kernel.

    Args:
      q: queries.
      implementation: ``auto``, ``xla``, ``pallas`` or ``native``.
      first: no tokens precede those of the call.

    Raises:
      ValueError: as :func:`choose`.
    """
    name = resolve(implementation)
    if name == "xla":
        return name
    if q.shape[1] < FEWEST:
        return _instead(name, implementation, f"calls of fewer than {FEWEST} tokens need none")
    if name == "native":
        return name
    from bmojo.ops.pallas import causal, targets

    if not first:
        why = "JAX's kernels of full attention look at the tokens of a call alone"
        return _instead(name, implementation, why)
    if targets.here().interpret:
        why = "JAX's kernels of full attention run on TPUs and GPUs alone"
        return _instead(name, implementation, why)
    return _unless(causal.unfit(q.shape[3], q.dtype), implementation)


def _unless(why: str | None, implementation: str) -> str:
    if why is None:
        return "pallas"
    if implementation == "pallas":
        raise ValueError(f"attention_implementation: {why}; take 'xla'")
    return _instead("pallas", implementation, why)


@functools.cache
def _instead(name: str, implementation: str, why: str) -> str:
    level = logging.INFO if implementation == "auto" else logging.WARNING
    logger.log(level, "attention by xla in place of %s: %s", name, why)
    return "xla"
