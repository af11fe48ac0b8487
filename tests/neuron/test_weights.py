"""Parameters from runs and files, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from bmojo.training.run_dir import RunError
from neuron import weights
from neuron.configs import FadingConfig, LayerConfig, StackConfig
from neuron.model import Model

CONFIG = StackConfig(
    vocab_size=7,
    num_blocks=2,
    layer=LayerConfig(8, FadingConfig(6, d_state=3), window=4, num_fading=1, n_heads=2),
    d_ff=10,
    tie_embeddings=False,
)
UP = "blocks.sublayers.1.mixer.up_proj.kernel"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(CONFIG)


@pytest.fixture
def parameters(model):
    """As bmojo has them: stacked, and products the other way round."""
    stacks = {}
    for name, source in weights.sources(model).items():
        array = model.get_parameter(name).detach().numpy()
        stacks.setdefault(source.name, []).append(array.T if source.turned else array)
    return {n: np.stack(x) if n.startswith("blocks.") else x[0] for n, x in stacks.items()}


def same(one, other):
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_every_number_of_a_run_is_used_once(trained):
    from bmojo.runs import open_run
    from bmojo.training.parameters import count

    model = weights.load_run(trained)
    there = open_run(trained).parameters
    assert sum(p.numel() for p in model.parameters()) == count(there)
    for name, source in weights.sources(model).items():
        array = np.asarray(there[source.name])
        array = array if source.period is None else array[source.period]
        here = model.get_parameter(name).detach().numpy()
        np.testing.assert_array_equal(here, array.T if source.turned else array, err_msg=name)


def test_parameters_of_a_model(model, parameters):
    assert UP in parameters and parameters[UP].shape == (2, 8, 20)
    other = Model(CONFIG)
    assert not same(model, other)
    weights.load_parameters(other, parameters)
    assert same(model, other)


def test_what_does_not_fit_is_named(model, parameters):
    fresh = Model(CONFIG)
    before = {n: p.clone() for n, p in fresh.named_parameters()}
    cases = [
        ({UP: parameters[UP][:, :, :-1]}, f"parameter {UP}: is (2, 8, 19) in the checkpoint and"),
        ({UP: parameters[UP][:1]}, f"parameter {UP}: is (1, 8, 20) in the checkpoint and (2, 8, 2"),
        ({UP: None}, f"parameter {UP}: is absent in the checkpoint"),
        ({"extra": np.zeros(1)}, "parameter extra: is not of the model"),
        ({UP: parameters[UP].astype(jnp.bfloat16)}, f"parameter {UP}: is bfloat16 in the checkpoi"),
    ]
    for change, message in cases:
        changed = {n: x for n, x in (parameters | change).items() if x is not None}
        with pytest.raises(ValueError) as error:
            weights.load_parameters(fresh, changed)
        assert str(error.value).startswith(message)
    assert all(torch.equal(before[n], p) for n, p in fresh.named_parameters())


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_file_and_back(tmp_path, param_dtype):
    config = StackConfig.from_dict(CONFIG.to_dict() | {"param_dtype": param_dtype})
    model = Model(config)
    weights.save(model, tmp_path / "model.safetensors")
    again = weights.open_file(tmp_path / "model.safetensors", "nki")
    assert again.config == config and same(model, again)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    weights.save(model, tmp_path / "second.safetensors")
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert files[0] == files[1]


def test_a_file_without_config_or_parameter(tmp_path, model):
    path = tmp_path / "model.safetensors"
    tensors = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ValueError, match="has no bmojo_config in its metadata"):
        weights.open_file(path)
    del tensors["head.weight"]
    safetensors.torch.save_file(tensors, path, {"bmojo_config": json.dumps(CONFIG.to_dict())})
    with pytest.raises(ValueError, match="head.weight: is absent in the file and .7, 8. torch"):
        weights.open_file(path)


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="no run is here"):
        weights.load_run(tmp_path)
