"""What a second reading saves, with models whose losses are known."""

import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.evaluation import repeated_passages
from bmojo.evaluation.repeated_passages import measure_passages, passage_pairs

PASSAGE, GAP = 4, 3


def documents():
    return [np.arange(30), np.arange(100, 103), np.arange(200, 244)]


def test_pairs():
    found = passage_pairs(documents(), PASSAGE, GAP, 6)
    starts = []
    for one, other in zip(*found, strict=True):
        assert len(one) == len(other) == 2 * PASSAGE + GAP
        assert (one[-PASSAGE:] == one[:PASSAGE]).all()
        assert (np.diff(one[: PASSAGE + GAP]) == 1).all()
        assert (other[PASSAGE:] == one[PASSAGE:]).all()
        assert (np.diff(other[:PASSAGE]) == 1).all() and other[0] != one[0]
        starts.append(int(one[0]))
    assert len(set(starts)) == 6 and min(starts) == 0 and max(starts) > 200


def test_what_is_saved(monkeypatch):
    """A reader who pays 1 for what it has seen and 3 for the rest, and 1 more in each place."""

    def losses(model, given, progress):
        return [
            np.asarray([(1 if token in text[:place] else 3) + place for place, token in
                        enumerate(text)][1:], np.float32)
            for text in given
        ]  # fmt: skip

    monkeypatch.setattr(repeated_passages, "stream_losses", losses)
    first, second = measure_passages(None, documents(), PASSAGE, (0, GAP), 4)
    places = np.mean(np.arange(PASSAGE + GAP, 2 * PASSAGE + GAP))
    losses = {"again": 1 + places, "other": 3 + places, "saved": 2, "by_place": [2.0] * PASSAGE}
    assert second == {**losses, "gap": GAP, "stderr": 0, "texts": 4}
    assert (first["gap"], second["gap"], first["again"]) == (0, GAP, 1 + places - GAP)
    assert second["by_place"] == [2.0] * PASSAGE and second["stderr"] == 0 and second["texts"] == 4


def test_too_short():
    with pytest.raises(UserError, match="fewer than 40"):
        passage_pairs(documents(), PASSAGE, GAP, 40)
