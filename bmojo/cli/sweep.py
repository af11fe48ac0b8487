"""`bmojo sweep`."""

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from bmojo.cli.common import INTERRUPTED, Number, Place, Words, argument, option
from bmojo.console import line, make_console
from bmojo.errors import UserError, suggestion

if TYPE_CHECKING:
    from rich.console import Console

    from bmojo.sweep.plan import Cell, Plan

CELL_FAILED = 1

SWEEP_EXIT_CODES = """\b
Exit codes:
  0         all cells are finished (with --slurm: queued)
  1         a cell failed; the end of its output is shown
  2         the command or a config is wrong; nothing was started
  130, 143  interrupted (Ctrl-C, SIGTERM); all cells are saved, the same command goes on"""


def sweep(
    config: Annotated[str, argument("SWEEP", "A sweep's gin file, or its name under configs/.")],
    overrides: Annotated[
        Words,
        argument("[KEY=VALUE | OVERLAY.gin]...", "For every cell, or as 'Sweep.seeds=(3, 4)'."),
    ] = None,
    workers: Annotated[Number, option("N", "Cells at a time. Default: the cores.", min=1)] = None,
    out: Annotated[Place, option("DIR", "The runs. Default: Sweep.out, or runs/NAME.")] = None,
    only: Annotated[Words, option("PATTERN", "Cells of such a name; repeat for more.")] = None,
    show: Annotated[bool, option(None, "Show commands and states; run nothing.", "--list")] = False,
    slurm: Annotated[
        Words,
        option(
            "KEY=VALUE", "Queue each cell on Slurm, with this option of sbatch; repeat for more."
        ),
    ] = None,
) -> None:
    """Train every cell of a sweep: configs x models x cells x grid x seeds.

    All configs and, without --slurm, their data are checked before the first cell starts.
    Finished cells are left alone, unfinished ones go on; Ctrl-C stops all, saved, and the same
    command goes on. The run of a cell is in DIR/NAME, its output in DIR/NAME.log.

    \b
    Examples:
      bmojo sweep configs/sweeps/mqar_main.gin --list
      bmojo sweep sweeps/mqar_rates.gin --workers 4 --only 'swa-*'
      bmojo sweep sweeps/mqar_main.gin runs/smoke.gin --out runs/trial
      bmojo sweep sweeps/mqar_main.gin --slurm partition=gpu --slurm timeout_min=600
    """
    from bmojo.sweep.check import check, check_data
    from bmojo.sweep.plan import read

    plan = chosen(read(config, overrides or (), out), only or ())
    cells = check(plan)
    if show:
        for cell in cells:
            typer.echo(f"{state(cell):<22} {cell.command()}")
        return
    todo = [cell for cell in cells if cell.state != "finished"]
    console = make_console(lasting=True)
    line(console, f"{len(cells)} cells, {len(cells) - len(todo)} of them finished, in {plan.out}")
    if slurm:
        from bmojo.processes import run_bmojo
        from bmojo.sweep.slurm import submit

        for cell, number in submit(todo, plan.out, slurm, run_bmojo):
            line(console, f"{cell.name}: job {number}")
        return
    check_data(todo)
    raise typer.Exit(run_here(cells, todo, workers, console))


def chosen(plan: "Plan", patterns: Sequence[str]) -> "Plan":
    """A plan with only the cells that a pattern fits, with or without their seed."""
    kept = [] if patterns else list(plan.cells)
    for pattern in patterns:
        names = [(cell, cell.unseeded) for cell in plan.cells]
        fits = [c for c, n in names if fnmatchcase(c.name, pattern) or fnmatchcase(n, pattern)]
        if not fits:
            near = suggestion(pattern, [name for _, name in names])
            raise UserError(f"--only {pattern}: no cell has such a name; {near}")
        kept += fits
    return dataclasses.replace(plan, cells=tuple(cell for cell in plan.cells if cell in kept))


def state(cell: "Cell") -> str:
    """State of a cell's run."""
    if cell.state != "unfinished":
        return cell.state
    from bmojo.sweep.view import progress

    return f"step {progress(cell.run).step} of {cell.steps}"


def run_here(
    cells: "Sequence[Cell]", todo: "Sequence[Cell]", workers: int | None, console: "Console"
) -> int:
    """Run cells on this machine and report on them; the exit code."""
    if not todo:
        return 0
    from bmojo.processes import PROGRAM
    from bmojo.sweep.pool import run, schedulable_cores
    from bmojo.sweep.view import View

    number = min(workers or len(schedulable_cores()), len(todo))
    try:
        with View(console, cells, number) as view:
            results, signal = run(todo, number, view, PROGRAM)
    except KeyboardInterrupt:
        line(console, "killed; the same command goes on from the last checkpoints")
        return INTERRUPTED
    failed = [result for result in results if result.code != 0 and not result.stopped]
    for result in failed:
        head = f"\n{result.cell.name} failed with exit code {result.code}; {result.log} ends:"
        line(console, head, style="red")
        line(console, result.tail)
    left = sum(result.stopped for result in results)
    text = f"{len(cells) - len(failed) - left} of {len(cells)} cells finished"
    text += f", {len(failed)} failed" if failed else ""
    text += f", {left} not done; the same command goes on" if left else ""
    line(console, text)
    if signal is not None:
        return 128 + signal
    return CELL_FAILED if failed or left else 0
