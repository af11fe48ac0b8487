"""The memory report: what was read, and what the page makes of it."""

import dataclasses
import json
import types
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.data.text.tokenizers import ByteTokenizer
from bmojo.errors import UserError
from bmojo.evaluation.memory import report, trace
from bmojo.evaluation.memory.figures import lanes
from bmojo.evaluation.memory.page import page, without
from bmojo.evaluation.memory.text import Piece, pieces, read_tokens
from bmojo.evaluation.memory.trace import Layer, Memory, Tenancy, read
from bmojo.generation.generate import start
from bmojo.ops.masks import EIDETIC, FADING, WINDOW
from tests.numerics import assert_close
from tests.small_models import VOCAB_SIZE, config, model

TOKENS = np.random.default_rng(0).integers(0, VOCAB_SIZE, 27)


def test_the_model_is_read_as_it_runs():
    """The pass that is traced leaves the state that the model leaves; segments change nothing."""
    made = model("bmojo")
    graph, parameters = nnx.split(made)
    size = np.asarray([len(TOKENS)])
    _, state = trace._segment(graph, 6)(parameters, start(made, 1), TOKENS[None], size)
    forward = jax.jit(lambda p, x, s: nnx.merge(graph, p)(x, s)[1])
    assert_close(state, forward(parameters, TOKENS[None], start(made, 1)), "float32")

    seen = []
    found, again = read(made, TOKENS, seen.append, 6), read(made, TOKENS, segment_length=27)
    assert seen == [6, 6, 6, 6, 3]
    slots = state.blocks[0].eidetic.chosen
    for period, (layer, other) in enumerate(zip(found.layers, again.layers, strict=True)):
        np.testing.assert_allclose(layer.spread.sum((1, 2)), 1, rtol=1e-5)
        np.testing.assert_allclose(layer.mass.sum(1), 1, rtol=1e-5)
        assert sorted(np.asarray(slots.position[period, 0, 0]).tolist()) == layer.kept.tolist()
        order = np.argsort(np.asarray(slots.position[period, 0, 0]))
        kept = np.asarray(slots.score[period, 0, 0])[order]
        np.testing.assert_allclose(layer.innovation[layer.kept], kept, rtol=1e-5)
        for name in ("spread", "mass", "octave", "innovation"):
            assert_close(getattr(layer, name), getattr(other, name), "float32")
        np.testing.assert_array_equal(layer.held, other.held)
        assert layer.held.shape == (7, 2)
        assert (layer.held[0] == -1).all()
        best = np.sort(np.argsort(-layer.innovation[:24], kind="stable")[:2])
        np.testing.assert_array_equal(layer.held[6], best)


@pytest.mark.parametrize(
    ("name", "tiers", "lines"),
    [
        ("hybrid", (WINDOW,), ["layer 1 (SelectiveSSM)", "No eidetic slots, and so no"]),
        ("bmojo_f", (WINDOW, FADING), ["No eidetic slots, and so no innovation, in layers 1, 2."]),
    ],
)
@pytest.mark.one_in(3)
def test_models_without_slots(name, tiers, lines, tmp_path):
    found = read(model(name), TOKENS, segment_length=16)
    assert {layer.tiers for layer in found.layers} == {tiers}
    told = without(found)
    assert len(told) == len(lines)
    assert all(line in one for line, one in zip(lines, told, strict=True))
    path = report.write(tmp_path, "ids.txt", 3, found, pieces(None, TOKENS))
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "ages.png", "index.html", "memory.json", "tiers.png"
    ]  # fmt: skip
    assert all(line in path.read_text() for line in told)


def test_a_model_that_attends_to_nothing():
    with pytest.raises(UserError, match="no layer of the model attends .* SelectiveSSM"):
        read(types.SimpleNamespace(config=config("mamba")), TOKENS)


LAYER = Layer(
    number=1,
    kind="BMojo",
    tiers=(WINDOW, FADING, EIDETIC),
    chunk=4,
    spread=np.full((2, 3, 5), 1 / 15),
    mass=np.full((14, 3), 1 / 3),
    octave=np.linspace(0, 3, 14),
    innovation=np.asarray([0, 3, 1, 2, 4, 1, 1, 1, 1, 5, 1, 1, 1, 9.0]),
    held=np.asarray([[-1, -1], [1, 3], [1, 4], [4, 9]]),
    kept=np.asarray([9, 13]),
)
TEXT = "é<b>&\ty\n\x00</x>"


def test_tenancies_and_lanes():
    assert LAYER.tenancies() == [
        Tenancy(1, 4, 12), Tenancy(3, 4, 8), Tenancy(4, 8, None), Tenancy(9, 12, None)
    ]  # fmt: skip
    assert lanes(LAYER) == [(0, 1, 4, 12), (1, 3, 4, 8), (1, 4, 8, 14), (0, 9, 12, 14)]


