"""Directories whose names a library below would take for patterns or markup."""

import numpy as np
import pytest
from orbax.checkpoint import CheckpointManager

from bmojo.training import hashes
from bmojo.training.checkpoints import Checkpoint, Checkpoints, restore_parameters
from bmojo.training.run_dir import WriteError

NAMES = ("b[lr=0.1]", "a\\b", "*?", "[/x] {} %s #1", "a b'c\"d", "line\nbreak", "bücher")


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_read_back(tmp_path, name):
    where, parameters = tmp_path / name / "checkpoints", {"w": np.arange(3, dtype="f4")}
    for step in (1, 2):
        with Checkpoints(where, keep=1) as kept:
            assert kept.latest == (step - 1 or None)
            kept.save(Checkpoint(step, {"w": step * parameters["w"]}, parameters, {"n": step}))
            kept.wait()
    assert [entry.name for entry in where.iterdir()] == ["2"]
    assert hashes.changes(where / "2") == []
    with Checkpoints(where) as kept:
        found, lines = kept.restore(parameters, parameters)
    assert not lines and found.meta["n"] == 2
    np.testing.assert_array_equal(found.parameters["w"], 2 * parameters["w"])
    assert restore_parameters(where, parameters)[1]["w"].tolist() == [0, 2, 4]


def test_a_save_that_cannot_be_read_ends_the_run_and_costs_nothing(tmp_path, monkeypatch):
    where, parameters = tmp_path / "checkpoints", {"w": np.arange(3, dtype="f4")}
    with Checkpoints(where, keep=1) as kept:
        kept.save(Checkpoint(1, parameters, parameters, {}))
        kept.wait()
        honest = CheckpointManager.wait_until_finished

        def lose(manager):
            honest(manager)
            (where / "2" / "optimizer" / "manifest.ocdbt").unlink(missing_ok=True)

        monkeypatch.setattr(CheckpointManager, "wait_until_finished", lose)
        kept.save(Checkpoint(2, parameters, parameters, {}))
        with pytest.raises(
            WriteError, match=r"/2: what was just saved .* \(no arrays in optimizer"
        ):
            kept.wait()
    assert (where / "1").is_dir()
