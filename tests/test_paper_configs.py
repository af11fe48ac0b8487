"""The experiments after the paper: they load, are fair, and their pages are right."""

import dataclasses
import re
from pathlib import Path

import pytest

from bmojo import config
from bmojo.description import describe
from bmojo.experiment import REGISTRY
from bmojo.sweep.plan import read

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "configs/experiments/paper"
FOLDERS = sorted(path.parent.name for path in PAPER.glob("*/README.md"))
CELLS = {  # of each sweep, for one seed
    "figure2/accelerator": 5 * 4,
    "figure2/cpu": 6 * 3,
    "figure3/accelerator": 12 * 3,
    "figure3/cpu": 12,
    "figure5/accelerator": 5,
    "figure5/cpu": 5,
    "figure8/accelerator": 2,
    "figure8/cpu": 2,
    "table3/accelerator": 4 * 7 * 2 * 3,
    "table3/cpu": 4 * 7,
}
FEWER = {  # than all points of the grid
    "table3/accelerator": (
        "Sweep.grid={'size': ('sizes/130m.gin',), 'Optimizer.learning_rate': (1e-3,)}",
    ),
    "figure3/accelerator": ("Sweep.grid={'Optimizer.learning_rate': (1e-3,)}",),
}


def cells(name, seeds=(0,), words=()):
    return read(PAPER / f"{name}.gin", [f"Sweep.seeds={seeds}", *words]).cells


def experiment(cell):
    paths = [cell.config, *cell.overlays]
    return config.load(REGISTRY, "Experiment", paths, cell.bindings).value


def test_every_folder_has_a_page_and_both_sweeps():
    folders = {path.name for path in PAPER.iterdir()} - {"shared"}
    assert folders == set(FOLDERS) == {"figure2", "figure3", "figure5", "figure8", "table3"}
    found = {str(path.relative_to(PAPER).with_suffix("")) for path in PAPER.glob("*/*.gin")}
    assert set(CELLS) <= found


@pytest.mark.parametrize("name", CELLS)
def test_sweeps_have_their_cells_and_three_seeds(name):
    plan = read(PAPER / f"{name}.gin")
    assert len(plan.cells) == 3 * CELLS[name]
    assert {cell.seed for cell in plan.cells} == {0, 1, 2}
    folder, _, kind = name.partition("/")
    assert plan.out == Path("runs/paper") / (folder if kind == "accelerator" else f"{folder}_cpu")


@pytest.mark.parametrize("name", CELLS)
def test_cells_load(name):
    made = [experiment(cell) for cell in cells(name, words=FEWER.get(name, ()))]
    assert all(each.model.parameters for each in made)
    assert all(each.evaluations for each in made)


# The models of the other folders are those of sizes/, counted in test_config.py.
@pytest.mark.parametrize("name", ["figure3", "table3"])
def test_models_of_a_cpu_twin_have_equal_parameters(name):
    found = {}
    for cell in cells(f"{name}/cpu"):
        model = dataclasses.replace(experiment(cell).model, vocab_size=64)
        if model not in found:
            counted = describe(model)
            found[model] = counted.parameters - counted.embedding_parameters
    assert {type(model.parameters) for model in found} == {int}
    for model, parameters in found.items():
        assert parameters == pytest.approx(model.parameters, rel=0.02)
    assert len({model.parameters for model in found}) == 1


def test_models_of_text_ask_for_equal_parameters():
    for name, sizes in (("figure2/cpu", 3), ("figure2/accelerator", 4), ("figure5/cpu", 1)):
        asked = [experiment(cell).model.parameters for cell in cells(name)]
        assert sorted(asked) == sorted(asked[:sizes] * (len(asked) // sizes))
        assert len(set(asked)) == sizes


@pytest.mark.parametrize("name", FOLDERS)
def test_pages_name_what_is_there(name):
    text = (PAPER / name / "README.md").read_text()
    for kind in ("cpu", "accelerator"):
        assert f"bmojo sweep configs/experiments/paper/{name}/{kind}.gin" in text
    for path in re.findall(r"configs/[\w/.]+\.gin", text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (PAPER / name / path).exists(), path


@pytest.mark.parametrize("name", CELLS)
def test_headers_name_their_own_command(name):
    assert (
        f"bmojo sweep configs/experiments/paper/{name}.gin" in (PAPER / f"{name}.gin").read_text()
    )


def test_text_of_your_own_reaches_every_cell_that_reads_text():
    for name in ("figure2", "figure5", "figure8"):
        (cell, *_) = cells(f"{name}/cpu", words=("TEXT='some/where'",))
        made = experiment(cell)
        assert {part.data.path for part in (*made.curriculum, *made.evaluations)} == {"some/where"}
