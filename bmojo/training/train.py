"""The training loop: from an experiment to a run directory that is safe to interrupt.

Its ``metrics.jsonl`` is the same to the byte whether a run went through or was killed and started
again any number of times, on the same machine with the same versions. At a step that has
everything due the order is: line of metrics, checkpoint, evaluation. So a run that is resumed at
step s keeps the lines up to s, drops evaluations of s, and takes them again if they are due.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from bmojo.cache import use_compilation_cache
from bmojo.console import line, make_console
from bmojo.data.pipeline import Batch, Batches, DataError, Segments
from bmojo.data.text.tokenizers import keep_tokenizer
from bmojo.files import write_atomically
from bmojo.multihost import Processes
from bmojo.processes import StopSignals
from bmojo.training.checkpoints import Checkpoints
from bmojo.training.evaluate import Meter, Row
from bmojo.training.experiment import Experiment, run_tokenizer
from bmojo.training.metrics import COUNT, Best, MetricsWriter, check_metrics, read_metrics
from bmojo.training.report import Status, clock, one_line, plot_run, print_results, provenance
from bmojo.training.run_dir import RunDir, RunError
from bmojo.training.run_setup import RunSetup
from bmojo.training.train_state import restore_or_begin
from bmojo.training.train_step import STOP, device_fields
from bmojo.training.warm_start import WarmStart

SKIPS_IN_A_ROW = 10
"""Updates that may be skipped one after the other before a run gives up."""

NOT_FINITE = 3
"""Exit code of a run whose loss or gradient is not a number."""


class NotFiniteError(Exception):
    """A loss or a gradient is not a finite number."""

    def __init__(self, step: int, batch: Batch, metrics: dict[str, float]):
        super().__init__(f"step {step}: {metrics}")
        self.step, self.batch, self.metrics = step, batch, metrics


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
      status: 'finished', 'interrupted' or 'not finite'.
      step: steps done.
      exit_code: 0, 128 + the signal's number, or 3.
      message: one line for the user.
      summary: what ``summary.json`` holds, if the run is finished.
    """

    status: str
    step: int
    exit_code: int
    message: str
    summary: dict[str, Any] | None = None


def train(
    experiment: Experiment,
    run_dir: str | Path,
    *,
    config_text: str,
    console: Console | None = None,
    fresh: bool = False,
    processes: Processes | None = None,
) -> RunResult:
    """Train, or resume, or find that the run is finished.

    Args:
      experiment: model, optimizer, data and evaluations; its mesh says how the devices of all
        processes share the work, None: one device does it.
      run_dir: where everything is written; an unfinished run there is resumed.
      config_text: kept as ``config.gin``; it must be that of the run to resume.
      console: shows progress; None: standard output.
      fresh: move the run that is in ``run_dir`` aside and start over.
      processes: this process and the others that call this function with it; None: it is alone.

    Raises:
      RunError: the directory is in use, holds another config, or cannot be read or written;
        or the experiment does not fit the devices.
    """
    processes = processes or Processes()
    console = console or make_console(lasting=True, quiet=not processes.main)
    run = RunDir(run_dir)
    with processes.together(), contextlib.ExitStack() as held:
        setup = RunSetup(experiment, processes, config_text)
        held.enter_context(run.writing())

        def begin() -> dict[str, Any] | None:
            held.enter_context(run.lock())
            if fresh and (aside := run.move_aside()) is not None:
                line(console, f"the run that was here is now in {aside}")
            if setup.trainer.init_from is not None and not run.checkpoints.exists():
                WarmStart(setup)  # refuses what does not fit before anything is written
            run.claim(config_text)
            if (summary := run.finished()) is None:
                keep_tokenizer(run_tokenizer(experiment), run.path)
            return summary

        summary = processes.from_main(begin)
        run.see(config_text)
        if summary is not None and summary["step"] >= setup.curriculum.total:
            message = (
                f"{run.path}: this run is finished ({summary['step']} steps); start over with "
                "--fresh, or choose another directory with --run-dir"
            )
            line(console, message)
            print_results(run, summary, experiment.evaluations, console)
            return RunResult("finished", summary["step"], 0, message, summary)
        held.enter_context(setup.layout.active())
        if setup.trainer.compilation_cache:
            use_compilation_cache()
        return _Loop(setup, run, console).run()


