"""Loss on repeated n-grams: tokens that only the text before them could have taught.

A token is *local* if the training text never has it after the ``span`` tokens before it: names,
rare words, numbers. A local token is *repeated* if the same n-gram of ``span + 1`` tokens has
occurred before in the same window of text; only a model that remembers it can predict it. The
loss on repeated tokens by the distance to the last occurrence measures a memory, and the loss on
local tokens that are new is its baseline. A relative of the hits of associative recall of Zoology
(Arora et al., arXiv 2312.04927), which asks for two tokens, not for unseen ones.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bmojo.console import Progress, unseen
from bmojo.evaluation.perplexity import standard_error

__all__ = ["SPAN", "known_ngrams", "losses_by_distance", "ngram_hashes", "repeat_distances"]

SPAN = 6

_BASE = np.uint64(0x9E3779B97F4A7C15)


def ngram_hashes(tokens: Any, span: int = SPAN) -> np.ndarray:
    """A number for every ``span + 1`` consecutive tokens, equal for equal tokens (modulo 2^64).

    Of n ids: (n - span,) uint64, for the tokens at span .. n - 1; empty if there are fewer.
    """
    ids = np.asarray(tokens).astype(np.uint64) + np.uint64(1)
    count = max(len(ids) - span, 0)
    found = np.zeros(count, np.uint64)
    for place in range(span + 1):
        found = found * _BASE + ids[place : place + count]
        found ^= found >> np.uint64(29)
    return found


def known_ngrams(
    documents: Iterable[Any], span: int = SPAN, progress: Progress = unseen
) -> np.ndarray:
    """All different :func:`ngram_hashes` of a training text, in rising order, uint64."""
    parts = [np.zeros(0, np.uint64)]
    for document in documents:
        parts.append(np.unique(ngram_hashes(document, span)))
        progress(len(document))
    return np.unique(np.concatenate(parts))


def repeat_distances(tokens: Any, known: np.ndarray, span: int = SPAN) -> np.ndarray:
    """Distance from each local token of a window (n,) to the last occurrence of its n-gram.

    ``known`` is from :func:`known_ngrams`, with the same ``span``.

    Returns:
      (n - 1,) for the tokens 1 .. n - 1: the distance to the last occurrence of the token and the
      ``span`` tokens before it; 0 for the first one; -1 if the training text has it, or if fewer
      than ``span`` tokens stand before it.
    """
    found = ngram_hashes(tokens, span)
    far = np.full(max(len(tokens) - 1, 0), -1)
    if not len(found):
        return far
    order = np.argsort(found, kind="stable")
    same = found[order][1:] == found[order][:-1]
    back = np.zeros(len(found), np.int64)
    back[order[1:][same]] = (order[1:] - order[:-1])[same]
    place = np.minimum(np.searchsorted(known, found), max(len(known) - 1, 0))
    seen = known[place] == found if len(known) else False
    far[span - 1 :] = np.where(seen, -1, back)
    return far


def losses_by_distance(
    windows: Sequence[Any], losses: Sequence[Any], known: np.ndarray, span: int = SPAN
) -> list[dict[str, Any]]:
    """Mean loss by distance to the last occurrence.

    Windows are token ids (n,), losses nats of the tokens 1 .. n - 1 of each, (n - 1,).

    Returns:
      Rows of ``kind`` ('known', 'new' or 'repeated'), ``start`` and ``stop`` (distances
      start .. stop - 1, powers of two; None if not 'repeated'), ``loss`` (nats a token, None
      without tokens), ``stderr`` (over windows, since tokens of one are not independent) and
      ``count``.
    """
    far = [repeat_distances(window, known, span) for window in windows]
    most = max((int(x.max(initial=0)) for x in far), default=0)
    powers = [1 << p for p in range(most.bit_length())]
    buckets = [("known", -1, 0), ("new", 0, 1), *(("repeated", low, 2 * low) for low in powers)]
    rows = []
    for kind, low, high in buckets:
        chosen = [(x >= low) & (x < high) for x in far]
        counts = np.asarray([part.sum() for part in chosen], np.float64)
        parts = zip(losses, chosen, strict=True)
        sums = np.asarray([np.asarray(loss)[part].sum(dtype=np.float64) for loss, part in parts])
        used, total = counts > 0, counts.sum()
        loss = float(sums.sum() / total) if total else None
        error = standard_error(sums[used] / counts[used], counts[used])
        start, stop = (low, high) if kind == "repeated" else (None, None)
        row = {"kind": kind, "start": start, "stop": stop, "loss": loss, "stderr": error}
        rows.append({**row, "count": int(total)})
    return rows
