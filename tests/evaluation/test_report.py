"""The report on runs with known numbers."""

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.cli.report import tasks
from bmojo.errors import UserError
from bmojo.evaluation.collect import Run, collect
from bmojo.evaluation.perplexity import Measured, by_context, by_position
from bmojo.evaluation.report import write
from bmojo.experiment import load
from tests.evaluation.runs import fabricate


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed, accuracy in enumerate((0.25, 0.875, 0.75)):
        fabricate(folder, f"bmojo-seed{seed}", accuracy, seed=seed)
    fabricate(folder, "few-seed0", 0.5, slots=8)
    fabricate(folder, "few-seed1", 1.0, slots=8, seed=1, finished=False)
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_tables(runs, tmp_path):
    out = tmp_path / "out"
    text = write(collect([runs]), out, {"recall": ("num_pairs", 1 / 128)})
    assert (out / "report.md").read_text() == text
    lines = text.splitlines()
    assert "2 cells of 4 finished runs." in text
    assert (
        "| cell | seeds | parameters | state, bytes | keys and values, bytes | tokens | "
        "training loss | recall accuracy | recall loss | seconds | tokens/s |"
    ) in lines
    assert (
        "| bmojo | 3 | 147,392 | 1,032 | 2,000 | 3,000 | 2.100 (2.000–2.200) | "
        "0.469 (0.188–0.656) | 1.531 (1.344–1.812) | 16 (15–17) | 201 (200–202) |"
    ) in lines
    assert "## Accuracy: recall, by num pairs (chance 0.0078)" in lines
    assert "| cell | seeds | 8 | 16 | all |" in lines
    assert (
        "| bmojo | 3 | 0.625 (0.250–0.875) | 0.312 (0.125–0.438) | 0.469 (0.188–0.656) |" in lines
    )
    assert "| few | 1 | 0.500 | 0.250 | 0.375 |" in lines
    assert "- few-seed1: after step 30" in lines, "not finished: listed and not pooled"
    assert "- few: `BMojo.num_eidetic = 8`" in lines
    assert "- git revision: abc" in lines


def test_csv_is_exact(runs, tmp_path):
    write(collect([runs]), tmp_path)
    bmojo, few = rows(tmp_path / "cells.csv")
    assert (bmojo["cell"], bmojo["seeds"], bmojo["parameters_mean"]) == ("bmojo", "3", "147392")
    wall = [float(bmojo[f"wall_seconds_{part}"]) for part in ("mean", "min", "max")]
    assert wall == [16.0, 15.0, 17.0]
    found = {(r["cell"], r["group"]): r for r in rows(tmp_path / "accuracy.csv")}
    assert set(found) == {(c, g) for c in ("bmojo", "few") for g in ("8", "16", "all")}
    row = found["bmojo", "8"]
    values = [float(row[f"accuracy_{part}"]) for part in ("mean", "min", "max")]
    assert values == [0.625, 0.25, 0.875]
    assert row["bits_per_byte_mean"] == ""
    each = rows(tmp_path / "runs.csv")
    assert [(r["cell"], r["seed"]) for r in each] == [
        ("bmojo", "0"), ("bmojo", "1"), ("bmojo", "2"), ("few", "0"),
    ]  # fmt: skip
    assert float(each[1]["recall_accuracy"]) == 0.875 * 0.75


def test_figures(runs, tmp_path):
    for seed in range(3):
        folder = runs / f"bmojo-seed{seed}" / "evaluation"
        folder.mkdir()
        losses = 3 - np.log2(np.arange(1, 2049)) / 9 + seed / 9
        measured = Measured([np.zeros(len(losses) + 1)], [losses], None, [0], [2048])
        lengths = by_context(measured, [2**n for n in range(6, 12)])
        positions = by_position(measured)
        content = json.dumps({"contexts": lengths, "positions": positions if seed else []})
        (folder / "perplexity.json").write_text(content)
    out = tmp_path / "out"
    text = write(collect([runs]), out)
    names = {"accuracy_recall", "memory_recall", "loss_recall", "learning", "length"}
    assert {path.stem for path in out.glob("*.png")} == names
    for name in names:
        assert f"![{name}]({name}.png)" in text
        width, height = size(out / f"{name}.png")
        assert width > 600 and height > 400


