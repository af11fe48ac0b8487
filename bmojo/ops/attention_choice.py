"""Who computes an attention: XLA, or kernels for TPUs and GPUs.

``auto`` is ``pallas`` on a TPU or GPU and ``xla`` elsewhere. ``xla`` takes over, and a log line
says so once for each reason, where

- memory is renewed at every token: the token form of B'MOJO;
- a call has fewer than ``FEWEST`` tokens, such as a step of decoding;
- full attention is on a device that JAX's own kernels, which compute it, are not for, or it
  looks at tokens before the call;
- with ``auto`` only, the kernels cannot run at these sizes. With ``pallas`` that is an error.
"""

import functools
import logging
from typing import Literal, get_args

import jax

from bmojo.types import Array, Float

Implementation = Literal["auto", "xla", "pallas"]

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
      ValueError: there is no implementation of that name.
    """
    check_implementation(name)
    return _automatic(jax.default_backend()) if name == "auto" else name


@functools.cache
def _automatic(backend: str) -> str:
    choice = "pallas" if backend in ACCELERATORS else "xla"
    logger.info("attention on %s: %s", backend, choice)
    return choice


def takes_kernel(
    q: Float[Array, "B L H P"], window: int | None, num_slots: int, implementation: str = "auto"
) -> bool:
    """Whether a kernel computes the attention of these queries to a window and slots.

    Args:
      q: queries.
      window: W; None: every query has keys of its own.
      num_slots: of a chunk.
      implementation: ``auto``, ``xla`` or ``pallas``.

    Raises:
      ValueError: there is no such implementation, or ``pallas`` was asked for by name and
        cannot run at these sizes.
    """
    if resolve(implementation) == "xla":
        return False
    if window is None:
        _say(implementation, "memory that is renewed at every token has no kernel")
        return False
    if q.shape[1] < FEWEST:
        _say(implementation, f"calls of fewer than {FEWEST} tokens need none")
        return False
    from bmojo.ops.pallas import attention  # not needed on a CPU

    why = attention.unfit(q.shape[1], window, num_slots, q.shape[3], q.dtype)
    return _fits(implementation, why)


def takes_causal_kernel(q: Float[Array, "B L H P"], implementation: str = "auto") -> bool:
    """Whether a kernel computes full attention over the tokens of a call that none precede.

    Raises:
      ValueError: as :func:`takes_kernel`.
    """
    if resolve(implementation) == "xla":
        return False
    from bmojo.ops.pallas import causal, targets

    if q.shape[1] < FEWEST:
        _say(implementation, f"calls of fewer than {FEWEST} tokens need none")
        return False
    if targets.here().interpret:
        _say(implementation, "JAX's kernels of full attention run on TPUs and GPUs alone")
        return False
    return _fits(implementation, causal.unfit(q.shape[3], q.dtype))


def _fits(implementation: str, why: str | None) -> bool:
    if why is None:
        return True
    if implementation == "pallas":
        raise ValueError(f"attention_implementation: {why}; take 'xla'")
    _say(implementation, why)
    return False


@functools.cache
def _say(implementation: str, why: str) -> None:
    level = logging.WARNING if implementation == "pallas" else logging.INFO
    logger.log(level, "attention by xla in place of pallas: %s", why)
