"""Two checkouts in one run: here this one with itself, and with one that computes otherwise."""

import pytest

from bmojo.benchmark.cases import WrongError
from scripts.performance import compare

SIZES = "--width 32 --layers 1 --length 9 --position 5 --tokens 2 --rounds 1".split()


@pytest.mark.slow
def test_a_checkout_beside_itself(capsys):
    compare.main([str(compare.ROOT), *SIZES])
    rows = [line for line in capsys.readouterr().out.splitlines() if "(" in line]
    assert len(rows) == len(compare.GROUPS)


def test_a_checkout_that_computes_otherwise_is_not_timed(monkeypatch, tmp_path, capsys):
    made = {"parameters": 10, "path": str(compare.ROOT)}
    losses = iter((5.5, 5.6))

    class Worker:
        def ask(self, do, **asked):
            assert do == "make", "nothing is timed"
            return made | {"loss": next(losses)}

    class Started:
        __enter__ = lambda self: Worker()  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731

    monkeypatch.setattr(compare, "start_worker", lambda *command, **options: Started())
    with pytest.raises(WrongError, match="this: loss and the other's differs"):
        compare.main([str(compare.ROOT), *SIZES])
    made["path"] = str(tmp_path)
    losses = iter((5.5, 5.5))
    with pytest.raises(SystemExit, match="other: bmojo comes from"):
        compare.main([str(compare.ROOT), *SIZES])
