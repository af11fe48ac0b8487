"""The scan's kernels, interpreted, against the oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import recurrence, reference
from bmojo.ops.pallas.scan import scan, tiles, unfit
from bmojo.ops.pallas.targets import Target
from bmojo.ops.recurrence import selective_scan
from tests.numerics import assert_close, relative_rms
from tests.ops.scans import draw_start, everything
from tests.ops.test_recurrence import draw

DEVICES = ("tpu", "gpu")
every_device = pytest.mark.parametrize("device", DEVICES)


def interpreted(device, chunk_size=None):
    return functools.partial(scan, chunk_size=chunk_size, target=Target(device, interpret=True))


oracle = everything(reference.selective_scan)


@every_device
@pytest.mark.parametrize(
    "dtype, length, documents, width, chunk_size, decays",
    [
        pytest.param("float64", 37, True, 5, 16, ("near 0", "mixed"), marks=pytest.mark.slow),
        ("float32", 37, True, 5, None, ("near 0", "middle", "near 1", "mixed")),
        # Two blocks of channels, the last not full.
        ("float32", 17, False, 140, 8, ("mixed",)),
        pytest.param("float32", 1, True, 5, None, ("middle",), marks=pytest.mark.slow),
    ],
)
@pytest.mark.one_in(3)
def test_outputs_state_and_gradients_are_the_oracles(
    device, dtype, length, documents, width, chunk_size, decays
):
    start = draw_start(2, length) if documents else None
    with jax.enable_x64(dtype == "float64"):
        got = everything(interpreted(device, chunk_size))
        for decay in decays:
            operands = draw(dtype, length, decay, width=width)
            assert_close(got(operands, start), oracle(operands, start), dtype, f"decay {decay}: ")


@every_device
def test_a_zero_step_is_neutral_and_nothing_crosses_a_start(device):
    x, dt, A, B, C, state = draw("float32", 21)
    run = jax.jit(interpreted(device, 8))
    start = jnp.zeros((2, 21), bool)
    assert np.array_equal(run(x, 0 * dt, A, B, C, state, start)[1], state)
    y, last = run(x, dt, A, B, C, state, start.at[:, 10].set(True))
    other = run(x.at[:, :10].set(7.0), dt, A, B, C, -state, start.at[:, 10].set(True))
    assert np.array_equal(y[:, 10:], other[0][:, 10:]) and np.array_equal(last, other[1])


def test_bfloat16_inputs_keep_a_float32_state():
    operands = draw(jnp.bfloat16, 21)
    operands = (*operands[:-1], operands[-1].astype(jnp.float32))
    y, state = jax.jit(functools.partial(selective_scan, implementation="pallas"))(*operands)
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want_y, want_state = reference.selective_scan(*(v.astype(jnp.float32) for v in operands))
    assert relative_rms(state, want_state) <= 1e-5
    # y is rounded to the 8 bits of bfloat16.
    assert relative_rms(y.astype(jnp.float32), want_y) <= 1e-2


@pytest.mark.slow
@every_device
def test_under_vmap_checkpoint_and_a_loop_over_layers(device):
    """Two layers, one after the other, for two sets of operands at once."""
    both = [jnp.stack(v) for v in zip(draw("float32", 9), draw("float32", 9, seed=1), strict=True)]

    def layers(run):
        def loss(x, dt, A, B, C, state):
            def layer(x, _):
                return jax.checkpoint(run)(x, dt, A, B, C, state, None)[0], None

            return jnp.sum(jnp.sin(jax.lax.scan(layer, x, length=2)[0]))

        return jax.jit(jax.vmap(jax.grad(loss, range(6))))(*both)

    assert_close(layers(interpreted(device, 8)), layers(reference.selective_scan), "float32")


def test_only_the_states_at_chunk_boundaries_are_saved():
    operands = draw("float32", 64, width=5, d_state=3)

    def saved(device):
        _, pullback = jax.vjp(lambda *v: interpreted(device, 16)(*v, None), *operands)
        return {x.shape for x in jax.tree.leaves(pullback) if x.ndim == 4}

    assert saved("tpu") == {(2, 4, 8, 128)}
    assert saved("gpu") == {(2, 4, 4, 32)}


def test_tiles_follow_the_rule():
    tpu, gpu = Target("tpu"), Target("gpu")

    def cut(*sizes):
        plan = tiles(*sizes)
        return plan.tokens, plan.channels, plan.d_state

    assert cut(tpu, 2048, 512, 16) == (128, 512, 16)
    assert cut(tpu, 2048, 768, 16) == (128, 256, 16)
    assert cut(tpu, 2048, 640, 16) == (128, 128, 16)
    assert cut(tpu, 2048, 1024, 64) == (128, 256, 64)
    assert cut(tpu, 2048, 512, 256) == (64, 128, 256)
    assert cut(tpu, 130, 512, 16) == (72, 512, 16)
    assert cut(tpu, 2048, 512, 16, 40) == (40, 512, 16)
    assert cut(gpu, 2048, 512, 16) == (16, 32, 16)
    assert cut(gpu, 2048, 512, 200, 8) == (8, 8, 256)


def test_sizes_that_fit_nothing_are_an_error_by_name_and_another_way_by_auto(monkeypatch, caplog):
    operands = draw("float32", 16, width=5, d_state=300)
    with pytest.raises(ValueError, match="at most 256 states of a channel, got 300; take 'assoc"):
        scan(*operands, None, target=Target("gpu"))
    with pytest.raises(ValueError, match="d_state = 4096 take .* MiB of a TPU's vector memory"):
        scan(*draw("float32", 8, d_state=4096), None, target=Target("tpu"))
    assert "float32, not in float64" in unfit(128, 16, np.float64, Target("tpu"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with caplog.at_level("INFO", "bmojo"):
        got = selective_scan(*operands)
    assert "associative in place of pallas" in caplog.text
    want = recurrence.selective_scan(*operands, implementation="associative")
    assert_close(got, want, "float32")
