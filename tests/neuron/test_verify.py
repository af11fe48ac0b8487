"""The command that checks all kernels, and what is registered for it."""

import dataclasses

import pytest

from neuron import verify
from neuron.checks.check import Check, Compared, Cost, measure
from neuron.kernels.innovation import innovation


@pytest.mark.slow
@pytest.mark.parametrize("check", verify.registered("CHECKS"), ids=lambda c: f"{c.kernel} {c.case}")
def test_registered(check):
    results = check.run()
    assert results and all(result.good for result in results), results


def test_every_kernel_is_registered():
    checked = {check.kernel for check in verify.registered("CHECKS")}
    assert checked >= {"innovation", "running_sets", "selective_scan", "memory_attention"}
    assert {cost.kernel for cost in verify.registered("COSTS")} == checked


def test_a_failed_check_is_told_and_counted(capsys):
    checks = [
        Check("a", "one", lambda: [Compared("x", 1e-7, 1e-5), Compared("y", 1.0, 1e-5)]),
        Check("b", "two", lambda: [Compared("x", float("nan"), 1e-5)]),
        Check("c", "three", lambda: [Compared("x", 0.0, 0.0)]),
        Check("d", "four", lambda: 1 / 0),
    ]
    assert verify.verify(checks) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["FAILED", "FAILED", "good", "FAILED"]
    assert " y " in lines[0] and "ZeroDivisionError" in lines[3]


def test_only_chooses_kernels(capsys):
    assert verify.main(["--only", "innovation"]) == 0
    assert "4 checks in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        verify.main(["--only", "nothing"])


def test_costs_stand_beside_their_bound(capsys):
    import numpy as np

    def run():
        y = np.zeros((1, 4, 8), np.float32)
        report = measure(innovation, y, np.zeros((1, 4, 1), np.float32), (1.0,))
        return report, verify.Bound({"vector": 96.0}, 144)

    verify.costs([Cost("innovation", "1x8", run)])
    out = capsys.readouterr().out
    assert "innovation: 1x8" in out and "at least vector 0.1" in out and "144" in out
    assert dataclasses.is_dataclass(verify.Bound)
