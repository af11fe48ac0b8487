"""Loss and accuracy on test examples, exact for every group of examples."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bmojo.data.pipeline import Batches
from bmojo.training.config import Evaluation
from bmojo.training.parameters import Parameters
from bmojo.training.step import device_fields

Row = dict[str, Any]


def measure(
    eval_step: Callable[..., dict[str, Any]],
    parameters: Parameters,
    evaluations: Sequence[Evaluation],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Row] | None:
    """Take every evaluation.

    Args:
      eval_step: from ``make_eval_step``.
      parameters: of the model.
      evaluations: what to measure.
      stopped: asked before each batch; once true, the measurement is given up.

    Returns:
      For each evaluation one row for each group in rising order, then one over all of them,
      whose group is None. A row has ``evaluation``, ``group``, ``accuracy``, ``loss`` (nats
      a target) and ``count`` (targets). None if given up.
    """
    rows: list[Row] = []
    for evaluation in evaluations:
        batches = Batches(evaluation.data.source(evaluation.seed, "test"), evaluation.batch_size)
        groups, sums = [], []
        for _ in range(evaluation.batches):
            if stopped():
                return None
            batch = next(batches)
            result = eval_step(parameters, device_fields(batch))
            groups.append(batch["group"])
            sums.append([result["right"], result["loss"], result["count"]])
        table = np.concatenate([np.asarray(part, np.float64) for part in sums], axis=1)
        rows.extend(_rows(evaluation.name, np.concatenate(groups), table))
    return rows


def _rows(name: str, groups: np.ndarray, table: np.ndarray) -> Iterable[Row]:
    """Rows from the groups (B,) and the sums (3, B): right answers, loss, targets."""
    for group in [*np.unique(groups).tolist(), None]:
        chosen = table if group is None else table[:, groups == group]
        right, loss, count = chosen.sum(axis=1).tolist()
        yield {
            "evaluation": name,
            "group": group,
            "accuracy": right / max(count, 1),
            "loss": loss / max(count, 1),
            "count": int(count),
        }
