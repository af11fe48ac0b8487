"""Processes with an empty cache and with a warm one."""

import sys
from pathlib import Path

import pytest

from bmojo.benchmark import starts
from bmojo.benchmark.cases import WrongError
from bmojo.benchmark.rounds import take_turns
from bmojo.errors import UserError


@pytest.fixture
def begin(monkeypatch, tmp_path, tiny):
    fake = Path(__file__).parent / "fake_first_step.py"
    monkeypatch.setattr(starts, "PROGRAM", (sys.executable, str(fake)))
    return lambda model: starts.Starts(model, tiny, 1, 8, tmp_path)


def test_the_cache_is_new_each_time_or_always_the_same(begin):
    found = begin("right")
    cases = found.cases()
    samples, _ = take_turns(cases, 2)
    assert [case.name for case in cases] == [starts.COLD, starts.WARM]
    assert cases[1].baseline == starts.COLD
    assert all(seconds > 0 for taken in samples for seconds in taken)
    seconds = {kind: [told["compile"] for told in each] for kind, each in found.reports.items()}
    assert seconds == {starts.COLD: [4.0] * 3, starts.WARM: [4.0, 0.5, 0.5]}
    assert [check.passed for check in found.checks] == [True, True]
    cold, warm = found.conclude([])
    assert "compile 4.00 s" in cold and "compile 0.50 s" in warm, "the first ones do not count"


def test_a_wrong_first_loss_ends_it(begin):
    with pytest.raises(WrongError, match="first loss and ln V"):
        take_turns(begin("wrong").cases(), 1)


def test_a_process_that_fails_says_why(begin):
    with pytest.raises(
        UserError,
        match="a process of one step: the worker ended with code 1 at 'step': no such thing",
    ):
        begin("broken").start(starts.COLD)


@pytest.mark.slow
def test_a_real_process_makes_a_step(tmp_path, tiny):
    found = starts.Starts("transformer", tiny, 1, 8, tmp_path)
    assert found.start(starts.WARM) > 0
    assert found.checks[0].passed and found.reports[starts.WARM][0]["compile"] > 0
