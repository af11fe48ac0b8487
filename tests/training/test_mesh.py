"""Meshes: who holds what, and that the result is that of one device."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.layers.attention import AttentionConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.protocol import parameter_axes
from bmojo.layers.readout import ReadoutConfig
from bmojo.model import ModelConfig
from bmojo.training.parameters import outline
from bmojo.training.run_dir import RunError
from bmojo.training.sharding import Layout, MeshConfig, make_layout
from scripts.clusters import mesh_steps

SMALL = ModelConfig(
    vocab_size=64,
    d_model=16,
    n_layers=1,
    pattern=(AttentionConfig(n_heads=2, window=8), MLPConfig(d_ff=24)),
)


@pytest.fixture(scope="module")
def alone():
    return mesh_steps.train(SMALL, None, 4)


@pytest.mark.parametrize("mesh", [pytest.param((2, 2, 2, 1), marks=pytest.mark.slow), (1, 2, 1, 4)])
def test_losses_are_those_of_one_device(alone, mesh):
    result = mesh_steps.train(SMALL, MeshConfig(*mesh), 4)
    np.testing.assert_allclose(result.losses, alone.losses, rtol=1e-5)
    assert result.parameters < alone.parameters and result.optimizer < alone.optimizer


@pytest.mark.parametrize("implementation", ["xla", "native"])
@pytest.mark.parametrize("mesh", [pytest.param((2, 2, 2, 1), marks=pytest.mark.slow), (2, 1, 1, 4)])
@pytest.mark.one_in(3)
def test_a_read_out_is_that_of_one_device(mesh, implementation):
    beyond = {"slots": 8, "half_life": 30.0, "matches": 3, "match_order": 1, "capacity": 64}
    readout = ReadoutConfig(16, chunk=4, implementation=implementation, **beyond)
    config = dataclasses.replace(SMALL, readout=readout)
    result, alone = (mesh_steps.train(config, m, 4) for m in (MeshConfig(*mesh), None))
    np.testing.assert_allclose(result.losses, alone.losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", mesh_steps.MESHES)
@pytest.mark.parametrize("name", ["bmojo", "mamba2"])
def test_losses_of_models_are_those_of_one_device(name, mesh):
    config = mesh_steps.model_of(name)
    result, alone = (mesh_steps.train(config, m, 4) for m in (MeshConfig(*mesh), None))
    np.testing.assert_allclose(result.losses, alone.losses, rtol=1e-5)


def test_parts_of_a_batch_are_the_batch(alone):
    result = mesh_steps.train(SMALL, None, 4, accumulate=4)
    np.testing.assert_allclose(result.losses, alone.losses, rtol=1e-5)


@pytest.mark.parametrize("name", mesh_steps.MODELS)
@pytest.mark.one_in(3)
def test_every_large_parameter_is_cut_both_ways(name):
    config = mesh_steps.model_of(name)

    def make():
        return config.make(nnx.Rngs(0))

    _, shapes = outline(make)
    axes = parameter_axes(nnx.eval_shape(make))
    assert set(axes) == set(shapes)
    layout = Layout(MeshConfig(data=1, fsdp=4, tensor=2), jax.devices()[:8])
    placed = layout.parameters(axes, shapes)
    for parameter, shape in shapes.items():
        held = np.prod(placed[parameter].sharding.shard_shape(shape.shape))
        small = parameter.rpartition(".")[2] != "kernel" and "embedding" not in parameter
        narrow = any(part in parameter for part in ("conv", "x_proj", "dt_proj"))
        assert held * (1 if small else 2 if narrow else 8) <= np.prod(shape.shape), parameter


@pytest.mark.parametrize(
    ("sizes", "devices", "shape"),
    [((-1, 1, 1, 1), 8, (8, 1, 1, 1)), ((2, -1, 2, 1), 8, (2, 2, 2, 1)), ((1, 1, 1, 1), 1, None)],
)
def test_the_open_axis_takes_what_is_left(sizes, devices, shape):
    assert MeshConfig(*sizes).shape(devices) == (shape or sizes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": -1, "fsdp": -1}, "Mesh.fsdp: data and fsdp are both -1; leave at most one"),
        ({"tensor": 0}, "Mesh.tensor: 0 is no size; give at least 1, or -1"),
        ({"rules": (("embd", "fsdp"),)}, "Mesh.rules: no axis is called 'embd'; did you mean 'em"),
        ({"rules": (("embed", "fdsp"),)}, "Mesh.rules: the mesh has no axis 'fdsp'; did you mean"),
        ({"rules": (("embed", "fsdp"),) * 2}, "Mesh.rules: two rules for 'embed'"),
        ({"rules": (("length", "data"),)}, "Mesh.rules: 'length' is cut by 'sequence' or not"),
    ],
)
def test_wrong_meshes_are_named(config, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        MeshConfig(**config)


def test_devices_and_arrays_must_fit():
    with pytest.raises(RunError, match="asks for 6 devices, 8 are here"):
        MeshConfig(data=6).shape(8)
    with pytest.raises(RunError, match="does not divide the 8 devices here"):
        MeshConfig(data=-1, fsdp=3).shape(8)
    with pytest.raises(RunError, match="4 processes need a mesh; add Experiment.mesh=@Mesh"):
        make_layout(None, 4)
    layout = Layout(MeshConfig(data=1, fsdp=8), jax.devices()[:8])
    narrow = dataclasses.replace(SMALL, d_model=12)

    def make():
        return narrow.make(nnx.Rngs(0))

    with pytest.raises(RunError, match=r"Mesh.fsdp: 8 does not divide the 12 of parameter"):
        layout.parameters(parameter_axes(nnx.eval_shape(make)), outline(make)[1])
    with pytest.raises(RunError, match="12 rows cannot be shared evenly by 8 devices"):
        layout.check("Stage", 64, 12)


def test_an_update_that_is_not_finite_is_skipped():
    for skip in (True, False):
        parameters = mesh_steps.poisoned_step(SMALL, skip)
        assert np.isfinite(parameters["norm.scale"]).all() == skip
