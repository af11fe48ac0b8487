"""Two processes save, one file is damaged, both go back to the checkpoint before.

As a script: ``python -m tests.training.checkpoints.several DIRECTORY PORT PROCESS``.
"""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bmojo.multihost import Cluster, start
from bmojo.training import hashes
from bmojo.training.checkpoints import Checkpoint, Checkpoints


def main(directory, port, process):
    processes = start(Cluster(f"127.0.0.1:{port}", 2, int(process)))
    with processes.together():
        save_and_restore(directory, processes)
    print("all equal")


def save_and_restore(directory, processes):
    kept_in = Path(directory)
    values = np.arange(32, dtype="f4").reshape(8, 4)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    where = NamedSharding(mesh, PartitionSpec("data"))
    use_up = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)

    def array(factor):
        return jax.make_array_from_callback(
            values.shape, where, lambda index: factor * values[index]
        )

    with Checkpoints(kept_in, 2, processes=processes) as kept:
        for step in (1, 2, 3):
            w, m = array(step), array(-step)
            kept.save(Checkpoint(step, {"w": w}, {"m": m}, {"n": step}))
            use_up(w), use_up(m)
        kept.wait()
    assert sorted(p.name for p in kept_in.iterdir()) == ["2", "3"]
    assert all(hashes.changes(p) == [] for p in kept_in.iterdir())
    processes.meet("seen")
    if processes.main:
        path = kept_in / "3" / "meta" / "metadata"
        path.write_bytes(path.read_bytes()[:-1])
    processes.meet("damaged")
    shape = jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=where)
    with Checkpoints(kept_in, 2, processes=processes) as kept:
        restored, lines = kept.restore({"w": shape}, {"m": shape})
    assert restored.step == 2 and len(lines) == 1 and "meta/metadata" in lines[0], lines
    for shard in restored.parameters["w"].addressable_shards:
        assert np.array_equal(shard.data, 2 * values[shard.index])
    for shard in restored.optimizer_state["m"].addressable_shards:
        assert np.array_equal(shard.data, -2 * values[shard.index])


if __name__ == "__main__":
    main(*sys.argv[1:])
