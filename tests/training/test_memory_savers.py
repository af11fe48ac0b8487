"""Whatever saves memory, alone or with another, every mixer takes the same steps."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.layers.attention import AttentionConfig
from bmojo.training.config import OptimizerConfig
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import outline, split
from bmojo.training.train_step import make_fresh_state, make_train_step
from tests.small_models import MODELS, VOCAB_SIZE, config

LENGTH, ROWS = 16, 4
SAVERS = ("accumulate", "segments", "remat full", "remat products", "rolled")
TOKENS = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, ROWS, LENGTH))


def savers(name, chosen):
    """Model config, parts of a batch, segments of a document."""
    made = config(name if name in MODELS else "transformer")
    if name == "window 1":
        pattern = (AttentionConfig(window=1, n_heads=2), made.pattern[1])
        made = dataclasses.replace(made, pattern=pattern)
    remat = [saver.removeprefix("remat ") for saver in chosen if saver.startswith("remat")]
    changes = {"remat": remat[-1]} if remat else {}
    changes |= {"unroll": 1} if "rolled" in chosen else {}
    made = dataclasses.replace(made, **changes)
    return made, 2 if "accumulate" in chosen else 1, 2 if "segments" in chosen else 1


@pytest.mark.parametrize("name", [*MODELS, "window 1"])
@pytest.mark.one_in(5)
def test_all_savers_at_once_give_back_what_they_took(name):
    """In shapes, so that nothing is compiled."""
    made, parts, _ = savers(name, SAVERS)
    structure, parameters = outline(lambda: made.make(nnx.Rngs(0)))
    optimizer = make_optimizer(OptimizerConfig(), 9, structure.groups)
    fresh = make_fresh_state(structure)
    carried = jax.eval_shape(lambda p: fresh(p, ROWS, LENGTH), parameters)
    taken = (parameters, jax.eval_shape(optimizer.init, parameters), carried)
    batch = dict(zip(("inputs", "targets"), TOKENS[..., : LENGTH // 2], strict=True))
    step = make_train_step(structure, optimizer, accumulate=parts)
    *given, metrics = jax.eval_shape(step, *taken, batch)
    assert set(metrics) == {"loss", "accuracy", "grad_norm", "count"}
    assert jax.tree.structure(taken) == jax.tree.structure(tuple(given))
    for one, other in zip(*map(jax.tree.leaves, (taken, tuple(given))), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def steps(name, chosen):
    """Losses, norms and parameters after a document."""
    made, parts, segments = savers(name, chosen)
    structure, parameters = split(made.make(nnx.Rngs(0)))
    optimizer = make_optimizer(OptimizerConfig(schedule="constant"), 9, structure.groups)
    step = make_train_step(structure, optimizer, accumulate=parts)
    state, carried = optimizer.init(parameters), None
    if segments > 1:
        carried = make_fresh_state(structure)(parameters, ROWS, LENGTH)
    found = []
    for part in np.split(TOKENS, segments, axis=2):
        batch = dict(zip(("inputs", "targets"), part, strict=True))
        parameters, state, carried, metrics = step(parameters, state, carried, batch)
        found.append([float(metrics[key]) for key in ("loss", "accuracy", "grad_norm")])
    return found, parameters


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*itertools.combinations(SAVERS, 2)], ids=" and ".join)
@pytest.mark.parametrize("name", [*MODELS, "window 1"])
def test_pairs_take_the_same_steps(name, pair):
    metrics, parameters = steps(name, pair)
    expected, plain = steps(name, set(pair) & {"segments"})
    np.testing.assert_allclose(metrics, expected, rtol=1e-4)
    for key, value in parameters.items():
        np.testing.assert_allclose(value, plain[key], rtol=1e-3, atol=1e-4, err_msg=key)
