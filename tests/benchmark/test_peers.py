"""The protocol with workers in other environments, with one that is made up."""

import json
import math
import sys
from pathlib import Path

import pytest

from bmojo.benchmark.peers import find, peer_case, start_worker
from bmojo.errors import UserError

FAKE = str(Path(__file__).parent / "fake_worker.py")
ANSWERS = {
    "make": {"parameters": 100, "versions": {"torch": "1"}, "whose": "made up"},
    "check": {"loss": math.log(24), "leak": 0.0},
    "step": {"seconds": 0.25, "loss": 3.0},
}


def peer(**changes):
    return start_worker("fake", [sys.executable, FAKE, json.dumps(ANSWERS | changes)])


def made(worker, tiny):
    return peer_case(worker, "mamba2", tiny, 1, 8, None, 1, "bmojo")


def test_a_peer_is_made_checked_and_run(tiny):
    with peer() as worker:
        case, checks, versions = made(worker, tiny)
        assert case.run() == 0.25 and case.run() == 0.25, "the worker goes on"
    assert case.facts["parameters"] == 100 and versions == {"torch": "1"}
    assert all(check.passed for check in checks)
    assert case.calls == 1 and case.pause > 0 and case.baseline == "bmojo"
    assert worker.process.returncode == 0


@pytest.mark.parametrize(
    "check", [{"loss": 9.0, "leak": 0.0}, {"loss": None, "leak": 0.0}, {"loss": 3.2, "leak": 0.1}]
)
def test_a_wrong_peer_fails_its_checks(tiny, check):
    with peer(check=check) as worker:
        _, checks, _ = made(worker, tiny)
    assert sum(not check.passed for check in checks) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"make": {"error": "ValueError: no"}}, "fake: 'make' failed in the worker: ValueError"),
        ({"make": "die"}, "ended with code 1 at 'make': something went wrong"),
        ({"make": "hello"}, "answered 'hello' to 'make', which is no JSON"),
        ({"step": {"seconds": 1.0, "loss": None}}, "fake: the loss of a step is not finite"),
    ],
)
def test_what_goes_wrong_is_told(tiny, changes, error):
    with peer(**changes) as worker, pytest.raises(UserError, match=error):
        made(worker, tiny)[0].run()
    assert worker.process.returncode is not None


def test_environments_are_looked_for_before_any_work(tmp_path):
    with pytest.raises(UserError, match="--peers: there is no 'hf_mamba'; did you mean"):
        find(["hf_mamba"], tmp_path)
    with pytest.raises(UserError, match=r"scripts/peers/install.py torch --to"):
        find(["hf_mamba2"], tmp_path)
    python = tmp_path / "torch" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(UserError, match="serve.py is missing, which hf_mamba2 needs"):
        find(["hf_mamba2"], tmp_path)
    (tmp_path / "torch" / "serve.py").touch()
    ((name, (program, serve, worker)),) = find(["hf_mamba2"], tmp_path).items()
    assert (name, program) == ("hf_mamba2", str(python))
    assert (serve, worker) == (str(tmp_path / "torch" / "serve.py"), "torch_worker")
