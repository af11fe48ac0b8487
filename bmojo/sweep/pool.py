"""Cells of a sweep as processes on this machine, a number of them at a time."""

import collections
import dataclasses
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bmojo.errors import UserError
from bmojo.processes import StopSignals, start, was_asked_to_stop
from bmojo.sweep.plan import Cell

__all__ = ["Result", "cores_of", "run", "schedulable_cores"]

TAIL_LINES = 12
POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a cell.

    Attributes:
      cell: of the sweep.
      code: exit code of its process, or minus the signal that ended it; None: not started.
      tail: the last lines of its output.
    """

    cell: Cell
    code: int | None
    tail: str = ""

    @property
    def log(self) -> Path:
        """The file of its output."""
        return _log(self.cell)

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, and did."""
        return self.code is None or was_asked_to_stop(self.code)


def schedulable_cores() -> list[int]:
    """The cores that this process may use."""
    every = range(os.cpu_count() or 1)
    return sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else every)


def cores_of(worker: int, workers: int, cores: Sequence[int]) -> list[int]:
    """The share of one worker of ``workers``: an equal part, or one core that it shares."""
    if workers >= len(cores):
        return [cores[worker % len(cores)]]
    first, end = (len(cores) * k // workers for k in (worker, worker + 1))
    return list(cores[first:end])


@dataclasses.dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen
    log: IO[bytes]
    begin: int


def run(
    cells: Sequence[Cell], workers: int, view: Any, program: Sequence[str]
) -> tuple[list[Result], int | None]:
    """Run cells, ``workers`` at a time; the others go on if one fails.

    SIGINT and SIGTERM stop all of them softly: each saves and can go on. A second SIGINT kills
    them. A cell's output is added to NAME.log beside its run directory. ``view`` is told of all
    (:class:`bmojo.sweep.view.View`). The ``program`` that trains a cell takes ``--cores 0,1``, the
    cores to keep to, before the arguments of ``bmojo``.

    Returns:
      How each ended, and the signal that stopped the sweep, if one did.

    Raises:
      KeyboardInterrupt: at a second SIGINT.
      UserError: the folder of the runs cannot be made.
    """
    for out in {cell.run.parent for cell in cells}:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{out}: the folder of the runs cannot be made ({error.strerror}); choose another "
                "with --out"
            ) from None
    waiting = collections.deque(cells)
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
                        running[worker] = _start(waiting.popleft(), share, program)
                        view.started(running[worker].cell)
                if stop.requested() and not asked:
                    asked = True
                    for one in running.values():
                        one.process.terminate()
                for worker, one in list(running.items()):
                    if one.process.poll() is not None:
                        results.append(_result(running.pop(worker)))
                        view.ended(results[-1])
                view.tick()
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            for one in running.values():
                one.process.kill()
                one.process.wait()
                one.log.close()
    results.extend(Result(cell, None) for cell in waiting)
    return results, stop.number


def _log(cell: Cell) -> Path:
    return cell.run.with_name(f"{cell.name}.log")


def _start(cell: Cell, share: Sequence[int], program: Sequence[str]) -> _Running:
    environment = dict(os.environ)
    pin = []
    if share:
        environment.setdefault("OMP_NUM_THREADS", str(len(share)))
        if hasattr(os, "sched_setaffinity"):
            pin = ["--cores", ",".join(map(str, share))]
    log = open(_log(cell), "ab")  # noqa: SIM115
    begin = log.tell()
    log.write(f"$ {cell.command()}\n".encode())
    log.flush()
    files: dict[str, Any] = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    process = start([*program, *pin, *cell.arguments()], env=environment, **files)
    return _Running(cell, process, log, begin)


def _result(running: _Running) -> Result:
    running.log.close()
    with open(running.log.name, "rb") as file:
        file.seek(running.begin)
        lines = file.read().decode(errors="replace").splitlines()
    return Result(running.cell, running.process.returncode, "\n".join(lines[1:][-TAIL_LINES:]))
