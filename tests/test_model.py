"""How the loop over periods is compiled changes no number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.numerics import assert_close
from tests.small_models import VOCAB_SIZE, config

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 11)), jnp.int32)


def parts(unroll, n_layers):
    made = dataclasses.replace(config("bmojo"), unroll=unroll, n_layers=n_layers)
    return nnx.split(made.make(nnx.Rngs(0)))


def everything(unroll):
    """Logits and gradients of three layers."""
    graph, parameters = parts(unroll, 3)

    def loss(parameters):
        logits, _ = nnx.merge(graph, parameters)(TOKENS)
        return jnp.sum(jnp.sin(logits)), logits

    return jax.jit(jax.grad(loss, has_aux=True))(parameters)


def unrolled(unroll, n_layers):
    """Periods in each round of the loop over them."""
    graph, parameters = parts(unroll, n_layers)
    equations = jax.make_jaxpr(lambda p: nnx.merge(graph, p)(TOKENS)[0])(parameters).eqns
    (loop,) = [e for e in equations if e.primitive.name == "scan"]
    assert loop.params["length"] == n_layers
    return loop.params["unroll"]


def test_periods_written_out_are_the_loop():
    assert_close(everything(3), everything(1), "float32")


def test_few_periods_are_written_out_and_many_are_not():
    assert [unrolled(None, n) for n in (1, 4, 5)] == [1, 4, 1]
    assert [unrolled(2, n) for n in (1, 4)] == [1, 2]


def test_a_loop_of_no_periods_is_refused():
    with pytest.raises(ValueError, match="^unroll: must be at least 1, got 0"):
        dataclasses.replace(config("bmojo"), unroll=0)
