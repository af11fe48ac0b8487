"""Windows cover the text, in an order that depends on seed and epoch alone."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

from bmojo.data.pipeline import Batches
from bmojo.data.text import task
from bmojo.data.text.prepare import Request, prepare
from bmojo.data.text.task import TextConfig
from bmojo.errors import UserError


def folder(path, **splits):
    for split, texts in splits.items():
        (path / split).mkdir(parents=True)
        for number, text in enumerate(texts):
            (path / split / f"{number:04}.txt").write_text(text)
    return str(path)


def rows(source, numbers):
    items = [source[number] for number in numbers]
    return {name: [item[name].tolist() for item in items] for name in items[0]}


DOT = 256
LETTERS = {".": DOT, "-": -1}


def ids(text):
    return [LETTERS.get(c, ord(c)) for c in text.replace(" ", "")]


@pytest.fixture
def tiny(tmp_path):
    """The example of the docstring."""
    texts = ["abc", "de", "f"]
    source = folder(tmp_path / "in", train=texts, validation=texts)
    prepare(Request(source), tmp_path / "out")
    return str(tmp_path / "out")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Documents of 1 to 300 bytes."""
    path = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    texts = [
        "".join(map(chr, rng.integers(97, 123, size))) for size in rng.integers(1, 300, size=60)
    ]
    source = folder(path / "in", train=texts, validation=texts[::-1], test=["held out" * 50])
    prepare(Request(source), path / "out")
    return str(path / "out"), texts


def test_windows_as_the_docstring_shows(tiny):
    source = TextConfig(tiny, length=6).source(0, "test")
    assert len(source) == 1
    found = rows(source, range(1))
    assert found == {"inputs": [ids(". a b c . d")], "targets": [ids("a b c . d e")], "group": [0]}
    assert source[0]["inputs"].dtype == source[0]["targets"].dtype == np.int32


def test_documents_as_the_docstring_shows(tiny):
    source = TextConfig(tiny, length=6, packing="documents", align=4).source(0, "test")
    assert len(source) == 2
    found = rows(source, range(2))
    assert found["inputs"] == [ids(". a b c . d"), ids("e . . f . .")]
    assert found["targets"] == [ids("a b c . d e"), ids(". - f . - -")]
    assert found["segment_ids"] == [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]]
    assert source[0]["segment_ids"].dtype == np.int32


def test_an_epoch_covers_the_stream_exactly_once(many):
    path, texts = many
    config = TextConfig(path, length=64)
    source = config.source(3, "train")
    stream = [token for text in texts for token in (DOT, *text.encode())] + [DOT]
    assert source.windows == (len(stream) - 1) // 64
    orders = []
    for epoch in range(3):
        numbers = range(epoch * source.windows, (epoch + 1) * source.windows)
        orders.append([source.window(number) for number in numbers])
        assert sorted(orders[-1]) == list(range(source.windows))
        found = rows(source, numbers)
        in_order = np.argsort(orders[-1])
        end = source.windows * 64
        assert np.array(found["inputs"])[in_order].ravel().tolist() == stream[:end]
        assert np.array(found["targets"])[in_order].ravel().tolist() == stream[1 : end + 1]
    assert orders[0] != orders[1] != orders[2] != list(range(source.windows))
    assert len(source) > 10**12


def test_the_order_depends_on_seed_and_index_alone(many):
    config = TextConfig(many[0], length=16)
    source = config.source(0, "train")
    far = source[10**12]["inputs"]
    source[5]
    again = pickle.loads(pickle.dumps(config)).source(0, "train")
    assert (again[10**12]["inputs"] == far).all()
    other = config.source(1, "train")
    assert [source.window(n) for n in range(50)] != [other.window(n) for n in range(50)]
    held_out = config.source(0, "test"), config.source(1, "test")
    assert rows(held_out[0], range(9)) == rows(held_out[1], range(9))


