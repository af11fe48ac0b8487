"""Every mixer over the devices of a mesh axis is the mixer over the whole sequence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.protocol import SequenceShard
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from tests import small_models
from tests.layers import sharded, test_attention, test_bmojo, test_canonical, test_ssm
from tests.numerics import assert_close

CASES = {
    **test_ssm.CASES,
    **test_canonical.CASES,
    **test_attention.CASES,
    **test_bmojo.CASES,
}
ALL = dataclasses.replace(
    test_bmojo.BASE,
    window=4,
    tokens="conv",
    normalize_innovation=True,
    fading=SSDConfig(d_state=3, n_heads=2, expand=1, d_conv=2, chunk_size=4),
)
SINGLE, DOUBLE = jnp.dtype("float32"), jnp.dtype("float64")


def test_a_window_reaches_over_several_devices():
    sharded.check(CASES["window"], SINGLE, 5, 2, warm=7, with_gradients=False)


def test_all_memories_of_bmojo_cross_devices():
    sharded.check(ALL, SINGLE, 8, 4, with_gradients=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size, warm", [(2, 0), (4, 12), (5, 24), (8, 0)])
def test_any_number_of_devices(case, size, warm):
    sharded.check(CASES[case], SINGLE, size, shard_of(case), warm=warm)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "all"])
def test_in_float64(case):
    """From a state at a position off the refresh grid."""
    with jax.enable_x64(True):
        sharded.check({**CASES, "all": ALL}[case], DOUBLE, 3, shard_of(case), warm=15)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["selective", "ssd", "order-3", "window", "sliding", "token"])
def test_shards_of_any_length_without_documents(case):
    sharded.check(CASES[case], SINGLE, 3, 5, packed=False, warm=7)


def shard_of(case):
    """Tokens of a shard: whole windows."""
    return 4 if case in ("wide", "all") else 6


def over_three_axes(config, rows, length):
    """Loss, final state and gradients of a model, whole and on a mesh that also cuts rows and
    parameters without the model's knowing."""
    made = config.make(nnx.Rngs(0))
    graph, parameters = nnx.split(made, nnx.Param)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, config.vocab_size, (rows, length)), jnp.int32)
    ids = sharded.documents(rows, length, length // 2)
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:8]).reshape(2, 2, 2), ("data", "tensor", "sequence")
    )
    whole, cut = PartitionSpec(), PartitionSpec(None, "sequence")

    def alone(parameters, tokens, ids):
        return nnx.merge(graph, parameters)(tokens, None, ids)

    def part(parameters, tokens, ids):
        return nnx.merge(graph, parameters)(tokens, SequenceShard("sequence", 2), segment_ids=ids)

    shards = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(whole, cut, cut),
        out_specs=(cut, whole),
        axis_names={"sequence"},
        check_vma=False,
    )

    def placed(x):
        last = "tensor" if x.ndim > 1 and x.shape[-1] % 2 == 0 else None
        spec = PartitionSpec(*(None,) * (x.ndim - 1), last) if x.ndim else whole
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    def losses(way):
        def loss(parameters, tokens, ids):
            logits, state = way(parameters, tokens, ids)
            return jnp.sum(jax.nn.log_softmax(logits)[..., 0]), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    rows_cut = jax.sharding.NamedSharding(mesh, PartitionSpec("data", "sequence"))
    there = jax.device_put((tokens, ids), rows_cut)
    got = losses(shards)(jax.tree.map(placed, parameters), *there)
    return got, losses(alone)(parameters, tokens, ids)


def test_a_model_knows_of_no_other_axis():
    cell = SSDConfig(d_state=2, n_heads=2, expand=1, d_conv=2)
    pattern = (cell, AttentionConfig(rope=True, max_length=12))
    config = ModelConfig(vocab_size=8, d_model=8, n_layers=1, pattern=pattern)
    got, want = over_three_axes(config, 2, 8)
    assert_close(got, want, SINGLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", small_models.MODELS)
def test_every_model_on_three_axes(name):
    # In float32 the rounding of a small gradient alone may exceed the limit.
    double = {"dtype": "float64", "param_dtype": "float64"}
    with jax.enable_x64(True):
        config = dataclasses.replace(small_models.config(name), **double)
        assert_close(*over_three_axes(config, 2, 16), np.dtype("float64"))


def wrong(state, length=6, lengths=None, config=None):
    """Call a mixer on two devices, without compiling."""
    mixer = law.make(config or CASES["bmojo"], SINGLE)
    u = law.draw(SINGLE, 1, 2 * length, mixer.d_model)

    def call(u):
        return mixer(u, state, lengths=lengths)[0]

    jax.eval_shape(sharded.over_devices(call, 2, (True,), True), u)


@pytest.mark.parametrize(
    "message, options",
    [
        (
            "window: the 8 tokens of a device are no multiple of window = 6; cut the sequence "
            "into a multiple of 2 x 6 tokens",
            {"length": 8},
        ),
        ("lengths: .* give the filling a document of its own", {"lengths": jnp.asarray([3])}),
        (
            "SequenceShard.size: mesh axis 'sequence' has 2 devices, got 3",
            {"state": ("sequence", 3)},
        ),
        ("SequenceShard.axis: no mesh axis 'time' here", {"state": ("time", 2)}),
    ],
)
def test_what_cannot_be_is_named(message, options):
    options = {"state": ("sequence", 2), **options}
    with pytest.raises(ValueError, match=message):
        wrong(SequenceShard(*options.pop("state")), **options)
