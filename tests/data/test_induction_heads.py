import numpy as np
import pytest

from bmojo.data.induction_heads import InductionHeadsConfig


def test_the_first_trigger_is_anywhere_and_group_is_its_distance():
    source = InductionHeadsConfig(10).source(0, "train")
    places = np.zeros(10)
    for index in range(2000):
        item = source[index]
        place, last = np.flatnonzero(item["inputs"] == 0)
        assert last == 9
        assert item["group"] == 2 ** int(np.log2(last - place))
        assert np.flatnonzero(item["targets"] >= 0).tolist() == [9]
        places[place] += 1
    assert np.allclose(places[:8] / 2000, 1 / 8, atol=0.03)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 2}, ValueError, r"InductionHeads\.length: 2 is too small; give at least 3"),
        ({"vocab_size": 2}, ValueError, r"InductionHeads\.vocab_size: 2 is too small"),
        ({"length": 8.0}, TypeError, "length: 8.0 is not an integer"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        InductionHeadsConfig(**({"length": 8} | fields))