@pytest.mark.parametrize("align", [1, 2, 32, 500])
def test_packed_documents_are_whole_and_alone(many, align):
    """Against the same laid out document by document."""
    path, texts = many
    source = TextConfig(path, length=32, packing="documents", align=align).source(0, "test")
    inputs, targets, numbers = [], [], []
    for number, text in enumerate(texts[::-1]):
        tokens, padding = list(text.encode()), -(len(text) + 1) % align
        inputs += [DOT, *tokens] + [DOT] * padding
        targets += [*tokens, DOT] + [-1] * padding
        numbers += [number] * (len(tokens) + 1 + padding)
    assert len(source) == len(inputs) // 32
    for window in range(len(source)):
        item, here = source[window], slice(32 * window, 32 * window + 32)
        assert item["inputs"].tolist() == inputs[here]
        assert item["targets"].tolist() == targets[here]
        segments = [number - numbers[here][0] for number in numbers[here]]
        assert item["segment_ids"].tolist() == segments
    if align == 1:
        plain = TextConfig(path, length=32).source(0, "test")
        for number in (0, 7, len(source) - 1):
            for name in ("inputs", "targets"):
                assert (plain[number][name] == source[number][name]).all()


def test_whole_documents(many):
    path, texts = many
    config = TextConfig(path, length=8)
    found = config.documents("train")
    assert len(found) == len(texts)
    assert [bytes(d[1:-1].tolist()).decode() for d in found] == texts
    assert all(d[0] == d[-1] == DOT for d in found)
    assert config.documents()[0].tolist() == found[-1].tolist()
    (held_out,) = dataclasses.replace(config, held_out="test").documents()
    assert config.tokenizer.decode(held_out) == "held out" * 50
    with pytest.raises(UserError, match="choose one of train, validation, test"):
        config.documents("dev")


def test_bytes_a_token_of_the_held_out_split(many):
    config = TextConfig(many[0], length=8, held_out="test")
    assert config.bytes_per_token == 400 / 401
    assert config.chance is None and config.vocab_size == 257


def test_text_prepares_itself_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "cache"))
    source = folder(tmp_path / "in", train=["some text" * 9], validation=["more"])
    first = TextConfig(source, length=4).source(0, "train")[0]
    (out,) = (tmp_path / "cache" / "text").iterdir()
    assert out.name.startswith("in-")
    monkeypatch.setattr(task, "prepare", None)
    again = TextConfig(source, length=4).source(0, "train")[0]
    assert (first["inputs"] == again["inputs"]).all()


def test_too_many_batches_are_an_error(many):
    source = TextConfig(many[0], length=64, held_out="test").source(0, "test")
    batches = Batches(source, 4)
    assert len(source) == 6
    next(batches)
    with pytest.raises(UserError, match="the 6 examples do not fill another batch of 4"):
        next(batches)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"path": ""}, TypeError, "Text.path: '' is not a path"),
        ({"length": 0}, ValueError, "Text.length: 0 is too small"),
        ({"length": 2.0}, TypeError, "Text.length: 2.0 is not an integer"),
        ({"packing": "docs"}, ValueError, "Text.packing: .* 'windows' or 'documents'"),
        ({"align": 8}, ValueError, "Text.align: 8 has no effect .* Text.packing = 'documents'"),
        ({"held_out": "train"}, ValueError, "Text.held_out: .* 'validation' or 'test'"),
        ({"vocab_size": 1}, ValueError, "Text.vocab_size: 1 is too small"),
        (
            {"tokenizer_spec": "word"},
            ValueError,
            "Text.tokenizer_spec: tokenizer: 'word' is unknown",
        ),
    ],
)
def test_wrong_fields(fields, error, words):
    with pytest.raises(error, match=words):
        TextConfig(**{"path": "stdlib", "length": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "nowhere"}, "nowhere: .* bmojo data prepare SOURCE --out nowhere"),
        ({"vocab_size": 256}, "Text.vocab_size: 256 tokens do not hold the 257 .* raise it"),
        ({"length": 10}, r"Text.length: the split 'train' of .* has 9 tokens, fewer .* of 10"),
        ({"tokenizer_spec": "tokenizers:bpe.json"}, "was prepared with bytes, which is not"),
    ],
)
def test_text_that_does_not_fit(fields, words, tiny, tmp_path, monkeypatch):
    from bmojo.data.text.tokenizers import train_tokenizer

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bpe.json").write_bytes(train_tokenizer(iter(["a"]), 257))
    config = TextConfig(**{"path": tiny, "length": 4, "vocab_size": 257, **fields})
    with pytest.raises(UserError, match=words):
        config.source(0, "train")


