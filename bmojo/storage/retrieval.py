"""From queries to keys and values."""

import numpy as np

from bmojo.storage.database import Database
from bmojo.storage.entries import Found
from bmojo.storage.policy import Policy
from bmojo.storage.resident import Resident
from bmojo.storage.search import Request, rank

__all__ = ["retrieve"]


def retrieve(
    resident: Resident, rows: Database, policy: Policy, request: Request, queries: np.ndarray
) -> Found:
    """The best entries of a layer for each kv head.

    Args:
      resident: what is kept in memory of the layer.
      rows: where the rest of it is.
      policy: decides what age does.
      request: what is looked for.
      queries: (Q, G, P), float32.
    """
    heads, width = queries.shape[1:]
    ranked = [rank(resident, policy, request, head, queries[:, head]) for head in range(heads)]
    ids = resident.column("id")
    outside = {
        int(ids[place]) for places, _ in ranked for place in places if place < resident.indexed
    }
    payloads = rows.payloads(sorted(outside), (heads, width))
    key, value = np.zeros((2, heads, request.limit, width), np.float32)
    number = np.full((heads, request.limit), -1, np.int64)
    score = np.full((heads, request.limit), -np.inf, np.float32)
    strength = np.zeros((heads, request.limit), np.float32)
    for head, (places, scores) in enumerate(ranked):
        left = np.exp(resident.log_strength(policy, places, request.clock, request.now))
        slot = 0
        for place, product, rest in zip(places.tolist(), scores, left, strict=True):
            if place >= resident.indexed:
                key[head, slot], value[head, slot] = resident.payload(place, head)
            elif (data := payloads.get(int(ids[place]))) is not None:
                key[head, slot], value[head, slot] = data[:, head]
            else:  # the writer has forgotten it in this moment
                continue
            number[head, slot], score[head, slot] = ids[place], product
            strength[head, slot] = rest
            slot += 1
    return Found(key, value, int((number >= 0).sum(axis=1).max()), number, score, strength)
