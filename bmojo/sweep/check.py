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

__all__ = ["check", "check_data"]


def check(plan: Plan) -> list[Cell]:
    """The cells with ``steps`` and ``state``, by their configs and the runs that are there.

    A binding that only one of two configs knows came or went with a version of the program; a
    finished run is not refused for it.

    Raises:
      UserError: a config does not load, or a run directory holds another config.
    """
    known: dict[tuple, tuple[str, int]] = {}
    checked = []
    for cell in plan.cells:
        if cell.variant not in known:
            known[cell.variant] = _load(cell, plan)
        text, steps = known[cell.variant]
        text = re.sub(r"(?m)^((?:\S+/)?Trainer\.seed = )\d+$", rf"\g<1>{cell.seed}", text)
        checked.append(dataclasses.replace(cell, steps=steps, state=_state(cell.run, text)))
    return checked


def check_data(cells: Sequence[Cell]) -> None:
    """Prepare the data of cells, once for all; a UserError if they are missing or too short."""
    for cell in {cell.variant: cell for cell in cells}.values():
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
    if run.is_foreign():
        raise UserError(
            f"{path}: holds files, but no run; choose another folder with --out, or move them away"
        )
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
