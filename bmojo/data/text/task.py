"""The text task: windows of the token stream, in a different order in every epoch."""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import grain
import numpy as np
from rich.console import Console

from bmojo.cache import cache_directory
from bmojo.console import line, make_console
from bmojo.data.source import EXAMPLES, Source, check_integer
from bmojo.data.text.corpus import open_corpus
from bmojo.data.text.prepare import Request, prepare
from bmojo.data.text.store import MANIFEST, PLAN, Documents, Prepared, Stream, open_prepared
from bmojo.data.text.tokenizers import Tokenizer, tokenizer
from bmojo.errors import UserError

__all__ = ["TextConfig", "TextSource"]

CHOICES = {"packing": ("windows", "documents"), "held_out": ("validation", "test")}
FRACTION = 0.05
"""Of documents, for each held-out split of text that is prepared on the way."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Predict the next token of text.

    The stream of a split is cut into windows of L inputs; targets are the same stream one
    token later. In it a document is its end-of-document token (here ``.``) followed by its
    text. ``TextConfig(path, length=6)``, documents "abc", "de" and "f"::

        inputs   . a b c . d    (what fills no window is left out: e . f)
        targets  a b c . d e

    With ``packing='documents'`` there are ``segment_ids``, 0, 1, ... in each window, so that
    nothing is remembered across documents. The end-of-document token belongs to the document
    that it begins; as the target it closes the one before. With ``align=4`` documents start
    at multiples of 4 in the stream, and so in windows whose length is one, too::

        inputs       . a b c . d    e . . f . .
        targets      a b c . d e    . - f . - -    (-: -1, no loss)
        segment_ids  0 0 0 0 1 1    0 0 1 1 1 1

    With ``echo=4`` every other window, the second one first, is a passage of 2 to 4 tokens that
    comes again and again, so that a model learns to find earlier text::

        inputs   b c . b c .
        targets  c . b c . b

    ``gap=2`` lets up to 2 tokens of the window's own text stand before each return.

    The training split has no end: every epoch shows each window once, in an order that
    depends on the seed and the epoch. The held-out split is read in order, and ends.

    Attributes:
      path: a directory made by ``bmojo data prepare``; or a file or folder of text, 'stdlib'
        (the source code of Python's standard library) or 'hf:NAME[:CONFIG][:SPLIT]', which are
        prepared when first needed and kept under BMOJO_CACHE_DIR, by default ``~/.cache/bmojo``.
      length: L, tokens of a window.
      packing: 'windows', or 'documents': with ``segment_ids``.
      align: with packing 'documents', documents start at multiples of this; 1: anywhere.
      vocab_size: V, at least that of the tokenizer; None: that of the tokenizer.
      held_out: the split that evaluations read, 'validation' or 'test'.
      tokenizer_spec: 'bytes', 'sentencepiece:FILE' or 'tokenizers:FILE', for text that is
        prepared on the way; None: bytes, or the one that the directory was prepared with.
      echo: tokens of a passage that comes again, at most; 0: text is left as it is.
      gap: with echo, tokens between the passage and its return, at most; from 0 on all are
        equally likely.
      echo_every: with echo, one of so many windows has a passage that comes again.
    """

    path: str
    length: int
    packing: str = "windows"
    align: int = 1
    vocab_size: int | None = None
    held_out: str = "validation"
    tokenizer_spec: str | None = None
    echo: int = 0
    gap: int = 0
    echo_every: int = 2

    chance = None  # tokens of text are not equally likely
    slices = None  # text has no groups

    def __post_init__(self):
        if not isinstance(self.path, str) or not self.path:
            raise TypeError(f"Text.path: {self.path!r} is not a path; give one, such as 'stdlib'")
        least = {"length": 1, "align": 1, "echo": 0, "gap": 0, "echo_every": 1}
        for field, smallest in least.items():
            check_integer(self, field, smallest)
        for field, choices in CHOICES.items():
            value, shown = getattr(self, field), " or ".join(map(repr, choices))
            if value not in choices:
                raise ValueError(f"Text.{field}: {value!r} is unknown; choose {shown}")
        echo, gap, length = self.echo, self.gap, self.length
        if echo and not 2 <= echo <= length:
            raise ValueError(
                f"Text.echo: {echo} is out of range; give 0, or 2 .. length = {length}"
            )
        if gap and not echo:
            raise ValueError(f"Text.gap: {gap} has no effect without Text.echo; set both")
        if echo and echo + gap > length:
            raise ValueError(
                f"Text.gap: no passage of {echo} comes again behind {gap} tokens within "
                f"length = {length}; lower it"
            )
        if echo and self.packing == "documents":
            raise ValueError("Text.echo: passages do not come again in documents; set it to 0")
        if self.align > 1 and self.packing != "documents":
            raise ValueError(
                f"Text.align: {self.align} has no effect on packing {self.packing!r}; "
                "set Text.packing = 'documents', or leave it at 1"
            )
        if self.vocab_size is not None:
            check_integer(self, "vocab_size", 2)
            return
        prepared = _is_prepared(self.path)
        try:
            made = (
                open_prepared(self.path) if prepared else tokenizer(self.tokenizer_spec or "bytes")
            )
        except UserError as error:
            field = "path" if prepared else "tokenizer_spec"
            raise ValueError(f"Text.{field}: {error}") from None
        object.__setattr__(self, "vocab_size", made.vocab_size)

    def prepare(self, console: Console | None = None) -> Prepared:
        """The prepared text, made first if need be, with progress on ``console`` or stderr.

        Raises:
          UserError: there is no such text, it is damaged, or it does not fit this config.
        """
        if "_prepared" not in self.__dict__:
            prepared = _prepared_text(self.path, self.tokenizer_spec, console)
            prepared.check()
            assert self.vocab_size is not None
            if prepared.vocab_size > self.vocab_size:
                raise UserError(
                    f"Text.vocab_size: {self.vocab_size} tokens do not hold the "
                    f"{prepared.vocab_size} of the tokenizer of {prepared.path}; raise it to "
                    f"{prepared.vocab_size}"
                )
            object.__setattr__(self, "_prepared", prepared)
        return self.__dict__["_prepared"]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text."""
        return self.prepare().tokenizer()

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the held-out split over its tokens, ends of documents included.

        Nats a token over this and ln 2 are bits a byte.
        """
        facts = self.prepare().facts(self.held_out)
        return facts["bytes"] / facts["tokens"]

    def source(self, seed: int, split: str) -> "TextSource":
        """The windows of the training split ('train') or of the held-out one ('test')."""
        return TextSource(self, seed, split)

    def documents(self, split: str | None = None) -> Documents:
        """Whole documents of a split, by default the held-out one, each read when asked for."""
        return Documents(self.prepare().stream(split or self.held_out))


