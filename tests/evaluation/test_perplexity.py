"""Loss by context and position, against sums written out."""

import json

import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.evaluation.outputs import context_table, plot_positions, position_table, save
from bmojo.evaluation.perplexity import Measured, by_context, by_position, edges, measure
from bmojo.evaluation.streaming import stream_losses
from tests.small_models import VOCAB_SIZE, model

SIZES = (20, 9, 1, 5)


def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB_SIZE, size) for size in SIZES]


def measured():
    rng = np.random.default_rng(1)
    losses = [rng.random(size).astype(np.float32) for size in (8, 8, 3, 8, 4)]
    sizes = [np.full(len(loss), 3) for loss in losses]
    windows = [rng.integers(0, 9, len(loss) + 1) for loss in losses]
    return Measured(windows, losses, sizes, [0, 0, 0, 1, 3], [19, 8, 0, 4])


def test_windows_start_afresh():
    made = model("bmojo")
    given = documents()
    found = measure(made, given, 8, segment_length=4, batch_size=2)
    cuts = [given[0][:9], given[0][8:17], given[0][16:], given[1], given[3]]
    alone = stream_losses(made, cuts, segment_length=4, batch_size=2)
    assert found.documents == [0, 0, 0, 1, 3]
    assert found.lengths == [19, 8, 0, 4]
    for window, expected in zip(found.losses, alone, strict=True):
        np.testing.assert_allclose(window, expected, rtol=1e-5)


def test_bits_divide_by_the_bytes_of_the_text():
    """Whatever the tokenizer takes its tokens' bytes for."""
    rows = []
    for size in (1, 3):
        found = measure(
            model("bmojo"), [np.arange(9), np.arange(9) + 5], 8, lambda ids, n=size: b"x" * n, 40
        )
        rows += by_context(found, (8,))
    nats = sum(float(loss.sum(dtype=np.float64)) for loss in found.losses)
    assert [row["bits_per_byte"] for row in rows] == pytest.approx([nats / np.log(2) / 40] * 2)
    known = measure(model("bmojo"), [np.arange(9)], 4, lambda ids: bytes(ids[0]))
    assert [part.tolist() for part in known.sizes] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_by_context():
    found = measured()
    rows = {row["context"]: row for row in by_context(found, (8, 4, 16, 4))}
    assert list(rows) == [4, 8, 16]
    four = np.concatenate([found.losses[i][:4] for i in (0, 1, 3, 4)])
    assert rows[4]["loss"] == pytest.approx(four.mean())
    assert rows[4]["stderr"] == pytest.approx(four.reshape(4, 4).mean(1).std(ddof=1) / 2)
    assert rows[4]["perplexity"] == pytest.approx(np.exp(four.mean()))
    assert rows[4]["bits_per_byte"] == pytest.approx(four.mean() / np.log(2) / 3)
    same = np.concatenate([found.losses[i][:4] for i in (0, 1, 3)])
    assert rows[4]["loss_same_windows"] == pytest.approx(same.mean())
    facts = ("windows", "tokens", "documents", "documents_too_short")
    assert [rows[4][name] for name in facts] == [4, 16, 3, 1]
    assert [rows[8][name] for name in facts] == [3, 24, 2, 2]
    assert [rows[16][name] for name in ("loss", *facts)] == [None, 0, 0, 0, 4]


def test_edges():
    assert edges(1) == [0, 1]
    assert edges(9) == [0, 1, 2, 3, 4, 6, 8, 9]
    assert edges(9, 5) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_by_position_and_change_beyond_training():
    found = measured()
    rows = by_position(found, training_length=4)
    assert [row["start"] for row in rows] == [0, 1, 2, 3, 4, 6]
    assert [row["count"] for row in rows] == [5, 5, 5, 4, 6, 6]
    third = [found.losses[i][3] for i in (0, 1, 3, 4)]
    assert rows[3]["loss"] == pytest.approx(np.mean(third))
    assert rows[3]["stderr"] == pytest.approx(np.std(third, ddof=1) / 2)
    assert [row["change"] is None for row in rows] == [True] * 4 + [False] * 2
    long = [found.losses[i] for i in (0, 1, 3)]
    before = np.mean([loss[2:4] for loss in long])
    assert rows[4]["change"] == pytest.approx(np.mean([x[4:6] for x in long]) / before - 1)


def test_results_are_written(tmp_path):
    contexts, positions = by_context(measured(), (4, 16)), by_position(measured(), 4)
    path = save(tmp_path, "length", {"contexts": contexts}, plot_positions(positions, 4))
    assert json.loads(path.read_text())["contexts"][1]["loss"] is None
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert context_table(contexts).row_count == 2
    assert position_table(positions).row_count == 6


def test_nothing_to_predict():
    with pytest.raises(UserError, match="documents: none has two tokens"):
        measure(model("bmojo"), [[1], []], 8)
