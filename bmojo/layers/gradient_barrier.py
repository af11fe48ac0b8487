"""Where XLA should finish one thing before it begins another."""

import jax

from bmojo.layers.axes import has_rules
from bmojo.ops.native import library
from bmojo.ops.native.settle import settle
from bmojo.types import Array, Float


@jax.custom_vjp
def gradient_barrier(x: Float[Array, "*rest D"]) -> Float[Array, "*rest D"]:
    """``x``, whose gradients are added up before anything else is done with them.

    XLA's CPU compiler joins the sum of two gradients to the transpose that the product behind it
    needs, and then reads both of them across memory, several times as slowly. A kernel that does
    nothing stands between, where there are kernels and no mesh. Derivatives of first order in
    reverse mode only.
    """
    return x


def _settle(_: None, grad: Array) -> tuple[Array]:
    return (settle(grad) if not has_rules() and library.unfit() is None else grad,)


gradient_barrier.defvjp(lambda x: (x, None), _settle)
