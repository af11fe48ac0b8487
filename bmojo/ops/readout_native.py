"""Read-out by a C++ kernel for CPUs: blocks of 32 queries, whose scores stay in a core's caches.

Reverse derivatives of first order. Computed in the dtype of the queries, float32 or float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmojo.types import Array, Float, Int, UInt32

FILL = 16
"""Widths and rows of transposed keys have a multiple of so many numbers."""

PARTS = 8
"""Rows times parts of a row whose derivatives by the keys are summed apart: work for threads."""


class Operands(NamedTuple):
    """Arrays of one dtype, and whole numbers; widths are filled up with zeros."""

    q: Float[Array, "B L P"]
    k: Float[Array, "B K P"]
    turned: Float[Array, "B P K2"]
    bias: Float[Array, "n"]
    place: Int[Array, "B L"]
    reach: Int[Array, "B L"]
    targets: Int[Array, "B L"]
    answers: Int[Array, "B K"]
    hashes: Int[Array, "B n K"]
    own: Int[Array, "B n L"]


def operands(
    q: Float[Array, "B L P"],
    k: Float[Array, "B K P"],
    bias: Float[Array, "n"],
    whole: Sequence[Int[Array, "B ..."]],
    *hashes: UInt32[Array, "B n ..."],
) -> Operands:
    """Operands of the kernel; ``q`` are queries times their scale, ``whole`` place to answers."""
    wide = [(0, 0), (0, 0), (0, -q.shape[-1] % FILL)]
    q, k = jnp.pad(q, wide), jnp.pad(k.astype(q.dtype), wide)
    turned = jnp.swapaxes(k, 1, 2)
    turned = jnp.pad(turned, [(0, 0), (0, 0), (0, FILL + -k.shape[1] % FILL)])
    numbers = [x.astype(jnp.int32) for x in whole]
    signed = [jax.lax.bitcast_convert_type(x, jnp.int32) for x in hashes]
    return Operands._make((q, k, turned, bias.astype(q.dtype), *numbers, *signed))


@jax.custom_vjp
def share(operands: Operands) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Log-sum-exp of the scores that answer with the target, and of all."""
    return _save(operands)[0]


def _save(operands: Operands) -> tuple[tuple[Array, Array], tuple[Operands, Array, Array]]:
    made = [jax.ShapeDtypeStruct(operands.place.shape, operands.q.dtype)] * 2
    right, lse = _run("readout", made, operands)
    return (right, lse), (operands, right, lse)


def _gradient(saved: tuple[Operands, Array, Array], grads: tuple[Array, Array]) -> tuple[Operands]:
    operands, right, lse = saved
    rows, dtype = operands.q.shape[0], operands.q.dtype
    groups = max(1, PARTS // rows)
    shapes = (operands.q.shape, (groups, *operands.k.shape), (groups, rows, operands.bias.size))
    made = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    dq, dk, d_bias = _run("readout_back", made, (*operands, right, lse, *grads))
    nothing = jnp.zeros_like(operands.turned)
    no_more: Any = (None,) * 6
    return (Operands(dq, dk.sum(0), nothing, d_bias.sum((0, 1)), *no_more),)


share.defvjp(_save, _gradient)


def copied(operands: Operands, size: int) -> tuple[Float[Array, "B L V"], Float[Array, "B L"]]:
    """Copy distributions over ``size`` tokens, zeros where nothing is read, and log-sum-exps."""
    shape, dtype = operands.place.shape, operands.q.dtype
    made = [jax.ShapeDtypeStruct((*shape, size), dtype), jax.ShapeDtypeStruct(shape, dtype)]
    found, lse = _run("readout_copied", made, operands)
    return found, lse


def _run(name: str, made: list, operands: Sequence[Array]) -> Sequence[Array]:
    call = jax.ffi.ffi_call(f"bmojo_{name}_{made[0].dtype}", made, vmap_method="sequential")
    return call(*operands)
