"""Decoding says what the parallel form says, in any company, in constant memory."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.errors import UserError
from bmojo.generation.generate import (
    ENDED,
    decode,
    generate_all,
    generate_steps,
    memory_grows,
    pad,
    prefill,
    room,
    rows_seen,
    single_steps,
    start,
    state_bytes,
)
from bmojo.generation.programs import programs_of
from bmojo.generation.sampling import Sampling
from bmojo.generation.stopping import Stop, cut
from tests.numerics import relative_rms
from tests.small_models import MODELS, VOCAB_SIZE, config, logits, model

QUICK = ("bmojo", "transformer")
"""Models of the default tests: constant memory, and memory that grows."""

EVERY = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]

CHUNK = 5
NEW = 7
OPTIONS = {"max_new_tokens": NEW, "chunk_size": CHUNK, "capacity": 24}


def prompts():
    """Lengths on both sides of a chunk and of a window, and on their edges."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB_SIZE, size) for size in (11, 1, 5)]


def letters(ids):
    return "".join(chr(ord("a") + token) for token in ids)


def singly(made, **options):
    """What a call of a program for each token makes of the prompts: an array (steps, 3)."""
    read, state = prefill(made, *pad(prompts()), chunk_size=CHUNK, capacity=24)
    options = {"max_new_tokens": NEW, "advance": single_steps(made), **options}
    return np.stack(list(decode(made, read, state, **options)))


@pytest.mark.parametrize("name", EVERY)
def test_all_ways_agree(name):
    """One test for each model, since compiling is what takes time."""
    made, given = model(name), prompts()

    read, state = prefill(made, *pad(given), chunk_size=CHUNK, capacity=24)
    assert rows_seen(state).tolist() == [11, 1, 5]
    size = state_bytes(state)
    assert room(made, state) == (24 if name == "transformer" else None)
    assert memory_grows(made) == (name == "transformer")

    greedy = generate_all(made, given, **OPTIONS)
    whole = np.zeros((3, 11 + NEW), np.int32)
    for row, (prompt, new) in zip(whole, zip(given, greedy, strict=True), strict=True):
        assert len(new) == NEW
        row[: len(prompt) + NEW] = [*prompt, *new]
    parallel = np.asarray(logits(made, whole))
    for row, (prompt, new) in enumerate(zip(given, greedy, strict=True)):
        last = len(prompt) - 1
        assert relative_rms(read[row], parallel[row, last]) < 1e-5
        np.testing.assert_array_equal(parallel[row, last : last + NEW].argmax(-1), new)

    drawn = Sampling(temperature=1.5, top_k=20, top_p=0.95, min_p=0.01)
    together = generate_all(made, given, sampling=drawn, seed=4, rows=[7, 3, 5], **OPTIONS)
    assert any((a != b).any() for a, b in zip(together, greedy, strict=True))
    np.testing.assert_array_equal(together, singly(made, sampling=drawn, seed=4, rows=[7, 3, 5]).T)
    for row, number in enumerate((7, 3, 5)):
        (alone,) = generate_all(
            made, given[row : row + 1], sampling=drawn, seed=4, rows=[number], **OPTIONS
        )
        np.testing.assert_array_equal(alone, together[row])
        (alone,) = generate_all(made, given[row : row + 1], **OPTIONS)
        np.testing.assert_array_equal(alone, greedy[row])

    _, state = prefill(made, np.asarray(greedy), None, state, chunk_size=CHUNK)
    assert rows_seen(state).tolist() == [18, 8, 12]
    assert state_bytes(state) == size


def compiled(made):
    programs, _ = programs_of(made)
    return programs.start, programs.chunk, programs.block


def test_nothing_is_compiled_twice():
    made, given = model("bmojo"), prompts()
    generate_all(made, given, **OPTIONS)
    longer = [np.tile(prompt, 3) for prompt in given]
    before = [one._cache_size() for one in compiled(made)]
    generate_all(nnx.clone(made), longer, **{**OPTIONS, "max_new_tokens": 3, "capacity": 90})
    assert [one._cache_size() for one in compiled(made)] == before


def test_rows_end_by_token_and_by_string():
    made, given = model("bmojo"), prompts()
    free = generate_all(made, given, **OPTIONS)
    end = int(free[0][2])
    stopped = generate_all(made, given, stop=Stop(ids=(end,)), **OPTIONS)
    for new, full in zip(stopped, free, strict=True):
        where = np.flatnonzero(full == end)
        np.testing.assert_array_equal(new, full[: where[0] if where.size else NEW])
    word = letters(free[1][2:4])
    stop = Stop(strings=(word,), decode=letters)
    stopped = generate_all(made, given, stop=stop, **OPTIONS)
    for new, full in zip(stopped, free, strict=True):
        at = letters(full).find(word)
        np.testing.assert_array_equal(new, full[: at + len(word) if at >= 0 else NEW])
        assert word not in cut(letters(new), (word,))


