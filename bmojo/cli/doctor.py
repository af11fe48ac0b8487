"""`bmojo doctor`."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import Number, Overrides, among_others, argument, option, split
from bmojo.console import line, make_console
from bmojo.errors import UserError
from bmojo.files import write_atomically
from bmojo.multihost import Cluster, detect, start

if TYPE_CHECKING:
    from bmojo.experiment import Experiment
    from bmojo.multihost import Processes
    from bmojo.training.preflight import Step
    from bmojo.training.sharding import Layout

DOES_NOT_FIT = 1
DOCTOR_EXIT_CODES = """\b
Exit codes:
  0         everything fits
  1         something does not fit; a line that begins with "problem" names it
  2         the command or the config is wrong; the error names the remedy
  5         an example of the data cannot be read
  6         another process died or stopped"""

MORE_ROOM = "raise Mesh.fsdp or Trainer.accumulate, or see Model.remat"
WIDTH = 150  # of tables in a file


@among_others
def doctor(
    config: Annotated[
        str | None,
        argument("[CONFIG]", "A gin file, or its name under configs/. Without: the machine alone."),
    ] = None,
    overrides: Overrides = None,
    speed: Annotated[bool, option(None, "Time the machine.", "--speed/--no-speed")] = True,
    mebibytes: Annotated[int, option("MIB", "Size of the arrays of collectives.", min=1)] = 16,
    matrix: Annotated[
        Number, option("N", "Rows of multiplied matrices. Default: 1024 on CPUs, or 8192.", min=1)
    ] = None,
    out: Annotated[Path | None, option("FILE", "Write all results there too.", "--json")] = None,
    others: Cluster | None = None,
) -> None:
    """Check the machine, and the needs of a config, before a run is started.

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
    if config is not None and "=" in config:
        raise UserError(f"CONFIG: {config!r} is a binding; give the gin file before it")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--json: {out.absolute().parent} is no directory; make it first")
    processes = start(others)
    report = Report(processes, others)
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
        if loaded is not None and layout is not None and not report.problems:
            report.step(loaded, layout)
        report.end(out)
    raise typer.Exit(DOES_NOT_FIT if report.problems else 0)


