"""Loss and accuracy on test examples, exact for every group of examples."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bmojo.data.pipeline import Batches, Segments
from bmojo.training.config import Evaluation
from bmojo.training.parameters import Parameters, Structure
from bmojo.training.sharding import ONE_DEVICE, Layout
from bmojo.training.train_step import device_fields, make_eval_step, make_fresh_state

Row = dict[str, Any]


class Meter:
    """Takes evaluations of models of one structure, compiling for each shape once.

    Args:
      structure: of the models.
      layout: the places of arrays.
    """

    def __init__(self, structure: Structure, layout: Layout = ONE_DEVICE):
        self._layout = layout
        self._step = make_eval_step(structure, layout)
        self._fresh = make_fresh_state(structure, layout)

    def measure(
        self,
        parameters: Parameters,
        evaluations: Sequence[Evaluation],
        stopped: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda batches: None,
    ) -> list[Row] | None:
        """Take every evaluation; give up once ``stopped`` is true before a batch.

        Returns:
          For each evaluation one row for each group in rising order, if its data has groups,
          then one over all of them, whose group is None. A row has ``evaluation``, ``group``,
          ``accuracy``, ``loss`` (nats a target) and ``count`` (targets); of text, also
          ``bits_per_byte``. None if given up.
        """
        rows: list[Row] = []
        for evaluation in evaluations:
            source = evaluation.data.source(evaluation.seed, "test")
            batches = Batches(source, evaluation.batch_size)
            parts, found = Segments(batches, evaluation.segments_per_document), []
            for _ in range(evaluation.batches):
                if stopped():
                    return None
                found.append(self._sums(parameters, evaluation, parts))
                progress(1)
            groups, tables = zip(*found, strict=True)
            rows += _rows(evaluation, np.concatenate(groups), np.concatenate(tables, axis=1))
        return rows

    def _sums(
        self, parameters: Parameters, evaluation: Evaluation, parts: Segments
    ) -> tuple[np.ndarray, np.ndarray]:
        """Groups (B,) of a batch, and (3, B): right answers, loss and targets of each row."""
        count, rows = evaluation.segments_per_document, evaluation.batch_size
        padded = -(-rows // self._layout.rows) * self._layout.rows
        carried = self._fresh(parameters, padded, evaluation.data.length) if count > 1 else None
        table = np.zeros((3, rows))
        for _ in range(count):
            batch = next(parts)
            fields = self._placed(device_fields(batch), padded)
            sums, carried = self._step(parameters, carried, fields)
            table += np.asarray([sums[k][:rows] for k in ("right", "loss", "count")], np.float64)
        return batch.get("group", np.zeros(rows, np.int32)), table

    def _placed(self, fields: dict[str, np.ndarray], rows: int) -> dict[str, Any]:
        """Fields on the mesh, padded to ``rows`` with rows that count nothing."""
        first, end = self._layout.local_rows(rows)

        def mine(name: str, value: np.ndarray) -> np.ndarray:
            widths = [(0, rows - len(value))] + [(0, 0)] * (value.ndim - 1)
            fill = -1 if name == "targets" else 0
            return np.pad(value, widths, constant_values=fill)[first:end]

        return self._layout.put({n: mine(n, v) for n, v in fields.items()}, rows)


def _rows(evaluation: Evaluation, groups: np.ndarray, table: np.ndarray) -> Iterable[Row]:
    """Rows from the groups (B,) and the sums (3, B): right answers, loss, targets."""
    bytes_per_token = getattr(evaluation.data, "bytes_per_token", None)
    grouped = getattr(evaluation.data, "slices", None) is not None
    for group in [*(np.unique(groups).tolist() if grouped else ()), None]:
        chosen = table if group is None else table[:, groups == group]
        right, loss, count = chosen.sum(axis=1).tolist()
        row = {
            "evaluation": evaluation.name,
            "group": group,
            "accuracy": right / max(count, 1),
            "loss": loss / max(count, 1),
            "count": int(count),
        }
        if bytes_per_token is not None:
            row["bits_per_byte"] = row["loss"] / math.log(2) / bytes_per_token
        yield row
