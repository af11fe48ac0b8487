"""A mixer over the shards of a sequence beside the same mixer over the whole of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from bmojo import testing as law
from bmojo.layers.protocol import SequenceShard
from tests.numerics import assert_close

AXIS = "sequence"


def over_devices(function, size, in_time, out_time):
    """``function`` on ``size`` devices; arguments and results are cut along time or are whole."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:size]), (AXIS,))
    cut = [PartitionSpec(None, AXIS), PartitionSpec()]
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(cut[not t] for t in in_time),
        out_specs=jax.tree.map(lambda t: cut[not t], out_time),
        check_vma=False,
    )


def call(graph, size, parameters, u, first, ids):
    """The mixer's call, whole (size 0) or in so many shards."""

    def mix(parameters, u, first, ids):
        state = SequenceShard(AXIS, size, first) if size else first
        return nnx.merge(graph, parameters)(u, state, ids)

    way = over_devices(mix, size, (False, True, False, True), (True, False)) if size else mix
    return way(parameters, u, first, ids)


@functools.partial(jax.jit, static_argnums=(0, 1))
def outputs(graph, size, parameters, u, first, ids):
    return call(graph, size, parameters, u, first, ids)


@functools.partial(jax.jit, static_argnums=(0, 1))
def everything(graph, size, parameters, u, first, ids):
    """Outputs, final state, and gradients of a random functional of both."""
    leaves, tree = jax.tree.flatten(first)
    smooth = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def loss(parameters, u, values):
        full = list(leaves)
        for i, x in zip(smooth, values, strict=True):
            full[i] = x
        out, last = call(graph, size, parameters, u, jax.tree.unflatten(tree, full), ids)
        return law.functional(out, last), (out, last)

    values = [leaves[i] for i in smooth]
    gradients, found = jax.grad(loss, (0, 1, 2), has_aux=True)(parameters, u, values)
    return found, gradients


def documents(rows, length, shard):
    """Ids of packed documents: edges inside shards and on them, one document over several."""
    ids = np.zeros((rows, length), np.int32)
    ids[0, shard + 1 :] += 1  # inside the second shard
    ids[0, 2 * shard :] += 1  # on an edge
    if rows > 1:
        ids[1, shard:] += 1  # on an edge; then on through all the others
        ids[1, length - 1 :] += 1  # the very last token
    return jnp.asarray(ids)


def check(config, dtype, size, shard, *, packed=True, warm=0, with_gradients=True):
    """Outputs, final state and gradients are those of the whole sequence.

    Args:
      config: of the mixer.
      dtype: of everything.
      size: devices.
      shard: tokens of each.
      packed: several documents a row.
      warm: tokens before the first; 0: none, and the state is None.
      with_gradients: or outputs and state alone.
    """
    mixer = law.make(config, dtype)
    graph, parameters = nnx.split(mixer, nnx.Param)
    length = size * shard
    u = law.draw(dtype, 2, length, mixer.d_model)
    ids = documents(2, length, shard) if packed else None
    first = None
    if warm:
        before = law.draw(dtype, 2, warm, mixer.d_model, seed=5)
        ids_before = jnp.zeros((2, warm), jnp.int32) if packed else None
        empty = mixer.init_state(2, warm + length)
        _, first = outputs(graph, 0, parameters, before, empty, ids_before)
    way = everything if with_gradients else outputs
    want = way(graph, 0, parameters, u, first, ids)
    got = way(graph, size, parameters, u, first, ids)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(want))
    assert_close(got, want, dtype)