class _Loop:
    """One process's part of a run."""

    def __init__(self, setup: RunSetup, run: RunDir, console: Console):
        self.setup, self.trainer, self.curriculum = setup, setup.trainer, setup.curriculum
        self.evaluations, self.processes = setup.experiment.evaluations, setup.processes
        self.dir, self.console = run, console
        self.meter = Meter(setup.structure, setup.layout)
        self.signal, self.shown = 0, (math.nan, math.nan)
        self.in_flight: collections.deque[tuple[int, Batch, dict[str, jax.Array]]]
        self.in_flight = collections.deque()
        self.rows: list[Row] = []
        self.best = Best(setup.trainer.best)
        self.programs: dict[Any, Any] = {}
        self.stop = StopSignals(lambda name: self._say(f"{name}: saving after this step"))

    def run(self) -> RunResult:
        """Restore or begin, train to the end, report."""
        keep = self.trainer.keep
        with (
            self.stop,
            Checkpoints(self.dir.checkpoints, keep, self._say, self.processes) as self.checkpoints,
        ):
            return self._run()

    def _run(self) -> RunResult:
        self.now, warnings = restore_or_begin(self.setup, self.checkpoints)
        for warning in warnings:
            self._say(warning, style="yellow")
        if self.now.metrics is not None:
            check = functools.partial(check_metrics, self.dir.metrics, self.now.metrics)
            if lost := self.processes.from_main(lambda: check(self.now.step)):
                self._say(lost, style="yellow")
        if self.now.best is not None:
            self.best.step, self.best.value = self.now.best
        else:
            earlier = read_metrics(self.dir.metrics)
            self.best.take(record for record in earlier if record["step"] < self.now.step)
        self.checkpoints.best = self.best.step
        for text in (f"run directory {self.dir.path}", *self.setup.head(), *self.now.began_with):
            self._say(text)
        if self.now.step:
            self._say(f"going on from step {self.now.step} of {self.curriculum.total}")
        options = (self.now.window, self.trainer.tensorboard, self.processes.main, self.now.metrics)
        try:
            with (
                MetricsWriter(self.dir, self.now.step, *options) as self.metrics,
                Status(self.console, self.curriculum.total, self.now.step) as self.status,
            ):
                finished = self._evaluate_if_due() and self._train()
        except NotFiniteError as error:
            return self._give_up(error)
        return self._finish() if finished else self._interrupted()

    # Training

    def _train(self) -> bool:
        """Run the stages that are left; false if asked to stop."""
        now, plan = self.now, self.curriculum
        for index, stage in enumerate(plan.stages):
            if now.step >= plan.ends[index]:
                continue
            source = stage.data.source(self.trainer.seed, "train")
            rows = self.setup.layout.local_rows(stage.batch_size)
            batches = Batches(source, stage.batch_size, plan.examples(index), rows)
            parts = Segments(batches, plan.segments)
            if now.step > plan.begin(index):
                if now.stage != index or now.data is None:
                    raise RunError(
                        f"{self.checkpoints.directory}: the checkpoint of step {now.step} has the "
                        f"data position of stage {now.stage + 1}, not {index + 1}; start over "
                        "with --fresh"
                    )
                parts.set_state(now.data)
            now.stage = index
            if not self._train_stage(index, plan.ends[index], parts):
                return False
        return True

    def _train_stage(self, index: int, end: int, batches: Segments) -> bool:
        stage, now = self.curriculum.stages[index], self.now
        self.stage_name = f"stage {index + 1}/{len(self.curriculum.stages)}"
        within, batch, after = self._read(batches)
        self.metrics.pause()
        while now.step < end:
            if not within:
                segmented = self.curriculum.segments > 1
                now.carried = self.setup.fresh_state(now.parameters, stage) if segmented else None
            fields = self._fields(batch, stage.batch_size)
            now.parameters, now.optimizer_state, now.carried, metrics = self._program(fields)(
                now.parameters, now.optimizer_state, now.carried, fields
            )
            self.setup.layout.settle(metrics)
            now.step += 1
            now.data = after
            self.in_flight.append((now.step, batch, metrics))
            if now.step < end:  # while the device computes
                within, batch, after = self._read(batches)
            self._settle(1)

            log, save = map(self._due, (self.trainer.log_every, self.trainer.checkpoint_every))
            if log or save or self._due(self.trainer.eval_every) or self._stopping():
                self._settle(0)
            if log:
                self._log()
            if save or self._stopping():
                self._save()
            if self._stopping() or not self._evaluate_if_due():
                return False
        return True

    def _read(self, batches: Segments) -> tuple[bool, Batch, dict[str, Any]]:
        """Whether a sequence goes on, the next batch, and the position after it."""
        try:
            return batches.within, next(batches), batches.get_state()
        except DataError as error:
            self._settle(0)
            if self.metrics.window and self._due(self.trainer.log_every):
                self._log()
            raise self._saved(error) from error

    def _fields(self, batch: Batch, rows: int) -> dict[str, Any]:
        """The fields of a batch that a step needs, on their devices."""
        placed = self.setup.layout.put(device_fields(batch), rows)
        if self.processes.count > 1:
            placed[STOP] = self.setup.layout.flag(self.stop.number or 0)
        return placed

    def _stopping(self) -> bool:
        """Whether to stop after this step; several processes all give the same answer."""
        if self.processes.count == 1:
            self.signal = self.stop.number or 0
        return self.signal > 0

    def _program(self, fields: dict[str, Any]) -> Any:
        """The compiled step for batches of this shape."""
        key = tuple((name, value.shape) for name, value in fields.items())
        if key not in self.programs:
            now, began = self.now, time.monotonic()
            arguments = (now.parameters, now.optimizer_state, now.carried, fields)
            self.programs[key] = self.setup.train_step().lower(*arguments).compile()
            seconds = time.monotonic() - began
            now.compile_seconds += seconds
            rows, length = fields["inputs"].shape
            self._say(f"compiled the step for {rows} x {length} tokens in {seconds:.1f} s")
        return self.programs[key]

    def _due(self, every: int) -> bool:
        last = self.now.step in (self.curriculum.planned, self.curriculum.total)
        return last or (every > 0 and self.now.step % every == 0)

    def _settle(self, in_flight: int) -> None:
        """Take in the metrics of all steps but the newest few, waiting for them if need be."""
        while len(self.in_flight) > in_flight:
            step, batch, device_metrics = self.in_flight.popleft()
            metrics = {name: float(value) for name, value in device_metrics.items()}
            self.signal = self.signal or int(metrics.get(STOP, 0))
            finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
            self.now.skipped = 0 if finite else self.now.skipped + 1
            if not finite:
                if self.trainer.on_nonfinite == "stop" or self.now.skipped == SKIPS_IN_A_ROW:
                    raise NotFiniteError(step, batch, metrics)
                self._say(f"step {step}: loss {metrics['loss']}; the update is skipped")
            self.now.updates += finite and metrics[COUNT] > 0
            tokens = self.curriculum.tokens(step) - self.curriculum.tokens(step - 1)
            self.metrics.step(step, metrics if finite else None, tokens)
            if metrics[COUNT]:
                self.shown = (metrics["loss"], metrics["accuracy"])
            speed = self.metrics.tokens_per_second
            self.status.update(step, self.stage_name, *self.shown, speed)

    def _log(self) -> None:
        """Write the means since the last line."""
        rate = float(self.setup.learning_rate(max(self.now.updates - 1, 0)))
        before = {"stage": self.now.stage + 1, "tokens": self.curriculum.tokens(self.now.step)}
        after: dict[str, Any] = {"learning_rate": rate}
        if self.trainer.on_nonfinite == "skip":
            after["skipped"] = sum(values is None for values in self.metrics.window)
        self.now.final = self.metrics.train(self.now.step, self.now.seconds, before, after)

    def _save(self) -> None:
        self.now.metrics, self.now.window = self.metrics.mark(self.now.step), self.metrics.window
        self.now.best = (self.best.step, self.best.value)
        self.checkpoints.save(self.now.checkpoint(self.setup))
        self.metrics.pause()

    def _evaluate_if_due(self) -> bool:
        """Take and write the evaluations if it is time; false if asked to stop."""
        if self.now.step == 0 or not self.evaluations or not self._due(self.trainer.eval_every):
            return not self._stopping()
        # Of several processes none gives up in the middle, as the others would wait for it.
        stopped = self.stop.requested if self.processes.count == 1 else lambda: False
        try:
            rows = self.meter.measure(self.now.parameters, self.evaluations, stopped)
        except DataError as error:
            raise self._saved(error) from error
        self.metrics.pause()
        if rows is None:
            self._stopping()
            if self.checkpoints.latest != self.now.step:
                self._save()
            return False
        self.rows = rows
        self.metrics.evaluation(self.now.step, rows)
        if self.best.take({"step": self.now.step, **row} for row in rows):
            self.checkpoints.best = self.now.step
            if self.checkpoints.latest != self.now.step:
                self._save()
        self._say(f"step {self.now.step}  {one_line(rows)}")
        return True

    # Ending

    def _finish(self) -> RunResult:
        self.checkpoints.wait()
        summary = {
            "status": "finished",
            "step": self.now.step,
            "tokens": self.curriculum.tokens(self.now.step),
            "final": self.now.final,
            "evaluations": self.rows,
            **self.setup.facts,
            "wall_seconds": self.now.seconds,
            "compile_seconds": self.now.compile_seconds,
            **provenance(self.trainer.seed),
        }
        if self.processes.main:
            if self.trainer.plots:
                history, stages = read_metrics(self.dir.metrics), self.curriculum.stages
                plot_run(self.dir, history, self.rows, stages, self.evaluations)
            write_atomically(self.dir.summary, json.dumps(summary, indent=2) + "\n")
        message = f"finished {self.curriculum.total} steps in {clock(self.now.seconds)}"
        self._say(message)
        print_results(self.dir, summary, self.evaluations, self.console)
        return RunResult("finished", self.now.step, 0, message, summary)

    def _interrupted(self) -> RunResult:
        self.checkpoints.wait()
        number = self.signal or signal.SIGINT
        message = (
            f"stopped by {signal.Signals(number).name} at step {self.now.step} of "
            f"{self.curriculum.total}, all saved in {self.dir.path}; the same command goes on "
            "from here"
        )
        self._say(message)
        return RunResult("interrupted", self.now.step, 128 + number, message)

    def _saved(self, error: DataError) -> DataError:
        """Save what is done before the error ends the run."""
        if self.now.step and self.checkpoints.latest != self.now.step:
            self._save()
        self.checkpoints.wait()
        return DataError(f"{error}, and the same command goes on from step {self.now.step}")

    def _give_up(self, error: NotFiniteError) -> RunResult:
        self.checkpoints.wait()
        saved, index = self.checkpoints.latest, self.processes.index
        part = f"_process{index}" if index else ""
        path = self.dir.path / f"bad_batch_step{error.step}{part}.npz"
        np.savez(path, **error.batch)  # type: ignore[arg-type]
        before = f"the checkpoint of step {saved} stays" if saved else "nothing was saved before"
        message = (
            f"step {error.step}: loss {error.metrics['loss']}, gradient norm "
            f"{error.metrics['grad_norm']}; the batch is in {path}, {before}; lower "
            "Optimizer.learning_rate or Optimizer.clip and start over with --fresh"
        )
        self._say(message, style="red")
        return RunResult("not finite", error.step, NOT_FINITE, message)

    def _say(self, text: str, style: str | None = None) -> None:
        line(self.console, text, style=style)
