"""Exact search: every query is compared with every key, in blocks, on all cores.

A first pass in float32 keeps, for each query, all entries whose rank may be among the best within
the bound of its rounding errors; these are ranked again in float64. So the result depends neither
on the blocks, nor on the number of cores, nor on the other queries.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bmojo.storage.key_matrix import KeyMatrix

__all__ = ["search"]

BLOCK = 8192
"""Keys that are compared with all queries before the next ones are read."""
TILE = (128, 1024)
"""Keys of one matrix product, at least and at most."""
BLAS_LIMIT = 2**18
"""Multiplications of a product that BLAS libraries do on the calling thread. The threads of larger
ones wait for each other where several products run at once."""
EPSILON = float(np.finfo(np.float32).eps)
CORES = os.cpu_count() or 1
POOL = ThreadPoolExecutor(CORES, thread_name_prefix="bmojo-search")


def search(
    matrix: KeyMatrix, bias: np.ndarray, queries: np.ndarray, nearest: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``nearest`` best entries of each query (Q, G, P), the best first, of equals the older.

    ``bias`` (n,), float64, is added to all inner products of an entry; -inf excludes it.

    Returns:
      Places in the matrix (G, Q, nearest), -1 where vacant, and inner product plus bias there,
      float64, -inf where vacant.
    """
    count, heads, width = queries.shape
    rounded = np.full(-(-len(bias) // TILE[1]) * TILE[1], -np.inf, np.float32)
    rounded[: len(bias)] = bias
    largest = np.abs(bias[np.isfinite(bias)]).max(initial=0.0)
    group = max(BLAS_LIMIT // TILE[0] // width, 1)
    edges = np.linspace(0, len(rounded) // TILE[1], -(-CORES // heads) + 1).astype(int) * TILE[1]
    jobs = [
        (head, first, slice(start, stop))
        for head in range(heads)
        for first in range(0, count, group)
        for start, stop in zip(edges.tolist(), edges[1:].tolist(), strict=False)
    ]

    def scan(job: tuple[int, int, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        head, first, part = job
        some = queries[first : first + group, head]
        # An inner product in float32 is wrong by at most P + 1 roundings of the norms' product.
        size = (width + 2) * np.linalg.norm(some, axis=1) * matrix.largest[head] + largest
        margin = (2 * EPSILON * size).astype(np.float32)
        row, place = _scan(matrix.keys[head][part], some, rounded[part], nearest, margin)
        return np.full(len(row), head), row + first, place + part.start

    found = list(POOL.map(scan, jobs) if len(bias) > BLOCK else map(scan, jobs))
    head, row, place = (np.concatenate(x) for x in zip(*found, strict=True))
    score = np.zeros(len(place))
    for number, keys in enumerate(matrix.keys):
        mine = head == number
        factors = (queries[row[mine], number], keys[place[mine]])
        score[mine] = np.einsum("np,np->n", *(x.astype(np.float64) for x in factors))
    rank = score + bias[place]
    order = np.lexsort((place, -rank, row, head))
    index = (head * count + row)[order]
    column = np.arange(len(order)) - np.searchsorted(index, index)
    order = order[column < nearest]
    at, shape = (head[order], row[order], column[column < nearest]), (heads, count, nearest)
    places, ranks = np.full(shape, -1), np.full(shape, -np.inf)
    places[at], ranks[at] = place[order], rank[order]
    return places, ranks


def _scan(
    keys: np.ndarray, queries: np.ndarray, bias: np.ndarray, nearest: int, margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of queries (Q, P) and of keys (n, P), in pairs: at least the best of each query.

    ``margin`` (Q,) is a bound of the errors of two ranks together.
    """
    tile = TILE[1]
    while tile > TILE[0] and tile * queries.size > BLAS_LIMIT:
        tile //= 2
    query = np.arange(len(queries))
    bound = np.full(len(queries), -np.inf, np.float32)
    row, place, rank = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    buffer = np.empty((BLOCK // tile, len(queries), tile), np.float32)
    for first in range(0, len(keys), BLOCK):
        block = keys[first : first + BLOCK].reshape(-1, tile, keys.shape[1]).swapaxes(1, 2)
        ranks = np.matmul(queries, block, out=buffer[: len(block)])  # (tiles, Q, tile)
        added = bias[first : first + BLOCK]
        if added.any():
            ranks += added.reshape(-1, 1, tile)
        if not first:
            bound = _lower_bound(ranks, nearest) - margin
        tiles, rows = np.nonzero(ranks.max(axis=2) >= bound)
        hits = ranks[tiles, rows]
        hit, column = np.nonzero((hits >= bound[rows, None]) & (hits > -np.inf))
        if not len(hit):
            continue
        row = np.concatenate([row, rows[hit]])
        place = np.concatenate([place, first + tiles[hit] * tile + column])
        rank = np.concatenate([rank, hits[hit, column]])
        order = np.lexsort((-rank, row))
        row, place, rank = row[order], place[order], rank[order]
        # The nearest-th best of a query so far, if there are so many, bounds all others.
        last = np.searchsorted(row, query) + nearest - 1
        full = np.append(row, -1)[np.minimum(last, len(row))] == query
        bound[full] = rank[last[full]] - margin[full]
        keep = rank >= bound[row]
        row, place, rank = row[keep], place[keep], rank[keep]
    return row, place


def _lower_bound(ranks: np.ndarray, nearest: int) -> np.ndarray:
    """A number that at least ``nearest`` ranks (tiles, Q, tile) of each query reach, (Q,)."""
    tiles, count, tile = ranks.shape
    best = ranks.reshape(tiles, count, 8, tile // 8).max(axis=2)
    best = best.swapaxes(0, 1).reshape(count, -1)
    if nearest > best.shape[1]:
        return np.full(count, -np.inf, np.float32)
    return np.partition(best, -nearest, axis=1)[:, -nearest]
