import numpy as np
import pytest

from bmojo.data.mad import CompressionConfig


@pytest.mark.parametrize("gap", [0, 5])
def test_queries_come_in_order_behind_the_compression_token_and_the_gap(gap):
    config = CompressionConfig(40, (3, 8), vocab_size=20, data_vocab=10, gap=gap)
    source = config.source(0, "train")
    for index in range(40):
        item = source[index]
        number = int(item["group"])
        assert np.flatnonzero(item["inputs"] == 1).tolist() == [number]
        first = number + 1 + gap
        queries = item["inputs"][first : first + number]
        assert queries.tolist() == list(range(12, 12 + number))
        assert (item["inputs"][number + 1 : first] == 0).all()
        assert (item["inputs"][first + number :] == 0).all()
        assert (item["targets"][first : first + number] == item["inputs"][:number]).all()
        assert (item["targets"] >= 0).sum() == number


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 16}, ValueError, r"Compression\.length: 8 .* need 17 tokens, got 16"),
        ({"gap": 60}, ValueError, "a gap of 60 .* need 77"),
        ({"gap": -1}, ValueError, "gap: -1 is too small; give at least 0"),
        ({"vocab_size": 25}, ValueError, "need 26 tokens, got 25; raise vocab_size to 26"),
        ({"data_vocab": 1}, ValueError, "data_vocab: 1 is too small"),
        ({"num_tokens": 8}, TypeError, "num_tokens: 8 is not a tuple"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        CompressionConfig(**({"length": 64, "num_tokens": (8,)} | fields))
