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

    Args:
      agree: tokens, of the last ``2 * agree``, that have to have found an entry on a line before
        the entries on it count.

    Raises:
      ValueError: ``agree`` is below 1.
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
        """Let n tokens vote in turn, each for the lines of its candidates.

        A token that has voted does not vote again, and no token sees the votes of later ones.

        Args:
          first: position of the first token.
          source: number of the source of each candidate (n, c).
          position: of each candidate in it (n, c).
          votes: which candidates vote (n, c).

        Returns:
          Which candidates lie on a line that enough tokens have voted for (n, c).
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
