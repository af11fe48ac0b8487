"""Accuracy by group of examples, such as the number of key-value pairs, and by distance."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bmojo.console import Progress, unseen
from bmojo.data.pipeline import Batches
from bmojo.generation.generate import check_finite
from bmojo.training.config import Evaluation
from bmojo.training.evaluate import Meter, Row
from bmojo.training.parameters import Parameters, Structure, split
from bmojo.training.train_step import device_fields
from bmojo.types import Array

__all__ = ["evaluate", "evaluate_recall", "query_distances"]


def evaluate(
    model: Any, evaluations: Sequence[Evaluation], progress: Progress = unseen
) -> list[Row]:
    """The rows of :meth:`bmojo.training.evaluate.Meter.measure` for a model."""
    structure, parameters = split(model)
    rows = Meter(structure).measure(parameters, evaluations, progress=progress)
    assert rows is not None  # nobody asked to stop
    return rows


def query_distances(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Distance from each query to the last pair that answers it.

    At a counted target (L,), one that is not -1, the key is the token there, and its pair is the
    last earlier place where the same token is followed by the target. (A filler may hold the key
    too, but not the pair.)

    Returns:
      Tokens from the key of the pair to the query, (L,); 0 where nothing is asked for or no
      pair was shown.
    """
    asked = np.flatnonzero(targets >= 0)
    same = inputs[None, :-1] == inputs[asked, None]
    same &= inputs[None, 1:] == targets[asked, None]
    same &= np.arange(len(inputs) - 1) < asked[:, None]
    last = same.shape[1] - 1 - np.argmax(same[:, ::-1], axis=1)
    distances = np.zeros(len(inputs), np.int64)
    distances[asked] = np.where(same.any(axis=1), asked - last, 0)
    return distances


def evaluate_recall(
    model: Any, evaluations: Sequence[Evaluation], progress: Progress = unseen
) -> tuple[list[Row], list[Row]]:
    """Accuracy by group and by distance, from one pass; ``progress`` counts batches.

    Returns:
      The rows of :func:`evaluate`; and for each evaluation a row for each bucket of
      distances, with ``evaluation``, ``distance`` (the smallest of the bucket, a power of
      two; it reaches to the next one), ``accuracy``, ``loss`` and ``count``. Queries of which
      no pair was shown have no distance and are in the first rows only.

    Raises:
      UserError: a loss is not finite.
    """
    structure, parameters = split(model)
    by_group: list[Row] = []
    by_distance: list[Row] = []
    for evaluation in evaluations:
        batches = Batches(evaluation.data.source(evaluation.seed, "test"), evaluation.batch_size)
        found = []
        for _ in range(evaluation.batches):
            batch = next(batches)
            losses, right = _answers(structure, parameters, device_fields(batch))
            found.append(_queries(batch, np.asarray(right), np.asarray(losses)))
            progress(1)
        group, distance, right, loss = np.concatenate(found, axis=1)
        check_finite(loss, f"{evaluation.name}: a loss")
        # frexp gives d = m 2^e with m in [1/2, 1): the bucket of d begins at 2^(e - 1).
        bucket = np.where(distance > 0, np.ldexp(1.0, np.frexp(distance)[1] - 1), 0)
        for field, column, rows in (("group", group, by_group), ("distance", bucket, by_distance)):
            for value in np.unique(column).tolist():
                if field == "group" or value:  # distance 0: no pair was shown
                    at = column == value
                    rows.append(_row(evaluation.name, field, int(value), right[at], loss[at]))
        by_group.append(_row(evaluation.name, "group", None, right, loss))
    return by_group, by_distance


def _queries(batch: dict[str, np.ndarray], right: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Group, distance, right answer and loss of every query of a batch, (4, n)."""
    asked = batch["targets"] >= 0
    rows = zip(batch["inputs"], batch["targets"], strict=True)
    distance = np.stack([query_distances(*row) for row in rows])
    group = np.broadcast_to(np.asarray(batch["group"])[:, None], asked.shape)
    columns = (group, distance, right, losses)
    return np.stack([np.asarray(column, np.float64)[asked] for column in columns])


def _row(name: str, field: str, key: int | None, right: np.ndarray, loss: np.ndarray) -> Row:
    count = max(len(right), 1)
    return {
        "evaluation": name,
        field: key,
        "accuracy": float(right.sum()) / count,
        "loss": float(loss.sum()) / count,
        "count": len(right),
    }


@functools.partial(jax.jit, static_argnums=0)
def _answers(
    structure: Structure, parameters: Parameters, batch: dict[str, Array]
) -> tuple[Array, Array]:
    """Loss, and whether the answer is right, of every token."""
    model = structure.merge(parameters)
    losses, right, _ = model.score(
        batch["inputs"], batch["targets"], segment_ids=batch.get("segment_ids")
    )
    return losses, right
