"""From samples to rows, tables and files; and nothing of what is wrong."""

import json
import math

import numpy as np
import pytest

from bmojo.benchmark import machine, results
from bmojo.benchmark.cases import Case, Check, WrongError, difference
from bmojo.errors import UserError

FACTS = {
    "command": "bmojo bench step",
    "date": "2026-01-01T00:00:00+00:00",
    "git_revision": None,
    "versions": {"jax": "1"},
    "device": "1 x cpu (cpu)",
    "cpu": "one",
    "threads": 1,
    "cores": 2,
    "load_at_start": 0.1,
    "freed_memory_kept": True,
    "glibc_tunables": "glibc.malloc.hugetlb=1",
    "compilation_cache": None,
}
GOOD = [Check("a", "this and that", 1e-7, 1e-4)]


def cases():
    """A machine that does 1e9 operations in 2 s, and cases of 4 s and 1 s."""
    return [
        Case("slow", "step", lambda: 4.0, flops=1e9, facts={"parameters": 12345}, calls=1),
        Case("fast", "step", lambda: 1.0, baseline="slow", flops=1e9, calls=1),
        Case(
            "GEMM", machine.CALIBRATION, lambda: 2.0, flops=1e9, calls=1,
            facts={"work": 1e9, "rate": "GFLOP/s"},
        ),
    ]  # fmt: skip


@pytest.fixture
def measured():
    return results.measure("step", {"length": 8}, FACTS, GOOD, cases(), 3)


def test_rows(measured):
    slow, fast, _ = measured.rows
    assert slow.ratio is None and slow.baseline is None
    assert fast.ratio.median == 0.25
    assert fast.gflops.median == pytest.approx(1.0)
    assert fast.gemm_fraction.median == pytest.approx(2.0)
    assert slow.samples == (4.0, 4.0, 4.0)


def test_files(measured, tmp_path):
    paths = results.save(measured, tmp_path)
    found = json.loads(paths[0].read_text())
    assert found["benchmark"] == "step"
    assert found["rows"][1]["ratio"]["median"] == 0.25
    assert found["rows"][0]["samples"] == [4.0, 4.0, 4.0]
    assert found["checks"][0]["passed"] is True
    page = paths[1].read_text()
    assert "    bmojo bench step\n" in page
    assert "| case | ms | time / slow | GFLOP/s | of GEMM |" in page
    assert "| slow | 4,000 |  | 0.250 | 50.0 % |" in page
    assert "| a | this and that | 1.0e-07 | 1e-04 |  |" in page
    assert "12,345" in page
    assert "OTHER WORK" not in page
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


def test_columns_that_nobody_fills_are_left_out(measured):
    sheet = results.sheets(measured)[0]
    assert "temporary MiB" not in sheet.head
    assert "parameters" in sheet.head


@pytest.mark.parametrize("found", [1.0, math.nan, math.inf])
def test_what_is_wrong_is_not_timed(found):
    ran = []
    checks = [*GOOD, Check("b", "gradients", found, 1e-4)]
    case = Case("b", "step", lambda: ran.append(1))
    with pytest.raises(WrongError, match="b: gradients differs by .*nothing was timed") as error:
        results.measure("step", {}, FACTS, checks, [case], 1)
    assert not ran
    assert error.value.exit_code == 1


def test_difference_is_relative_and_strict():
    x = np.asarray([3.0, 4.0])
    assert difference(x, x) == 0
    assert difference(x * 1.01, x) == pytest.approx(0.01)
    assert difference([0.1, 0.1], [0.0, 0.0]) == pytest.approx(0.1)
    assert math.isnan(difference(x, [3.0]))
    assert math.isnan(difference([3.0, math.nan], x))


def test_other_work_is_told():
    assert machine.warnings(FACTS | {"load_at_start": None}) == []
    assert machine.warnings(FACTS | {"load_at_start": 0.2}) == []
    (warning,) = machine.warnings(FACTS | {"load_at_start": 1.5})
    assert "load average is 1.50" in warning


def test_machine_tells_what_it_is(small_calibration):
    facts = machine.record()
    assert facts["threads"] >= 1 and facts["cpu"] and facts["versions"]["jax"]
    assert all(check.passed for check in machine.check_calibration())
    products = [case.name for case in machine.calibration(5, 3)]
    assert products[:3] == ["GEMM 5 x 3 x 3", "GEMM 5 x 3 x 12", "GEMM 8 x 8 x 8"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out: .* cannot be written"):
        results.write_folder(tmp_path / "file" / "out")
