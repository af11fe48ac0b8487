"""How far runs are, read from the files that they write."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bmojo.sweep.check import Job

__all__ = ["Progress", "eta", "progress"]

TAIL = 16384


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      step: steps done, as far as they are logged.
      loss: of the newest line, or None.
      accuracy: of the newest line, or None.
      pace: seconds a step since the first line, so without compilation; None: not known.
      seconds: the run has taken so far.
    """

    step: int = 0
    loss: float | None = None
    accuracy: float | None = None
    pace: float | None = None
    seconds: float = 0.0


def progress(run: Path) -> Progress:
    """The newest lines of ``metrics.jsonl`` and ``speed.jsonl``; zeros if there are none."""
    line = _last(run / "metrics.jsonl")
    if line is None:
        return Progress()
    speed = [record for record in _ends(run / "speed.jsonl") if record.get("seconds")]
    seconds = speed[-1]["seconds"] if speed else 0.0
    return Progress(line["step"], line.get("loss"), line.get("accuracy"), _pace(speed), seconds)


def _pace(speed: Sequence[dict[str, Any]]) -> float | None:
    """Seconds a step between the first and the last line, or up to the only one."""
    if not speed:
        return None
    step, seconds = speed[-1]["step"], speed[-1]["seconds"]
    first = speed[0]
    if first["step"] < step and first["seconds"] < seconds:
        step, seconds = step - first["step"], seconds - first["seconds"]
    return seconds / step


def eta(jobs: Sequence[Job], seen: Mapping[str, Progress], workers: int) -> float | None:
    """Seconds until all jobs are done; None as long as no run has logged a step.

    A run goes on at its own pace so far; one that has not begun at that of the same cell with
    another seed, or else at the mean of all.

    Args:
      jobs: all cells, finished ones too.
      seen: progress by name; a job without is taken not to have begun.
      workers: runs at a time.
    """
    paces = {name: known.pace for name, known in seen.items() if known.pace is not None}
    if not paces:
        return None
    by_cell = {_stem(job): paces[job.cell.name] for job in jobs if job.cell.name in paces}
    mean = sum(paces.values()) / len(paces)
    left = []
    for job in jobs:
        steps = job.steps - seen.get(job.cell.name, Progress()).step
        if job.state != "finished" and steps > 0:
            left.append(steps * paces.get(job.cell.name, by_cell.get(_stem(job), mean)))
    return max([sum(left) / workers, *left]) if left else 0.0


def _stem(job: Job) -> str:
    return job.cell.name.removesuffix(f"-seed{job.cell.seed}")


def _last(path: Path) -> dict[str, Any] | None:
    """The last whole line that is no evaluation."""
    return next(iter(reversed(_ends(path))), None)


def _ends(path: Path) -> list[dict[str, Any]]:
    """The first line and whole lines of the end of a file; evaluations are left out."""
    try:
        with open(path, "rb") as file:
            lines = [file.readline()]
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL, len(lines[0])))
            lines += file.read().splitlines(keepends=True)
    except OSError:
        return []
    records = []
    for line in lines:
        if line.endswith(b"\n"):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # where the tail begins
                continue
            if isinstance(record, dict) and "step" in record and "evaluation" not in record:
                records.append(record)
    return records
