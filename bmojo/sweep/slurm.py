"""Cells of a sweep as jobs of Slurm, submitted with submitit."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.errors import UserError
from bmojo.sweep.plan import Cell

__all__ = ["SlurmRun", "parameters", "submit"]

SUBMITITS_OWN = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node",
                 "tasks_per_node")  # fmt: skip


class SlurmRun:
    """One cell as submitit calls it on a node; it trains in the process of the job.

    ``program`` is ``bmojo`` when called with ``arguments``; a function of a module. At the end of
    the job's time submitit asks for a ``checkpoint`` and queues the job again, and the run goes on.
    """

    def __init__(self, program: Callable[..., None], arguments: Sequence[str]):
        self.program, self.arguments = program, list(arguments)

    def __call__(self) -> None:
        """Train; a RuntimeError if that ends with another exit code than 0."""
        try:
            self.program(self.arguments)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"bmojo ended with exit code {end.code}") from None

    def checkpoint(self) -> Any:
        """The job to queue when the time of this one is over: the same command."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(SlurmRun(self.program, self.arguments))


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as parameters of submitit; sbatch's own get submitit's prefix."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--slurm {word}: give KEY=VALUE, such as partition=gpu")
        name = key if key in SUBMITITS_OWN or key.startswith("slurm_") else f"slurm_{key}"
        given[name] = int(value) if re.fullmatch(r"\d+", value) else value
    return given


def submit(
    cells: Sequence[Cell], out: Path, words: Sequence[str], program: Callable[..., None]
) -> Iterator[tuple[Cell, str]]:
    """Queue cells, one Slurm job each, and yield each with the number of its job.

    Jobs of one run directory have one name and wait for each other ('singleton'), so that
    queueing a cell twice does no harm: the second finds it finished, or goes on with it. Scripts
    and logs of the jobs are in ``out``/slurm. ``words`` are those of :func:`parameters`, and
    ``program`` is that of :class:`SlurmRun`.

    Raises:
      UserError: submitit is missing, there is no Slurm here, or it takes no such parameter.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--slurm: submitit is not installed; pip install 'bmojo[slurm]'") from None
    given = parameters(words)
    try:
        executor = submitit.AutoExecutor(folder=out / "slurm", cluster="slurm")
    except RuntimeError as error:
        raise UserError(f"--slurm: {_line(error)}; run this on a node that has sbatch") from None
    for cell in cells:
        name = f"{cell.name}-{hashlib.sha256(str(cell.run.resolve()).encode()).hexdigest()[:8]}"
        alone = {"dependency": "singleton"}
        try:
            executor.update_parameters(name=name, slurm_additional_parameters=alone, **given)
            queued = executor.submit(SlurmRun(program, cell.arguments()))
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"--slurm: {_line(error)}") from None
        yield cell, str(queued.job_id)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
