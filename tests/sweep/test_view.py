"""What a sweep shows while it runs."""

import io
import json

import pytest
from rich.console import Console

from bmojo.sweep import view as module
from bmojo.sweep.plan import Cell
from bmojo.sweep.pool import Result
from bmojo.sweep.view import View


@pytest.fixture
def cells(tmp_path):
    return [Cell(tmp_path / f"{stem}-seed0", "x.gin", steps=100) for stem in "abc"]


def log(cell, step):
    cell.run.mkdir(exist_ok=True)
    metrics = {"step": step, "loss": 1.5, "accuracy": 0.25}
    speed = [{"step": 10, "seconds": 30.0}, {"step": step, "seconds": 20.0 + step}]
    (cell.run / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    (cell.run / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in speed))


def show(cells, terminal):
    """A cell that is done, one that failed, one at step 40."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    with View(console, cells, 2) as view:
        for cell in cells:
            view.started(cell)
        log(cells[0], 100)
        view.ended(Result(cells[0], 0))
        view.ended(Result(cells[1], 3))
        log(cells[2], 40)
        view.tick()
        if terminal:
            console.print(view._table())
    return file.getvalue()


def test_lines_without_a_terminal(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    assert show(cells, False).splitlines() == [
        "a-seed0: started",
        "b-seed0: started",
        "c-seed0: started",
        "a-seed0: finished in 2:00  loss 1.500  accuracy 0.250",
        f"b-seed0: failed with exit code 3, see {tmp_path / 'b-seed0.log'}",
        "c-seed0: step 40/100  loss 1.500  accuracy 0.250",
        "1 of 3 finished, 0 waiting, 1 failed, ETA 1:00",
    ]


def test_a_table_on_a_terminal(cells, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0)
    shown = show(cells, True)
    row = next(line for line in reversed(shown.splitlines()) if "c-seed0" in line)
    assert row.split() == ["c-seed0", "40/100", "40%", "1.500", "0.250"]
    assert "1 of 3 finished, 0 waiting, 1 failed, ETA 1:00" in shown
