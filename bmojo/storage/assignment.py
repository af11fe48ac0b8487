"""Assignment of entries to tokens: each token takes its best entries that none before it took.

So the entries of a token do not depend on later tokens, and no entry is assigned twice.
"""

import numpy as np

from bmojo.storage.alignment import Alignment
from bmojo.storage.key_matrix import KeyMatrix
from bmojo.storage.search import search

__all__ = ["assign", "take"]

SPARE = 8
"""Candidates of a query beyond those it may take, since others may have taken them before."""
VOTES = 2
"""Candidates of a token and a head that vote for their line. Only the best do: among many there is
always one that is in line."""


def assign(
    matrix: KeyMatrix,
    bias: np.ndarray,
    queries: np.ndarray,
    nearest: int,
    taken: np.ndarray,
    alignment: Alignment | None,
    first: int,
) -> np.ndarray:
    """Places of n tokens' entries, (G, n * nearest), -1 where vacant; as :meth:`Store.assign`."""
    count, heads, group, width = queries.shape
    flat = queries.swapaxes(1, 2).reshape(count * group, heads, width)
    found = search(matrix, bias, flat, 4 * nearest + SPARE)
    place, rank = (x.reshape(heads, count, -1) for x in found)
    order = np.lexsort((place, -rank))
    place, rank = (np.take_along_axis(x, order, axis=2) for x in (place, rank))
    if alignment is not None and len(matrix):
        best = np.isfinite(rank) & (np.arange(rank.shape[2]) < VOTES)
        source, position = matrix.column("source")[place], matrix.column("position")[place]
        by_token = [x.swapaxes(0, 1).reshape(count, -1) for x in (source, position, best)]
        on = alignment.vote(first, *by_token).reshape(count, heads, -1).swapaxes(0, 1)
        rank = np.where(on, rank, -np.inf)
    args = zip(place, rank, matrix.places(taken), strict=True)
    return np.stack([take(p, r, nearest, gone) for p, r, gone in args]).reshape(heads, -1)


def take(place: np.ndarray, rank: np.ndarray, nearest: int, taken: np.ndarray) -> np.ndarray:
    """Candidates that each token takes in turn, (n, nearest), -1 where vacant.

    Candidates ``place`` (n, c) are sorted, the best first; one may be there twice. Those with the
    rank -inf do not count, and places in ``taken`` are not assigned.
    """
    gone = set(taken.tolist())
    result = np.full((len(place), nearest), -1)
    for token, (row, there) in enumerate(zip(place, np.isfinite(rank), strict=True)):
        slot = 0
        for candidate in row[there].tolist():
            if slot < nearest and candidate not in gone:
                gone.add(candidate)
                result[token, slot] = candidate
                slot += 1
    return result
