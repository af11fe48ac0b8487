"""Which entries answer queries best."""

import dataclasses

import numpy as np

from bmojo.storage.policy import Policy
from bmojo.storage.resident import Resident

__all__ = ["Candidates", "Request", "best_columns", "candidates", "merge", "rank"]

BLOCK = 64
WIDEST = 1024
"""Candidates of a graph for a query, at most, where filters leave few of them."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is looked for.

    Attributes:
      nearest: entries of each query.
      limit: entries of all queries.
      clock: the store's clock now.
      now: seconds since 1970.
      source: number of the only source that counts, or None: all do.
      exclude_source: number of a source that does not count, or None.
      exclude_after: later positions do not count, of ``exclude_source`` if it is given, else of
        every source; None: all positions are alike.
    """

    nearest: int
    limit: int
    clock: int
    now: float
    source: int | None = None
    exclude_source: int | None = None
    exclude_after: int | None = None

    @property
    def filters(self) -> bool:
        """Whether some entries do not count."""
        return (self.source, self.exclude_source, self.exclude_after) != (None, None, None)

    def allowed(self, resident: Resident, places: np.ndarray | slice) -> np.ndarray:
        """Which entries count."""
        source = resident.column("source")[places]
        result = np.ones(source.shape, bool) if self.source is None else source == self.source
        out = np.zeros(source.shape, bool)
        if self.exclude_after is not None:
            out = resident.column("position")[places] > self.exclude_after
            if self.exclude_source is not None:
                out &= source == self.exclude_source
        elif self.exclude_source is not None:
            out = source == self.exclude_source
        return result & ~out


def rank(
    resident: Resident, policy: Policy, request: Request, head: int, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best entries of one head.

    Args:
      resident: the layer.
      policy: decides what age does.
      request: what is looked for.
      head: the kv head.
      queries: (Q, P), float32.

    Returns:
      Places in ``resident`` (m,) and inner products (m,), best first, m at most the limit.
    """
    if not len(resident):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    places, scores, ranked = candidates(resident, policy, request, head, queries)
    chosen = merge(places, ranked, request.limit)
    return places.reshape(-1)[chosen], scores.reshape(-1)[chosen]


Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places (Q, c), inner products (Q, c), and what they are ranked by, -inf where vacant."""


def candidates(
    resident: Resident, policy: Policy, request: Request, head: int, queries: np.ndarray
) -> Candidates:
    """The ``request.nearest`` best entries of one head for each query (Q, P), best first."""
    found = [_tail(resident, policy, request, head, queries)]
    for number in range(len(resident.segments)):
        found.append(_segment(resident, policy, request, head, queries, number))
    places, scores, ranked = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.lexsort((places, -ranked))[:, : request.nearest]
    places, scores, ranked = (
        np.take_along_axis(x, order, axis=1) for x in (places, scores, ranked)
    )
    return places, scores, ranked


def _tail(
    resident: Resident, policy: Policy, request: Request, head: int, queries: np.ndarray
) -> Candidates:
    """The best of the tail, by comparison with all of it."""
    start = resident.indexed
    scores = queries @ resident.tail_keys(head).T
    part = slice(start, len(resident))
    strength = resident.log_strength(policy, part, request.clock, request.now)
    ranked = scores + strength.astype(np.float32) if strength.any() else scores
    if request.filters:
        ranked = np.where(request.allowed(resident, part), ranked, np.float32(-np.inf))
    columns = best_columns(ranked, request.nearest)
    return (
        columns + start,
        np.take_along_axis(scores, columns, axis=1),
        np.take_along_axis(ranked, columns, axis=1),
    )


def _segment(
    resident: Resident,
    policy: Policy,
    request: Request,
    head: int,
    queries: np.ndarray,
    number: int,
) -> Candidates:
    """The best of the candidates that a graph gives; more of them where filters leave few."""
    opened = resident.segments[number]
    count = max(8, 4 * request.nearest)
    while True:
        ids, scores = opened.search(head, queries, count)
        places = resident.places(ids)
        ok = places >= 0
        if request.filters:
            ok &= request.allowed(resident, places)
        few = ok.sum(axis=1).min(initial=count) < request.nearest
        if not few or count >= min(opened.segment.count, WIDEST):
            break
        count *= 4
    strength = resident.log_strength(policy, places, request.clock, request.now)
    ranked = np.where(ok, scores + strength.astype(np.float32), np.float32(-np.inf))
    return places, scores, ranked


def best_columns(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the largest numbers of each row, best first; of equal ones the left.

    Args:
      scores: (Q, n).
      count: of columns.

    Returns:
      (Q, min(count, n)).
    """
    rows, n = scores.shape
    count = min(count, n)
    if count == 0 or rows == 0:
        return np.zeros((rows, count), np.int64)
    # The count-th largest of the blocks' maxima is a bound that at least count numbers reach.
    blocks = n // BLOCK
    bound = scores
    if blocks >= 2 * count:
        bound = scores[:, : blocks * BLOCK].reshape(rows, blocks, BLOCK).max(axis=2)
    bound = np.partition(bound, bound.shape[1] - count, axis=1)[:, bound.shape[1] - count]
    row, column = np.nonzero(scores >= bound[:, None])
    order = np.lexsort((column, -scores[row, column], row))
    starts = np.searchsorted(row, np.arange(rows))
    return column[order[starts[:, None] + np.arange(count)]]


def merge(ids: np.ndarray, ranked: np.ndarray, limit: int) -> np.ndarray:
    """Join what several queries found, without duplicates.

    Every query's best comes before any query's second; inside a rank the better comes first.

    Args:
      ids: (Q, k), best first.
      ranked: what they are ranked by, (Q, k), -inf where vacant.
      limit: of the result.

    Returns:
      Indices into the flattened arrays, best first, at most ``limit``.
    """
    nearest = ids.shape[1]
    place = np.flatnonzero(ranked.reshape(-1) > -np.inf)
    ids, ranked = ids.reshape(-1)[place], ranked.reshape(-1)[place]
    order = np.lexsort((ids, -ranked, place % max(nearest, 1)))
    _, first = np.unique(ids[order], return_index=True)
    return place[order[np.sort(first)]][:limit]
