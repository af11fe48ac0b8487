"""The best evaluation of a run, from what its evaluations wrote and nothing else."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bmojo.errors import suggestion
from bmojo.training import records
from bmojo.training.config import Evaluation, best_parts
from bmojo.training.run_dir import RunError

__all__ = ["Best", "best_of", "check_best"]

LOWER_IS_BETTER = {"loss": True, "bits_per_byte": True, "accuracy": False}


class Best:
    """Finds the best of the evaluations that it is shown in order of their steps.

    Numbers count as ``metrics.jsonl`` has them, so that a run that was interrupted finds the
    same. The first of equal ones stays.

    Args:
      wanted: 'evaluation/field', such as 'recall/accuracy'; None: nothing is the best.

    Attributes:
      step: of the best evaluation so far; None: there was none.
      value: what was measured there.
    """

    def __init__(self, wanted: str | None):
        self._wanted = None if wanted is None else best_parts(wanted)
        self.step: int | None = None
        self.value: float | None = None

    def take(self, found: Iterable[records.Record]) -> bool:
        """Look at records of evaluations, or of anything else; true if one is the best so far."""
        if self._wanted is None:
            return False
        name, field = self._wanted
        better = False
        for record in found:
            if record.get("evaluation") != name or record.get("group") is not None:
                continue
            value = records.rounded(record.get(field))
            if value is None:  # it was not finite
                continue
            gain = 0.0 if self.value is None else value - self.value
            if self.value is None or (gain < 0 if LOWER_IS_BETTER[field] else gain > 0):
                self.step, self.value, better = record["step"], value, True
        return better


def best_of(metrics: Path, wanted: str | None) -> Best:
    """The best evaluation in ``metrics.jsonl``."""
    best = Best(wanted)
    best.take(records.read(metrics))
    return best


def check_best(wanted: str | None, evaluations: Sequence[Evaluation]) -> None:
    """See that the evaluations of a run have what the best is chosen by.

    Raises:
      RunError: they have not.
    """
    if wanted is None:
        return
    name, field = best_parts(wanted)
    data: dict[str, Any] = {evaluation.name: evaluation.data for evaluation in evaluations}
    if name not in data:
        raise RunError(
            f"Trainer.best: {wanted!r}: no evaluation is called {name!r}; {suggestion(name, data)}"
        )
    if field == "bits_per_byte" and getattr(data[name], "bytes_per_token", None) is None:
        raise RunError(
            f"Trainer.best: {wanted!r}: {name!r} is not of text and has no bits_per_byte; take "
            f"{name}/loss"
        )