def test_a_file_of_no_report_is_not_replaced(runs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "runs.csv").write_text("mine")
    with pytest.raises(UserError, match=r"runs.csv: is there already, without a whole report"):
        write(collect([runs]), out)
    assert (out / "runs.csv").read_text() == "mine" and len(list(out.iterdir())) == 1


def test_the_same_runs_give_the_same_report(runs, tmp_path):
    for name in ("one", "two"):
        write(collect([runs]), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 8
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def curves(figure):
    """Label -> x, y of the lines of each panel."""
    return [
        {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
        for axis in figure.axes
    ]


def test_curves_and_bands_show_mean_and_range(runs, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "bmojo.evaluation.figures._save",
        lambda figure, path: (drawn.__setitem__(path.stem, figure), path.touch()),
    )
    write(collect([runs]), tmp_path, {"recall": ("num_pairs", 1 / 128)})
    (accuracy,) = curves(drawn["accuracy_recall"])
    assert accuracy["bmojo"] == [[8, 0.625], [16, 0.3125]]
    assert accuracy["few"] == [[8, 0.5], [16, 0.25]]
    (axis,) = drawn["accuracy_recall"].axes
    assert axis.get_xlabel() == "num pairs"
    (band,) = axis.collections
    assert [8, 0.25] in band.get_paths()[0].vertices.tolist()
    assert [8, 0.875] in band.get_paths()[0].vertices.tolist()
    (axis,) = drawn["memory_recall"].axes
    points = [line.get_xydata().tolist() for line in axis.get_lines()]
    assert [[3032, 0.46875]] in points and [[3008, 0.375]] in points
    loss, _ = curves(drawn["learning"])
    assert loss["bmojo"] == [[10, pytest.approx(4.1)], [20, pytest.approx(3.1)],
                             [30, pytest.approx(2.1)]]  # fmt: skip
    _, tokens, seconds = curves(drawn["loss_recall"])
    mean = pytest.approx(2 - 0.46875)
    assert tokens["bmojo"] == [[2000, mean], [3000, mean]]
    assert seconds["bmojo"] == [[10, mean], [15, mean]]


def test_bits_per_byte_take_the_place_of_loss(tmp_path, monkeypatch):
    labels = {}
    monkeypatch.setattr(
        "bmojo.evaluation.figures._save",
        lambda figure, path: labels.__setitem__(path.stem, figure.axes[0].get_ylabel()),
    )
    fabricate(tmp_path / "runs", "text-seed0", bits=3.0)
    text = write(collect([tmp_path / "runs"]), tmp_path)
    assert labels["loss_recall"] == "bits per byte"
    assert "recall bits per byte" in text


def test_runs_without_evaluations_have_a_report_too(tmp_path):
    fabricate(tmp_path / "runs", "plain-seed0", evaluations=[])
    text = write(collect([tmp_path / "runs"]), tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"loss", "learning"}
    assert "recall" not in text


def test_nothing_finished(tmp_path):
    fabricate(tmp_path, "a-seed0", finished=False)
    with pytest.raises(UserError, match="none of the 1 runs is finished"):
        write(collect([tmp_path]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "runs", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert "| few | 1 | 0.500 | 0.250 | 0.375 |" in result.stdout
    assert "out/learning.png" in result.stdout.splitlines()
    assert Path("out/report.md").is_file()
    missing = CliRunner().invoke(app, ["report", "nowhere"])
    assert missing.exit_code == 2
    assert missing.stderr.startswith("error: nowhere: no such directory; ")


def test_text_has_no_groups_and_no_chance(tmp_path):
    (tmp_path / "config.gin").write_text(
        load("experiments/text.gin", overlays=["models/mamba.gin"])[1]
    )
    run = Run(tmp_path, {}, {"evaluations": [{"evaluation": "text"}]}, [], [], [], {})
    assert tasks([run]) == {"text": ("group", None)}
