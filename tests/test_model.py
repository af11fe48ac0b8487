"""How the loop over periods is compiled, and what it stores, changes no number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.ops.native import library
from tests.numerics import assert_close
from tests.small_models import VOCAB_SIZE, config

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 11)), jnp.int32)


def parts(**changes):
    return nnx.split(dataclasses.replace(config("bmojo"), **changes).make(nnx.Rngs(0)))


def gradient(**changes):
    """A function that gives gradients and logits, and what to give it."""
    graph, parameters = parts(**changes)

    def loss(parameters):
        logits, _ = nnx.merge(graph, parameters)(TOKENS)
        return jnp.sum(jnp.sin(logits)), logits

    return jax.grad(loss, has_aux=True), parameters


def everything(unroll=None, remat="none"):
    """Logits and gradients of three layers."""
    function, parameters = gradient(unroll=unroll, remat=remat, n_layers=3)
    return jax.jit(function)(parameters)


def unrolled(unroll, n_layers):
    """Periods in each round of the loop over them."""
    graph, parameters = parts(unroll=unroll, n_layers=n_layers)
    equations = jax.make_jaxpr(lambda p: nnx.merge(graph, p)(TOKENS)[0])(parameters).eqns
    (loop,) = [e for e in equations if e.primitive.name == "scan"]
    assert loop.params["length"] == n_layers
    return loop.params["unroll"]


def test_periods_written_out_are_the_loop():
    assert_close(everything(3), everything(1), "float32")


@pytest.mark.parametrize("remat", ["full", "products"])
def test_what_is_computed_again_is_the_same(remat):
    assert_close(everything(remat=remat), everything(), "float32")


def kernels(remat):
    """Calls of native kernels for a gradient, in the compiled program."""
    function, parameters = gradient(unroll=1, remat=remat, n_layers=2)
    program = jax.jit(function).lower(parameters).compile().as_text()
    return program.count('custom_call_target="bmojo_')


@pytest.mark.skipif(library.unfit() is not None, reason=f"no kernels: {library.unfit()}")
def test_products_and_kernels_are_computed_once():
    assert kernels("full") > kernels("none") == kernels("products") > 0


def test_few_periods_are_written_out_and_many_are_not():
    assert [unrolled(None, n) for n in (1, 4, 5)] == [1, 4, 1]
    assert [unrolled(2, n) for n in (1, 4)] == [1, 2]


@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
def test_numbers_of_64_bits_are_refused_or_used(name):
    wide = dataclasses.replace(config("bmojo"), **{name: "float64"})
    with pytest.raises(ValueError, match=f"^{name}: float64 needs .*; set JAX_ENABLE_X64=1"):
        wide.make(nnx.Rngs(0))
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: wide.make(nnx.Rngs(0)))
    used = {"dtype": model.embedding.dtype, "param_dtype": model.embedding.embedding.dtype}
    assert used[name] == "float64"


def test_a_loop_of_no_periods_is_refused():
    with pytest.raises(ValueError, match="^unroll: must be at least 1, got 0"):
        dataclasses.replace(config("bmojo"), unroll=0)
