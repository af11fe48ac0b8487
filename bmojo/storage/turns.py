"""What the tokens of a cell find, one after the other."""

import dataclasses

import numpy as np

from bmojo.storage.database import Database
from bmojo.storage.policy import Policy
from bmojo.storage.resident import Resident
from bmojo.storage.search import Request, candidates

__all__ = ["Looked", "look_up", "take_turns"]

SPARE = 8
"""Candidates of a query beyond those it may take, since others may have taken them before."""


@dataclasses.dataclass(frozen=True)
class Looked:
    """Entries for n tokens, the first ``nearest`` for the first token and so on.

    Attributes:
      key: (n * nearest, G, P), float32; zero where vacant.
      value: (n * nearest, G, P), float32; zero where vacant.
      id: (n * nearest, G), int64; -1 where vacant.
    """

    key: np.ndarray
    value: np.ndarray
    id: np.ndarray


def look_up(
    resident: Resident,
    rows: Database,
    policy: Policy,
    request: Request,
    queries: np.ndarray,
    taken: np.ndarray,
) -> Looked:
    """Let tokens take entries in turn, each the best that none before it has taken.

    So what a token gets does not depend on those behind it, and nothing is there twice.

    Args:
      resident: what is kept in memory of the layer.
      rows: where the rest of it is.
      policy: decides what age does.
      request: what is looked for; ``nearest`` is what a token may take, its limit is not used.
      queries: (n, G, h, P), of the h query heads of each kv head.
      taken: ids that were taken before (c, G).
    """
    count, heads, group, width = queries.shape
    nearest = request.nearest
    wide = dataclasses.replace(request, nearest=4 * nearest + SPARE)
    ids = resident.column("id")
    places = np.full((heads, count * nearest), -1, np.int64)
    for head in range(heads):
        if not len(resident):
            break
        flat = np.ascontiguousarray(queries[:, head].reshape(count * group, width))
        found, _, ranked = candidates(resident, policy, wide, head, flat)
        found, ranked = (x.reshape(count, -1) for x in (found, ranked))
        order = np.lexsort((found, -ranked), axis=1) if group > 1 else np.arange(found.shape[1])
        found, ranked = (
            np.take_along_axis(x, np.broadcast_to(order, x.shape), axis=1) for x in (found, ranked)
        )
        gone = resident.places(taken[:, head])
        places[head] = take_turns(found, ranked, nearest, gone[gone >= 0]).reshape(-1)
    outside = ids[np.unique(places[(places >= 0) & (places < resident.indexed)])]
    payloads = rows.payloads(outside.tolist(), (heads, width))
    key, value = np.zeros((2, count * nearest, heads, width), np.float32)
    number = np.full((count * nearest, heads), -1, np.int64)
    for head, slot in zip(*np.nonzero(places >= 0), strict=True):
        place = places[head, slot]
        if place >= resident.indexed:
            key[slot, head], value[slot, head] = resident.payload(place, head)
        elif (data := payloads.get(int(ids[place]))) is not None:
            key[slot, head], value[slot, head] = data[:, head]
        else:  # the writer has forgotten it in this moment
            continue
        number[slot, head] = ids[place]
    return Looked(key, value, number)


def take_turns(
    found: np.ndarray, ranked: np.ndarray, nearest: int, taken: np.ndarray
) -> np.ndarray:
    """What each of n tokens takes.

    Args:
      found: candidates of each token (n, c), best first.
      ranked: -inf where there is none (n, c).
      nearest: that each may take.
      taken: candidates that nobody may take.

    Returns:
      Candidates (n, nearest), -1 where a token finds no more.
    """
    gone = set(taken.tolist())
    result = np.full((len(found), nearest), -1, np.int64)
    for token, (row, there) in enumerate(zip(found.tolist(), np.isfinite(ranked), strict=True)):
        got = 0
        for candidate, ok in zip(row, there.tolist(), strict=True):
            if got == nearest:
                break
            if ok and candidate not in gone:
                gone.add(candidate)
                result[token, got] = candidate
                got += 1
    return result
