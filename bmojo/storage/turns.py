"""What the tokens of a cell find, one after the other."""

import dataclasses

import numpy as np

from bmojo.storage.database import Database
from bmojo.storage.policy import Policy
from bmojo.storage.resident import Resident
from bmojo.storage.search import Request, candidates
from bmojo.storage.trails import Trail

__all__ = ["Looked", "look_up", "take_turns"]

SPARE = 8
"""Candidates of a query beyond those it may take, since others may have taken them before."""
VOTES = 2
"""Candidates of a token and a head that vote for their line."""


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
    trail: Trail | None = None,
    first: int = 0,
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
      trail: only what lies on it is taken; the best that each head finds vote for it.
        None: nothing is asked of the order.
      first: position of the first token.
    """
    count, heads, group, width = queries.shape
    nearest = request.nearest
    wide = dataclasses.replace(request, nearest=4 * nearest + SPARE)
    ids = resident.column("id")
    places = np.full((heads, count * nearest), -1, np.int64)
    ranking: list[tuple[np.ndarray, np.ndarray]] = []
    for head in range(heads if len(resident) else 0):
        flat = np.ascontiguousarray(queries[:, head].reshape(count * group, width))
        found, _, ranked = candidates(resident, policy, wide, head, flat)
        found, ranked = (x.reshape(count, -1) for x in (found, ranked))
        order = np.lexsort((found, -ranked), axis=1) if group > 1 else np.arange(found.shape[1])
        found, ranked = (
            np.take_along_axis(x, np.broadcast_to(order, x.shape), axis=1) for x in (found, ranked)
        )
        ranking.append((found, ranked))
    if trail is not None and ranking:
        ranking = _on(trail, resident, first, ranking)
    for head, (found, ranked) in enumerate(ranking):
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


def _on(
    trail: Trail, resident: Resident, first: int, ranking: list[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Candidates of each head and what they are ranked by, -inf off the trail.

    Only the best of each head vote: among many there is always one that is in line.
    """
    places = np.concatenate([found for found, _ in ranking], axis=1)
    ranked = np.concatenate([ranked for _, ranked in ranking], axis=1)
    source, position = (resident.column(name)[places] for name in ("source", "position"))
    best = np.concatenate([np.arange(found.shape[1]) < VOTES for found, _ in ranking])[None]
    on = trail.follow(first, source, position, np.isfinite(ranked) & best)
    parts = np.split(np.where(on, ranked, -np.inf), len(ranking), axis=1)
    return [(found, part) for (found, _), part in zip(ranking, parts, strict=True)]


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