class Outline(HTMLParser):
    """Elements that are open, the text of the reader, and what is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.tokens, self.external = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.external += [v for k, v in given.items() if k in ("src", "href") and v[:5] != "data:"]
        if tag not in ("meta", "img", "input"):
            self.open.append((tag, given))
        if tag in "ib":
            self.tokens.append((given.get("class", ""), ""))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in "ib":
            self.tokens[-1] = (self.tokens[-1][0], data)


def test_page_is_whole_and_stands_alone():
    tokenizer = ByteTokenizer()
    tokens = np.asarray([256, *tokenizer.encode(TEXT)])[:14]
    memory = Memory(tokens, [LAYER], [(2, "SSD")])
    shown = pieces(tokenizer, tokens)
    assert [p.text for p in shown[:10]] == ["⟨eos⟩", "·", "é", "<", "b", ">", "&", "\t", "y", "↵\n"]
    shown[-1] = Piece("</div>")
    html = page("a <title>", "facts", memory, shown, {"tiers": (b"png", 'say "x"')})
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    assert outline.external == []
    assert [text for _, text in outline.tokens] == [piece.text for piece in shown]
    held = [index for index, (names, _) in enumerate(outline.tokens) if "h" in names.split()]
    assert held == [9, 13]
    assert outline.tokens[13][0] == "c9 h"
    assert outline.tokens[0][0] == ""
    assert "a &lt;title&gt;" in html
    data = html.split('id="data">')[1].split("</script>")[0]
    found = json.loads(data)["layers"][0]
    assert found["stays"] == [[1, 4, 12], [3, 4, 8], [4, 8, -1], [9, 12, -1]]
    assert [measure["name"] for measure in found["measures"]] == [
        "innovation", "share of attention on eidetic memory",
        "share of attention on fading memory", "tokens looked back",
    ]  # fmt: skip


def test_report_replaces_the_one_before(tmp_path):
    memory = Memory(np.arange(14), [LAYER], [])
    first = report.write(tmp_path, "a b.txt", 3, memory, pieces(None, memory.tokens))
    assert first == tmp_path / "memory" / "a-b.txt" / "index.html"
    images = {p.name: p.read_bytes() for p in first.parent.glob("*.png")}
    assert sorted(images) == ["ages.png", "innovation.png", "slots.png", "tiers.png"]
    found = json.loads((first.parent / "memory.json").read_text())["layers"][0]
    assert found["slots"][2] == [4, 8, None]
    shares = [found["attention"][tier] for tier in ("window", "fading", "eidetic")]
    np.testing.assert_allclose(np.sum(shares, axis=(0, 2)), 1, rtol=1e-5)
    report.write(tmp_path, "a b.txt", 3, memory, pieces(None, memory.tokens))
    assert {p.name: p.read_bytes() for p in first.parent.glob("*.png")} == images
    plain = dataclasses.replace(LAYER, tiers=(WINDOW,), chunk=0, held=np.zeros((0, 0), int))
    report.write(
        tmp_path, "a b.txt", 3, Memory(np.arange(14), [plain], []), pieces(None, range(14))
    )
    assert not (first.parent / "slots.png").exists()


def test_text_is_read_as_a_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("häh")
    assert read_tokens(path, ByteTokenizer(), 257).tolist() == [256, *"häh".encode()]
    assert read_tokens(path, ByteTokenizer(), 257, 2).tolist() == [256, ord("h")]
    path.write_text("3 1\n2")
    assert read_tokens(path, None, 4).tolist() == [3, 1, 2]
    path.write_bytes(b"\xef\xbb\xbf3 1")
    assert read_tokens(path, None, 4).tolist() == [3, 1], "a byte order mark is no text"


@pytest.mark.parametrize(
    ("content", "tokenizer", "error"),
    [
        (None, None, "cannot be read (No such file or directory)"),
        (b" \n", ByteTokenizer(), "the file is empty"),
        (b"ab\xff", ByteTokenizer(), "not UTF-8 at byte 2"),
        (b"abc", ByteTokenizer(), "tokenizer (bytes) has 257 tokens, the model 9"),
        (b"1 x", None, "word 2, 'x', is no token id"),
        (b"9" * 5000, None, "word 1, '99999999999999999999', is no token id"),
        (b"1 9", None, "9 is not a token of this model; give ids of 0 .. 8"),
        (b"1 -1", None, "-1 is not a token of this model"),
    ],
)
def test_bad_files(tmp_path, content, tokenizer, error):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_tokens(path, tokenizer, 9)
    assert error in str(raised.value)