@pytest.mark.parametrize("block", [4, 32])
def test_a_loop_ends_rows_where_single_calls_do(block):
    made, drawn = model("bmojo"), Sampling(temperature=2.0)
    options = {"sampling": drawn, "seed": 1, "max_new_tokens": 24}
    free = singly(made, **options)
    # Ends of rows within a block and at its edges, by a token, by a string, and by both.
    for ids, word in [((int(free[5, 0]),), None), ((), free[9:11, 1]), ((), free[6:8, 2])]:
        strings = () if word is None else (letters(word),)
        stop = Stop((*ids, int(free[20, 1])), strings, letters)
        read, state = prefill(made, *pad(prompts()), chunk_size=CHUNK, capacity=24)
        looped = decode(made, read, state, stop=stop, block=block, **options)
        np.testing.assert_array_equal(list(looped), singly(made, stop=stop, **options))
    with pytest.raises(ValueError, match="block: 0 tokens are none"):
        next(decode(made, read, start(made, 1), max_new_tokens=1, block=0))


@pytest.mark.parametrize("name", QUICK)
def test_only_one_state_is_held(name):
    made = model(name)
    read, state = prefill(made, *pad(prompts()), chunk_size=CHUNK, capacity=24)
    steps, size = decode(made, read, state, max_new_tokens=4), state_bytes(state)
    next(steps), next(steps)
    held = [leaf for leaf in jax.tree.leaves(state) if not leaf.is_deleted()]
    # Positions, which have been looked at, may stay.
    assert sum(leaf.nbytes for leaf in held) <= 24 < size


def test_tokens_come_as_they_are_drawn():
    steps = generate_steps(model("bmojo"), prompts(), **OPTIONS)
    first = next(steps)
    assert first.shape == (3,)
    rest = list(steps)
    assert len(rest) == NEW - 1
    assert not (np.asarray(rest) == ENDED).any()


def test_refused_before_any_work(monkeypatch):
    made = model("transformer")
    monkeypatch.setattr("bmojo.generation.generate.start", lambda *_: pytest.fail("work was done"))
    with pytest.raises(UserError, match="prompt longer than memory: 17 tokens.* the 16 that"):
        generate_steps(made, prompts(), max_new_tokens=NEW, capacity=16)
    with pytest.raises(UserError, match="prompt longer than memory: 11 tokens"):
        prefill(made, *pad(prompts()), capacity=10)
    with pytest.raises(UserError, match=r"prompt: 24 is not a token .* 0 \.\. 23"):
        generate_steps(made, [[3, VOCAB_SIZE]], max_new_tokens=1)
    with pytest.raises(UserError, match="prompt: it is empty"):
        generate_steps(made, [[3], []], max_new_tokens=1)
    with pytest.raises(UserError, match="seed: -1 is out of range"):
        generate_steps(made, [[3]], max_new_tokens=1, seed=-1)


def test_full_memory_is_seen_in_a_given_state():
    made = model("transformer")
    _, state = prefill(made, *pad(prompts()), chunk_size=CHUNK, capacity=12)
    with pytest.raises(UserError, match="prompt longer than memory: 13 tokens"):
        prefill(made, np.ones((3, 2), np.int32), None, state)


def test_broken_parameters_are_told():
    graph, parameters = nnx.split(model("bmojo"))
    broken = nnx.merge(graph, jax.tree.map(lambda x: x * np.nan, parameters))
    with pytest.raises(UserError, match="not numbers"):
        generate_all(broken, [[1]], max_new_tokens=1)


def test_a_row_without_tokens_is_untouched():
    made = model("bmojo")
    read, state = prefill(made, np.ones((1, 4), np.int32), [0], chunk_size=CHUNK)
    assert not read.any()
    for after, fresh in zip(*map(jax.tree.leaves, (state, start(made, 1))), strict=True):
        np.testing.assert_array_equal(after, fresh)


def test_a_prompt_costs_the_head_of_its_last_token_only():
    size = 29  # of nothing but the vocabulary
    wanted = dataclasses.replace(config("bmojo"), vocab_size=size)
    programs, parameters = programs_of(nnx.eval_shape(lambda: wanted.make(nnx.Rngs(0))))
    state = jax.eval_shape(lambda p: programs.start(p, 3, None), parameters)
    tokens, counts = np.zeros((3, 7), np.int32), np.full(3, 7, np.int32)
    before = np.zeros((3, size), np.float32)
    text = programs.chunk.lower(parameters, state, before, tokens, counts).as_text()
    assert f"tensor<3x1x{size}xf32>" in text
    assert f"tensor<3x7x{size}xf32>" not in text


def test_logits_at_some_places_are_those_of_all():
    made, places = model("bmojo"), np.array([[4, 0], [2, 3], [3, 3]])
    tokens = np.random.default_rng(1).integers(0, VOCAB_SIZE, (3, 5))
    graph, parameters = nnx.split(made)
    some = jax.jit(lambda p: nnx.merge(graph, p)(tokens, at=places)[0])(parameters)
    np.testing.assert_allclose(
        some, np.take_along_axis(logits(made, tokens), places[:, :, None], 1), rtol=1e-6, atol=1e-6
    )
