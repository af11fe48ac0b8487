"""Products of tokens with one number for each channel."""

import jax
import jax.numpy as jnp

from bmojo.types import Array, Float


@jax.custom_vjp
def scale(x: Float[Array, "*rest D"], factor: Float[Array, "D"]) -> Float[Array, "*rest D"]:
    """``x * factor``, in the dtype that they promote to.

    The derivative with regard to ``factor`` is one sum over all tokens. As the transpose of a
    broadcast, XLA's CPU compiler adds up a single row of tokens twenty times more slowly.
    """
    return x * factor


def _save(x: Array, factor: Array) -> tuple[Array, tuple[Array, Array]]:
    return x * factor, (x, factor)


def _gradients(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, factor = saved
    total = jnp.sum(grad * x, axis=range(x.ndim - 1))
    return (grad * factor).astype(x.dtype), total.astype(factor.dtype)


scale.defvjp(_save, _gradients)
