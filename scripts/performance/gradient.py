"""Functions of any arrays together with their gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def with_gradient(function: Callable[..., Any], operands: Any, out: Any) -> tuple[Any, Any]:
    """The function to (outputs, gradients), and arguments for it.

    Derivatives are with regard to all operands that have some, pulled back from cotangents that
    are arguments too.
    """
    leaves, tree = jax.tree.flatten(operands)
    where = [index for index, leaf in enumerate(leaves) if _is_smooth(leaf)]

    def both(moving: list[Any], leaves: list[Any], cotangents: list[Any]) -> Any:
        def forward(moving: list[Any]) -> tuple[list[Any], list[Any]]:
            given = dict(enumerate(leaves)) | dict(zip(where, moving, strict=True))
            found = jax.tree.leaves(function(*jax.tree.unflatten(tree, given.values())))
            return list(filter(_is_smooth, found)), [v for v in found if not _is_smooth(v)]

        outs, pull, others = jax.vjp(forward, moving, has_aux=True)
        return outs, others, pull(cotangents)[0]

    rng = np.random.default_rng(1)
    smooth = filter(_is_smooth, jax.tree.leaves(out))
    cotangents = [jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in smooth]
    moving = [leaves[index] for index in where]
    fixed = [None if index in where else leaf for index, leaf in enumerate(leaves)]
    return both, (moving, fixed, cotangents)


def _is_smooth(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)
