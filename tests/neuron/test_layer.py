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
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.training.parameters import split
from neuron import functions, launchers, plain
from neuron.checks.layer_step import expected as recurrent
from neuron.configs import FadingConfig, LayerConfig, StackConfig, layer_config, stack_config
from neuron.layer import BMojoLayer
from neuron.weights import sources
from tests.neuron import parity
from tests.neuron.parity import CALLS, CONFIGS, Call
from tests.numerics import relative_rms

KERNEL_CALLS = (
    ("both", CALLS[0]),
    ("both", CALLS[4]),
    ("both", CALLS[5]),
    ("eidetic", CALLS[4]),
    ("eidetic", CALLS[5]),
    pytest.param("eidetic", CALLS[0], marks=pytest.mark.slow),
)
BFLOAT16 = 2 * 2.0**-8


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.one_in(3)
def test_plain_torch(name, call):
    parity.check(name, call, "torch")


@pytest.mark.parametrize("implementation", ["torch", "nki"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.one_in(3)
def test_whole_rows_are_those_of_the_reference(name, implementation):
    got = parity.found(name, CALLS[0], None, implementation, gradients=False)
    for found, wanted in zip(got.out, parity.reference(name), strict=True):
        assert relative_rms(found, wanted) <= 1e-5


@pytest.mark.parametrize(("name", "call"), KERNEL_CALLS, ids=str)
def test_kernels(name, call):
    parity.check(name, call, "nki")


def test_kernels_without_eidetic_slots():
    parity.check("fading", CALLS[5], "nki")


def test_normalized_innovation_by_kernels():
    """With a state and padding; one row has no token."""
    parity.check("eidetic", CALLS[9], "nki", gradients=False)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("implementation", ["torch", "nki"])
def test_one_token(name, implementation):
    """Without gradients it is the step, which by kernels is one."""
    parity.check(name, CALLS[8], implementation, gradients=False)


@pytest.mark.parametrize("name", ["both", "eidetic"])
def test_one_token_or_padding(name):
    """A document starts in one row, the other has no token."""
    parity.check(name, Call((3, 8), (0, 1), documents=(8,)), "nki", gradients=False)


@pytest.mark.parametrize("name", ["both", "eidetic"])
@pytest.mark.parametrize("count", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_token_after_token(name, count, monkeypatch):
    """The layer's own kernel against the library's recurrent form, over edges of chunks."""
    for other in ("selective_scan", "short_convolution", "innovation", "memory_attention"):
        monkeypatch.setattr(launchers, other, None)
    u = np.random.default_rng(1).standard_normal((2, count, parity.WIDTH), np.float32)
    document = np.zeros((2, count), np.int32)
    document[0, 7:], document[0, 9:], document[1, 30:] = 1, 2, 1
    wanted = recurrent(parity.mixer(name), u, document)
    state, found = None, []
    with torch.no_grad():
        for t in range(count):
            token, ids = (torch.from_numpy(x[:, t : t + 1]) for x in (u, document))
            out, state = parity.layer(name, "nki")(token, state, ids)
            found.append(out[:, 0])
    assert relative_rms(torch.stack(found, dim=1), wanted) <= 1e-5


def test_one_token_with_gradients_by_kernels():
    parity.check("both", CALLS[8], "nki")


def test_the_step_refuses_gradients():
    made = parity.layer("both", "nki")
    state = made.init_state(1)
    u = torch.ones(1, 8, requires_grad=True)
    past, window = (state.tail, state.hidden, state.outputs), (state.window_k, state.window_v)
    zero = torch.zeros(1, dtype=torch.int32)
    cell, heads = made.fading.operands(), made.heads.operands()
    with pytest.raises(ValueError, match="^layer_step: has no gradient"):
        functions.layer_step(u, cell, heads, past, window, zero, zero, None, 0, None, True)


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
    ({"tokens": "conv"}, "BMojo.tokens: is 'conv'"),
    ({"tie_projections": False}, "BMojo.tie_projections: is False"),
    ({"fading": SSDConfig()}, "BMojo.fading: is SSDConfig"),
    ({"window": 0, "num_fading": 0, "num_eidetic": 0}, "BMojo.window: is 0"),
)


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda x: str(x)[:20])
def test_options_without_kernels_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        layer_config(dataclasses.replace(BMojoConfig(), **change), 8)


def test_other_mixers_are_refused():
    with pytest.raises(ValueError, match="^the mixer: is SlidingBMojoConfig"):
        layer_config(SlidingBMojoConfig(), 8)


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_plain_outputs_of_a_document_do_not_know_what_is_not_finite_before_it(bad):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(shape, generator=generator) - 0.5  # noqa: E731
    length, edge = 12, 5  # two documents, and chunks of four tokens
    position = torch.cat([torch.arange(edge), torch.arange(length - edge)])[None]
    x, dt, B, C = draw(1, length, 3), draw(1, length, 3).abs(), *draw(2, 1, length, 2)
    q, k, v = draw(1, length, 4, 2), *draw(2, 1, length, 2, 2)
    slots = (*draw(2, 1, 3, 2, 2, 2), torch.tensor([9, 6]).expand(1, 3, 2))
    kernel, power = draw(3, 3), draw(1, 3).abs()

    def outs(x, k, v, held, power):
        yield plain.selective_scan(x, dt, -dt[0, :3, :2], B, C, held, position == 0)[0]
        yield plain._convolved(x, draw(1, 2, 3) * 0, kernel, position)
        yield plain.innovation(x, draw(1, 2, 3) * 0, 2, position, power)[0]
        yield plain.memory_attention(q, k, v, 4, position, None, slots)

    spoilt = [y.clone() for y in (x, k, v)]
    for y in spoilt:
        y[:, 1] = bad
    held, lost = torch.zeros(1, 3, 2), torch.full((1, 3, 2), bad)
    wanted = outs(x, k, v, held, power)
    for found, right in zip(outs(*spoilt, lost, power * bad), wanted, strict=True):
        assert not found[:, :edge].isfinite().all()
        torch.testing.assert_close(found[:, edge:], right[:, edge:], rtol=0, atol=0)
