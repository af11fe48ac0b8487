"""The selective scan and Mamba-2's recurrence in C++, for CPUs, with their derivatives.

The backward passes keep the states at chunk boundaries and compute the others again. Threads share
rows and channels or heads; results do not depend on how many there are. Reverse derivatives of
first order only. Operands are float32 or float64.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import chunks
from bmojo.ops.native import library
from bmojo.types import Array

CHUNK_SIZE = 16
"""Tokens of a chunk, or N where N is larger: the states kept are no larger than the inputs."""


class _Kernel(NamedTuple):
    """What a call fixes. No number is the machine's: results would depend on it."""

    name: str
    size: int  # tokens of a chunk
    fill: int  # kept states have a multiple of so many channels
    groups: int  # parts whose derivatives by B and C are added up apart: work for threads


def scan(x, dt, A, B, C, state, start, chunk_size=None) -> tuple[Array, Array]:
    """The scan of :func:`bmojo.ops.recurrence.selective_scan`.

    Raises:
      BuildError: there are no kernels on this machine.
    """
    size = chunks.plan(x.shape[1], chunk_size or max(CHUNK_SIZE, A.shape[1]))[1]
    # What the parts take is no larger than x.
    groups = max(1, min(8, x.shape[2] // (2 * B.shape[2])))
    return _run(_Kernel("scan", size, 32, groups), x, dt, A, B, C, state, start)


def ssd(x, dt, A, B, C, state, start, chunk_size) -> tuple[Array, Array]:
    """The recurrence of :func:`bmojo.ops.ssd.ssd`.

    Raises:
      BuildError: there are no kernels on this machine.
    """
    kernel = _Kernel("ssd", chunks.plan(x.shape[1], chunk_size)[1], 16, min(2, x.shape[2]))
    return _run(kernel, x, dt, A, B, C, state, start)


def _run(kernel, x, dt, A, B, C, state, start):
    library.require()
    flags = jnp.zeros((x.shape[0], 0), bool) if start is None else start
    return _scan(kernel, x, dt, A, B, C, flags, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(kernel, *operands):
    return tuple(_forward(kernel, 0, *operands)[:2])


def _forward(kernel, places, x, *operands):
    """Outputs, the last state, and the state before each of the first ``places`` chunks."""
    *more, channels, states = operands[-1].shape
    before = (*more, places, states, -(-channels // kernel.fill) * kernel.fill)
    return _call(kernel, "", (x.shape, operands[-1].shape, before), x, *operands)


def _save(kernel, *operands):
    y, last, before = _forward(kernel, -(-operands[0].shape[1] // kernel.size), *operands)
    return (y, last), (*operands[:-1], before)


def _backward(kernel, saved, cotangents):
    x, dt, A, B = saved[:4]
    parts, state = (kernel.groups, *B.shape), cotangents[1].shape
    shapes = (x.shape, dt.shape, (x.shape[0], *A.shape), parts, parts, state)
    dx, ddt, dA, dB, dC, dstate = _call(kernel, "_gradient", shapes, *saved, *cotangents)
    return dx, ddt, dA.sum(0), sum(dB), sum(dC), None, dstate


_scan.defvjp(_save, _backward)


def _call(kernel, suffix, shapes, x, *operands):
    made = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    name = f"bmojo_{kernel.name}{suffix}_f{jnp.finfo(x.dtype).bits}"
    call = jax.ffi.ffi_call(name, made, vmap_method="sequential")
    return call(x, *operands, chunk=np.int64(kernel.size))
