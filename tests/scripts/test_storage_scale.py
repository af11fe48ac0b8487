"""The measurement of a store, for a small one."""

import numpy as np

from scripts.storage import scale


def test_a_small_store(tmp_path):
    rng = np.random.default_rng(0)
    keys = scale.draw(rng, 700, 2, 16)
    queries = scale.near(rng, keys[rng.integers(0, 700, 8)])
    rate = scale.fill(tmp_path / "store", keys)
    values = [*scale.look(tmp_path / "store", keys, queries, 2), rate]
    row = dict(zip(scale.COLUMNS, values, strict=True))
    assert row["entries"] == "700" and float(row["recall"]) == 1.0
    assert int(row["bytes"]) > 2 * 2 * 16 * 4
    assert float(row["token"]) > 0 and rate > 0
