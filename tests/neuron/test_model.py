"""The model for PyTorch against the model it was imported from."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from bmojo.generation.generate import generate_all
from bmojo.model import Model as OriginalModel
from bmojo.runs import open_run
from neuron.configs import FadingConfig, LayerConfig, StackConfig
from neuron.model import Flat, Model, flatten, unflatten
from tests.numerics import relative_rms

PROMPTS = ([3, 77, 5, 9, 200], [8] * 4 + [11, 3, 250, 7, 6], list(range(40, 63)))


@pytest.fixture(scope="module")
def original(trained):
    made = open_run(trained)
    assert made.step == 2
    return made.model


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 256, (2, 27)).astype(np.int32)


@pytest.fixture(scope="module")
def wanted(original, tokens):
    graph, parameters = nnx.split(original)
    ids = jax.numpy.asarray(documents(tokens))
    return jax.jit(lambda p: nnx.merge(graph, p)(tokens, segment_ids=ids)[0])(parameters)


def documents(tokens):
    ids = np.zeros_like(tokens)
    ids[0, 7:], ids[0, 13:], ids[1, 11:] = 1, 2, 5
    return ids


@pytest.mark.parametrize(
    ("implementation", "cuts"),
    [
        ("torch", (27,)),
        ("torch", (9, 1, 17)),
        ("nki", (9, 1, 17)),
        pytest.param("nki", (27,), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_logits(imported, tokens, wanted, implementation, cuts):
    model, state, rows, at = imported(implementation), None, [], 0
    ids = torch.from_numpy(documents(tokens))
    with torch.no_grad():
        for count in cuts:
            part = slice(at, at + count)
            logits, state = model(torch.from_numpy(tokens[:, part]), state, ids[:, part])
            rows.append(logits)
            at += count
    assert relative_rms(torch.cat(rows, dim=1), wanted) <= 1e-4


@pytest.fixture(scope="module")
def continuation(original):
    return generate_all(original, PROMPTS, max_new_tokens=64, chunk_size=32)


def test_greedy_decoding_draws_the_same_tokens(imported, continuation):
    drawn = imported("torch").greedy(PROMPTS, 64).numpy()
    np.testing.assert_array_equal(drawn, continuation)
    assert len(np.unique(drawn)) > 8


@pytest.mark.parametrize("count", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_greedy_decoding_by_kernels(imported, continuation, count):
    drawn = imported("nki").greedy(PROMPTS, count).numpy()
    np.testing.assert_array_equal(drawn, np.asarray(continuation)[:, :count])


def test_tied_head():
    rng = np.random.default_rng(0)
    table, x = (rng.standard_normal(n, np.float32) for n in ((11, 8), (2, 3, 8)))
    layer = LayerConfig(8, FadingConfig(8))
    model = Model(StackConfig(11, 1, layer, 8, tie_embeddings=True))
    model.embedding.weight = torch.nn.Parameter(torch.from_numpy(table))
    config = SimpleNamespace(tie_embeddings=True, tied_scale=8**-0.5)
    embedding = SimpleNamespace(embedding=jax.numpy.asarray(table))
    original = SimpleNamespace(config=config, embedding=embedding)
    original.logit_factors = lambda x: OriginalModel.logit_factors(original, x)
    wanted = OriginalModel.logits(original, jax.numpy.asarray(x))
    found = model._logits(torch.from_numpy(x)).detach()
    assert relative_rms(found, wanted) <= 1e-6


def test_an_empty_prompt_is_refused(imported):
    with pytest.raises(ValueError, match="^prompts: one is empty"):
        imported("torch").greedy([[1], []], 4)


def test_state_as_tensors(imported, tokens):
    model, ids = imported("torch"), torch.from_numpy(tokens)
    flat = Flat(model)
    with torch.no_grad():
        _, state = model(ids[:, :9])
        found = flat(ids[:, 9:], *flatten(state))
        wanted, after = model(ids[:, 9:], state)
    assert torch.equal(found[0], wanted)
    assert all(torch.equal(a, b) for a, b in zip(found[1:], flatten(after), strict=True))
    again = flatten(unflatten(found[1:]))
    assert all(a is b for a, b in zip(again, found[1:], strict=True))
