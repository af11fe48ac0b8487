"""What is known of cells before the first one starts."""

import json
from pathlib import Path

import pytest

from bmojo.errors import UserError
from bmojo.experiment import load
from bmojo.sweep.check import check
from bmojo.sweep.plan import read


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def smoke(*words):
    return read("sweeps/smoke.gin", words)


def fabricate(cell, out, finished, change=lambda text: text):
    """A run directory as training leaves it."""
    run = out / cell.name
    run.mkdir(parents=True)
    _, text = load(cell.config, [*cell.bindings, f"Trainer.seed={cell.seed}"], cell.overlays)
    (run / "config.gin").write_text(change(text))
    (run / "metrics.jsonl").touch()
    if finished:
        (run / "summary.json").write_text(
            json.dumps({"status": "finished", "step": 4, "final": {}, "evaluations": []})
        )
    return run


def test_states_and_steps():
    plan = smoke()
    fabricate(plan.cells[0], plan.out, finished=True)
    fabricate(plan.cells[3], plan.out, finished=False)
    cells = check(plan)
    assert [cell.state for cell in cells] == ["finished", "new", "new", "unfinished"]
    assert [cell.run for cell in cells] == [plan.out / cell.name for cell in plan.cells]
    assert {cell.steps for cell in cells} == {4}


def test_a_wrong_binding_is_named_with_its_cell():
    with pytest.raises(UserError) as error:
        check(smoke("Sweep.grid={'Optimizer.learning_rat': (1, 2)}"))
    assert "smoke.gin: bmojo-learning_rat1-seed0: Optimizer.learning_rat=1: " in str(error.value)
    assert str(error.value).endswith("did you mean 'learning_rate'?")
    assert not Path("runs").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_another_value_is_refused(finished):
    plan = smoke()
    run = fabricate(
        plan.cells[0], plan.out, finished, lambda text: text.replace("span = 4", "span = 2")
    )
    with pytest.raises(UserError) as error:
        check(plan)
    assert str(error.value) == (
        f"{run}: the run there has BMojo.span = 2, the sweep has BMojo.span = 4; choose another "
        "folder with --out, or move that run away"
    )


def test_a_binding_of_another_version_is_refused_only_where_the_run_must_go_on():
    plan = smoke()
    fabricate(plan.cells[0], plan.out, True, lambda text: text.replace("BMojo.span = 4\n", ""))
    assert check(plan)[0].state == "finished"
    (plan.out / plan.cells[0].name / "summary.json").unlink()
    with pytest.raises(UserError, match="the run there has no BMojo.span, the sweep has"):
        check(plan)


def test_an_unreadable_summary_stops_the_sweep():
    plan = smoke()
    run = fabricate(plan.cells[0], plan.out, finished=True)
    (run / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json: not readable as JSON"):
        check(plan)
