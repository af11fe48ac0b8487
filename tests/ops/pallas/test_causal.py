"""Full attention by JAX's kernels, interpreted, is ours."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from bmojo.layers.attention import AttentionConfig
from bmojo.ops import attention_xla as xla
from bmojo.ops import implementations
from bmojo.ops.memory_attention import choose_causal
from bmojo.ops.pallas import targets
from bmojo.ops.pallas.causal import causal_attention, unfit
from bmojo.ops.pallas.targets import Target
from tests.numerics import assert_close
from tests.ops.pallas.test_lowering import PLATFORM, calls, every_device, shape


def draw(length, heads=4, groups=2, width=8):
    rng = np.random.default_rng(0)
    sizes = [(2, length, n, width) for n in (heads, groups, groups)]
    arrays = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in sizes]
    segment_pos = np.stack([np.arange(length), np.arange(length)])
    segment_pos[1, 40:] -= 40
    return arrays, jnp.asarray(segment_pos, jnp.int32)


def everything(attend, arrays, segment_pos):
    def loss(arrays):
        out = attend(*arrays, segment_pos)
        weights = jnp.cos(1.7 * jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(out * weights), out

    return jax.jit(jax.grad(loss, has_aux=True))(arrays)


@pytest.mark.parametrize("device", ["gpu", pytest.param("tpu", marks=pytest.mark.slow)])
def test_outputs_and_gradients_are_ours(device):
    operands = draw(70 if device == "gpu" else 140)
    run = functools.partial(causal_attention, target=Target(device, interpret=True))
    want = everything(xla.causal_attention, *operands)
    with pltpu.force_tpu_interpret_mode() if device == "tpu" else contextlib.nullcontext():
        assert_close(everything(run, *operands), want, "float32")


@every_device
def test_lowering(device):
    arrays = [shape(2, 2048, n, 64) for n in (8, 4, 4)]
    segment_pos = shape(2, 2048, dtype=jnp.int32)
    run = functools.partial(causal_attention, target=Target(device))
    assert calls(device, run, *arrays, segment_pos) == 1

    def loss(*operands):
        return jnp.sum(run(*operands))

    assert calls(device, jax.grad(loss, range(3)), *arrays, segment_pos) >= 2


def test_who_computes(monkeypatch, caplog):
    q = jnp.zeros((1, 32, 4, 8))
    implementations.forget()
    with caplog.at_level("INFO", "bmojo"):
        assert choose_causal(q, "pallas") == "xla"
    assert "run on TPUs and GPUs alone" in caplog.text
    assert "width 192" in unfit(192, jnp.float32, Target("tpu"))
    monkeypatch.setattr(targets, "_of_backend", lambda backend: Target("tpu"))
    assert choose_causal(q, "pallas") == "pallas"
    assert choose_causal(q, "pallas", first=False) == "xla"
    assert AttentionConfig().attention_implementation == "auto" and set(PLATFORM) == {"tpu", "gpu"}
