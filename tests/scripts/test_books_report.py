"""The reports on books, from rows with known numbers."""

import numpy as np

from scripts.books import length, returning


def test_octaves_weigh_by_bytes():
    rows = [
        {"start": 45, "loss": 9.0, "count": 7},
        {"start": 64, "loss": 1.0, "count": 1},
        {"start": 91, "loss": 2.0, "count": 3},
        {"start": 128, "loss": 5.0, "count": 2},
    ]
    found = length.octaves(rows)
    assert list(found) == [64, 128]
    np.testing.assert_allclose(np.array(list(found.values())) * np.log(2), [1.75, 5.0])


def test_length_has_the_fresh_loss_beside():
    at = [{"start": 512 << p, "loss": (p + 1) * np.log(2), "count": 1} for p in range(6)]
    fresh = [{"start": 512, "loss": 8 * np.log(2), "count": 1}]
    table = length.length({"x": [{"length": at, "perplexity": fresh}]}).splitlines()
    assert table[-1] == "| x | 1 | 8.00 | 1.00 | 2.00 | 3.00 | 4.00 | 5.00 | 6.00 |"


def run(shift):
    again = [
        {"passage": 64, "gap": gap, "slots": n, "other": 3.0, "again": 1.0 + shift, "saved": 2.0}
        for n in (64, 0)
        for gap in (896, 256)
    ]
    rows = [
        {"kind": kind, "start": start, "count": count, "loss": (1 + shift) * np.log(2)}
        for kind, start, count in (("known", None, 900), ("returns", 64, 300), ("returns", 128, 9),
                                   ("returns", 8, 500))
    ]  # fmt: skip
    by_slots = {str(n): {"returns": rows, "bits": n + shift} for n in returning.SLOTS}
    return {"again": again, "by_slots": by_slots}


def test_readings_are_in_order():
    found = returning.readings([run(0), run(1)])
    assert list(found) == [(320, 0), (320, 64), (960, 0), (960, 64)]
    assert [row["again"] for row in found[320, 64]] == [1.0, 2.0]


def test_ordinary_text():
    lines = returning.ordinary([run(0), run(1)]).splitlines()
    assert lines[2].startswith("| known | 900 | 1.50 (1.00–2.00) |")
    assert lines[3].startswith("| returns, 64 ago | 300 |") and len(lines) == 5
    assert lines[4].endswith("| 256.500 (256.000–257.000) |")


def test_the_figure_is_drawn(tmp_path):
    returning.draw(returning.readings([run(0), run(1)]), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
