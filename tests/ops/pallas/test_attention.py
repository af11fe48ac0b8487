"""The kernels of the memory attention, interpreted, against XLA's form and the oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import attention_xla as xla
from bmojo.ops import implementations, reference
from bmojo.ops.attention_pallas import geometry, memory_attention, unfit
from bmojo.ops.masks import NEVER, Slots
from bmojo.ops.memory_attention import IMPLEMENTATIONS, choose
from bmojo.ops.pallas.targets import Target
from tests.numerics import assert_close, relative_rms

DEVICES = ("tpu", "gpu")
slow = pytest.mark.slow
every_device = pytest.mark.parametrize("device", DEVICES)
PARTS = ("q", "k", "v", "tail_k", "tail_v", "slot_k", "slot_v")


def draw(length, window, num_slots, dtype, extra=0, batch=2, heads=4, groups=2, width=8):
    """Arrays, distances of slots and segment_pos: one long document, and one that starts midway."""
    rng = np.random.default_rng(length)
    chunks = -(-length // window) + extra
    token, slot = (batch, length, groups, width), (batch, chunks, num_slots, groups, width)
    tail = (batch, window - 1, groups, width)
    shapes = ((batch, length, heads, width), token, token, tail, tail, slot, slot)
    arrays = {n: jnp.asarray(rng.normal(size=s), dtype) for n, s in zip(PARTS, shapes, strict=True)}
    distance = rng.integers(1, 3 * window, size=slot[:3])
    distance[rng.random(slot[:3]) < 0.2] = NEVER
    segment_pos = rng.integers(2 * window, 4 * window, size=(batch, 1)) + np.arange(length)
    segment_pos[-1] = np.where(
        np.arange(length) > length // 2, np.arange(length) - length // 2 - 1, segment_pos[-1]
    )
    return arrays, jnp.asarray(distance, jnp.int32), jnp.asarray(segment_pos, jnp.int32)


def everything(attend, window, slot_range=(0, None)):
    """Compiled: outputs, and gradients of a random functional of them."""

    def loss(arrays, distance, segment_pos, offset):
        q, k, v, tail_k, tail_v, *held = (arrays[name] for name in PARTS)
        slots = Slots(*held, distance[:, :, None]) if distance.shape[2] else None
        out = attend(
            q, k, v, tail_k, tail_v, segment_pos,
            window=window, slots=slots, slot_range=slot_range, offset=offset,
        )  # fmt: skip
        weights = jnp.cos(1.7 * jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(out * weights.astype(out.dtype)), out

    return jax.jit(jax.grad(loss, has_aux=True))


def interpreted(device, block=None):
    return functools.partial(memory_attention, target=Target(device, interpret=True), block=block)


@pytest.mark.parametrize(
    "device, dtype, length, window, num_slots, slot_range, block, offset",
    [
        # Several blocks a chunk, the last chunk and the last block not full.
        ("tpu", "float64", 100, 40, 5, (0, None), 16, None),
        pytest.param("gpu", "float64", 100, 40, 5, (0, None), 16, None, marks=slow),
        # A window that fills no tile, fewer tokens than a block.
        ("tpu", "float32", 9, 20, 3, (0, None), None, None),
        pytest.param("gpu", "float32", 9, 20, 3, (0, None), None, None, marks=slow),
        # Slots within some distances alone; more of them than a block holds.
        ("gpu", "float32", 70, 32, 70, (32, 64), 32, None),
        pytest.param("tpu", "float32", 64, 32, 150, (32, 64), 16, None, marks=slow),
        # No slots.
        ("tpu", "float32", 50, 12, 0, (0, None), None, None),
        # Calls that begin within a chunk.
        ("tpu", "float64", 41, 20, 3, (0, None), None, (0, 18)),
        pytest.param("gpu", "float32", 40, 20, 3, (0, None), None, (7, 0), marks=slow),
    ],
)
@pytest.mark.one_in(3)
def test_outputs_and_gradients_are_those_of_xla(
    device, dtype, length, window, num_slots, slot_range, block, offset
):
    with jax.enable_x64(dtype == "float64"):
        operands = draw(length, window, num_slots, dtype, extra=offset is not None)
        where = None if offset is None else jnp.asarray(offset, jnp.int32)
        got = everything(interpreted(device, block), window, slot_range)(*operands, where)
        want = everything(xla.memory_attention, window, slot_range)(*operands, where)
        assert_close(got, want, dtype)
        assert all(np.any(x) for x in jax.tree.leaves(want[0]) if x.shape[2])


@pytest.mark.parametrize("device", ["tpu", pytest.param("gpu", marks=slow)])
def test_bfloat16(device):
    """Products of bfloat16 summed in float32; what is rounded is the softmax and the output."""
    operands = draw(64, 32, 5, jnp.bfloat16)
    gradients, out = everything(interpreted(device, 16), 32)(*operands, None)
    assert {x.dtype for x in jax.tree.leaves((gradients, out))} == {jnp.dtype(jnp.bfloat16)}
    arrays, *rest = operands
    exact = {name: x.astype(jnp.float32) for name, x in arrays.items()}
    want = everything(xla.memory_attention, 32)(exact, *rest, None)
    close = jax.tree.map(relative_rms, (gradients, out), want)
    assert max(jax.tree.leaves(close)) <= 2e-2


@pytest.mark.parametrize("device", ("tpu", pytest.param("gpu", marks=slow)))
def test_under_vmap_checkpoint_and_a_loop_over_layers(device):
    arrays, distance, segment_pos = draw(32, 16, 2, "float32", heads=2)
    both = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), arrays)

    def layers(attend):
        def loss(arrays):
            q, *rest, slot_k, slot_v = (arrays[name] for name in PARTS)

            def layer(q, _):
                slots = Slots(slot_k, slot_v, distance[:, :, None])
                looked = functools.partial(attend, window=16)
                return jax.checkpoint(looked)(q, *rest, segment_pos, slots=slots), None

            return jnp.sum(jnp.sin(jax.lax.scan(layer, q, length=2)[0]))

        return jax.jit(jax.vmap(jax.grad(loss)))(both)

    assert_close(layers(interpreted(device)), layers(xla.memory_attention), "float32")


def test_scores_exist_for_one_pair_of_blocks():
    """No array of the backward pass is as large as the scores of a head."""
    length = window = 1024
    operands = draw(length, window, 3, "float32", batch=1, heads=1, groups=1)
    lowered = everything(interpreted("tpu"), window).lower(*operands, None)
    largest = max(
        np.prod([int(n) for n in shape.split("x")[:-1]])
        for shape in set(_shapes(lowered.as_text()))
    )
    assert largest <= 2 * window * 128


def _shapes(text):
    for part in text.split("tensor<")[1:]:
        shape = part.split(">", 1)[0]
        if "x" in shape and shape[0].isdigit():
            yield shape


def test_blocks_follow_the_rule():
    def cut(*sizes):
        g = geometry(*sizes)
        return g.chunk, g.block, g.chunks, g.filled, g.slots

    tpu, gpu = Target("tpu"), Target("gpu")
    assert cut(tpu, 2048, 512, 80) == (512, 128, 4, 16, 128)
    assert cut(tpu, 700, 512, 0) == (512, 128, 2, 6, 0)
    assert cut(tpu, 2048, 100, 80) == (112, 112, 21, 21, 128)
    assert cut(tpu, 2048, 200, 80) == (256, 128, 11, 21, 128)
    assert cut(gpu, 2048, 512, 80) == (512, 64, 4, 32, 128)
    assert cut(gpu, 2048, 50, 8) == (64, 64, 41, 41, 16)


def held(count, heads):
    """Slots of one chunk, for all heads or for each."""
    nothing = jnp.zeros((2, 2, count, 2, 8))
    return Slots(nothing, nothing, jnp.zeros((2, 2, heads, count), jnp.int32))


def test_who_computes(monkeypatch, caplog):
    implementations.forget()
    arrays, _, segment_pos = draw(32, 16, 0, "float32")
    q = arrays["q"]
    shared, own = (held(1, heads) for heads in (1, 2))
    assert IMPLEMENTATIONS.resolve("xla") == choose(q, 16, None, "xla") == "xla"
    assert choose(q, 16, None, "pallas") == choose(q, 16, shared, "pallas") == "pallas"
    with caplog.at_level("INFO", "bmojo"):
        for _ in range(2):
            assert choose(q[:, :15], 16, None, "pallas") == "xla"
            assert choose(q, 16, own, "pallas") == "xla"
    assert caplog.text.count("calls of fewer than 16 tokens") == 1
    assert caplog.text.count("heads with slots of their own") == 1
    with pytest.raises(
        ValueError,
        match="^attention_implementation: must be one of auto, xla, native, pallas, got 'cu'",
    ):
        IMPLEMENTATIONS.check("cu")

    assert "MiB of a TPU's vector memory" in unfit(99, 8192, 0, 8, np.float32, Target("tpu"))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with caplog.at_level("INFO", "bmojo"):
        assert (choose(q, 16, None), choose(q, 8192, None)) == ("pallas", "xla")
    assert "attention by xla in place of pallas: window 8192" in caplog.text
    with pytest.raises(ValueError, match="^attention_implementation: window 8192 .* take 'xla'"):
        choose(q, 8192, None, "pallas")


@every_device
def test_outputs_are_the_oracles(device):
    """Two documents in a row; the memory holds the last SSM outputs before each chunk."""
    length, window, fading, cut = 21, 8, 3, 11
    arrays, _, _ = draw(length, window, fading, "float32", batch=1)
    q, k, v, tail_k, tail_v, *_ = (arrays[name] for name in PARTS)
    faded_k, faded_v = k[:, ::-1], v[:, ::-1]
    chunks = -(-length // window)

    def held(x):
        x = jnp.pad(x, [(0, 0), (window, 0), (0, 0), (0, 0)])
        edges = [x[:, c * window + window - fading : (c + 1) * window] for c in range(chunks)]
        return jnp.stack(edges, axis=1)

    distance = jnp.broadcast_to(jnp.arange(fading, 0, -1), (1, chunks, 1, fading))
    document = np.arange(length) >= cut
    segment_pos = jnp.asarray(np.where(document, np.arange(length) - cut, np.arange(length)))[None]
    got = interpreted(device)(
        q, k, v, tail_k, tail_v, segment_pos,
        window=window, slots=Slots(held(faded_k), held(faded_v), distance),
    )  # fmt: skip
    want = reference.memory_attention(
        q[0], k[0], v[0], faded_k[0], faded_v[0], [0.0] * length, document.tolist(),
        window=window, num_fading=fading, num_eidetic=0,
    )  # fmt: skip
    assert_close(got[0], want, "float32")
