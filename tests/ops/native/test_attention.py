"""The attention kernel for CPUs against one softmax over all keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import attention_native, attention_xla, implementations
from bmojo.ops import memory_attention as public
from bmojo.ops.attention_mass import over_blocks
from bmojo.ops.attention_native import causal_attention, memory_attention
from bmojo.ops.attention_xla import attend
from bmojo.ops.masks import NEVER, Slots, memory_keys, visible
from bmojo.ops.native import library
from tests.numerics import assert_close, relative_rms

pytestmark = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no kernels: {library.why_not()}"
)


def draw(rng, *shape, dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def weighed(out):
    return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))


class Memory:
    """Operands of a call whose rows have documents, vacant slots, and places of their own."""

    def __init__(self, dtype, length, window, slots, groups, width, offset, seed=0, heads=4):
        rng = np.random.default_rng(seed)
        rows, chunks = 2, -(-length // window) + (offset is not None)
        self.floats = [
            draw(rng, rows, length, heads, width, dtype=dtype),
            *(draw(rng, rows, length, groups, width, dtype=dtype) for _ in range(2)),
            *(draw(rng, rows, window - 1, groups, width, dtype=dtype) for _ in range(2)),
            *(draw(rng, rows, chunks, slots, groups, width, dtype=dtype) for _ in range(2)),
        ]
        self.distance = rng.integers(1, 3 * window, (rows, chunks, 1, slots))
        self.distance[..., :1] = NEVER
        self.segment_pos = jnp.stack(
            [window + jnp.arange(length), jnp.arange(length) % (window + 3)]
        )
        self.rest = {"window": window}
        if offset is not None:
            self.rest["offset"] = jnp.asarray(offset)

    def everything(self, look, **more):
        """Output, and gradients to all floating-point operands."""

        def loss(q, k, v, tail_k, tail_v, held_k, held_v):
            slots = Slots(held_k, held_v, jnp.asarray(self.distance, jnp.int32))
            out = look(q, k, v, tail_k, tail_v, self.segment_pos, slots=slots, **self.rest, **more)
            return weighed(out), out

        return jax.jit(jax.grad(loss, range(7), has_aux=True))(*self.floats)


def plain(q, *args, **kwargs):
    keys = memory_keys(*args, **kwargs)
    return over_blocks(lambda q, k, *rest: attend(q, k, *rest), q, keys.k, keys.v, keys.mask)


@pytest.mark.parametrize(
    ("length", "window", "slots", "groups", "width", "offset"),
    [
        (1, 8, 3, 4, 8, None),
        (29, 8, 3, 2, 8, None),
        (29, 8, 3, 1, 5, (0, 5)),
        (150, 70, 66, 2, 20, (69, 1)),
        (300, 128, 40, 4, 32, None),
        (131, 1, 2, 4, 16, None),
        (64, 64, 0, 2, 64, None),
        (1200, 16, 5, 1, 4, (3, 0)),  # several stretches of queries
    ],
)
@pytest.mark.one_in(5)
def test_outputs_and_gradients_are_those_of_one_softmax(
    dtype, length, window, slots, groups, width, offset
):
    memory = Memory(dtype, length, window, slots, groups, width, offset)
    for slot_range in ((0, None), (window, 2 * window)):
        got = memory.everything(memory_attention, slot_range=slot_range)
        assert_close(got, memory.everything(plain, slot_range=slot_range), dtype)


def test_scores_of_any_size_are_safe():
    memory = Memory("float32", 90, 32, 5, 4, 16, None)
    memory.floats[0] *= 1e3
    got, want = (memory.everything(look) for look in (memory_attention, plain))
    assert_close(got[1], want[1], "float32")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))


def test_calls_give_the_same_bits_again():
    memory = Memory("float32", 1500, 64, 5, 2, 16, (7, 60))
    first, second = (memory.everything(memory_attention) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.array_equal(a, b)


def test_nothing_crosses_the_start_of_a_document():
    memory = Memory("float32", 40, 16, 4, 2, 8, None)
    memory.segment_pos = jnp.broadcast_to(
        jnp.where(jnp.arange(40) < 21, jnp.arange(40), jnp.arange(40) - 21), (2, 40)
    )
    memory.distance[:] = NEVER

    def loss(q, k, v, *rest):
        slots = Slots(*rest[2:], jnp.asarray(memory.distance, jnp.int32))
        out = memory_attention(q, k, v, *rest[:2], memory.segment_pos, slots=slots, **memory.rest)
        return jnp.sum(jnp.sin(out[:, 21:]))

    grads = jax.grad(loss, range(7))(*memory.floats)
    for grad in grads[1:3]:
        assert not np.any(grad[:, :21]) and np.any(grad[:, 21:])
    assert not any(np.any(grad) for grad in grads[3:])


def test_queries_that_see_nothing_are_zero_and_pass_nothing():
    q = jnp.ones((1, 20, 2, 8))

    def out(q):
        return causal_attention(q, q, q, jnp.zeros((1, 20), int), jnp.full((1, 20), 50))

    assert not np.any(out(q)) and not np.any(jax.grad(lambda q: out(q).sum())(q))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", [2, 31, 150, 700])
@pytest.mark.one_in(5)
def test_the_whole_past(dtype, length, groups):
    rng = np.random.default_rng(1)
    places = length + 9
    q = draw(rng, 2, length, 4, 12, dtype=dtype)
    k, v = (draw(rng, 2, places, groups, 12, dtype=dtype) for _ in range(2))
    position = jnp.arange(length) + jnp.array([[0], [9]])
    segment_pos = jnp.minimum(position, jnp.array([[10**6], [9]]))
    mask = visible(position[..., None] - jnp.arange(places), segment_pos[..., None])

    def everything(look):
        return jax.grad(lambda *x: weighed(look(*x)), range(3))(q, k, v), look(q, k, v)

    got = everything(lambda q, k, v: causal_attention(q, k, v, segment_pos, position))
    assert_close(got, everything(lambda q, k, v: attend(q, k, v, mask[:, None])), dtype)
    here = everything(
        lambda q, k, v: causal_attention(q, k[:, :length], v[:, :length], segment_pos)
    )
    there = visible(jnp.arange(length)[:, None] - jnp.arange(length), segment_pos[..., None])
    want = everything(lambda q, k, v: attend(q, k[:, :length], v[:, :length], there[:, None]))
    assert_close(here, want, dtype)


@pytest.mark.parametrize("group", [1, 63, 64, 65, 71, 128, 256])
@pytest.mark.one_in(3)
def test_any_number_of_query_heads_to_a_key_value_head(group):
    # Blocks hold 64 rows: of more heads a token's are several blocks.
    window = Memory("float32", 32, 8, 0, 1, 4, None, heads=group)
    slots = Memory("float32", 33, 8, 3, 2, 4, (0, 5), heads=2 * group)
    for memory in (window, slots):
        assert_close(memory.everything(memory_attention), memory.everything(plain), "float32")
    q, k, v = slots.floats[:3]
    position = jnp.broadcast_to(jnp.arange(33), (2, 33))

    def whole(look):
        return jax.grad(lambda *x: weighed(look(*x, position)), range(3))(q, k, v)

    assert_close(whole(causal_attention), whole(attention_xla.causal_attention), "float32")
    ones = [jnp.ones((1, 32, heads, 4)) for heads in (group, 1, 1)]
    past, positions = jnp.ones((1, 7, 1, 4)), jnp.arange(32)[None]
    out = public.memory_attention(*ones, past, past, positions, window=8)
    np.testing.assert_allclose(out, 1, rtol=1e-6)


def test_bfloat16_is_computed_in_float32():
    memory = Memory("float32", 50, 16, 4, 2, 8, None)
    want = memory.everything(memory_attention)[1]
    memory.floats = [x.astype(jnp.bfloat16) for x in memory.floats]
    got = memory.everything(memory_attention)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    # Operands and output are rounded to the 8 bits of bfloat16.
    assert relative_rms(got[1].astype(jnp.float32), want) <= 1e-2


def test_a_batch_of_calls():
    memory = Memory("float32", 40, 16, 4, 2, 8, None)
    arrays = [jnp.stack([x, 2 * x]) for x in memory.floats[:5]]
    run = lambda *x: memory_attention(*x, memory.segment_pos, window=16)  # noqa: E731
    got = jax.vmap(run)(*arrays)
    assert_close(got, jnp.stack([run(*(x[i] for x in arrays)) for i in range(2)]), "float32")


def test_who_computes(monkeypatch, caplog):
    q = jnp.zeros((1, 32, 4, 8))
    implementations.forget()
    assert public.choose(q, 16, None) == public.choose_causal(q) == "native"
    assert public.choose_causal(q, first=False) == "native"
    assert public.choose(q[:, :15], 16, None, "native") == "xla"
    with caplog.at_level("INFO", "bmojo"):
        implementations.forget()
        monkeypatch.setattr(library, "why_not", lambda: "no compiler")
        assert public.choose(q, 16, None) == "xla"
    assert "attention on cpu: xla in place of native: no compiler" in caplog.text
    wanted = "^attention_implementation: no native kernels: no compiler; take 'xla'"
    with pytest.raises(ValueError, match=wanted):
        public.choose(q, 16, None, "native")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="for CPUs, and this is a tpu"):
        public.choose(q, 16, None, "native")
    implementations.forget()


def test_layers_call_it(monkeypatch):
    called = []
    monkeypatch.setattr(
        attention_native, "causal_attention", lambda q, *rest: called.append(len(rest)) or q
    )
    q = jnp.zeros((1, 32, 4, 8))
    pos = jnp.zeros((1, 32), jnp.int32)
    public.causal_attention(q, q, q, pos, implementation="native")
    public.causal_attention(q, q, q, pos, pos)
    assert called == [3, 4]
