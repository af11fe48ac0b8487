"""Arrays on their way into checkpoints and out of them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bmojo.training.parameters import Parameters


def held(arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays that stay as they are while they are written, whatever becomes of those given.

    Orbax takes what is on an accelerator to the host before it returns. On the host it would
    only look at arrays that the next step of training is about to overwrite: of these, and of
    each process's part of them alone, copies are made.
    """
    return {name: _held(value) for name, value in arrays.items()}


def _held(array: Any) -> jax.Array:
    if not isinstance(array, jax.Array):
        return jax.device_put(np.array(array), jax.local_devices()[0])
    device: Any = next(iter(array.sharding.device_set))
    if device.platform != "cpu":
        return array
    shards = [jax.device_put(np.array(s.data), s.device) for s in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


def targets(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and place of arrays to be read; without a sharding, the first device."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        name: jax.ShapeDtypeStruct(
            value.shape, value.dtype, sharding=getattr(value, "sharding", None) or first
        )
        for name, value in arrays.items()
    }


def check_shapes(saved: Mapping[str, list[int]], expected: Parameters) -> None:
    """Refuse the parameters of another model before any of them is read.

    Raises:
      ValueError: a parameter is missing, new, or of another shape.
    """
    wanted = {name: list(value.shape) for name, value in expected.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name), wanted.get(name)
        if there != here:
            raise ValueError(
                f"parameter {name} is {there or 'absent'} in the checkpoint, "
                f"{here or 'absent'} in the model"
            )
