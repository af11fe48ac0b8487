"""What devices along an axis leave to the ones after them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bmojo.ops import collectives
from bmojo.ops.positions import Positions
from tests.layers.sharded import AXIS, over_devices


def each_device(function, size, *arrays):
    """``function`` of the arrays' shards along axis 1; results stacked along a new first axis."""
    cut = PartitionSpec(None, AXIS)

    def run(*arrays):
        return jax.tree.map(lambda x: x[None], function(*arrays))

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:size]), (AXIS,))
    way = jax.shard_map(
        run, mesh=mesh, in_specs=cut, out_specs=PartitionSpec(AXIS), check_vma=False
    )
    return jax.jit(way)(*arrays)


def test_a_halo_is_what_came_before():
    size, length = 5, 3
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, size * length, 2)), jnp.float32)
    counts = (0, 3, 4, 8, 20)
    firsts = [jnp.asarray(rng.normal(size=(2, n, 2)), jnp.float32) for n in counts]

    def halos(x):
        wide = [
            collectives.halo(x, n, AXIS, size, first)
            for n, first in zip(counts, firsts, strict=True)
        ]
        return wide, collectives.halo(x, 4, AXIS, size)

    found, bare = each_device(halos, size, x)
    for n, first, got in zip(counts, firsts, found, strict=True):
        past = np.concatenate([first, x], axis=1)
        for device in range(size):
            np.testing.assert_array_equal(got[device], past[:, device * length :][:, :n])
    past = np.pad(x, [(0, 0), (4, 0), (0, 0)])
    np.testing.assert_array_equal(bare[3], past[:, 9:13])


def test_a_halo_has_a_gradient():
    size, length, count = 3, 2, 3
    x = jnp.arange(12.0).reshape(1, 6, 2)
    first = jnp.ones((1, count, 2))
    weights = jnp.cos(jnp.arange(size * count * 2.0)).reshape(1, size * count, 2)

    def whole(x, first):
        past = jnp.concatenate([first, x], axis=1)
        parts = [past[:, i * length : i * length + count] for i in range(size)]
        return jnp.sum(weights * jnp.concatenate(parts, axis=1) ** 2)

    def parts(x, first):
        def halo(x, first):
            return collectives.halo(x, count, AXIS, size, first)

        held = over_devices(halo, size, (True, False), True)(x, first)
        return jnp.sum(weights * held**2)

    for got, want in zip(
        jax.jit(jax.grad(parts, (0, 1)))(x, first), jax.grad(whole, (0, 1))(x, first), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_first_entries_must_be_as_many_as_asked_for():
    with pytest.raises(ValueError, match="first: must hold count = 3 entries, got 2"):
        collectives.halo(jnp.ones((1, 4)), 3, AXIS, 2, jnp.ones((1, 2)))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_scan_combines_in_order(size):
    """With maps that do not commute, and matrices beside plain decays."""
    rng = np.random.default_rng(size)
    a = rng.normal(size=(1, size, 2, 2)).astype("float32")
    b = rng.normal(size=(1, size, 2)).astype("float32")
    start = (np.eye(2, dtype="float32"), np.array([0.5, -1.0], "float32"))

    def run(a, b):
        element = (a[0, 0], b[0, 0])
        plain = (jnp.diagonal(a[0, 0]), b[0, 0])
        return (
            collectives.exclusive_scan(collectives.compose_matrices, start, element, AXIS, size),
            collectives.exclusive_scan(
                collectives.compose, (jnp.ones(2), start[1]), plain, AXIS, size
            ),
        )

    (matrix, vector), (decay, value) = each_device(run, size, a, b)
    (M, v), (d, s) = start, (np.ones(2), start[1])
    for device in range(size):
        np.testing.assert_allclose(matrix[device], M, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(vector[device], v, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(decay[device], d, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value[device], s, rtol=1e-4, atol=1e-5)
        A, c = a[0, device], b[0, device]
        M, v, d, s = A @ M, A @ v + c, np.diag(A) * d, np.diag(A) * s + c


def test_last_and_gather_give_every_device_the_same():
    x = np.arange(12, dtype=np.int32).reshape(1, 6, 2)
    ends, every = each_device(
        lambda x: (collectives.last(x, AXIS, 3), collectives.gather(x, AXIS)), 3, jnp.asarray(x)
    )
    for device in range(3):
        np.testing.assert_array_equal(ends[device], x[:, 4:])
        np.testing.assert_array_equal(every[device], x)


def test_the_clock_runs_on_over_the_devices():
    size, length = 4, 3
    ids = jnp.asarray(
        [
            [7] * 12,  # goes on with the document before
            [7, 7, 7, 8, 8, 8, 8, 8, 8, 8, 8, 9],  # on an edge; over three devices; the last
            [1, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4],  # twice in one shard
        ],
        jnp.int32,
    )
    positions = Positions(*(jnp.asarray(x, jnp.int32) for x in ([5, 6, 70], [2, 6, 4], [7, 7, 7])))

    def run(ids):
        named = collectives.positions_before(positions, length, ids, AXIS, size)
        return named, collectives.positions_before(positions, length, None, AXIS, size)

    named, unnamed = each_device(run, size, ids)
    for device in range(size):
        passed = device * length
        for row, documents in enumerate(np.asarray(ids)):
            segment_pos, segment = int(positions.segment_pos[row]), int(positions.segment[row])
            for document in documents[:passed]:
                segment_pos, segment = (segment_pos + 1 if document == segment else 1), document
            for got, want in (
                (named, (segment_pos, segment)),
                (unnamed, (positions.segment_pos[row] + passed, 7)),
            ):
                assert (got.segment_pos[device, row], got.segment[device, row]) == want
                assert got.position[device, row] == positions.position[row] + passed
