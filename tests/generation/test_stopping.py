"""When a continuation ends, and what of it may be shown before."""

import numpy as np
import pytest

from bmojo.generation.stopping import Continuation, Stop, cut, readable
from tests.generation.tokenizers import KINDS, make


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("abc", (), "abc"),
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
    text = Continuation(stop.decode)
    met = [stop.met(text, token) for token in b"xxxxxxxxxxxxab!"]
    assert met.index(True) == 13 and sum(met) == 1


@pytest.mark.parametrize(
    ("ids", "known"),
    [([97, 98, 0xC3], "ab"), ([97, 0xFF, 98, 0xE6, 0x97], "a\ufffdb"), ([0xE6, 0x97, 0xA5], "日")],
)
def test_bytes_that_are_no_character_yet_are_held_back(ids, known):
    coder = make("bytes")
    text = Continuation(coder.decode, ids=ids)
    assert text.text == known
    assert text.whole == coder.decode(ids)


TEXTS = [
    "the cat didn't sit, it sat on 日本 mats!",
    "über 🙂🏽 Žluťoučký  kůň, x日y, the cats' mat\n and words(text)",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_prompt_and_continuation_are_the_whole_text(kind, text):
    """Whatever the place of the cut; and what is known never changes."""
    coder = make(kind)
    ids = coder.encode(text)
    whole = coder.decode(ids)
    cuts = [n for n in range(len(ids) + 1) if "\ufffd" not in coder.decode(ids[:n])]
    assert len(cuts) > 3
    for at in cuts:
        grown = Continuation(coder.decode, [coder.eos, *ids[:at]])
        parts = [grown.add(token) for token in ids[at:]]
        assert grown.text == "".join(parts)
        assert coder.decode(ids[:at]) + grown.whole == whole, (at, parts)


@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_make_a_text_that_only_grows(kind):
    coder, rng = make(kind), np.random.default_rng(0)
    for _ in range(20):
        ids = rng.integers(0, coder.vocab_size, 24).tolist()
        text, known = Continuation(coder.decode), ""
        for token in ids:
            known += text.add(token)
            assert text.text == known and text.whole.startswith(known)


@pytest.mark.parametrize("kind", ["byte fallback", "SentencePiece BPE", "bytes"])
def test_bytes_of_byte_tokens(kind):
    """Also of those that are among the added ones."""
    coder = make(kind)
    assert coder.decode_bytes(coder.encode("🙂")).strip() == "🙂".encode()


@pytest.mark.parametrize("kind", ["byte fallback", "SentencePiece BPE", "bytes"])
def test_a_string_behind_bytes_is_met(kind):
    """Also where the bytes before it are no character."""
    coder = make(kind)
    broken = [coder.encode("🙂").tolist()[-1], *coder.encode("🙂x\n\n").tolist()]
    for ids in (coder.encode("🙂🙂🙂x\n\n").tolist(), broken):
        text = Continuation(coder.decode)
        stop = Stop(strings=("x\n\n",), decode=coder.decode)
        assert [stop.met(text, token) for token in ids].index(True) == len(ids) - 1
        assert cut(text.text, stop.strings).endswith("🙂")


def test_strings_need_a_decoder_and_letters():
    with pytest.raises(ValueError, match="^strings: a way to decode"):
        Stop(strings=("a",))
    with pytest.raises(ValueError, match="^strings: an empty text"):
        Stop(strings=("",), decode=str)
