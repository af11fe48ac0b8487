"""What is handed to submitit; a stand-in takes it."""

import sys
import types
from pathlib import Path

import pytest

from bmojo.errors import UserError
from bmojo.processes import run_bmojo
from bmojo.sweep.plan import Cell
from bmojo.sweep.slurm import SlurmRun, parameters, submit


@pytest.fixture
def submitit(monkeypatch):
    """The part of submitit's face that is used."""

    class AutoExecutor:
        submitted: list = []
        known = {"name", "timeout_min", "slurm_partition", "slurm_additional_parameters"}

        def __init__(self, folder, cluster):
            assert cluster == "slurm"
            self.folder = folder

        def update_parameters(self, **given):
            if unknown := set(given) - self.known:
                raise NameError(f"Unknown arguments:\n{', '.join(unknown)}")
            self.given = given

        def submit(self, call):
            self.submitted.append((self.folder, self.given, call))
            return types.SimpleNamespace(job_id=str(100 + len(self.submitted)))

    module = types.ModuleType("submitit")
    module.AutoExecutor = AutoExecutor
    module.helpers = types.ModuleType("submitit.helpers")
    module.helpers.DelayedSubmission = lambda call: ("again", call)
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setitem(sys.modules, "submitit.helpers", module.helpers)
    return AutoExecutor


def cells(*names):
    return [Cell(Path("out") / name, "a.gin", (), ("X.y=1",), 2) for name in names]


def test_words_become_parameters_of_submitit():
    words = ["partition=gpu", "timeout_min=600", "slurm_comment=a=b", "gpus_per_node=2"]
    assert parameters(words) == {
        "slurm_partition": "gpu",
        "timeout_min": 600,
        "slurm_comment": "a=b",
        "gpus_per_node": 2,
    }
    with pytest.raises(UserError, match="--slurm gpu: give KEY=VALUE, such as partition=gpu"):
        parameters(["gpu"])


def test_a_job_for_each_cell_one_at_a_time_in_a_directory(submitit):
    queued = list(submit(cells("a-seed2", "b-seed2"), Path("out"), ["partition=gpu"], run_bmojo))
    assert [(cell.name, number) for cell, number in queued] == [
        ("a-seed2", "101"),
        ("b-seed2", "102"),
    ]
    (folder, given, call), (_, other, _) = submitit.submitted
    assert folder == Path("out/slurm")
    assert given["slurm_partition"] == "gpu"
    assert given["slurm_additional_parameters"] == {"dependency": "singleton"}
    assert given["name"].startswith("a-seed2-") and given["name"] != other["name"]
    assert call.arguments == ["train", "a.gin", "X.y=1", "--seed", "2", "--run-dir", "out/a-seed2"]
    again, resumed = call.checkpoint()
    assert again == "again" and vars(resumed) == vars(call)


def test_an_unknown_option_is_a_users_error(submitit):
    with pytest.raises(UserError, match="^--slurm: Unknown arguments: slurm_partitoin$"):
        list(submit(cells("a-seed2"), Path("out"), ["partitoin=gpu"], run_bmojo))


def test_submitit_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"submitit is not installed; pip install 'bmojo\[slurm\]'"):
        list(submit(cells("a-seed2"), Path("out"), ["partition=gpu"], run_bmojo))


def test_a_job_trains_in_its_own_process_and_fails_with_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["here"])
    SlurmRun(run_bmojo, ["--version"])()
    assert capsys.readouterr().out.startswith("bmojo ")
    with pytest.raises(RuntimeError, match="bmojo ended with exit code 2"):
        SlurmRun(run_bmojo, ["no-such-command"])()
