"""Tokenizers by their spec: 'bytes', 'sentencepiece:FILE' or 'tokenizers:FILE'.

Ids become bytes one at a time: ``decode_bytes`` of a sequence is that of its parts, joined.
An incremental UTF-8 decoder of these bytes prints tokens as they come, and never half a
character.
"""

import hashlib
import importlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bmojo.errors import UserError, suggestion
from bmojo.files import read_file, write_atomically

__all__ = [
    "ByteTokenizer", "Tokenizer", "keep_tokenizer", "kept_tokenizer", "optional_package", "pieces",
    "save_tokenizer", "tokenizer", "train_tokenizer",
]  # fmt: skip

END = "<|endoftext|>"
"""The end-of-document token of tokenizers that are trained here."""

END_NAMES = (END, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
"""Tokens that end a document in tokenizers from elsewhere, the first found counts."""

PIECE = 2**16
"""Characters that are encoded at once, about."""

KEPT = "tokenizer.spec"
"""The file of a folder that says which tokenizer it keeps."""

KINDS = ("bytes", "sentencepiece", "tokenizers")


class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
      spec: the argument of :func:`tokenizer`.
      vocab_size: ids are below this number.
      eos: the id that stands between documents; never the result of encoding text.
      fingerprint: SHA-256 of its definition, in hexadecimal.
    """

    spec: str
    vocab_size: int
    eos: int
    fingerprint: str

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32; no special tokens are added or recognized."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD, ``eos`` becomes nothing."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of each id, joined; ids without a text have none."""


class ByteTokenizer:
    """UTF-8 bytes as ids 0 .. 255; 256 ends a document."""

    spec = "bytes"
    vocab_size = 257
    eos = 256
    fingerprint = hashlib.sha256(b"bytes, 256 ends a document").hexdigest()
    edge = re.compile("")

    def encode(self, text: str) -> np.ndarray:
        """The bytes of a text; those that Python could not decode are given back."""
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes among ids."""
        return bytes(number for number in _integers(ids) if 0 <= number < 256)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


class _FileTokenizer:
    """A tokenizer that a file defines; a UserError if it or its package is not usable."""

    kind: str

    def __init__(self, path: Path):
        self.spec = f"{self.kind}:{path}"
        self.path = path
        try:
            self.content = read_file(path)
        except OSError as error:
            raise UserError(
                f"{path}: the tokenizer cannot be read ({error.strerror}); give an existing file "
                f"in {self.kind}:FILE"
            ) from None
        self.fingerprint = hashlib.sha256(self.content).hexdigest()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of each id, joined; the blank before the first word is among them."""
        return b"".join(map(self._bytes, _integers(ids)))

    def _bytes(self, number: int) -> bytes:
        raise NotImplementedError

    def unusable(self, why: Any) -> UserError:
        line = " ".join(str(why).split())
        return UserError(f"{self.path}: no usable {self.kind} file ({line}); give another one")


class _SentencePiece(_FileTokenizer):
    """A SentencePiece model; its ``</s>`` ends documents."""

    kind = "sentencepiece"

    def __init__(self, path: Path):
        super().__init__(path)
        package = optional_package("sentencepiece", "tokenizer")
        try:
            self._model = package.SentencePieceProcessor(model_proto=self.content)
        except RuntimeError:  # it names a line of its own source
            raise self.unusable("it holds no SentencePiece model") from None
        self.vocab_size: int = self._model.vocab_size()
        self.eos: int = self._model.eos_id()
        if self.eos < 0:
            raise UserError(
                f"{path}: the model has no end-of-document token; train it with an eos_id"
            )

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._model.encode(text), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        known = [number for number in _integers(ids) if 0 <= number < self.vocab_size]
        return self._model.decode([number for number in known if number != self.eos])

    def _bytes(self, number: int) -> bytes:
        if not 0 <= number < self.vocab_size or self._model.is_control(number):
            return b""
        piece = self._model.id_to_piece(number)
        if self._model.is_byte(number):
            return bytes([int(piece[3:-1], 16)])
        return b"\xef\xbf\xbd" if self._model.is_unknown(number) else _piece_bytes(piece)


class _JSONFile(_FileTokenizer):
    """A JSON file of Hugging Face's ``tokenizers``."""

    kind = "tokenizers"

    def __init__(self, path: Path):
        super().__init__(path)
        package = optional_package("tokenizers", "tokenizer")
        try:
            self._model = package.Tokenizer.from_str(self.content.decode())
        except Exception as error:  # the package raises nothing narrower
            raise self.unusable(error) from None
        self._model.no_truncation()
        self._model.no_padding()
        self._model.encode_special_tokens = True  # a document may talk about them
        vocabulary: dict[str, int] = self._model.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        found = [vocabulary[name] for name in END_NAMES if name in vocabulary]
        if not found:
            raise UserError(
                f"{path}: the tokenizer has no end-of-document token (none of "
                f"{', '.join(END_NAMES)}); add one, or train a tokenizer with "
                "bmojo data train-tokenizer"
            )
        self.eos = found[0]
        self._tokens = {number: token for token, number in vocabulary.items()}
        self._added = set(self._model.get_added_tokens_decoder())
        definition = json.loads(self.content)
        decoder = definition.get("decoder") or {}
        parts = [decoder, *decoder.get("decoders", ())]
        self._alphabet = (
            _byte_alphabet() if any(part.get("type") == "ByteLevel" for part in parts) else None
        )
        # GPT-2's words hold a blank in front at most, so that a blank behind a word begins one.
        whole = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        words = {"use_regex": True} | (definition.get("pre_tokenizer") or {})
        plain = not definition.get("normalizer") and whole.items() <= words.items()
        special = all(token["special"] for token in definition.get("added_tokens", ()))
        self.edge = re.compile(r"(?<=\S)(?=[ \n])") if plain and special else None

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._model.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        if self._alphabet is not None:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        known = [number for number in _integers(ids) if number in self._tokens]
        return self._model.decode([n for n in known if n != self.eos], skip_special_tokens=False)

    def _bytes(self, number: int) -> bytes:
        token = self._tokens.get(number, "")
        if number == self.eos or not token:
            return b""
        if self._alphabet is None and len(token) == 6 and token[:3] == "<0x" and token[5] == ">":
            return bytes([int(token[3:-1], 16)])  # also among the added ones
        if number in self._added:
            return token.encode()
        if self._alphabet is not None:
            return bytes(self._alphabet[character] for character in token)
        return _piece_bytes(token)


def tokenizer(spec: str) -> Tokenizer:
    """The tokenizer 'bytes', 'sentencepiece:PATH.model' or 'tokenizers:PATH.json'.

    Raises:
      UserError: the spec is unknown, a file or a package is missing, or the tokenizer has no
        token to end documents with.
    """
    kind, colon, path = spec.partition(":")
    if kind == "bytes" and not colon:
        return ByteTokenizer()
    if kind not in KINDS:
        raise UserError(f"tokenizer: {spec!r} is unknown; {suggestion(kind, KINDS)}")
    if kind == "bytes" or not path:
        example = "bytes" if kind == "bytes" else f"{kind}:FILE"
        raise UserError(f"tokenizer: {spec!r} is not complete or too long; write {example!r}")
    made = _SentencePiece if kind == "sentencepiece" else _JSONFile
    return made(Path(path).expanduser())


def pieces(coder: Any, text: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Pieces of text[start:stop] whose ids, joined, are those of the whole.

    The memory of encoding is that of a piece, if the tokenizer has an ``edge``: a pattern that
    matches where a text may be cut without a change of its ids.
    """
    edge, stop = getattr(coder, "edge", None), min(len(text), len(text) if stop is None else stop)
    while edge and start + PIECE < stop and (found := edge.search(text, start + PIECE, stop)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:stop]


def save_tokenizer(coder: Any, folder: Path) -> str:
    """Copy the file of a tokenizer into a folder; its spec with the name of the copy."""
    kind, colon, file = coder.spec.partition(":")
    if not isinstance(coder, _FileTokenizer):
        return kind
    name = f"tokenizer{Path(file).suffix}"
    write_atomically(folder / name, coder.content)
    return f"{kind}:{name}"


def keep_tokenizer(coder: Any, folder: Path) -> None:
    """Make a folder keep a tokenizer for :func:`kept_tokenizer`, unless it keeps one."""
    if isinstance(coder, ByteTokenizer | _FileTokenizer) and not (folder / KEPT).exists():
        write_atomically(folder / KEPT, save_tokenizer(coder, folder) + "\n")


def kept_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer that a folder keeps, or None."""
    if not (folder / KEPT).exists():
        return None
    kind, colon, name = (folder / KEPT).read_text(encoding="utf8").strip().partition(":")
    return tokenizer(f"{kind}:{folder / name}" if colon else kind)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> bytes:
    """Train a byte-level BPE tokenizer; any text comes back from it unchanged.

    Returns:
      The content of a JSON file for 'tokenizers:FILE'. It has ``vocab_size`` ids, the 256 bytes
      and the end of a document among them.

    Raises:
      UserError: the package is missing, ``vocab_size`` is too small, or there is no text.
    """
    if vocab_size < 257:
        raise UserError(
            f"--vocab-size: {vocab_size} does not hold the 256 bytes and the end of a document; "
            "give at least 257"
        )
    package = optional_package("tokenizers", "tokenizer")
    first = next(texts, None)
    if first is None:
        raise UserError("tokenizer: there is no text to learn from; give sources with some")
    model = package.Tokenizer(package.models.BPE())
    model.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(itertools.chain([first], texts), trainer)
    return model.to_str(pretty=True).encode()


def optional_package(module: str, user: str, extra: str = "text") -> Any:
    """A package of an extra; a UserError of its user if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        remedy = f"pip install 'bmojo[{extra}]'"
        raise UserError(f"{user}: the package {name} is not installed; {remedy}") from None


def _integers(ids: Iterable[int]) -> Iterator[int]:
    """Plain integers from a list or an array."""
    return (int(number) for number in ids)


def _piece_bytes(piece: str) -> bytes:
    return piece.replace("\u2581", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte, and the byte.

    Bytes that print stand for themselves; the others follow from U+0100 on, in order.
    """
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printed)
    alphabet = {chr(byte): byte for byte in printed}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}
