"""The command that checks all kernels, and what is registered for it."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest

import neuron.kernels
from neuron import verify
from neuron.checks import convolution, eidetic, innovation, scan, ssd
from neuron.checks.check import Bound, Check, Compared, Cost, measure
from neuron.emulator import Kernel
from neuron.emulator.targets import GEN3
from neuron.kernels.innovation import innovation as kernel


@pytest.mark.slow
@pytest.mark.parametrize("check", verify.registered("CHECKS"), ids=lambda c: f"{c.kernel} {c.case}")
def test_registered(check):
    results = check.run()
    assert results and all(result.good for result in results), results


def kernels():
    """Names of the entry points in ``neuron/kernels``."""
    found = set()
    for file in Path(neuron.kernels.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"neuron.kernels.{file.stem}")
        found |= {name for name, x in vars(module).items() if isinstance(x, Kernel)}
    return found


def test_every_kernel_is_registered():
    wanted = kernels()
    assert {check.kernel for check in verify.registered("CHECKS")} == wanted
    assert {cost.kernel for cost in verify.registered("COSTS")} == wanted


SCAN = scan.Size(1, 512, 384, 8)
HEADS = ssd.Size(1, 512, 12, 128, 64)
CHANNELS = convolution.Size(1, 1024, 768, 4)
SCORES = innovation.Size(1, 1024, 768, 4)


@pytest.mark.parametrize(
    ("cost", "size"),
    [
        (scan.cost_forward, SCAN),
        (scan.cost_backward, SCAN),
        (ssd.cost_forward, HEADS),
        (ssd.cost_backward, HEADS),
        (convolution.cost_forward, CHANNELS),
        (convolution.cost_backward, CHANNELS),
        (innovation.cost, SCORES),
        (innovation.cost, dataclasses.replace(SCORES, normalized=True)),
        (eidetic.cost, eidetic.LAYER),
    ],
    ids=lambda x: getattr(x, "__module__", "") if callable(x) else str(x),
)
def test_kernels_are_near_their_bounds(cost, size):
    report, bound = cost(size)
    least = max(bound.seconds(GEN3).values())
    assert 1 <= report.seconds[report.bottleneck] / least < 1.35
    assert 1 <= (report.hbm_read + report.hbm_written) / bound.bytes < 1.05
    assert report.sbuf_high_water < GEN3.sbuf_bytes


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


def test_only_chooses_kernels(capsys, monkeypatch):
    monkeypatch.setattr(verify, "verify", lambda checks: len({c.kernel for c in checks}) - 1)
    assert verify.main(["--only", "running_sets"]) == 0
    assert f"{len(eidetic.GRID)} checks in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        verify.main(["--only", "nothing"])


def test_costs_stand_beside_their_bound(capsys):
    def run():
        y = np.zeros((1, 4, 8), np.float32)
        report = measure(kernel, y, np.zeros((1, 4, 1), np.float32), (1.0,))
        return report, Bound({"vector": 96.0}, 144)

    verify.costs([Cost("innovation", "1x8", run)])
    out = capsys.readouterr().out
    assert "innovation: 1x8" in out and "at least vector 0.1" in out and "144" in out
