"""Save and restore on meshes of eight host devices; run as a script, prints 'all equal'."""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bmojo.training.checkpoints import Checkpoint, Checkpoints, restore_parameters

SHAPES = {"w": (16, 8), "e": (8, 12), "b": (8,)}
SPECS = {"w": ("data", "fsdp"), "e": (None, "data"), "b": ("fsdp",)}


def mesh(*sizes):
    names = ("data", "fsdp")[: len(sizes)]
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def placed(where, name):
    if where is None:
        return None
    spec = [axis if axis in where.axis_names else None for axis in SPECS[name]]
    return NamedSharding(where, PartitionSpec(*spec))


def expected(tree, where, dtype):
    """Shapes of a tree whose leaves are named, placed on a mesh."""

    def shape(path, leaf):
        name = next((key.key for key in path if hasattr(key, "key")), None)
        sharding = placed(where, name) if name else None
        if sharding is None and where is not None:
            sharding = NamedSharding(where, PartitionSpec())
        kind = dtype if leaf.dtype == jnp.float32 else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, kind, sharding=sharding)

    return jax.tree_util.tree_map_with_path(shape, tree)


def main(directory):
    first = mesh(4, 2)
    drawn = np.random.default_rng(0)
    values = {name: drawn.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
    parameters = {name: jax.device_put(v, placed(first, name)) for name, v in values.items()}
    optimizer = optax.adam(1e-3)
    state = jax.jit(optimizer.init)(parameters)
    state = jax.tree.map(lambda x: x + 1, state)
    wanted = jax.tree.map(lambda x: np.array(x), state)
    carried = {"h": jax.device_put(values["w"], placed(first, "w"))}
    use_up = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 7, tree), donate_argnums=0)
    with Checkpoints(directory) as kept:
        kept.save(Checkpoint(5, parameters, state, {"some": "meta"}, carried))
        use_up((parameters, state, carried))  # at once, while they are being written
    for where in (mesh(2), None, mesh(2, 4), mesh(1, 1), first):
        for dtype in (jnp.float32, jnp.bfloat16):
            with Checkpoints(directory) as kept:
                template = expected(values, where, dtype)
                between = expected({"w": values["w"]}, where, dtype)["w"]
                restored, lines = kept.restore(
                    template, expected(wanted, where, dtype), lambda meta, h=between: {"h": h}
                )
            assert not lines and restored.meta["some"] == "meta"
            for name, value in restored.parameters.items():
                assert value.dtype == dtype
                assert np.asarray(value).tobytes() == values[name].astype(dtype).tobytes(), name
                if where is not None:
                    assert value.sharding.is_equivalent_to(placed(where, name), value.ndim)
                else:
                    assert value.devices() == {jax.devices()[0]}
            pairs = zip(
                jax.tree.leaves(restored.optimizer_state), jax.tree.leaves(wanted), strict=True
            )
            for value, leaf in pairs:
                kind = dtype if leaf.dtype == np.float32 else leaf.dtype
                assert np.asarray(value).tobytes() == leaf.astype(kind).tobytes()
            assert np.asarray(restored.carried["h"]).tobytes() == (
                values["w"].astype(dtype).tobytes()
            )
            step, only, _ = restore_parameters(directory, template)
            assert step == 5 and only["w"].dtype == dtype
            assert np.asarray(only["w"]).tobytes() == values["w"].astype(dtype).tobytes()
    print("all equal")


if __name__ == "__main__":
    main(sys.argv[1])
