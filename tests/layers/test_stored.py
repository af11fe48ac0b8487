"""Slots that the holder of a state puts there: one more kind of memory under the same softmax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo import testing as law
from bmojo.layers.protocol import AuxRequest
from bmojo.ops.masks import NEVER, Slots
from tests.layers.test_bmojo import BASE
from tests.numerics import assert_close

WINDOW = BASE.window


def with_stored(state, stored):
    return dataclasses.replace(state, stored=stored)


def drawn(mixer, count, distance, rows=2, seed=7):
    """Random keys and values at given distances."""
    heads, width = mixer.heads.n_kv_heads, mixer.heads.d_head
    k, v = jax.random.normal(jax.random.key(seed), (2, rows, count, heads, width))
    return Slots(k, v, jnp.broadcast_to(jnp.asarray(distance, jnp.int32), (rows, 1, count)))


@pytest.fixture
def edge():
    """A mixer, a state at an edge of the grid with full slots, and the chunk to come."""
    mixer = law.make(BASE, jnp.float32)
    u = law.draw(jnp.float32, 2, 6 * WINDOW)
    _, state = law.run(mixer, u[:, : 5 * WINDOW], mixer.init_state(2))
    assert (state.slots.distance != NEVER).all()
    return mixer, state, u[:, 5 * WINDOW :]


def test_a_stored_token_counts_as_one_in_a_slot(edge):
    mixer, state, u = edge
    k, v, distance = state.slots
    moved = Slots(k[:, -2:], v[:, -2:], distance[:, :, -2:])
    emptied = state.slots._replace(distance=state.slots.distance.at[:, :, -2:].set(NEVER))
    elsewhere = dataclasses.replace(state, slots=emptied, stored=moved)
    want, _ = law.run(mixer, u, state)
    assert_close(law.run(mixer, u, elsewhere)[0], want, "float32")
    without, _ = law.run(mixer, u, dataclasses.replace(state, slots=emptied))
    assert np.abs(np.asarray(want - without)).max() > 1e-3


@pytest.mark.parametrize("cuts", [(), (1, 2, 5), (4, 9)])
@pytest.mark.parametrize("config", [BASE, dataclasses.replace(BASE, num_eidetic=0, num_fading=0)])
@pytest.mark.one_in(3)
def test_all_forms_see_the_same_stored_tokens(config, cuts):
    mixer = law.make(config, jnp.float32)
    u = law.draw(jnp.float32, 2, 17)
    state = with_stored(law.warm(mixer, jnp.float32), drawn(mixer, 3, [1, 0, 7]))
    whole, last = law.run(mixer, u, state)
    pieces, last_pieces = law.run(mixer, u, state, cuts=cuts)
    singly, last_singly = law.one_by_one(mixer, u, state)
    for other, end in ((pieces, last_pieces), (singly, last_singly)):
        assert_close(other, whole, "float32")
        assert_close(law.floats(end), law.floats(last), "float32")
    assert (
        np.abs(np.asarray(whole - law.run(mixer, u, law.warm(mixer, jnp.float32))[0])).max() > 1e-3
    )


def test_a_stored_token_is_seen_from_its_query_on(edge):
    mixer, state, u = edge
    since = with_stored(state, drawn(mixer, 1, [-4]))
    always = with_stored(state, drawn(mixer, 1, [0]))
    got, _ = law.run(mixer, u, since)
    assert_close(got[:, :4], law.run(mixer, u, state)[0][:, :4], "float32")
    assert_close(got[:, 4:], law.run(mixer, u, always)[0][:, 4:], "float32")
    assert np.abs(np.asarray(got - law.run(mixer, u, always)[0]))[:, :4].max() > 1e-3


def test_vacant_stored_slots_change_nothing(edge):
    mixer, state, u = edge
    vacant = with_stored(state, drawn(mixer, 3, [NEVER] * 3))
    assert_close(law.run(mixer, u, vacant)[0], law.run(mixer, u, state)[0], "float32")


def test_a_document_that_starts_forgets_stored_tokens_of_the_one_before(edge):
    mixer, state, u = edge
    ids = jnp.asarray(np.where(np.arange(WINDOW) < 3, -1, 5)[None].repeat(2, 0), jnp.int32)
    stored = with_stored(state, drawn(mixer, 1, [2]))
    got, plain = (law.run(mixer, u, s, ids)[0] for s in (stored, state))
    assert_close(got[:, 3:], plain[:, 3:], "float32")
    assert np.abs(np.asarray(got - plain))[:, :3].max() > 1e-3


def test_aux_entries_are_those_of_the_call(edge):
    mixer, state, u = edge
    lengths = jnp.asarray([WINDOW, WINDOW - 2])
    out, after, found = mixer(u, state, None, lengths, AuxRequest(entries=True))
    want, want_after = mixer(u, state, None, lengths)
    assert_close(out[0], want[0], "float32")
    assert_close(law.floats(after), law.floats(want_after), "float32")
    assert_close(found.k[:1, 1:], after.window.k[:1, -WINDOW + 1 :], "float32")
    other = mixer(u, state, None, lengths, AuxRequest(bins=4))[2]
    assert_close(found.innovation, other.innovation, "float32")
    assert found.q.shape == (2, WINDOW, 4, 3) and other.q is None and found.mass is None
