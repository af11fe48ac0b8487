import json

import numpy as np
import pytest

from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import Batches
from bmojo.errors import UserError

SOURCE = MQARConfig(length=16, num_pairs=(1, 2), vocab_size=32).source(0, "train")


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_batches_stack_examples_in_order_from_the_start():
    batches = Batches(SOURCE, 3, start=100)
    for first in (100, 103):
        batch = next(batches)
        assert batch["inputs"].shape == batch["targets"].shape == (3, 16)
        for row in range(3):
            assert same({k: v[row] for k, v in batch.items()}, SOURCE[first + row])


def test_a_saved_position_goes_on_with_the_next_batch():
    batches = Batches(SOURCE, 4, start=7)
    for _ in range(3):
        next(batches)
    position = json.dumps(batches.get_state())
    expected = [next(batches) for _ in range(3)]
    resumed = Batches(SOURCE, 4, start=7)
    next(resumed)
    resumed.set_state(json.loads(position))
    assert all(same(next(resumed), batch) for batch in expected)


def test_a_position_of_other_batches_is_refused():
    position = Batches(SOURCE, 4).get_state()
    with pytest.raises(ValueError, match="batch_size 4, not 5"):
        Batches(SOURCE, 5).set_state(position)


def test_a_position_in_data_that_have_changed_is_refused():
    class Fingerprinted(list):
        fingerprint = "one"

    batches = Batches(Fingerprinted(SOURCE[i] for i in range(8)), 4)
    next(batches)
    position = json.loads(json.dumps(batches.get_state()))
    batches.set_state(position)
    Fingerprinted.fingerprint = "other"
    with pytest.raises(UserError, match="start over with --fresh"):
        Batches(Fingerprinted(SOURCE[i] for i in range(8)), 4).set_state(position)
