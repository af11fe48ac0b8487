"""The gate knows right operations from wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.benchmark import operations, plain
from bmojo.benchmark.operations import Sizes, check_operations, operation_cases
from bmojo.errors import UserError

SIZES = Sizes(1, 9, 4, 2, 2, 4, 4, 1, 2)


@pytest.fixture(autouse=True)
def odd(monkeypatch):
    monkeypatch.setattr(operations, "ODD", Sizes(1, 7, 4, 2, 2, 4, 3, 1, 2))


def test_right_operations_pass():
    checks = check_operations(["ssd", "memory_attention", "convolution", "selection"])
    assert all(check.passed for check in checks), checks
    # Of four operations three have gradients and a plain form beside ours; two have two of ours.
    assert len(checks) == 3 * 2 * 2 + 2 * 2 + 1


def late(x, kernel, tail):
    """One token too late."""
    return jnp.roll(plain.convolution(x, kernel), 1, axis=1)


def stuck(x, kernel, tail):
    """Right, but that no gradient reaches the kernel."""
    return plain.convolution(x, jax.lax.stop_gradient(kernel))


@pytest.mark.parametrize(("wrong", "failing"), [(late, "output"), (stuck, "gradient")])
def test_a_wrong_operation_does_not(monkeypatch, wrong, failing):
    monkeypatch.setattr(operations, "causal_convolution", wrong)
    failed = [check for check in check_operations(["convolution"]) if not check.passed]
    assert failed[0].what.startswith(failing)
    assert all(check.case.endswith(": causal_convolution") for check in failed)


def test_cases_agree_at_the_measured_size():
    cases, checks, notes = operation_cases(SIZES, ["convolution", "selection"])
    assert [case.name for case in cases] == [
        "lax.conv_general_dilated",
        "causal_convolution",
        "lax.conv_general_dilated",
        "causal_convolution",
        "innovation, running_sets",
    ]
    assert [case.group.rpartition(", ")[2] for case in cases[:4:2]] == [
        operations.FORWARD,
        operations.GRADIENT,
    ]
    assert cases[3].flops == 3 * cases[1].flops
    assert all(case.temporary_bytes is not None for case in cases)
    assert checks and all(check.passed for check in checks) and not notes
    cases[0].run()


def test_every_implementation_of_the_scan_is_there():
    from bmojo.ops.recurrence import IMPLEMENTATIONS

    (family,) = operations.families(SIZES, ["scan"])
    assert set(family.ours) == set(IMPLEMENTATIONS)
    assert family.baseline in family.plain


def test_insertion_keeps_the_most_surprising_and_the_earlier_of_equals():
    score = np.asarray([1.0, 5.0, 1.0, 3.0, 5.0])
    sets = [sorted(kept) for kept in plain.most_surprising(score, 2, 2)]
    assert sets == [[], [0, 1], [1, 3], [1, 4]]


def test_an_unknown_operation():
    with pytest.raises(UserError, match="--ops: there is no 'scann'; did you mean 'scan'"):
        operations.families(SIZES, ["scann"])