class Report:
    """The report, printed by the main process as it grows; every process takes part."""

    def __init__(self, processes: "Processes", others: Cluster | None):
        self.processes = processes
        self.problems: list[str] = []
        found_by = f"found by {detect() or 'JAX (--distributed)'}"
        if others is None or others.coordinator is not None:
            found_by = "named by --coordinator" if others else "nobody named others"
        self.facts: dict[str, Any] = {"found_by": found_by, "problems": self.problems}
        width = None if sys.stdout.isatty() else WIDTH
        self.console = make_console(quiet=not processes.main, width=width)
        self.errors = make_console(stderr=True, quiet=not processes.main)

    def machine(self) -> None:
        """Versions, processes, devices, cache."""
        from bmojo.training import machine, preflight

        self.facts |= {
            "versions": preflight.versions(),
            "devices": machine.devices(self.processes),
            "cache": preflight.cache(),
        }
        for name, text in preflight.lines(self.facts):
            self.say(name, text)
        cache = self.facts["cache"]
        if cache["problem"]:
            self.problems.append(
                f"{cache['directory']}: compiled programs cannot be kept there "
                f"({cache['problem']}); set BMOJO_CACHE_DIR to a directory that can be written"
            )

    def mesh(self, experiment: "Experiment") -> "Layout":
        """The mesh of a config, and whether it fits devices and batches."""
        from bmojo.training.experiment import check
        from bmojo.training.run_dir import RunError
        from bmojo.training.sharding import ONE_DEVICE, make_layout

        layout = ONE_DEVICE
        try:
            layout = make_layout(experiment.mesh, self.processes.count)
            check(experiment, layout)
            for stage in experiment.curriculum:
                layout.local_rows(stage.batch_size)
        except RunError as error:
            self.problems.append(str(error))
        self.facts["mesh"] = None if layout.mesh is None else layout.sizes
        if layout.mesh is not None:
            self.say("mesh", f"{layout}: {layout.devices} devices")
        elif not self.problems:
            devices = self.facts["devices"]["all"]
            rest = "; 'Experiment.mesh=@Mesh()' takes all" if devices > 1 else ""
            self.say("mesh", f"none: one of {devices} devices{rest}")
        return layout

    def speed(self, mebibytes: int, matrix: int | None, layout: "Layout | None") -> None:
        """Products on one device; collectives over all, and along each axis of the mesh."""
        from bmojo.training import preflight

        if matrix is None:
            matrix = 1024 if self.facts["devices"]["platform"] == "cpu" else 8192
        with self.doing("multiplying matrices"):
            self.facts["products"] = list(preflight.products(matrix))
        self.console.print(preflight.product_table(self.facts["products"]))
        rows = self.facts["collectives"] = []
        if self.facts["devices"]["all"] == 1:
            self.say("collectives", "none: there is one device")
            return
        meshes = [(preflight.row_of_devices(), preflight.ALL)]
        if layout is not None and layout.mesh is not None:
            sizes = layout.sizes.items()
            meshes += [(layout.mesh, axis) for axis, n in sizes if 1 < n < layout.mesh.size]
        for mesh, axis in meshes:
            with self.doing(f"collectives along {axis}"):
                rows.extend(preflight.collectives(mesh, axis, mebibytes))
        self.console.print(preflight.collective_table(rows))

    def step(self, experiment: "Experiment", layout: "Layout") -> None:
        """Parameters, memory and compilation of the training step."""
        from bmojo.experiment import prepare_data
        from bmojo.training import preflight
        from bmojo.training.run_dir import RunError
        from bmojo.training.run_setup import RunSetup

        with self.doing("preparing the data"):
            prepare_data(experiment)
        with layout.active():
            try:
                step = preflight.Step(RunSetup(experiment, self.processes, layout=layout))
            except RunError as error:
                self.problems.append(str(error))
                return
            rows, totals = step.parameters(), step.totals()
            self.facts |= {"parameters": rows, "totals": totals}
            self.console.print(preflight.parameter_table(rows))
            if layout.mesh is not None:
                line(self.console, preflight.uncut_text(rows))
            self.console.print(preflight.totals_table(totals))
            self.compiled(step, experiment.trainer.compilation_cache)

    def compiled(self, step: "Step", cached: bool) -> None:
        """Memory, operations and time of the compiled step."""
        from bmojo.cache import use_compilation_cache
        from bmojo.training.preflight import entries

        directory = use_compilation_cache() if cached else None
        before = entries(directory) if directory else set()
        with self.doing("compiling the training step"):
            program = self.try_to_compile(step)
        if program is None:
            return
        new = bool(directory and entries(directory) - before)
        program |= {"stage": step.number, "tokens": step.tokens, "model_flops": step.model_flops()}
        program["was_in_cache"] = bool(directory) and not new
        if directory:
            with self.doing("the same from the cache"):
                program["again_seconds"] = step.compile()["compile_seconds"]
        self.facts["step"] = program
        rows = step.stage.batch_size
        self.say("training step", f"stage {step.number}, {rows} rows, {step.tokens:,} tokens")
        text = f"{program['compile_seconds']:.2f} s"
        text += " (it was in the cache)" if program["was_in_cache"] else ""
        text += f", again from the cache {program['again_seconds']:.2f} s" if directory else ""
        self.say("compiling", f"{text}; tracing {program['trace_seconds']:.2f} s before it")
        flops = program["model_flops"]
        text = "unknown" if flops is None else f"{flops:.3e} on all devices"
        if program["flops"] is not None:
            text += f"; XLA counts {program['flops']:.3e} on each, every loop once"
        self.say("FLOPs of a step", text)
        self.memory(program["memory"])

    def memory(self, memory: "dict[str, int] | None") -> None:
        """Memory of the compiled step beside that of a device."""
        from bmojo.training.preflight import size

        limit = self.facts["devices"]["memory_bytes"]
        if memory is None:
            self.say("memory", "the backend does not report the memory of a step")
            return
        kinds = ("arguments", "outputs", "aliased", "temporary", "program")
        parts = ", ".join(f"{kind} {size(memory[kind])}" for kind in kinds)
        self.say("step on a device", f"{size(memory['together'])} together: {parts}")
        if limit is None:
            self.say("device memory", "unknown, so that nothing is said of the step's fit")
        elif memory["together"] <= limit:
            self.say("device memory", f"{size(limit)}: it fits")
        else:
            self.problems.append(
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
            self.problems.append(f"the compiler: {str(error).splitlines()[0]}; {MORE_ROOM}")
        except ValueError as error:
            if step.pieces_of_time == 1:
                raise
            self.problems.append(f"Mesh.sequence: {str(error).splitlines()[0]}")
        return None

    def end(self, out: Path | None) -> None:
        """Write everything, and print the problems."""

        def write() -> None:
            try:
                if out is not None:
                    write_atomically(out, json.dumps(self.facts, indent=2) + "\n")
            except OSError as error:
                raise UserError(
                    f"--json: {out} cannot be written ({error.strerror}); give another file"
                ) from None

        self.processes.from_main(write)
        for problem in self.problems:
            line(self.console, f"problem: {problem}")
        if not self.problems:
            line(self.console, "no problem found")

    def say(self, name: str, text: str) -> None:
        """Print a named line."""
        line(self.console, f"{name:<16} {text}")

    @contextlib.contextmanager
    def doing(self, work: str) -> Iterator[None]:
        """Name slow work on standard error: the last line of a log shows where it hangs."""
        if self.errors.is_terminal:
            with self.errors.status(work):
                yield
        else:
            line(self.errors, f"... {work}")
            yield
