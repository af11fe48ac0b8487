"""Projections of several outputs at once."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from bmojo.ops.axes import RULES, constrain
from bmojo.types import Array


def project(
    linear: nnx.Linear, u: Array, sizes: Sequence[int], names: Sequence[str | None]
) -> tuple[Array, ...]:
    """The outputs (B, L, size) of a projection that makes several at once.

    ``sizes`` are channels of all outputs but the last, ``names`` the axis names of all. Where
    rules are in force each output comes from its own part of the kernel: parts of one product
    would begin in the middle of a device's share.
    """
    edges = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    if RULES.get() is None:
        return tuple(jnp.split(linear(u), edges, axis=-1))
    kernel = linear.kernel[...].astype(linear.dtype)
    parts = zip(jnp.split(kernel, edges, axis=-1), names, strict=True)
    outputs = [u.astype(kernel.dtype) @ constrain(part, None, name) for part, name in parts]
    if linear.bias is not None:
        biases = jnp.split(linear.bias[...].astype(linear.dtype), edges)
        outputs = [x + bias for x, bias in zip(outputs, biases, strict=True)]
    return tuple(constrain(x, "batch", None, n) for x, n in zip(outputs, names, strict=True))


def projection_init(kind: str) -> Any:
    """Initializer of a kernel: 'lecun', normal of variance 1 / fan-in, or 'uniform'.

    'uniform' within 1 / sqrt(fan-in), of a third of that variance, is torch's and so the reference
    implementations' of Mamba.
    """
    if kind not in ("lecun", "uniform"):
        raise ValueError(f"projection_init: must be 'lecun' or 'uniform', got {kind!r}")
    if kind == "lecun":
        return nnx.initializers.lecun_normal()
    return nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
