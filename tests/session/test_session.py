"""A model that reads with a store: nothing changes without entries, and nothing looks ahead."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.errors import UserError
from bmojo.session import Admission, Session, Use, identify, stored_layers
from bmojo.storage import Policy, Store
from tests import small_models
from tests.numerics import assert_close

WINDOW = small_models.SMALL["window"]
WAYS = ("within", "before")


@pytest.fixture
def model():
    return small_models.model("bmojo")


@pytest.fixture
def store(model, tmp_path):
    with Store.open(tmp_path / "s", identify(model, None, ""), Policy(), write=True) as s:
        yield s


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, small_models.VOCAB_SIZE, count).astype(np.int32)


def logits(session, ids):
    return np.concatenate([np.asarray(piece.logits) for piece in session.pieces(ids)])


def fill(model, store, count=60, seed=9):
    session = Session(model, store, Use(threshold=0.0), source="before")
    session.read(tokens(count, seed))
    session.finish()


def all_records(store):
    store.publish()
    return [store.records[number] for number, _ in store.records.contexts()]


@pytest.mark.parametrize("ask", WAYS)
def test_without_entries_it_is_the_model(model, store, ask):
    ids = tokens(3 * WINDOW + 1)
    want = np.asarray(small_models.logits(model, ids[None])[0])
    assert_close(logits(Session(model, None, Use(ask=ask)), ids), want, "float32")
    assert_close(logits(Session(model, store, Use(ask=ask, write=False)), ids), want, "float32")


@pytest.mark.parametrize("cuts", [(1, 2, 3), (5, 9), (4, 8)])
def test_a_stream_may_be_cut_anywhere(model, store, cuts):
    fill(model, store)
    ids, use = tokens(14), Use(ask="before", write=False)
    want = logits(Session(model, store, use), ids)
    session = Session(model, store, use)
    parts = [logits(session, part) for part in np.split(ids, cuts)]
    assert_close(np.concatenate(parts), want, "float32")
    plain = np.asarray(small_models.logits(model, ids[None])[0])
    assert np.abs(want - plain).max() > 1e-3


@pytest.mark.parametrize(("ask", "agree"), [*((ask, 0) for ask in WAYS), ("within", 2)])
def test_no_token_sees_what_later_ones_asked_for(model, store, ask, agree):
    fill(model, store)
    ids, use = tokens(3 * WINDOW), Use(ask=ask, agree=agree, write=False)
    want = logits(Session(model, store, use), ids)
    for place in (WINDOW + 1, 2 * WINDOW + 2, 3 * WINDOW - 1):
        other = ids.copy()
        other[place] = (ids[place] + 1) % small_models.VOCAB_SIZE
        got = logits(Session(model, store, use), other)
        assert_close(got[:place], want[:place], "float32")
        assert np.abs(got[place:] - want[place:]).max() > 1e-3


def test_a_first_cell_remembers_within_and_only_within(model, store):
    fill(model, store)
    ids = tokens(WINDOW)
    plain = np.asarray(small_models.logits(model, ids[None])[0])
    got = {ask: logits(Session(model, store, Use(ask=ask, write=False)), ids) for ask in WAYS}
    assert_close(got["before"], plain, "float32")
    assert np.abs(got["within"] - plain).max() > 1e-3


@pytest.mark.parametrize("ask", WAYS)
def test_what_few_agree_on_is_seen_and_what_many_would_have_to_is_not(model, store, ask):
    fill(model, store)
    ids = tokens(60, seed=9)
    plain = np.asarray(small_models.logits(model, ids[None])[0])
    for agree, seen in ((2, True), (12, False)):  # a model that was not trained finds by chance
        got = logits(Session(model, store, Use(ask=ask, agree=agree, write=False)), ids)
        assert (np.abs(got - plain).max() > 1e-3) == seen


def test_what_was_stored_of_a_stream_is_each_token_once(model, store):
    ids = tokens(7 * WINDOW + 2)
    session = Session(model, store, Use(threshold=0.0), source="book")
    session.read(ids)
    session.finish()
    for layer in stored_layers(model.config):
        records = [r for r in all_records(store) if r.layer == layer.number]
        assert [r.position for r in sorted(records, key=lambda r: r.position)] == list(
            range(len(ids))
        )
        for record in records:
            assert record.token == ids[record.position] == record.context[-1]
            assert record.source == "book"


def test_a_token_is_stored_when_it_has_left_window_and_slots(model, store):
    session = Session(model, store, Use(threshold=0.0))
    for _ in range(6):
        session.read(tokens(WINDOW, seed=session.position))
        state = session.state.blocks[session.layers[0].index].eidetic.chosen
        for layer in session.layers:
            written = {r.position for r in all_records(store) if r.layer == layer.number}
            kept = set(np.asarray(state.position[layer.period, 0, 0]).tolist())
            older = set(range(session.position - WINDOW + 1))
            assert written == older - kept


def test_only_what_surprises_is_stored(model, store):
    session = Session(model, store, Use(threshold=None))
    session.read(tokens(20 * WINDOW))
    few = len(store)
    session.finish()
    slots = small_models.SMALL["num_eidetic"]
    layers = len(session.layers)
    assert slots * layers <= len(store) < 20 * WINDOW * layers / 2
    assert len(store) == few + slots * layers


def test_admission_compares_with_the_mean_so_far():
    admission = Admission(window=2, threshold=2.0)
    keys = np.zeros((4, 1, 1), np.float32)
    surprise = np.array([1, 1, 9, 1], np.float32)
    none = np.zeros(0, int)
    assert admission.take(keys, keys, surprise, np.arange(4), none, 0).position.tolist() == [2]
    taken = admission.take(keys, keys, np.array([5, 7, 0, 0], np.float32), np.arange(8), none, 4)
    assert taken.position.tolist() == [5]
    assert taken.context[0][-6:].tolist() == [0, 1, 2, 3, 4, 5]
    assert admission.finish() is None


def test_another_model_is_refused(model, store, tmp_path):
    store.close()
    structure, parameters = nnx.split(model)
    other = nnx.merge(structure, jax.tree.map(lambda x: x * (1 + 1e-6), parameters))
    with pytest.raises(UserError, match="model"):
        Store.open(tmp_path / "s", identify(other, None, ""), write=True)
    Store.open(tmp_path / "s", identify(model, None, "moved"), write=True).close()


def test_a_model_without_slots_has_no_use_for_a_store():
    with pytest.raises(UserError, match="no layer of the model has eidetic slots"):
        Session(small_models.model("mamba"), None)


def test_cells_fit_into_windows(model):
    assert Session(model, None).every == WINDOW
    with pytest.raises(UserError, match="--memory-every: cells of 3 tokens do not divide"):
        Session(model, None, Use(every=3))


@pytest.mark.parametrize(
    ("field", "value"),
    [("every", 0), ("nearest", 0), ("ask", "after"), ("threshold", -1.0), ("agree", -1)],
)
def test_wrong_use(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(Use(), **{field: value})
