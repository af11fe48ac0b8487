"""How many tokens a call of the compiled loop draws, and that it knows when to end."""

import types

import jax
import numpy as np
import pytest

from bmojo.generation import loop as loops
from bmojo.generation.generate import prefill
from bmojo.generation.loop import Draws, in_blocks
from bmojo.generation.programs import programs_of
from bmojo.generation.sampling import Sampling
from tests.small_models import VOCAB_SIZE, model

ROWS = 2
DRAWS = Draws(Sampling(0.0), np.uint32(0), np.arange(ROWS, dtype=np.int32), np.array([3, 5]))


class Loop:
    """A loop that draws the numbers of the tokens, and takes its time on a clock of its own."""

    def __init__(self, seconds_a_token):
        self.seconds, self.now, self.asked = seconds_a_token, 0.0, []

    def unstack(self, parameters, state):
        return state

    def block(self, parameters, state, tokens, active, ends, seed, numbers, at, count, **options):
        self.asked.append(count)
        self.now += count * self.seconds
        drawn = np.zeros((options["size"], ROWS), np.int32)
        drawn[:count] = at + np.arange(count)[:, None]
        return drawn, drawn[count - 1], count, state


@pytest.mark.parametrize(
    ("seconds", "asked"),
    [
        (0.001, [1, 2, 4, 8, 16, 32, 32, 4]),
        (0.01, [1, 2, 4] + [8] * 11 + [4]),
        (0.06, [1] * 99),
    ],
)
def test_calls_grow_as_long_as_they_are_short(monkeypatch, seconds, asked):
    loop = Loop(seconds)
    monkeypatch.setattr(loops, "programs_of", lambda model: (loop, None))
    monkeypatch.setattr(loops, "time", types.SimpleNamespace(perf_counter=lambda: loop.now))
    logits, active = np.zeros((ROWS, 4), np.float32), np.ones(ROWS, bool)
    steps = in_blocks(None, logits, None, DRAWS, (), active, 100, 32)
    assert not next(steps).any() and not loop.asked, "the first token waits for nothing"
    np.testing.assert_array_equal(list(steps), np.array([3, 5]) + np.arange(1, 100)[:, None])
    assert loop.asked == asked


def test_calls_shrink_where_they_become_long(monkeypatch):
    loop = Loop(0.001)
    monkeypatch.setattr(loops, "programs_of", lambda model: (loop, None))
    monkeypatch.setattr(loops, "time", types.SimpleNamespace(perf_counter=lambda: loop.now))
    logits, active = np.zeros((ROWS, 4), np.float32), np.ones(ROWS, bool)
    steps = in_blocks(None, logits, None, DRAWS, (), active, 100, 32)
    for _ in range(32):
        next(steps)
    loop.seconds = 0.02
    list(steps)
    assert loop.asked == [1, 2, 4, 8, 16, 32, 16, 8, 8, 4]


def test_the_loop_ends_when_all_rows_have():
    made = model("bmojo")
    programs, parameters = programs_of(made)
    read, state = prefill(made, np.arange(8).reshape(ROWS, 4) % VOCAB_SIZE, chunk_size=5)
    before = jax.tree.leaves(state)
    tokens = DRAWS.draw(read, 0)
    every, none = np.ones(VOCAB_SIZE, bool), np.zeros(VOCAB_SIZE, bool)
    for ends, expected in ((none, 6), (every, 1)):
        _, _, steps, state = programs.block(
            parameters, state, tokens, np.ones(ROWS, bool), ends, np.uint32(0), DRAWS.numbers,
            DRAWS.position, 6, sampling=DRAWS.sampling, size=8,
        )  # fmt: skip
        assert steps == expected
    assert all(leaf.is_deleted() for leaf in before), "the state is updated in place"
