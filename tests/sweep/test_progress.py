"""How far runs are, and when a sweep will be done."""

import json
from pathlib import Path

import pytest

from bmojo.sweep.plan import Cell
from bmojo.sweep.view import Progress, eta, progress


def write(run, name, *records):
    run.mkdir(exist_ok=True)
    (run / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def cell(stem, seed, state="new"):
    return Cell(Path("out") / f"{stem}-seed{seed}", "a.gin", seed=seed, steps=100, state=state)


def test_nothing_is_there(tmp_path):
    assert progress(tmp_path) == Progress()


def test_the_newest_whole_line_of_training_counts(tmp_path):
    write(
        tmp_path,
        "metrics.jsonl",
        *({"step": n, "loss": 9.0 - n, "accuracy": n / 10} for n in range(1, 6)),
        {"step": 5, "evaluation": "recall", "group": None, "accuracy": 0.9, "loss": 0.1},
    )
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path, "speed.jsonl", {"step": 1, "seconds": 20.0}, {"step": 5, "seconds": 28.0})
    assert progress(tmp_path) == Progress(5, 4.0, 0.5, pace=2.0, seconds=28.0)


def test_a_long_file_is_read_at_its_ends(tmp_path):
    write(tmp_path, "metrics.jsonl", *({"step": n, "loss": 1.0} for n in range(1, 5001)))
    write(tmp_path, "speed.jsonl", *({"step": n, "seconds": 10 + n / 4} for n in range(1, 5001)))
    assert progress(tmp_path).step == 5000
    assert progress(tmp_path).pace == pytest.approx(0.25)


def test_nobody_knows_before_the_first_step():
    assert eta([cell("a", 0)], {}, 2) is None


def test_eta_takes_the_pace_of_the_run_of_its_cell_or_of_all():
    cells = [cell("a", 0), cell("a", 1), cell("b", 0), cell("c", 0), cell("d", 0, "finished")]
    seen = {
        "a-seed0": Progress(40, pace=1.0),
        "b-seed0": Progress(90, pace=3.0),
        "d-seed0": Progress(100, pace=5.0),
    }
    left = 60 * 1.0 + 100 * 1.0 + 10 * 3.0 + 100 * 3.0
    assert eta(cells, seen, 1) == pytest.approx(left)
    assert eta(cells, seen, 4) == pytest.approx(300.0), "no sooner than the longest run"
    assert eta([cells[-1]], seen, 1) == 0
