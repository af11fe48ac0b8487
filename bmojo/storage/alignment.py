"""Alignment: whether entries lie in the order in which the tokens that find them are read.

A text that is read again finds itself: token after token finds the entry one further on. Chance
finds something else at each. An entry at position p of its source, found by token t, is on the
line (source, p - t).
"""

from collections import Counter, deque

import numpy as np

__all__ = ["Alignment"]


class Alignment:
    """Lines that the last tokens of a stream agree on, in one layer.

    Entries on a line count once ``agree`` of the last ``2 * agree`` tokens have found one on it.
    """

    def __init__(self, agree: int):
        if agree < 1:
            raise ValueError(f"agree: must be at least 1, got {agree}")
        self._agree, self._next = agree, 0
        self._last: deque[tuple[int, frozenset[tuple[int, int]]]] = deque()
        self._votes: Counter[tuple[int, int]] = Counter()

    def vote(
        self, first: int, source: np.ndarray, position: np.ndarray, votes: np.ndarray
    ) -> np.ndarray:
        """Which candidates (n, c) lie on a line that enough tokens have voted for.

        The n tokens from position ``first`` on vote in turn for the lines of those of their
        candidates in ``votes``, with numbers of ``source`` and the position in it. A token that
        has voted does not vote again, and none sees the votes of later ones.
        """
        line = position - (first + np.arange(len(position)))[:, None]
        result = np.zeros(votes.shape, bool)
        for row, (sources, lines, voting) in enumerate(
            zip(source.tolist(), line.tolist(), votes.tolist(), strict=True)
        ):
            pairs = list(zip(sources, lines, strict=True))
            if first + row >= self._next:
                found = frozenset(pair for pair, one in zip(pairs, voting, strict=True) if one)
                self._add(first + row, found)
            result[row] = [self._votes[pair] >= self._agree for pair in pairs]
        return result

    def _add(self, token: int, lines: frozenset[tuple[int, int]]) -> None:
        self._next = token + 1
        self._last.append((token, lines))
        self._votes.update(lines)
        while self._last[0][0] <= token - 2 * self._agree:
            self._votes.subtract(old := self._last.popleft()[1])
            for pair in old:
                if not self._votes[pair]:
                    del self._votes[pair]
