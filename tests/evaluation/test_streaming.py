"""Losses through the state in segments are those of the parallel form."""

import jax
import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.evaluation.streaming import score, stream_losses
from tests.numerics import relative_rms
from tests.small_models import MODELS, VOCAB_SIZE, logits, model

QUICK = ("bmojo", "transformer")
EVERY = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
SIZES = (19, 1, 2, 7, 0, 23, 6, 12)


def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB_SIZE, size) for size in SIZES]


def padded(given):
    table = np.zeros((len(given), max(map(len, given))), np.int32)
    for row, document in zip(table, given, strict=True):
        row[: len(document)] = document
    return table


@pytest.mark.parametrize("name", EVERY)
def test_exact(name):
    """Segments end inside windows, on document ends, and rows change documents at any time."""
    given = documents()
    scored = score(model(name), given, segment_length=6, batch_size=3)
    table = np.asarray(logits(model(name), padded(given)), np.float64)
    expected = -np.asarray(jax.nn.log_softmax(table))
    for row, (document, found) in enumerate(zip(given, scored, strict=True)):
        count = max(len(document) - 1, 0)
        assert found.losses.shape == (count,)
        want = expected[row, np.arange(count), document[1:]]
        assert relative_rms(found.losses, want) < 2e-5
        right = table[row, :count].argmax(-1) == document[1:]
        np.testing.assert_array_equal(found.right, right)


def test_progress_counts_every_prediction():
    seen = []
    stream_losses(model("bmojo"), documents(), 6, 3, seen.append)
    assert sum(seen) == sum(max(size - 1, 0) for size in SIZES)


def test_nothing_to_read():
    found = stream_losses(model("bmojo"), [np.zeros(0, int), np.ones(1, int)])
    assert [part.size for part in found] == [0, 0]


def test_wrong_token():
    with pytest.raises(UserError, match="document 1: 24 is not a token"):
        stream_losses(model("bmojo"), [np.zeros(3, int), np.full(3, VOCAB_SIZE)])
