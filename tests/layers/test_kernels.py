"""Layers whose scan and attention are computed by kernels, interpreted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.ops.axes import axis_rules, on_each_device
from tests.numerics import assert_close

D_MODEL = 16
RULES = {name: ("tensor",) for name in ("heads", "kv_heads", "inner")} | {"batch": ("data",)}


def bmojo(kernels):
    cell = SelectiveSSMConfig(
        d_state=3, expand=1, implementation="pallas" if kernels else "sequential"
    )
    return BMojoConfig(
        window=20,
        num_fading=3,
        num_eidetic=4,
        n_kv_heads=2,
        fading=cell,
        attention_implementation="pallas" if kernels else "xla",
    )


def everything(config, u, ids, mesh=None):
    """Outputs of two calls in a row, the last state, and gradients of a functional of them."""
    mixer = config.make(D_MODEL, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    graph, parameters = nnx.split(mixer, nnx.Param)

    def loss(parameters, u):
        mixer = nnx.merge(graph, parameters)
        first, state = mixer(u[:, :27], None, ids[:, :27])
        second, state = mixer(u[:, 27:], state, ids[:, 27:])
        outs = jnp.concatenate([first, second], axis=1)
        return law.functional(outs, state), (outs, state)

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    if mesh is None:
        return run(parameters, u)
    with jax.set_mesh(mesh), axis_rules(RULES):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        return run(parameters, jax.device_put(u, rows))


def inputs(rows):
    """Packed rows of 50 tokens; the second call begins within a chunk and a document."""
    u = np.random.default_rng(0).normal(size=(rows, 50, D_MODEL))
    ids = (np.arange(50) >= np.asarray([13, 60, 27, 31])[:rows, None]).astype(np.int32)
    return jnp.asarray(u, jnp.float32), jnp.asarray(ids)


@pytest.mark.slow
def test_a_layer_by_kernels_is_the_layer():
    got, want = (everything(bmojo(kernels), *inputs(2)) for kernels in (True, False))
    assert_close(got, want, "float32")


@pytest.mark.slow
def test_on_a_mesh_every_device_runs_the_kernels_on_its_part():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    got, want = everything(bmojo(True), *inputs(4), mesh), everything(bmojo(False), *inputs(4))
    assert got[1][0].sharding.spec[0] == "data"
    assert_close(got, want, "float32")


@pytest.mark.parametrize(
    "cell, other",
    [
        (SelectiveSSMConfig(d_state=3, expand=1), "sequential"),
        (SSDConfig(d_state=3, expand=1, n_heads=4, chunk_size=8), "xla"),
    ],
    ids=["selective", "ssd"],
)
def test_on_a_mesh_every_device_runs_the_native_scan_on_its_part(cell, other):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    native, plain = (dataclasses.replace(cell, implementation=name) for name in ("native", other))
    got = everything(native, *inputs(4), mesh)
    assert got[1][0].sharding.spec[0] == "data"
    assert_close(got, everything(plain, *inputs(4)), "float32")


@pytest.mark.parametrize("rows, cut", [(4, True), (3, False)])
def test_an_axis_that_the_mesh_does_not_divide_is_whole_everywhere(rows, cut):
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    shapes = []

    def run(x):
        shapes.append(x.shape)
        return x + 1

    x = jnp.zeros((rows, 4))
    each = on_each_device(run, [("batch", "inner")], ("batch", "inner"))
    assert each is run
    with jax.set_mesh(mesh), axis_rules(RULES):
        each = on_each_device(run, [("batch", "inner")], ("batch", "inner"))
        assert np.array_equal(jax.jit(each)(x), x + 1)
    assert shapes == [(rows // 2 if cut else rows, 2)]


def test_window_attention_by_a_kernel_is_window_attention():
    def config(implementation):
        return AttentionConfig(window=20, attention_implementation=implementation)

    got, want = (everything(config(name), *inputs(2)) for name in ("pallas", "xla"))
    assert_close(got, want, "float32")