class TextSource(Source[TextConfig]):
    """Windows of a split: number n is a function of text, config, seed and n alone.

    An item holds ``inputs`` (L,) and ``targets`` (L,), int32, with -1 in padding, ``group``,
    and with packing 'documents' ``segment_ids`` (L,), int32. An epoch has ``windows`` of them.
    A split without a whole window is a UserError.
    """

    def __init__(self, config: TextConfig, seed: int, split: str):
        super().__init__(config, seed, split)
        name = "train" if split == "train" else config.held_out
        prepared = config.prepare()
        self.fingerprint = prepared.fingerprint
        self.tokenizer = prepared.manifest["tokenizer"]["fingerprint"]
        self._stream = prepared.stream(name)
        self._layout: _Layout | None = None
        tokens = len(self._stream)
        if config.packing == "documents":
            self._layout = _Layout(self._stream, config.align)
            tokens = self._layout.size
        self.windows = tokens // config.length
        if not self.windows:
            raise UserError(
                f"Text.length: the split {name!r} of {prepared.path} has {tokens} tokens, fewer "
                f"than a window of {config.length}; lower Text.length, or prepare more text"
            )

    def __len__(self) -> int:
        return EXAMPLES if self.split == "train" else self.windows

    def item(self, index: int) -> dict[str, Any]:
        """Window number ``index``."""
        start = self.window(index) * self.config.length
        stop = start + self.config.length
        if self._layout is not None:
            return {**self._layout.read(start, stop), "group": np.int32(0)}
        tokens = self._stream.read(start, stop + 1)
        every = self.config.echo_every
        if self.config.echo and index % every == every - 1:
            rng = np.random.default_rng([self.seed, index])
            size = int(rng.integers(max(2, self.config.echo // 2), self.config.echo + 1))
            gap = int(rng.integers(self.config.gap + 1))
            place = np.arange(len(tokens)) % (size + gap)
            tokens = np.where(place < size, tokens[np.minimum(place, size)], tokens)
        return {"inputs": tokens[:-1], "targets": tokens[1:], "group": np.int32(0)}

    def window(self, index: int) -> int:
        """Which window of the stream an example is."""
        if self.split == "test":
            return index
        epoch, place = divmod(index, self.windows)
        shuffle, seed = grain.experimental.index_shuffle, _epoch_seed(self.seed, epoch)
        return shuffle(place, max_index=self.windows - 1, seed=seed, rounds=4)


class _Layout:
    """The stream with each document's start moved up to a multiple of ``align``."""

    def __init__(self, stream: Stream, align: int):
        self._stream = stream
        self._starts = np.append(stream.starts(), len(stream))
        lengths = np.diff(self._starts)
        padded = (lengths + align - 1) // align * align
        self._places = np.concatenate([np.zeros(1, np.int64), np.cumsum(padded)])
        self.size = int(self._places[-1])

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Inputs, targets and segments of places start .. stop - 1."""
        places = np.arange(start, stop)
        documents = np.searchsorted(self._places, places, side="right") - 1
        positions = places - self._places[documents] + self._starts[documents]
        ends = self._starts[documents + 1]
        padding = positions >= ends
        positions = np.minimum(positions, ends - 1)
        first = int(positions[0])
        tokens = self._stream.read(first, int(positions[-1]) + 2)
        inputs, targets = tokens[positions - first], tokens[positions - first + 1]
        inputs[padding], targets[padding] = self._stream.eos, -1
        segments = (documents - documents[0]).astype(np.int32)
        return {"inputs": inputs, "targets": targets, "segment_ids": segments}


@functools.lru_cache(maxsize=8)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _prepared_text(path: str, tokenizer_spec: str | None, console: Console | None) -> Prepared:
    """A prepared directory, or the one in the cache for text that is not prepared."""
    if not _is_prepared(path):
        return _prepare_in_cache(path, tokenizer_spec or "bytes", console)
    prepared = open_prepared(path)
    if tokenizer_spec is not None:
        given, there = tokenizer(tokenizer_spec), prepared.manifest["tokenizer"]
        if given.fingerprint != there["fingerprint"]:
            raise UserError(
                f"Text.tokenizer_spec: {path} was prepared with {there['spec']}, which is not "
                f"{tokenizer_spec}; leave it at None, or prepare the text again"
            )
    return prepared


def _is_prepared(path: str) -> bool:
    folder = Path(path).expanduser()
    return (folder / MANIFEST).is_file() or (folder / PLAN).is_file()


def _prepare_in_cache(source: str, spec: str, console: Console | None) -> Prepared:
    if not (source == "stdlib" or source.startswith("hf:") or Path(source).expanduser().exists()):
        raise UserError(
            f"Text.path: {source}: there is nothing here; prepare it with "
            f"bmojo data prepare SOURCE --out {source}"
        )
    request = Request(source, spec, validation=FRACTION, test=FRACTION)
    digest = open_corpus(source).digest
    key = "\n".join([digest, tokenizer(spec).fingerprint, str(FRACTION), "cut where few"])
    name = re.sub(r"[^\w.-]+", "-", source if ":" in source else Path(source).name)
    out = cache_directory() / "text" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if (out / MANIFEST).is_file():
        return open_prepared(out)
    console = console or make_console(stderr=True)
    line(console, f"text of {source} is prepared in {out}")
    return prepare(request, out, console=console, wait=True)
