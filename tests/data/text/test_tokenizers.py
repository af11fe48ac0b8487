"""Text comes back from ids; what cannot be a tokenizer says so."""

import codecs
import sys

import numpy as np
import pytest

from bmojo.data.text import tokenizers as tokenizers_module
from bmojo.data.text.tokenizers import END, pieces, tokenizer, train_tokenizer
from bmojo.errors import UserError

TEXTS = [
    "",
    "plain words",
    " blank  before,\ttabs\r\nand lines\n\n",
    "Grüße, Žluťoučký kůň, 日本語, עברית, 🙂🏽",
    "\x00\x7f\u2581",
    f"a document may mention {END}, </s> and <0x41>",
]
CORPUS = ["the cat sat on the mat; über den Hügel\n" * 20, "def words(text): return text.split()\n"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One tokenizer of each kind."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "bpe.json").write_bytes(train_tokenizer(iter(CORPUS), 300))
    with open(folder / "pieces.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS[0].splitlines()),
            model_writer=file,
            vocab_size=310,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    specs = ["bytes", f"tokenizers:{folder / 'bpe.json'}"]
    specs.append(f"sentencepiece:{folder / 'pieces.model'}")
    return {spec.partition(":")[0]: tokenizer(spec) for spec in specs}


@pytest.mark.parametrize("kind", ["bytes", "tokenizers", "sentencepiece"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(made, kind, text):
    if kind == "sentencepiece" and "\u2581" in text:
        text = text.replace("\u2581", "")  # its own sign for a blank
    coder = made[kind]
    ids = coder.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert coder.eos not in ids and (ids < coder.vocab_size).all()
    assert coder.decode(ids) == coder.decode([*ids, coder.eos]) == text
    assert tokenizer(coder.spec).fingerprint == coder.fingerprint


@pytest.mark.parametrize("kind", ["bytes", "tokenizers", "sentencepiece"])
def test_bytes_of_single_ids_make_a_stream_of_whole_characters(made, kind):
    coder, text = made[kind], TEXTS[3]
    stream = codecs.getincrementaldecoder("utf-8")("replace")
    shown = [stream.decode(coder.decode_bytes([number])) for number in coder.encode(text)]
    assert "".join(shown).lstrip() == text
    assert "\ufffd" not in "".join(shown)


@pytest.mark.parametrize("kind", ["bytes", "tokenizers", "sentencepiece"])
def test_decoding_half_a_character_or_unknown_ids_never_fails(made, kind):
    coder = made[kind]
    half = coder.encode("x日")[:-1]
    assert "x" in coder.decode(half) and "\ufffd" in coder.decode(half)
    assert coder.decode_bytes(half).strip().startswith(b"x\xe6")
    everything = list(range(-1, coder.vocab_size + 5))
    assert isinstance(coder.decode(everything), str)
    assert isinstance(coder.decode_bytes(everything), bytes)


def test_bytes():
    coder = tokenizer("bytes")
    assert (coder.vocab_size, coder.eos) == (257, 256)
    assert coder.encode("é").tolist() == [0xC3, 0xA9]
    assert coder.decode([0xFF, 65, 256, 0xC3]) == "\ufffdA\ufffd"
    assert coder.decode_bytes([0xFF, 65, 256, 0xC3]) == b"\xffA\xc3"
    undecoded = b"a\xff".decode("utf-8", "surrogateescape")
    assert coder.decode_bytes(coder.encode(undecoded)) == b"a\xff"


def variants():
    """BPE tokenizers: two whose texts may be cut between words, and some that see the cut."""
    from tokenizers import Tokenizer, normalizers
    from tokenizers.pre_tokenizers import ByteLevel

    model = train_tokenizer(iter(CORPUS), 300).decode()
    changes = {
        "gpt2": ("pre_tokenizer", ByteLevel(add_prefix_space=False, use_regex=True)),
        "normalizing": ("normalizer", normalizers.NFC()),
        "prefixed": ("pre_tokenizer", ByteLevel(add_prefix_space=True)),
        "no words": ("pre_tokenizer", ByteLevel(add_prefix_space=False, use_regex=False)),
    }
    for name, (field, value) in changes.items():
        made = Tokenizer.from_str(model)
        setattr(made, field, value)
        yield name, made
    made = Tokenizer.from_str(model)
    made.add_tokens(["cat sat", "\n\n"])
    yield "added", made


@pytest.mark.parametrize("piece", [1, 3, 50])
def test_pieces_have_the_ids_of_the_whole(made, piece, tmp_path, monkeypatch):
    coders = dict(made)
    for name, variant in variants():
        variant.save(str(tmp_path / f"{name}.json"))
        coders[name] = tokenizer(f"tokenizers:{tmp_path / name}.json")
    monkeypatch.setattr(tokenizers_module, "PIECE", piece)
    rng = np.random.default_rng(piece)
    signs = list("ab cd  \n\n\t.,'s 12ü日🙂\u00a0\u2028\x1c\x85\u3000\r")
    texts = [*TEXTS, *CORPUS, "the cat sat\n\n on", *map("".join, rng.choice(signs, (40, 60)))]
    cut = set()
    for name, coder in coders.items():
        for text in texts:
            parts = list(pieces(coder, text))
            assert "".join(parts) == text
            ids = np.concatenate([coder.encode(part) for part in parts])
            assert ids.tolist() == coder.encode(text).tolist(), (name, text)
            if len(parts) > 1:
                cut.add(name)
            assert "".join(pieces(coder, text, 2, 30)) == text[2:30]
    assert cut == {"bytes", "tokenizers", "gpt2"}


def test_training_takes_every_byte_and_repeats_itself(made):
    assert made["tokenizers"].vocab_size == 300
    assert made["tokenizers"].content == train_tokenizer(iter(CORPUS), 300)
    assert len(made["tokenizers"].encode("the cat")) < 7
    with pytest.raises(UserError, match="256 does not hold .* at least 257"):
        train_tokenizer(iter(CORPUS), 256)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("byte", "'byte' is unknown; did you mean 'bytes'"),
        ("bytes:x", "write 'bytes'"),
        ("tokenizers:", "write 'tokenizers:FILE'"),
        ("tokenizers:none.json", r"none.json: .* cannot be read \(No such file"),
        ("sentencepiece:.", r"cannot be read \(Is a directory"),
        ("tokenizers:bad", "bad: no usable tokenizers file"),
        ("sentencepiece:bad", "bad: no usable sentencepiece file"),
    ],
)
def test_errors_say_what_to_give(spec, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").write_text("{}")
    with pytest.raises(UserError, match=words):
        tokenizer(spec)


@pytest.mark.parametrize("kind", ["tokenizers", "sentencepiece"])
def test_a_missing_package_names_the_extra(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UserError, match=rf"{kind} is not installed; pip install 'bmojo\[text\]'"):
        tokenizer(f"{kind}:{tmp_path / 'file'}")


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    path = tmp_path / "bpe.json"
    path.write_bytes(train_tokenizer(iter(CORPUS), 257).replace(END.encode(), b"<|pad|>"))
    with pytest.raises(UserError, match="no end-of-document token .* train-tokenizer"):
        tokenizer(f"tokenizers:{path}")
