"""`bmojo doctor`."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bmojo.cli.common import Overrides, split, told
from bmojo.cluster import Cluster, cluster, detect
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.experiment import Experiment
    from bmojo.training.mesh import Layout
    from bmojo.training.preflight.program import Step
    from bmojo.training.processes import Processes

DOES_NOT_FIT = 1

DOCTOR_EXIT_CODES = """\b
Exit codes:
  0         everything fits
  1         something does not fit; a line that begins with "problem" says what
  2         something in the command or the config has to be mended; the error says what
  5         an example of the data cannot be read
  6         another process died or stopped"""

MORE_ROOM = "raise Mesh.fsdp or Trainer.accumulate, or see Model.remat"

WIDTH = 150
"""Of tables in a file."""


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="A gin file, or its name under configs/. Without: the machine alone.",
        ),
    ] = None,
    overrides: Overrides = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="Where the first of several processes listens. Not needed under Slurm (srun), "
            "Open MPI (mpirun) and on TPU slices.",
            metavar="HOST:PORT",
        ),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(help="How many processes there are.", metavar="N")
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(help="Which of them this is, from 0.", metavar="I")
    ] = None,
    distributed: Annotated[
        bool | None,
        typer.Option(
            "--distributed/--alone",
            help="Find the other processes through the scheduler, or ignore it. Default: found "
            "if it started several.",
            show_default=False,
        ),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Time matrix products and collectives.")
    ] = True,
    mebibytes: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Size of the arrays of collectives.")
    ] = 16,
    matrix: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Rows of the matrices that are multiplied. Default: 1024 on CPUs, else 8192.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it there too.")
    ] = None,
) -> None:
    """Look at the machine, and at what a config asks of it, before a run is started.

    Without a config: versions, processes, devices, the cache of compiled programs, the speed
    of matrix products and of collectives between all devices. With one, given like bmojo train
    and by as many processes: also its mesh, where every parameter lies, the memory that XLA
    counts for the training step of each device, and how long it takes to compile, which leaves
    it in the cache. Nothing is trained, and no run directory is made.

    \b
    Examples:
      bmojo doctor
      bmojo doctor experiments/text.gin sizes/130m.gin 'Experiment.mesh=@Mesh()' Mesh.fsdp=8
      srun bmojo doctor configs/experiments/quickstart.gin --json preflight.json
    """
    with told():
        if config is not None and "=" in config:
            raise UserError(f"CONFIG: {config!r} is a binding; give the gin file before it")
        if out is not None and not out.absolute().parent.is_dir():
            raise UserError(f"--json: {out.absolute().parent} is no directory; make it first")
        others = cluster(coordinator, num_processes, process_id, distributed)
        from bmojo.training.processes import start

        processes = start(others)
        report = Report(processes, how_found(others, coordinator))
        with processes.together():
            report.machine()
            loaded = layout = None
            if config is not None:
                from bmojo.experiment import load

                bindings, overlays = split(overrides)
                loaded = load(config, bindings, overlays, training=True)[0]
                layout = report.mesh(loaded)
            if speed:
                report.speed(mebibytes, matrix, layout)
            if loaded is not None and not report.problems:
                report.step(loaded, layout)
            report.end(out)
    raise typer.Exit(DOES_NOT_FIT if report.problems else 0)


def how_found(others: Cluster | None, coordinator: str | None) -> str:
    """In words, how the processes found each other."""
    if others is None:
        return "nobody named others"
    if coordinator is not None:
        return "named by --coordinator"
    return f"found by {detect() or 'JAX (--distributed)'}"


class Report:
    """What is found, told as it is found; every process looks, the main one speaks.

    Attributes:
      facts: all of it.
      problems: what does not fit, a line each.
    """

    def __init__(self, processes: "Processes", found_by: str):
        self.processes = processes
        self.problems: list[str] = []
        self.facts: dict[str, Any] = {"found_by": found_by, "problems": self.problems}
        width = None if sys.stdout.isatty() else WIDTH
        self.console = Console(quiet=not processes.main, width=width)
        self.errors = Console(stderr=True, quiet=not processes.main, soft_wrap=True)

    def machine(self) -> None:
        """Versions, processes, devices, cache."""
        from bmojo.training.preflight import machine, tables

        self.facts |= {
            "versions": machine.versions(),
            "devices": machine.devices(self.processes),
            "cache": machine.cache(),
        }
        for name, text in tables.lines(self.facts):
            self.say(f"{name:<16} {text}")
        problem = self.facts["cache"]["problem"]
        if problem:
            self.problem(
                f"{self.facts['cache']['directory']}: compiled programs cannot be kept there "
                f"({problem}); set BMOJO_CACHE_DIR to a directory that can be written"
            )

    def mesh(self, experiment: "Experiment") -> "Layout | None":
        """The mesh of a config, and whether it fits devices and batches."""
        from bmojo.training.curriculum import check
        from bmojo.training.mesh import make_layout
        from bmojo.training.run_dir import RunError

        layout = None
        try:
            layout = make_layout(experiment.mesh, self.processes.count)
            check(
                experiment.model,
                experiment.trainer,
                experiment.curriculum,
                experiment.evaluations,
                layout,
            )
            if layout is not None:
                for stage in experiment.curriculum:
                    layout.local_rows(stage.batch_size)
        except RunError as error:
            self.problem(str(error))
        sizes = None if layout is None else layout.sizes
        self.facts["mesh"] = sizes
        if layout is not None:
            self.say(f"{'mesh':<16} {layout}: {layout.mesh.size} devices")
        elif not self.problems:
            devices = self.facts["devices"]["all"]
            rest = "; 'Experiment.mesh=@Mesh()' takes all" if devices > 1 else ""
            self.say(f"{'mesh':<16} none: one of {devices} devices{rest}")
        return layout

    def speed(self, mebibytes: int, matrix: int | None, layout: "Layout | None") -> None:
        """Products on one device; collectives over all, and along each axis of the mesh."""
        from bmojo.training.preflight import speed, tables

        if matrix is None:
            matrix = 1024 if self.facts["devices"]["platform"] == "cpu" else 8192
        with self.doing("multiplying matrices"):
            self.facts["products"] = list(speed.products(matrix))
        self.console.print(tables.products(self.facts["products"]))
        rows: list[dict[str, Any]] = []
        self.facts["collectives"] = rows
        if self.facts["devices"]["all"] == 1:
            self.say("collectives      none: there is one device")
            return
        meshes = [(speed.row_of_devices(), speed.ALL)]
        if layout is not None:
            axes = [axis for axis, size in layout.sizes.items() if size > 1]
            meshes += [
                (layout.mesh, axis) for axis in axes if layout.sizes[axis] < layout.mesh.size
            ]
        for mesh, axis in meshes:
            with self.doing(f"collectives along {axis}"):
                rows.extend(speed.collectives(mesh, axis, mebibytes))
        self.console.print(tables.collectives(rows))

    def step(self, experiment: "Experiment", layout: "Layout | None") -> None:
        """Parameters, memory and compilation of the training step."""
        from bmojo.experiment import prepare_data
        from bmojo.training.preflight import tables
        from bmojo.training.preflight.program import Step
        from bmojo.training.run_dir import RunError

        with self.doing("preparing the data"):
            prepare_data(experiment)
        with layout.active() if layout is not None else contextlib.nullcontext():
            try:
                step = Step(
                    experiment.model,
                    experiment.optimizer,
                    experiment.trainer,
                    experiment.curriculum,
                    layout,
                    self.processes,
                )
            except RunError as error:
                self.problem(str(error))
                return
            rows, totals = step.parameters(), step.totals()
            self.facts |= {"parameters": rows, "totals": totals}
            self.console.print(tables.parameters(rows))
            if layout is not None:
                self.say(tables.uncut(rows))
            self.console.print(tables.totals(totals))
            self.compiled(step, experiment.trainer.compilation_cache)

    def compiled(self, step: "Step", cached: bool) -> None:
        """Memory, operations and time of the compiled step."""
        from bmojo.training.cache import use_compilation_cache
        from bmojo.training.preflight.machine import entries
        from bmojo.training.preflight.tables import size

        directory = use_compilation_cache() if cached else None
        before = entries(directory) if directory else set()
        rows = step.stage.batch_size
        with self.doing("compiling the training step"):
            program = self.try_to_compile(step)
        if program is None:
            return
        new = bool(directory and entries(directory) - before)
        program |= {
            "stage": step.number,
            "tokens": step.tokens,
            "was_in_cache": bool(directory) and not new,
        }
        program["model_flops"] = step.model_flops()
        if directory:
            with self.doing("the same from the cache"):
                program["again_seconds"] = step.compile()["compile_seconds"]
        self.facts["step"] = program

        found = " (it was in the cache)" if program["was_in_cache"] else ""
        self.say(f"{'training step':<16} stage {step.number}, {rows} rows, {step.tokens:,} tokens")
        text = f"{program['compile_seconds']:.2f} s{found}"
        if directory:
            text += f", again from the cache {program['again_seconds']:.2f} s"
        self.say(f"{'compiling':<16} {text}; tracing {program['trace_seconds']:.2f} s before it")
        flops = program["model_flops"]
        text = "unknown" if flops is None else f"{flops:.3e} on all devices"
        if program["flops"] is not None:
            text += f"; XLA counts {program['flops']:.3e} on each, every loop once"
        self.say(f"{'FLOPs of a step':<16} {text}")

        memory, limit = program["memory"], self.facts["devices"]["memory_bytes"]
        if memory is None:
            self.say(f"{'memory':<16} the backend does not tell what the step takes")
            return
        kinds = ("arguments", "outputs", "aliased", "temporary", "program")
        parts = ", ".join(f"{kind} {size(memory[kind])}" for kind in kinds)
        self.say(f"{'step on a device':<16} {size(memory['together'])} together: {parts}")
        if limit is None:
            self.say(f"{'device memory':<16} unknown; whether the step fits is for you to see")
        elif memory["together"] <= limit:
            self.say(f"{'device memory':<16} {size(limit)}: it fits")
        else:
            self.problem(
                f"the step takes {size(memory['together'])} of each device, which has "
                f"{size(limit)}; {MORE_ROOM}"
            )

    def try_to_compile(self, step: "Step") -> dict[str, Any] | None:
        """The compiled step; None if the compiler or a layer says that it does not fit."""
        from jax.errors import JaxRuntimeError

        try:
            return step.compile()
        except JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            self.problem(f"the compiler: {str(error).splitlines()[0]}; {MORE_ROOM}")
        except ValueError as error:
            if step.pieces_of_time == 1:
                raise
            self.problem(f"Mesh.sequence: {str(error).splitlines()[0]}")
        return None

    def end(self, out: Path | None) -> None:
        """Write everything, and say how it went."""

        def write() -> None:
            from bmojo.files import write_atomically

            if out is not None:
                try:
                    write_atomically(out, json.dumps(self.facts, indent=2) + "\n")
                except OSError as error:
                    raise UserError(
                        f"--json: {out} cannot be written ({error.strerror}); give another file"
                    ) from None

        self.processes.from_main(write)
        for problem in self.problems:
            self.say(f"problem: {problem}")
        if not self.problems:
            self.say("no problem found")

    def problem(self, text: str) -> None:
        """Note what does not fit."""
        self.problems.append(text)

    def say(self, text: str) -> None:
        """Tell a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what takes a while, on standard error: a last line of a log shows where it hangs."""
        if self.errors.is_terminal:
            with self.errors.status(what):
                yield
        else:
            self.errors.print(f"... {what}", highlight=False, markup=False)
            yield
