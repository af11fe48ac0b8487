"""What checkpoints a run has, and what is known of each without reading it."""

import dataclasses
from pathlib import Path

from bmojo.training import records
from bmojo.training.checkpoints import hashes
from bmojo.training.run_dir import RunDir, RunError

__all__ = ["Entry", "inventory", "steps_of"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A checkpoint.

    Attributes:
      step: steps done.
      when: it became final, in seconds since 1970.
      bytes: of all files.
      problems: as :func:`bmojo.training.checkpoints.hashes.changes` tells them of names and
        sizes; None: there are no hashes.
      loss: on the training data in the last line of metrics up to it.
      evaluations: the records of this step over all groups.
    """

    step: int
    when: float
    bytes: int
    problems: list[str] | None
    loss: float | None
    evaluations: list[records.Record]


def steps_of(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising.

    Raises:
      RunError: there are none.
    """
    if directory.is_dir():
        names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
        if steps := sorted(int(name) for name in names if name.isdecimal()):
            return steps
    raise RunError(f"{directory}: there are no checkpoints; train first with bmojo train")


def inventory(run: RunDir) -> list[Entry]:
    """The checkpoints of a run in order of their steps.

    Raises:
      RunError: there are none.
    """
    history = records.read(run.metrics)
    entries = []
    for step in steps_of(run.checkpoints):
        directory = run.checkpoints / str(step)
        trained = [r for r in history if "evaluation" not in r and r["step"] <= step]
        measured = [
            r for r in history if "evaluation" in r and r["step"] == step and r["group"] is None
        ]
        entries.append(
            Entry(
                step,
                directory.stat().st_mtime,
                hashes.size(directory),
                hashes.changes(directory, content=False),
                trained[-1]["loss"] if trained else None,
                measured,
            )
        )
    return entries
