"""Cells of a sweep as processes on this machine, a number of them at a time."""

import collections
import dataclasses
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bmojo.errors import UserError
from bmojo.processes import StopSignals, start, was_asked_to_stop
from bmojo.sweep.check import Job

__all__ = ["Result", "cores_of", "run", "schedulable_cores"]

TAIL_LINES = 12
POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a cell.

    Attributes:
      job: the cell.
      code: exit code of its process, or minus the signal that ended it; None: not started.
      log: the file of its output.
      tail: the last lines of it.
    """

    job: Job
    code: int | None
    log: Path
    tail: str = ""

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, and did."""
        return self.code is None or was_asked_to_stop(self.code)


def schedulable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_of(worker: int, workers: int, cores: Sequence[int]) -> list[int]:
    """The share of one worker of ``workers``: an equal part, or one core that it shares."""
    if workers >= len(cores):
        return [cores[worker % len(cores)]]
    first, end = (len(cores) * k // workers for k in (worker, worker + 1))
    return list(cores[first:end])


@dataclasses.dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    log: IO[bytes]
    begin: int


def run(
    jobs: Sequence[Job], out: Path, workers: int, view: Any, program: Sequence[str]
) -> tuple[list[Result], int | None]:
    """Run cells, ``workers`` at a time; the others go on if one fails.

    SIGINT and SIGTERM stop all of them softly: each saves and can go on. A second SIGINT kills
    them.

    Args:
      jobs: the cells, in this order.
      out: the folder of the runs; a cell's output is added to NAME.log there.
      workers: processes at a time.
      view: with the methods ``started(job)``, ``ended(result)`` and ``tick()``, such as
        :class:`bmojo.sweep.view.View`.
      program: the command that trains a cell; before the arguments of ``bmojo`` it takes
        ``--cores 0,1`` with the cores to keep to.

    Returns:
      How each ended, and the signal that stopped the sweep, if one did.

    Raises:
      KeyboardInterrupt: at a second SIGINT.
      UserError: ``out`` cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out}: the folder of the runs cannot be made ({error.strerror}); choose another "
            "with --out"
        ) from None
    waiting = collections.deque(jobs)
    cores = schedulable_cores()
    running: dict[int, _Running] = {}
    results: list[Result] = []
    asked = False
    with StopSignals() as stop:
        try:
            while running or (waiting and not stop.requested()):
                for worker in range(workers):
                    if worker not in running and waiting and not stop.requested():
                        share = cores_of(worker, workers, cores) if workers > 1 else []
                        running[worker] = _start(waiting.popleft(), out, share, program)
                        view.started(running[worker].job)
                if stop.requested() and not asked:
                    asked = True
                    for cell in running.values():
                        cell.process.terminate()
                for worker, cell in list(running.items()):
                    if cell.process.poll() is not None:
                        results.append(_result(running.pop(worker)))
                        view.ended(results[-1])
                view.tick()
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            for cell in running.values():
                cell.process.kill()
                cell.process.wait()
                cell.log.close()
    results.extend(Result(job, None, _log(job, out)) for job in waiting)
    return results, stop.number


def _log(job: Job, out: Path) -> Path:
    return out / f"{job.cell.name}.log"


def _start(job: Job, out: Path, share: Sequence[int], program: Sequence[str]) -> _Running:
    environment = dict(os.environ)
    pin = []
    if share:
        environment.setdefault("OMP_NUM_THREADS", str(len(share)))
        if hasattr(os, "sched_setaffinity"):
            pin = ["--cores", ",".join(map(str, share))]
    arguments = job.cell.arguments(out)
    log = open(_log(job, out), "ab")  # noqa: SIM115
    begin = log.tell()
    log.write(f"$ {shlex.join(['bmojo', *arguments])}\n".encode())
    log.flush()
    process = start(
        [*program, *pin, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    return _Running(job, process, log, begin)


def _result(cell: _Running) -> Result:
    cell.log.close()
    with open(cell.log.name, "rb") as file:
        file.seek(cell.begin)
        lines = file.read().decode(errors="replace").splitlines()
    tail = "\n".join(lines[1:][-TAIL_LINES:])
    return Result(cell.job, cell.process.returncode, Path(cell.log.name), tail)
