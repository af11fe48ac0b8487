"""Stop conditions, and the text of an unfinished continuation."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["Stop", "cut", "readable"]

REPLACEMENT = "\ufffd"
"""The sign for bytes that are no character, or not yet."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Ends of a row before its number of new tokens is reached.

    Attributes:
      ids: tokens that end it; they are not given out.
      strings: texts that end it, once they stand in the decoded continuation. The tokens that
        complete one are given out; :func:`cut` takes it off the text.
      decode: token ids -> text; needed for strings.
    """

    ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
    decode: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        if self.strings and self.decode is None:
            raise ValueError("strings: a way to decode tokens is needed to find them")
        if not all(self.strings):
            raise ValueError("strings: an empty text ends everything at once; leave it out")

    def met(self, tokens: Sequence[int]) -> bool:
        """Whether the last token of a continuation completed a stop string."""
        if not self.strings or self.decode is None:
            return False
        # A token that decodes to nothing is rare: a few more than the longest string's bytes.
        longest = max(len(string.encode()) for string in self.strings) + 8
        text = self.decode(np.asarray(tokens[-longest:], np.int32))
        return any(string in text for string in self.strings)


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first of the stop strings in it."""
    found = [at for at in (text.find(string) for string in strings) if at >= 0]
    return text[: min(found)] if found else text


def readable(text: str, strings: Sequence[str] = ()) -> str:
    """The beginning of an unfinished text that no further token will change.

    Held back are bytes at the end that are no character yet, and an end that could become a
    stop string.
    """
    before = cut(text, strings)
    if before != text:
        return before
    text = text.rstrip(REPLACEMENT)
    begun = [
        size
        for string in strings
        for size in range(1, min(len(string), len(text) + 1))
        if text.endswith(string[:size])
    ]
    return text[: len(text) - max(begun)] if begun else text