def test_an_empty_split_and_a_missing_shard(tiny, tmp_path):
    config = TextConfig(tiny, length=4, held_out="test")
    with pytest.raises(UserError, match="'test' is empty; set Text.held_out = 'validation'"):
        config.source(0, "test")
    next((tmp_path / "out").glob("train-*.array_record")).unlink()
    with pytest.raises(UserError, match="the shard is missing"):
        dataclasses.replace(config).prepare()
    with pytest.raises(UserError, match="the shard is missing"):
        TextConfig(tiny, length=4).source(0, "train")


def test_a_source_refuses_unknown_splits_and_indices(tiny):
    config = TextConfig(tiny, length=4)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        config.source(0, "validation")
    with pytest.raises(ValueError, match="seed"):
        config.source(-1, "train")
    with pytest.raises(IndexError):
        config.source(0, "test")[2]


def test_experiments_check_their_text_before_they_begin(many):
    from bmojo.experiment import load, prepare_data

    overrides = [f"TEXT='{many[0]}'", "Text.length=64", "Evaluation.batches=100"]
    experiment, _ = load("experiments/text.gin", overrides, ["models/transformer.gin"])
    with pytest.raises(UserError, match="'text' asks for 100 batches of 4, its data have 1"):
        prepare_data(experiment)
    assert math.isclose(experiment.evaluations[0].data.bytes_per_token, 0.99, abs_tol=0.01)


def test_every_other_window_comes_again_and_again(tmp_path):
    path = folder(tmp_path, train=["abcdefghijklmnopqrstuvwxyz" * 20], validation=["abc"])
    plain = TextConfig(path, length=24).source(3, "train")
    source = TextConfig(path, length=24, echo=8).source(3, "train")
    periods = set()
    for number in range(20):
        item, text = source[number], plain[number]
        inputs, targets = (item[name].tolist() for name in ("inputs", "targets"))
        if number % 2 == 0:
            assert inputs == text["inputs"].tolist() and targets == text["targets"].tolist()
            continue
        stream = [*inputs, targets[-1]]
        assert stream[1:] == targets
        period = next(n for n in range(1, 25) if stream[n:] == stream[:-n])
        assert stream[:period] == text["inputs"].tolist()[:period]
        periods.add(period)
    assert periods <= set(range(4, 9)) and len(periods) > 2
    assert source[7]["inputs"].tolist() == source[7]["inputs"].tolist()


def test_passages_come_again_behind_a_gap(tmp_path):
    path = folder(tmp_path, train=["abcdefghijklmnopqrstuvwxyz" * 20], validation=["abc"])
    plain = TextConfig(path, length=40).source(3, "train")
    source = TextConfig(path, length=40, echo=8, gap=6, echo_every=4).source(3, "train")
    gaps = set()
    for number in range(80):
        item, text = source[number], plain[number]
        stream = [*item["inputs"].tolist(), int(item["targets"][-1])]
        own = [*text["inputs"].tolist(), int(text["targets"][-1])]
        assert stream[1:] == item["targets"].tolist()
        if number % 4 != 3:
            assert stream == own
            continue
        # Letters never come again within 26 places by themselves: sizes and gaps are unique.
        unit = next(n for n in range(4, 41) if stream[n : n + 4] == stream[:4])
        size = next(n for n in range(4, 9) if n == unit or stream[unit + n] != stream[n])
        for place, token in enumerate(stream):
            within = place % unit
            assert token == (own[within] if within < size else own[place])
        gaps.add(unit - size)
    assert gaps <= set(range(7)) and len(gaps) > 4


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"gap": 1}, "gap"),
        ({"echo": 4, "gap": 5}, "gap"),
        ({"echo": 4, "gap": -1}, "gap"),
        ({"echo": 4, "echo_every": 0}, "echo_every"),
        ({"echo": 4, "echo_every": 2.0}, "echo_every"),
    ],
)
def test_gaps_that_cannot_be(given, named):
    error = TypeError if isinstance(given[named], float) else ValueError
    with pytest.raises(error, match=f"Text.{named}:"):
        TextConfig("stdlib", length=8, **given)


@pytest.mark.parametrize(("echo", "packing"), [(1, "windows"), (9, "windows"), (4, "documents")])
def test_echoes_that_cannot_be(echo, packing):
    with pytest.raises(ValueError, match="Text.echo"):
        TextConfig("stdlib", length=8, packing=packing, echo=echo)
