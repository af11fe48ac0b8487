"""Loss of long documents, through the state in segments of fixed length.

A row reads one document, segment by segment, then the next one. A document begins from the empty
state, not from a change of segment id, so that its memory is refreshed at the same positions as in
the parallel form, and the losses are the same. The state's memory does not depend on the
documents' lengths, except for full attention, whose state holds the longest of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.console import Progress, unseen
from bmojo.generation.generate import check_finite, check_tokens, memory_grows, start
from bmojo.layers.protocol import State
from bmojo.types import Array

__all__ = ["BATCH_SIZE", "SEGMENT_LENGTH", "Scores", "score", "stream_losses"]

SEGMENT_LENGTH = 256
BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Scores:
    """Nats of tokens 1 .. n - 1 of a document given those before each, float32 (n - 1,).

    ``right``: whether each of them was the most likely one, (n - 1,).
    """

    losses: np.ndarray
    right: np.ndarray


def stream_losses(
    model: Any, documents: Sequence[Any], *rest: Any, **more: Any
) -> list[np.ndarray]:
    """The losses of :func:`score`: for each document of n tokens, n - 1 numbers in nats."""
    return [scores.losses for scores in score(model, documents, *rest, **more)]


def score(
    model: Any,
    documents: Sequence[Any],
    segment_length: int = SEGMENT_LENGTH,
    batch_size: int = BATCH_SIZE,
    progress: Progress = unseen,
) -> list[Scores]:
    """Predict every token of every document but the first from all those before it.

    The model, a :class:`bmojo.model.Model`, reads ``batch_size`` documents at the same time,
    ``segment_length`` tokens of each in a call; progress is counted in tokens predicted. In
    documents with fewer than two tokens nothing is predicted.

    Returns:
      One entry for each document, in order.

    Raises:
      UserError: a document holds a token that the model has not, or a loss is not finite.
    """
    for number, document in enumerate(documents):
        check_tokens(document, model.config.vocab_size, f"document {number}")
    counts = [max(len(document) - 1, 0) for document in documents]
    results = [Scores(np.zeros(n, np.float32), np.zeros(n, bool)) for n in counts]
    # The longest first, so that at the end no row is left alone with a long one.
    waiting = sorted((i for i, n in enumerate(counts) if n), key=lambda i: (counts[i], -i))
    if not waiting:
        return results
    rows = min(batch_size, len(waiting))
    longest = counts[waiting[-1]]
    capacity = -(-longest // segment_length) * segment_length if memory_grows(model) else None
    graph, parameters = nnx.split(model)
    segment = _segment(graph, rows, capacity)
    state = start(model, rows, capacity)
    readers: list[Iterator[tuple[int, range]]] = [iter(())] * rows

    def next_part(row: int) -> tuple[int, range] | None:
        """Document and places of the next predictions of a row."""
        part = next(readers[row], None)
        if part is None and waiting:
            index = waiting.pop()
            places = range(counts[index])
            firsts = range(0, counts[index], segment_length)
            readers[row] = ((index, places[first : first + segment_length]) for first in firsts)
            part = next(readers[row])
        return part

    while any(parts := [next_part(row) for row in range(rows)]):
        tokens = np.zeros((rows, segment_length + 1), np.int32)
        lengths, fresh = np.zeros(rows, np.int32), np.zeros(rows, bool)
        given = [(row, *part) for row, part in enumerate(parts) if part is not None]
        for row, index, places in given:
            lengths[row], fresh[row] = len(places), places.start == 0
            tokens[row, : len(places) + 1] = documents[index][places.start : places.stop + 1]
        losses, right, state = segment(parameters, state, tokens, lengths, fresh)
        losses, right = np.asarray(losses), np.asarray(right)
        for row, index, places in given:
            found = losses[row, : len(places)]
            check_finite(found, f"document {index}: its loss")
            results[index].losses[places.start : places.stop] = found
            results[index].right[places.start : places.stop] = right[row, : len(places)]
        progress(int(lengths.sum()))
    return results


@functools.lru_cache(maxsize=16)
def _segment(graph: Any, rows: int, capacity: int | None) -> Callable[..., Any]:
    """The program that predicts one segment of every row."""

    @functools.partial(jax.jit, donate_argnums=1)
    def segment(
        parameters: Any, state: State, tokens: Array, lengths: Array, fresh: Array
    ) -> tuple[Array, Array, State]:
        model = nnx.merge(graph, parameters)

        def begin(old: Array, new: Array) -> Array:
            # Leaves are (periods, rows, ...).
            return jnp.where(fresh.reshape(1, -1, *[1] * (old.ndim - 2)), new, old)

        state = jax.tree.map(begin, state, model.init_state(rows, capacity))
        valid = jnp.arange(tokens.shape[1] - 1) < lengths[:, None]
        targets = jnp.where(valid, tokens[:, 1:], -1)
        losses, right, state = model.score(tokens[:, :-1], targets, state, None, lengths)
        return losses, right > 0, state

    return segment
