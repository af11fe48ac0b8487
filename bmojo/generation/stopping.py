"""Stop conditions, and the text of a continuation while it grows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Continuation", "Stop", "cut", "readable"]

CONTEXT = 8
"""Tokens of a prompt that its continuation is decoded with."""

REPLACEMENT = "\ufffd"
"""The sign for bytes that are no character, or not yet."""


class Continuation:
    """The text of a continuation, token by token.

    What a token adds depends on those before it: the blank before its word, the other bytes of its
    character. So tokens are decoded together with the last ones whose text is known, of the
    prompt at first. Known text never changes.

    Args:
      decode: token ids -> text.
      prompt: token ids before the continuation.
      ids: its first tokens.

    Attributes:
      text: of its tokens, but for bytes at the end that are no character yet.
    """

    def __init__(self, decode: Callable[[Any], str], prompt: Any = (), ids: Any = ()) -> None:
        size = CONTEXT
        while REPLACEMENT in decode(prompt[-size:]) and size < len(prompt):
            size *= 2  # it begins within a character
        self._decode, self._ids, self.text = decode, list(prompt[-size:]), ""
        self._known, self._before = len(self._ids), decode(self._ids)
        for token in ids:
            self.add(token)

    def add(self, token: int) -> str:
        """The text that a further token makes known."""
        self._ids.append(int(token))
        new = self._new()
        if new.endswith(REPLACEMENT):
            # Some decoders give up all of a run of bytes for one of them that is wrong.
            most = min(4, len(self._ids) - self._known - 1)
            ends = (self._decode(self._ids[-size:]) for size in range(1, most + 1))
            wrong = len(self._ids) - self._known
            for size, end in enumerate(ends, start=1):
                if end and REPLACEMENT not in end:
                    new = REPLACEMENT * (wrong - size) + end
                    break
            else:
                return ""
        if new:
            self.text += new
            self._ids = self._ids[self._known :]
            self._known, self._before = len(self._ids), self._decode(self._ids)
        return new

    @property
    def whole(self) -> str:
        """All of the text, with signs for bytes at its end that are no character."""
        return self.text + self._new()

    def _new(self) -> str:
        return self._decode(self._ids)[len(self._before) :]


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

    def met(self, text: Continuation, token: int) -> bool:
        """Add a token to the text of a row; whether it completes a stop string."""
        new = len(text.add(token))
        return any(string in text.text[-new - len(string) + 1 :] for string in self.strings if new)


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first of the stop strings in it."""
    found = [at for at in (text.find(string) for string in strings) if at >= 0]
    return text[: min(found)] if found else text


def readable(text: str, strings: Sequence[str] = ()) -> str:
    """The beginning of an unfinished text that will be shown in any case.

    An end that could become a stop string is held back.
    """
    before = cut(text, strings)
    if before != text:
        return before
    begun = [
        size
        for string in strings
        for size in range(1, min(len(string), len(text) + 1))
        if text.endswith(string[:size])
    ]
    return text[: len(text) - max(begun)] if begun else text
