"""What is not finite stays in its document, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops.companion import companion_scan
from bmojo.ops.masks import Slots
from bmojo.ops.memory_attention import causal_attention, memory_attention
from bmojo.ops.recurrence import selective_scan
from bmojo.ops.ssd import ssd
from tests.numerics import assert_close

LENGTH, EDGE = 40, 20  # two documents, of which a chunk holds parts of both
FIRST, SECOND = slice(0, EDGE), slice(EDGE, LENGTH)
START = jnp.zeros((1, LENGTH), bool).at[0, EDGE].set(True)
POSITION = jnp.where(START.cumsum(1) > 0, jnp.arange(LENGTH) - EDGE, jnp.arange(LENGTH) + 5)


def draw(*shape, low=-1.0):
    return jnp.asarray(np.random.default_rng(len(shape)).uniform(low, 1, shape), jnp.float32)


def selective(implementation, x, dt, B, C, state):
    A = -draw(3, 2, low=0)
    return selective_scan(x, dt, A, B, C, state, START, implementation, 64)


def dual(implementation, x, dt, B, C, state):
    A = -draw(2, low=0)
    return ssd(x, dt, A, B, C, state, START, 64, implementation)


def companion(implementation, x, a, state):
    return companion_scan(x, 0.3 * a, state, START, None, implementation, 64)


def memory(implementation, q, k, v, *before):
    # The slots hold tokens -3, 6 and 12, of the first document; the second chunk is of both.
    distance = jnp.array([3, 10, 20]).reshape(1, 3, 1, 1)
    tails, held = before[:2], Slots(*before[2:], distance)
    return (memory_attention(
        q, k, v, *tails, POSITION, window=16, slots=held, implementation=implementation
    ),)  # fmt: skip


def whole(implementation, q, k, v):
    return (causal_attention(q, k, v, POSITION, None, implementation),)


CASES = {
    selective: (
        ("associative", "sequential", "native", "pallas"),
        (draw(1, LENGTH, 3), draw(1, LENGTH, 3, low=0), *draw(2, 1, LENGTH, 2)),
        (draw(1, 3, 2),),
    ),
    dual: (
        ("xla", "native"),
        (draw(1, LENGTH, 2, 3), draw(1, LENGTH, 2, low=0), *draw(2, 1, LENGTH, 4)),
        (draw(1, 2, 3, 4),),
    ),
    companion: (
        ("associative", "sequential"),
        (draw(1, LENGTH, 3), draw(1, LENGTH, 3, 2)),
        (draw(1, 3, 2),),
    ),
    memory: (
        ("xla", "native", "pallas"),
        (draw(1, LENGTH, 4, 4), *draw(2, 1, LENGTH, 2, 4)),
        (*draw(2, 1, 15, 2, 4), *draw(2, 1, 3, 1, 2, 4)),
    ),
    whole: (("xla", "native"), (draw(1, LENGTH, 4, 4), *draw(2, 1, LENGTH, 2, 4)), ()),
}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "function, implementation", [(f, name) for f, (names, *_) in CASES.items() for name in names]
)
@pytest.mark.one_in(5)
def test_the_other_document_is_as_if_it_were_not_there(function, implementation, value):
    _, tokens, before = CASES[function]
    operands = (*tokens, *before)

    @jax.jit
    @functools.partial(jax.grad, argnums=range(len(operands)), has_aux=True)
    def run(*operands):
        outs = function(implementation, *operands)
        # Derivatives of what is not finite are not finite.
        return sum(jnp.sum(jnp.sin(x)) for x in outs), outs

    clean, (out, *_) = run(*operands)
    for index, x in enumerate(operands):
        timed = index < len(tokens)
        for at in (EDGE - 1, EDGE) if timed else (0,):
            planted = x.at[:, at].set(value) if timed else jnp.full_like(x, value)
            grads, (got, *_) = run(*operands[:index], planted, *operands[index + 1 :])
            assert not np.isfinite(got[:, at]).all()
            other = SECOND if at < EDGE else FIRST
            assert_close(got[:, other], out[:, other], "float32", f"output, operand {index} ")
            pairs = zip(grads[: len(tokens)], clean[: len(tokens)], strict=True)
            for number, (grad, want) in enumerate(pairs):
                what = f"gradient {number}, operand {index} "
                assert_close(grad[:, other], want[:, other], "float32", what)
            if at == EDGE:
                assert all(np.isfinite(grad).all() for grad in grads[len(tokens) :])


@pytest.mark.parametrize("function", [selective, dual])
def test_a_token_alone_begins_anew(function):
    implementation, (tokens, before) = CASES[function][0][0], CASES[function][1:]
    alone = [x[:, EDGE : EDGE + 1] for x in tokens]
    A, start = (-draw(3, 2, low=0) if function is selective else -draw(2, low=0)), START[:, EDGE:]
    run = selective_scan if function is selective else ssd
    x, dt, B, C = alone
    want, got = (
        run(x, dt, A, B, C, state, start[:, :1], implementation=implementation)
        for state in (before[0], jnp.full_like(before[0], np.nan))
    )
    assert_close(got, want, "float32")


def test_a_query_alone_reads_past_what_it_does_not_see():
    q, k, v = (x[:, EDGE:] for x in CASES[whole][1])
    past = [jnp.concatenate([x[:, :EDGE], x], axis=1) for x in (k, v)]
    lost = [x.at[:, 3].set(np.nan) for x in past]
    pos = jnp.zeros((1, 1), jnp.int32)
    want, got = (causal_attention(q[:, :1], *x, pos, pos + EDGE, "xla") for x in (past, lost))
    assert_close(got, want, "float32")
    got, want = (
        memory_attention(q[:, :1], k[:, :1], v[:, :1], *(x[:, 1:16] for x in x), pos, window=16)
        for x in (lost, past)
    )
    assert_close(got, want, "float32")
    assert not np.isfinite(causal_attention(q[:, :1], *lost, pos + EDGE, pos + EDGE, "xla")).any()
