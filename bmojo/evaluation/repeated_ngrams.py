"""Loss on what comes back: tokens that only the text before them could have taught.

A token is *local* if the training text never has it behind the ``span`` tokens before it: names,
rare words, numbers. A local token *returns* if the same ``span + 1`` tokens have occurred before
in the same window of text; who remembers them can foretell it, whoever does not cannot. The loss
on returning tokens by the distance to where they were last is what a memory is worth, and the loss
on those that are local and new is what it is worth nothing for. A relative of the hits of
associative recall of Zoology (Arora et al., arXiv 2312.04927), which asks for two tokens, not for
unseen ones.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["SPAN", "by_return", "distances", "known_spans", "spans"]

SPAN = 6

_BASE = np.uint64(0x9E3779B97F4A7C15)


def spans(tokens: Any, span: int = SPAN) -> np.ndarray:
    """A number for every ``span + 1`` consecutive tokens, equal where they are (modulo 2^64).

    Args:
      tokens: (n,) ids.
      span: tokens before the last.

    Returns:
      (n - span,) uint64, for the tokens at span .. n - 1; empty if there are fewer.
    """
    ids = np.asarray(tokens).astype(np.uint64) + np.uint64(1)
    count = max(len(ids) - span, 0)
    found = np.zeros(count, np.uint64)
    for place in range(span + 1):
        found = found * _BASE + ids[place : place + count]
        found ^= found >> np.uint64(29)
    return found


def known_spans(
    documents: Iterable[Any],
    span: int = SPAN,
    progress: Callable[[int], None] = lambda tokens: None,
) -> np.ndarray:
    """All different :func:`spans` of a training text, in rising order, uint64."""
    parts = [np.zeros(0, np.uint64)]
    for document in documents:
        parts.append(np.unique(spans(document, span)))
        progress(len(document))
    return np.unique(np.concatenate(parts))


def distances(tokens: Any, known: np.ndarray, span: int = SPAN) -> np.ndarray:
    """How far back each token's span was last, if it is local.

    Args:
      tokens: (n,) ids of one window of text.
      known: from :func:`known_spans`, with the same ``span``.
      span: tokens before.

    Returns:
      (n - 1,) for the tokens 1 .. n - 1: the distance to the last occurrence of the token and the
      ``span`` tokens before it; 0 for the first one; -1 if the training text has it, or if fewer
      than ``span`` tokens stand before it.
    """
    found = spans(tokens, span)
    far = np.full(max(len(tokens) - 1, 0), -1)
    if not len(found):
        return far
    order = np.argsort(found, kind="stable")
    same = found[order][1:] == found[order][:-1]
    back = np.zeros(len(found), np.int64)
    back[order[1:][same]] = (order[1:] - order[:-1])[same]
    place = np.searchsorted(known, found)
    seen = np.zeros(len(found), bool)
    inside = place < len(known)
    seen[inside] = known[place[inside]] == found[inside]
    far[span - 1 :] = np.where(seen, -1, back)
    return far


def by_return(
    windows: Sequence[Any], losses: Sequence[Any], known: np.ndarray, span: int = SPAN
) -> list[dict[str, Any]]:
    """Mean loss by distance to the last occurrence.

    Args:
      windows: token ids of each, (n,).
      losses: nats of the tokens 1 .. n - 1 of each, (n - 1,).
      known: from :func:`known_spans`.
      span: tokens before.

    Returns:
      Rows of ``kind`` ('known', 'new' or 'returns'), ``start`` and ``stop`` (distances
      start .. stop - 1, powers of two; None if not 'returns'), ``loss`` (nats a token, None without
      tokens), ``stderr`` (over windows, since tokens of one are not independent) and ``count``.
    """
    far = [distances(window, known, span) for window in windows]
    most = max((int(x.max()) for x in far if len(x)), default=0)
    powers = [1 << p for p in range(most.bit_length())]
    buckets: list[tuple[str, int | None, int | None]] = [("known", None, None), ("new", None, None)]
    buckets += [("returns", power, 2 * power) for power in powers]
    rows = []
    for kind, start, stop in buckets:
        low, high = {"known": (-1, 0), "new": (0, 1)}.get(kind, (start, stop))
        chosen = [(x >= low) & (x < high) for x in far]
        counts = np.asarray([part.sum() for part in chosen], np.float64)
        parts = zip(losses, chosen, strict=True)
        sums = np.asarray([np.asarray(loss)[part].sum(dtype=np.float64) for loss, part in parts])
        total = counts.sum()
        loss = sums.sum() / total if total else None
        error, used = None, int((counts > 0).sum())
        if loss is not None and used > 1:
            deviations = sums - loss * counts
            error = float(np.sqrt((deviations**2).sum() * used / (used - 1)) / total)
        rows.append(
            {
                "kind": kind,
                "start": start,
                "stop": stop,
                "loss": None if loss is None else float(loss),
                "stderr": error,
                "count": int(total),
            }
        )
    return rows
