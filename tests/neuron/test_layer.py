"""The layer for PyTorch against the JAX layer: outputs, state, gradients."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.training.parameters import split
from neuron import functions, launchers
from neuron.configs import FadingConfig, LayerConfig, StackConfig, layer_config, stack_config
from neuron.layer import BMojoLayer
from neuron.weights import sources
from tests.neuron import parity
from tests.neuron.parity import CALLS, CONFIGS
from tests.numerics import relative_rms

KERNEL_CALLS = (CALLS[0], CALLS[4], CALLS[5])
BFLOAT16 = 2 * 2.0**-8


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_plain_torch(name, call):
    parity.check(name, call, "torch")


@pytest.mark.parametrize("call", KERNEL_CALLS, ids=str)
@pytest.mark.parametrize("name", ["both", "eidetic"])
def test_kernels(name, call):
    parity.check(name, call, "nki")


def test_kernels_without_eidetic_slots():
    parity.check("fading", CALLS[5], "nki")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("implementation", ["torch", "nki"])
def test_one_token(name, implementation):
    """Without gradients it is the step."""
    parity.check(name, CALLS[8], implementation, gradients=False)


def test_one_token_with_gradients_by_kernels():
    parity.check("both", CALLS[8], "nki")


def test_the_step_refuses_gradients():
    q = torch.ones(1, 1, 2, requires_grad=True)
    tail = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    zero = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="^memory_attention_step: has no gradient"):
        functions.memory_attention_step(q, q, q, tail, zero, zero, None)


@pytest.mark.parametrize("implementation", ["torch", "nki"])
def test_bfloat16(implementation):
    name, call = "both", CALLS[4]
    wanted, before = parity.expected(name, call, "bfloat16")
    found = parity.found(name, call, before, implementation, "bfloat16", gradients=False)
    np.testing.assert_array_equal(
        found.state["kept_position"].numpy(), wanted.state["kept_position"]
    )
    for a, b in zip(found.out, wanted.out, strict=True):
        assert relative_rms(a, b) <= BFLOAT16


def test_gradients_in_bfloat16():
    """Those by kernels are as near to float32 as those of plain PyTorch, up to rounding."""
    call = CALLS[5]
    exact, before = parity.expected("fading", call)
    found = {}
    for implementation in ("torch", "nki"):
        result = parity.found("fading", call, before, implementation, "bfloat16")
        errors = [
            relative_rms(x, exact.gradients[n])
            for n, x in result.gradients.items()
            if parity.size(x) > parity.NOTHING
        ]
        found[implementation] = np.sqrt(np.mean(np.square(errors)))
    assert found["nki"] <= found["torch"] + BFLOAT16, found


CHANGES = (
    ({"form": "token", "num_fading": 1}, "BMojo.form: is 'token'"),
    ({"tokens": "conv"}, "BMojo.tokens: is 'conv'"),
    ({"normalize_innovation": True}, "BMojo.normalize_innovation: is True"),
    ({"tie_projections": False}, "BMojo.tie_projections: is False"),
    ({"fading": SSDConfig()}, "BMojo.fading: is SSDConfig"),
    ({"window": 0, "num_fading": 0, "num_eidetic": 0}, "BMojo.window: is 0"),
)


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda x: str(x)[:20])
def test_options_without_kernels_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        layer_config(dataclasses.replace(BMojoConfig(), **change), 8)


def test_models_without_kernels_are_refused():
    config = ModelConfig(11, 8, 2, (BMojoConfig(n_heads=2), MLPConfig()))
    assert stack_config(config).layer.window == 64
    for change, message in (
        ({"pattern": (MLPConfig(),)}, "Model.pattern: is"),
        ({"dtype": "float64"}, "Model.dtype: is 'float64'"),
        ({"parameters": 10_000}, "Model.parameters: widths are not solved"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            stack_config(dataclasses.replace(config, **change))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerConfig(8, FadingConfig(8), window=0), "LayerConfig.window: is 0"),
        (lambda: LayerConfig(8, FadingConfig(8), n_heads=3), "LayerConfig.n_heads: is 3"),
        (lambda: LayerConfig(8, FadingConfig(8), n_kv_heads=3), "LayerConfig.n_kv_heads: is 3"),
        (lambda: LayerConfig(8, FadingConfig(8), window=4), "LayerConfig.num_fading: is 8"),
        (lambda: LayerConfig(8, FadingConfig(8), dtype="float16"), "LayerConfig.dtype: is"),
        (lambda: FadingConfig(8, d_conv=0), "FadingConfig.d_conv: is 0"),
        (lambda: FadingConfig(8, dt_min=1.0), "FadingConfig.dt_min: is 1.0"),
        (lambda: StackConfig(0, 1, LayerConfig(8, FadingConfig(8)), 8), "StackConfig.vocab_size"),
    ],
)
def test_bad_configs(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


def test_unknown_implementation():
    with pytest.raises(ValueError, match="implementation: must be 'torch' or 'nki', got 'cuda'"):
        BMojoLayer(LayerConfig(8, FadingConfig(8)), "cuda")


def test_kernels_are_not_for_other_devices():
    nowhere = torch.zeros(1, 2, device="meta")
    with pytest.raises(ValueError, match="the tensors are on meta"):
        launchers.running_sets(nowhere, nowhere, 4, None)


def test_initialization_is_that_of_the_library():
    """By mean and spread of every parameter."""
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIGS["both"], n_heads=8, n_kv_heads=8)
    made = BMojoLayer(layer_config(config, 128))
    types = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    wanted = jax.jit(lambda: split(config.make(128, rngs=nnx.Rngs(0), **types))[1])()
    for name, source in sources(made).items():
        here = made.get_parameter(name).detach().numpy()
        there = np.asarray(wanted[source.name])
        spread = there.std() + 1e-3
        assert abs(here.mean() - there.mean()) < 0.3 * spread, name
        assert abs(here.std() / spread - there.std() / spread) < 0.15, name
