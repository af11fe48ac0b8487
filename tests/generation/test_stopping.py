"""When a continuation ends, and what of it may be shown before."""

import pytest

from bmojo.generation.stopping import Stop, cut, readable


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("abc", (), "abc"),
        ("ab\ufffd", (), "ab"),
        ("a\ufffdb\ufffd\ufffd", (), "a\ufffdb"),
        ("abc", ("cd",), "ab"),
        ("abcd", ("cd", "bx"), "ab"),
        ("xaba", ("abab",), "x"),
        ("\n", ("\n\n",), ""),
    ],
)
def test_readable(text, stops, shown):
    assert readable(text, stops) == shown


def test_cut_takes_the_first_of_all_strings():
    assert cut("one two three", ("three", "two")) == "one "
    assert cut("one", ("two",)) == "one"


def test_a_string_is_met_by_the_token_that_completes_it():
    stop = Stop(strings=("ab",), decode=lambda ids: "".join(map(chr, ids)))
    met = [stop.met(list(b"xxxxxxxxxxxxab!"[:size])) for size in range(16)]
    assert met.index(True) == 14


def test_strings_need_a_decoder_and_letters():
    with pytest.raises(ValueError, match="^strings: a way to decode"):
        Stop(strings=("a",))
    with pytest.raises(ValueError, match="^strings: an empty text"):
        Stop(strings=("",), decode=str)
