"""Loss by length of the context, and by position in it, from one pass over the documents.

The loss at a position does not depend on later tokens, so one pass measures every length of
context: documents are cut into windows of the longest context C, each read from an empty state,
and the first c positions of a window are a window of c tokens for every c <= C. The last window
of a document may be shorter than C; it counts for the contexts and positions that it reaches. A
context of c tokens is c predictions, the first from one token.

Means over different contexts are means over different texts where documents differ in
length. ``loss_same_windows`` is over the windows of the longest context that any reaches, and
so compares contexts on the same texts.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.evaluation.streaming import stream_losses

__all__ = ["Measured", "by_context", "by_position", "edges", "measure", "standard_error"]

CONTEXTS = tuple(2**power for power in range(9, 17))

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Token ids of windows, one more than predictions, and losses in nats of each predicted token.

    ``sizes`` are bytes of text of each predicted token, None: unknown; ``documents`` says of which
    document each window is, ``lengths`` are predictions of each document.
    """

    windows: list[np.ndarray]
    losses: list[np.ndarray]
    sizes: list[np.ndarray] | None
    documents: list[int]
    lengths: list[int]


def measure(
    model: Any,
    documents: Sequence[Any],
    longest: int,
    decode_bytes: Callable[[Iterable[int]], bytes] | None = None,
    text_bytes: int | None = None,
    **reading: Any,
) -> Measured:
    """Predict every token of every document but its first, from a context of bounded length.

    Windows of ``longest`` (C) tokens are read as by :func:`bmojo.evaluation.streaming.score`, with
    its options. The bytes of a token are those of ``decode_bytes``, scaled so that the sum is that
    of the documents' text, ``text_bytes``: tokens of a tokenizer that normalizes text or leaves
    blanks out have other bytes than it. Without both they are unknown.

    Raises:
      UserError: there is nothing to predict in the documents.
    """
    if longest < 1:
        raise UserError(f"context: {longest} is too short; give at least 1")
    windows: list[np.ndarray] = []
    owners: list[int] = []
    lengths: list[int] = []
    for number, document in enumerate(documents):
        tokens = np.asarray(document)
        lengths.append(max(len(tokens) - 1, 0))
        for first in range(0, lengths[-1], longest):
            windows.append(tokens[first : first + longest + 1])
            owners.append(number)
    if not windows:
        raise UserError("documents: none has two tokens, so that there is nothing to predict")
    losses = stream_losses(model, windows, **reading)
    sizes = None
    if decode_bytes is not None:
        predicted = np.concatenate([window[1:] for window in windows])
        tokens, place = np.unique(predicted, return_inverse=True)
        each = np.asarray([len(decode_bytes([token])) for token in tokens.tolist()])[place]
        scale = 1.0 if text_bytes is None else text_bytes / max(each.sum(), 1)
        ends = np.cumsum([len(window) - 1 for window in windows])
        sizes = np.split(each * scale, ends[:-1])
    return Measured(windows, losses, sizes, owners, lengths)


def by_context(found: Measured, contexts: Sequence[int]) -> list[Row]:
    """A row for each length of context, in rising order.

    A row has ``context``, ``loss`` (nats a token), ``stderr`` (of the loss, over windows),
    ``perplexity``, ``bits_per_byte`` (None where bytes are unknown), ``loss_same_windows``,
    and the numbers of ``windows``, ``tokens``, ``documents``, and ``documents_too_short``, those
    without such a window. Values are None where there is no window.
    """
    wanted = sorted(set(contexts))
    reached = [c for c in wanted if any(len(loss) >= c for loss in found.losses)]
    rows: list[Row] = []
    for context in wanted:
        chosen = [i for i, loss in enumerate(found.losses) if len(loss) >= context]
        means = np.asarray([found.losses[i][:context].mean(dtype=np.float64) for i in chosen])
        loss = float(means.mean()) if chosen else None
        size = sum(float(found.sizes[i][:context].sum()) for i in chosen) if found.sizes else 0
        longest = [len(found.losses[i]) >= reached[-1] for i in chosen]
        used = {found.documents[i] for i in chosen}
        bits = float(means.sum()) * context / math.log(2)
        row = {
            "context": context,
            "loss": loss,
            "stderr": standard_error(means),
            # JSON knows no infinity.
            "perplexity": None if loss is None or loss >= 700 else math.exp(loss),
            "bits_per_byte": bits / size if size else None,
            "loss_same_windows": float(means[longest].mean()) if any(longest) else None,
            "windows": len(chosen),
            "tokens": context * len(chosen),
            "documents": len(used),
            "documents_too_short": len(found.lengths) - len(used),
        }
        rows.append(row)
    return rows


def edges(longest: int, also: int | None = None) -> list[int]:
    """Bounds of buckets of positions: two an octave, and one at ``also``."""
    steps = {round(2 ** (half / 2)) for half in range(2 * max(longest, 1).bit_length() + 2)}
    inside = {edge for edge in steps if edge < longest}
    if also is not None and 0 < also < longest:
        inside.add(also)
    return [0, *sorted(inside), longest]


def by_position(found: Measured, training_length: int | None = None) -> list[Row]:
    """A row for each bucket of positions.

    A row has ``start`` and ``stop`` (positions start .. stop - 1), ``loss`` (nats a token),
    ``stderr`` (over windows, since tokens of one are not independent),
    ``count`` (tokens) and ``windows``. With a training length T, and for positions from T
    on, there is also ``change``: the loss relative to that at positions T/2 .. T - 1 of the
    same windows, 0 if the model does as well beyond T as before; else None.
    """
    longest = max(len(loss) for loss in found.losses)
    limits = edges(longest, training_length)
    rows: list[Row] = []
    for first, last in zip(limits, limits[1:], strict=False):
        reaching = [loss for loss in found.losses if len(loss) > first]
        parts = [loss[first:last] for loss in reaching]
        counts = np.asarray([len(part) for part in parts], np.float64)
        means = np.asarray([part.mean(dtype=np.float64) for part in parts])
        loss = float((means * counts).sum() / counts.sum())
        change = None
        if training_length is not None and first >= training_length:
            near = [part[training_length // 2 : training_length] for part in reaching]
            before = np.asarray([part.mean(dtype=np.float64) for part in near])
            change = loss / float((before * counts).sum() / counts.sum()) - 1
        row = {"start": first, "stop": last, "loss": loss, "stderr": standard_error(means, counts)}
        rows.append({**row, "count": int(counts.sum()), "windows": len(parts), "change": change})
    return rows


def standard_error(means: np.ndarray, counts: np.ndarray | float = 1.0) -> float | None:
    """Standard error of the mean of tokens in clusters of means (n,); None for fewer than two.

    ``counts`` are tokens of each cluster, (n,), or one number for all.
    """
    number = len(means)
    if number < 2:
        return None
    counts = np.broadcast_to(counts, means.shape)
    deviations = counts * (means - (means * counts).sum() / counts.sum())
    return float(np.sqrt((deviations**2).sum() * number / (number - 1)) / counts.sum())
