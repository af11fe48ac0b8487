"""Checks of a sweep before its first run: configs, data, and the runs that are there."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from bmojo.config.parse import display
from bmojo.errors import ConfigError, UserError
from bmojo.evaluation.bindings import bindings, difference
from bmojo.experiment import load, prepare_data
from bmojo.sweep.plan import Cell, Plan
from bmojo.training.run_dir import RunDir

__all__ = ["Job", "check", "check_data"]


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell that can run.

    Attributes:
      cell: of the sweep.
      run: its run directory.
      steps: of the whole run.
      state: 'finished', 'unfinished' or 'new'.
    """

    cell: Cell
    run: Path
    steps: int
    state: str


def check(plan: Plan) -> list[Job]:
    """Load the config of every cell and compare it with the run that is there.

    A binding that only one of two configs knows came or went with a version of the program; a
    finished run is not refused for it.

    Raises:
      UserError: a config does not load, or a run directory holds another config.
    """
    known: dict[tuple, tuple[str, int]] = {}
    jobs = []
    for cell in plan.cells:
        if cell.variant not in known:
            known[cell.variant] = _load(cell, plan)
        text, steps = known[cell.variant]
        text = re.sub(r"(?m)^((?:\S+/)?Trainer\.seed = )\d+$", rf"\g<1>{cell.seed}", text)
        run = plan.out / cell.name
        jobs.append(Job(cell, run, steps, _state(run, text)))
    return jobs


def check_data(jobs: Sequence[Job]) -> None:
    """Prepare the data of cells, once for all of them, and see that there are enough.

    Raises:
      UserError: data are missing or too short.
    """
    for cell in {job.cell.variant: job.cell for job in jobs}.values():
        experiment, _ = load(cell.config, cell.seeded, cell.overlays)
        try:
            prepare_data(experiment)
        except UserError as error:
            raise UserError(f"{cell.name}: {error}") from None


def _load(cell: Cell, plan: Plan) -> tuple[str, int]:
    try:
        experiment, text = load(cell.config, cell.seeded, cell.overlays, training=True)
    except ConfigError as error:
        reason = str(error).removeprefix("command line: ")
        raise ConfigError(f"{display(plan.path)}: {cell.name}: {reason}") from None
    return text, sum(stage.steps for stage in experiment.curriculum)


def _state(path: Path, text: str) -> str:
    run = RunDir(path)
    if not run.config.exists():
        return "new"
    summary = run.finished()
    finished = summary is not None and summary.get("status") == "finished"
    there = bindings(run.config.read_text())
    for key, was, now in difference(there, bindings(text)):
        if not finished or (was is not None and now is not None):
            raise UserError(
                f"{path}: the run there has {_said(key, was)}, the sweep has {_said(key, now)}; "
                "choose another folder with --out, or move that run away"
            )
    return "finished" if finished else "unfinished"


def _said(key: str, value: str | None) -> str:
    return f"no {key}" if value is None else f"{key} = {value}"
