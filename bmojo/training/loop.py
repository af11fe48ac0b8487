"""The training loop: from configs to a run directory that is safe to interrupt.

A run is a function of its config. What it writes to ``metrics.jsonl`` is the same to the byte
whether it ran through or was killed and started again any number of times, on the same
machine with the same versions.

The order at a step that has everything due is: line of metrics, checkpoint, evaluation. So a
run that is resumed at step s keeps the lines up to s, drops evaluations of s, and takes them
again if they are due.
"""

import collections
import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from bmojo.data.pipeline import Batch, Batches, DataError, Segments
from bmojo.layers.protocol import State
from bmojo.training import records
from bmojo.training.cache import use_compilation_cache
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.checkpoints.best import Best
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.journal import AVERAGED, Journal
from bmojo.training.measure import Meter, Row
from bmojo.training.mesh import Layout, MeshConfig, make_layout
from bmojo.training.optimizer import make_optimizer, schedule
from bmojo.training.outcome import (
    NOT_FINITE,
    NotFiniteError,
    Outcome,
    already_finished,
    not_finite,
    print_results,
)
from bmojo.training.parameters import Parameters, flatten, initialize, outline, unflatten
from bmojo.training.placed import Placed, shardings_of
from bmojo.training.plan import Plan, check
from bmojo.training.processes import Processes
from bmojo.training.progress import Status, clock
from bmojo.training.report import costs, implementations, one_line, provenance
from bmojo.training.rundir import RunDir, RunError, write_atomically
from bmojo.training.signals import StopSignals
from bmojo.training.step import STOP, device_fields, make_fresh_state, make_train_step

SKIPS_IN_A_ROW = 10
"""Updates that may be skipped one after the other before a run gives up."""


def train(
    model_config: Any,
    optimizer_config: OptimizerConfig,
    trainer_config: TrainerConfig,
    curriculum: Sequence[Stage],
    evaluations: Sequence[Evaluation],
    run_dir: str,
    config_text: str,
    console: Console | None = None,
    fresh: bool = False,
    mesh: MeshConfig | None = None,
    processes: Processes | None = None,
) -> Outcome:
    """Train, or go on training, or find that all is done.

    Args:
      model_config: ``model_config.make(rngs)`` gives the model.
      optimizer_config: learning rates and their schedule over all steps of the curriculum.
      trainer_config: seed, and how often to log, measure and save.
      curriculum: stages, run one after the other; no example is used twice.
      evaluations: measurements during training and at its end.
      run_dir: where everything is written; an unfinished run there is resumed.
      config_text: kept as ``config.gin``; it must be that of the run to resume.
      console: where to show progress; None: standard output.
      fresh: move what ``run_dir`` holds aside and start over.
      mesh: how the devices of all processes share the work; None: one device does it.
      processes: this process and the others that call this function with it; None: it is
        alone.

    Returns:
      How it ended.

    Raises:
      RunError: the directory is in use, holds another config, or cannot be read or written;
        or the configs do not fit each other.
    """
    processes = processes or Processes()
    with processes.together():
        return _train(
            model_config,
            optimizer_config,
            trainer_config,
            tuple(curriculum),
            tuple(evaluations),
            RunDir(run_dir),
            config_text,
            console,
            fresh,
            mesh,
            processes,
        )


def _train(
    model_config: Any,
    optimizer_config: OptimizerConfig,
    trainer_config: TrainerConfig,
    curriculum: tuple[Stage, ...],
    evaluations: tuple[Evaluation, ...],
    run: RunDir,
    config_text: str,
    console: Console | None,
    fresh: bool,
    mesh: MeshConfig | None,
    processes: Processes,
) -> Outcome:
    console = console or Console(quiet=not processes.main)
    layout = make_layout(mesh, processes.count)
    check(model_config, trainer_config, curriculum, evaluations, layout)
    with run.writing(), contextlib.ExitStack() as held:

        def begin() -> dict[str, Any] | None:
            held.enter_context(run.lock())
            if fresh and (aside := run.move_aside()) is not None:
                console.print(f"the run that was here is now in {aside}", soft_wrap=True)
            run.claim(config_text)
            return run.finished()

        summary = processes.from_main(begin)
        run.see(config_text)
        if summary is not None:
            return already_finished(run, summary, evaluations, console)
        if layout is not None:
            held.enter_context(layout.active())
        if trainer_config.compilation_cache:
            use_compilation_cache()
        notice = _notice(console)
        with (
            StopSignals(notice) as stop,
            Checkpoints(run.checkpoints, trainer_config.keep, console.print) as kept,
        ):
            loop = _Loop(
                model_config,
                optimizer_config,
                trainer_config,
                curriculum,
                evaluations,
                run,
                config_text,
                console,
                stop,
                kept,
                layout,
                processes,
            )
            return loop.run()


class _Loop:
    """One process's part of a run."""

    def __init__(
        self,
        model_config: Any,
        optimizer_config: OptimizerConfig,
        trainer: TrainerConfig,
        curriculum: tuple[Stage, ...],
        evaluations: tuple[Evaluation, ...],
        run: RunDir,
        config_text: str,
        console: Console,
        stop: StopSignals,
        checkpoints: Checkpoints,
        layout: Layout | None,
        processes: Processes,
    ):
        self.began = time.monotonic()
        self.model_config, self.trainer = model_config, trainer
        self.curriculum, self.evaluations = curriculum, evaluations
        self.dir, self.config_text, self.console = run, config_text, console
        self.stop, self.checkpoints = stop, checkpoints
        self.layout, self.processes = layout, processes

        self.plan = Plan(curriculum, trainer.segments_per_document)
        self.make: Callable[[], Any] = lambda: model_config.make(nnx.Rngs(trainer.seed))
        self.structure, self.shapes = outline(self.make)
        self.placed = Placed(layout, self.make, self.shapes)
        self.optimizer = make_optimizer(optimizer_config, self.plan.total, self.structure.names)
        self.learning_rate = schedule(optimizer_config, self.plan.total)

        self.meter = Meter(self.structure, layout)
        self.fresh = make_fresh_state(self.structure, layout)

        self.step = 0
        self.seconds_before = 0.0
        self.compile_seconds = 0.0
        self.data_state: dict[str, Any] | None = None
        self.data_stage = 0
        self.window: list[list[float] | None] = []
        self.skipped = 0
        self.asked_to_stop = False
        self.carried: State | None = None
        self.in_flight: collections.deque[tuple[int, Batch, dict[str, jax.Array]]]
        self.in_flight = collections.deque()
        self.rows: list[Row] = []
        self.best = Best(trainer.best)

    def run(self) -> Outcome:
        """Restore or begin, train to the end, report."""
        self._restore_or_begin()
        self._print_head()
        try:
            with (
                Journal(
                    self.dir,
                    self.step,
                    self.window,
                    self.trainer.tensorboard,
                    self.processes.main,
                ) as self.journal,
                Status(self.console, self.plan.total, self.step) as self.status,
            ):
                finished = self._evaluate_if_due() and self._train()
        except NotFiniteError as error:
            return self._give_up(error)
        return self._finish() if finished else self._interrupted()

    # Beginning

    def _restore_or_begin(self) -> None:
        state_shapes = self.placed.optimizer(jax.eval_shape(self.optimizer.init, self.shapes))
        checkpoint, warnings = self.checkpoints.restore(
            self.placed.parameters(self.shapes), state_shapes, self._carried_shapes
        )
        for warning in warnings:
            self.console.print(warning, style="yellow", soft_wrap=True)
        if checkpoint is None:
            self.parameters = self.placed.settle(initialize(self.make, self.placed.shardings))
            places = shardings_of(state_shapes) if self.layout else None
            init = jax.jit(self.optimizer.init, out_shardings=places)
            self.optimizer_state = self.placed.settle(init(self.parameters))
        else:
            self.parameters = checkpoint.parameters
            self.optimizer_state = checkpoint.optimizer_state
            self.step = checkpoint.step
            self.data_stage = checkpoint.meta["stage"]
            self.data_state = checkpoint.meta["data"]
            self.window = checkpoint.meta["window"]
            self.skipped = checkpoint.meta.get("skipped", 0)
            self.seconds_before = checkpoint.meta["seconds"]
            self.compile_seconds = checkpoint.meta["compile_seconds"]
            self.best.take(r for r in records.read(self.dir.metrics) if r["step"] < self.step)
            self.checkpoints.best = self.best.step
            if checkpoint.carried is not None:
                fresh = self._fresh_state(self.parameters, self.curriculum[self.data_stage])
                self.carried = unflatten(fresh, checkpoint.carried)

    def _carried_shapes(self, meta: dict[str, Any]) -> dict[str, Any] | None:
        """Of the state that a checkpoint between two segments holds."""
        if not meta["data"]["part"]:
            return None
        stage = self.curriculum[meta["stage"]]
        rows, length = stage.batch_size, stage.data.length
        state = jax.eval_shape(lambda p: self.fresh(p, rows, length), self.shapes)
        return flatten(self.placed.state(state))

    def _fresh_state(self, parameters: Parameters, stage: Stage) -> State:
        """Of the model before the first segment."""
        return self.placed.settle(self.fresh(parameters, stage.batch_size, stage.data.length))

    def _print_head(self) -> None:
        facts = costs(self.model_config, self.shapes, self.curriculum)
        line = f"{facts['parameters']:,} parameters"
        if "state_bytes" in facts:
            longest = max(stage.data.length for stage in self.curriculum)
            line += (
                f", {facts['state_bytes'] + facts['key_value_bytes']:,} bytes of state a row "
                f"after {longest} tokens, {facts['training_flops']:.2e} FLOPs in all"
            )
        print_line = self._say
        print_line(f"run directory {self.dir.path}")
        print_line(line)
        if self.layout is not None:
            where = f"{self.layout.mesh.size} devices in {self.processes.count} processes"
            print_line(f"mesh {self.layout}: {where}")
        elif jax.device_count() > 1:
            print_line(f"1 of {jax.device_count()} devices is used; Experiment.mesh=@Mesh(): all")
        for cell, implementation in implementations(self.model_config).items():
            print_line(f"{cell}: {implementation} scan")
        if self.step:
            print_line(f"going on from step {self.step} of {self.plan.total}")
        self.facts = facts

    # Training

    def _train(self) -> bool:
        """Run the stages that are left; false if asked to stop."""
        programs: dict[Any, Any] = {}
        for index, end in enumerate(self.plan.ends):
            if self.step < end:
                stage = self.curriculum[index]
                source = stage.data.source(self.trainer.seed, "train")
                rows = self.layout.local_rows(stage.batch_size) if self.layout else None
                batches = Batches(source, stage.batch_size, self.plan.examples(index), rows)
                parts = Segments(batches, self.plan.segments)
                if self.step > self.plan.begin(index):
                    self._resume_data(parts, index)
                self.data_stage = index
                if not self._train_stage(index, end, parts, programs):
                    return False
        return True

    def _resume_data(self, batches: Segments, stage: int) -> None:
        if self.data_stage != stage or self.data_state is None:
            raise RunError(
                f"{self.checkpoints.directory}: the checkpoint of step {self.step} has the data "
                f"position of stage {self.data_stage + 1}, not {stage + 1}; start over with --fresh"
            )
        batches.set_state(self.data_state)

    def _train_stage(
        self, index: int, end: int, batches: Segments, programs: dict[Any, Any]
    ) -> bool:
        stage = self.curriculum[index]
        try:
            within, batch, after = batches.within, next(batches), batches.get_state()
        except DataError as error:
            raise self._saved(error) from error
        name = f"stage {index + 1}/{len(self.curriculum)}"
        self.journal.pause()
        while self.step < end:
            if not within:
                self.carried = (
                    self._fresh_state(self.parameters, stage) if self.plan.segments > 1 else None
                )
            fields = self._fields(batch, stage.batch_size)
            program = self._program(fields, programs)
            self.parameters, self.optimizer_state, self.carried, metrics = program(
                self.parameters, self.optimizer_state, self.carried, fields
            )
            self.placed.settle(metrics)
            self.step += 1
            self.data_state = after
            self.in_flight.append((self.step, batch, metrics))
            if self.step < end:  # while the device computes
                try:
                    within, batch, after = batches.within, next(batches), batches.get_state()
                except DataError as error:
                    self._settle(0, name)
                    if self._due(self.trainer.log_every):
                        self._log(index)
                    raise self._saved(error) from error
            self._settle(1, name)

            log = self._due(self.trainer.log_every)
            save = self._due(self.trainer.checkpoint_every)
            if log or save or self._due(self.trainer.eval_every) or self._stopping():
                self._settle(0, name)
            if log:
                self._log(index)
            if save or self._stopping():
                self._save()
            if self._stopping() or not self._evaluate_if_due():
                return False
        return True

    def _fields(self, batch: Batch, rows: int) -> dict[str, Any]:
        """What a step gets of a batch, where it is to lie."""
        fields = device_fields(batch)
        if self.layout is None:
            return fields
        placed = self.layout.put(fields, rows)
        if self.processes.count > 1:
            placed[STOP] = self.layout.flag(self.stop.requested())
        return placed

    def _stopping(self) -> bool:
        """Whether to stop after this step: of several processes all say the same."""
        return self.stop.requested() if self.processes.count == 1 else self.asked_to_stop

    def _program(self, fields: dict[str, Any], programs: dict[Any, Any]) -> Any:
        """The compiled step for batches of this shape."""
        key = tuple((name, value.shape) for name, value in fields.items())
        if key not in programs:
            step = make_train_step(
                self.structure,
                self.optimizer,
                self.layout,
                self.placed.shardings,
                self.trainer.accumulate,
                self.trainer.on_nonfinite == "skip",
            )
            began = time.monotonic()
            arguments = (self.parameters, self.optimizer_state, self.carried, fields)
            programs[key] = step.lower(*arguments).compile()
            seconds = time.monotonic() - began
            self.compile_seconds += seconds
            rows, length = fields["inputs"].shape
            self._say(f"compiled the step for {rows} x {length} tokens in {seconds:.1f} s")
        return programs[key]

    def _due(self, every: int) -> bool:
        return self.step == self.plan.total or (every > 0 and self.step % every == 0)

    def _settle(self, in_flight: int, stage: str) -> None:
        """Look at the metrics of all steps but the newest few, waiting for them if need be."""
        while len(self.in_flight) > in_flight:
            step, batch, device_metrics = self.in_flight.popleft()
            metrics = {name: float(value) for name, value in device_metrics.items()}
            self.asked_to_stop |= metrics.get(STOP, 0) > 0
            finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
            self.skipped = 0 if finite else self.skipped + 1
            if not finite:
                if self.trainer.on_nonfinite == "stop" or self.skipped == SKIPS_IN_A_ROW:
                    raise NotFiniteError(step, batch, metrics)
                self._say(f"step {step}: loss {metrics['loss']}; the update is skipped")
            tokens = self.plan.tokens(step) - self.plan.tokens(step - 1)
            self.journal.step(step, metrics if finite else None, tokens)
            speed = self.journal.tokens_per_second
            self.status.update(step, stage, metrics["loss"], metrics["accuracy"], speed)

    def _log(self, stage: int) -> None:
        """Write the means since the last line."""
        rate = float(self.learning_rate(self.step - 1))
        before = {"stage": stage + 1, "tokens": self.plan.tokens(self.step)}
        after: dict[str, Any] = {"learning_rate": rate}
        if self.trainer.on_nonfinite == "skip":
            after["skipped"] = sum(values is None for values in self.journal.window)
        self.journal.train(self.step, self._seconds(), before, after)

    def _save(self) -> None:
        self.journal.sync()
        meta = {
            "stage": self.data_stage,
            "data": self.data_state,
            "window": self.journal.window,
            "skipped": self.skipped,
            "seed": self.trainer.seed,
            "seconds": self._seconds(),
            "compile_seconds": self.compile_seconds,
            "config": self.config_text,
        }
        within = self.data_state is not None and self.data_state["part"]
        self.checkpoints.save(
            Checkpoint(
                self.step,
                self.parameters,
                self.optimizer_state,
                meta,
                flatten(self.carried) if within else None,
            )
        )
        self.journal.pause()

    def _evaluate_if_due(self) -> bool:
        """Take and write the evaluations if it is time; false if asked to stop."""
        if self.step == 0 or not self.evaluations or not self._due(self.trainer.eval_every):
            return not self._stopping()
        # Of several processes none gives up in the middle, as the others would wait for it.
        stopped = self.stop.requested if self.processes.count == 1 else lambda: False
        try:
            rows = self.meter.measure(self.parameters, self.evaluations, stopped)
        except DataError as error:
            raise self._saved(error) from error
        self.journal.pause()
        if rows is None:
            if self.checkpoints.latest != self.step:
                self._save()
            return False
        self.rows = rows
        self.journal.evaluation(self.step, rows)
        if self.best.take({"step": self.step, **row} for row in rows):
            self.checkpoints.best = self.step
            if self.checkpoints.latest != self.step:
                self._save()
        self._say(f"step {self.step}  {one_line(rows)}")
        return True

    # Ending

    def _finish(self) -> Outcome:
        self.checkpoints.wait()
        history = records.read(self.dir.metrics)
        last = [record for record in history if "evaluation" not in record][-1]
        summary = {
            "status": "finished",
            "step": self.step,
            "tokens": self.plan.tokens(self.step),
            "final": {name: last[name] for name in AVERAGED},
            "evaluations": self.rows,
            **self.facts,
            "wall_seconds": self._seconds(),
            "compile_seconds": self.compile_seconds,
            **provenance(self.trainer.seed),
        }
        if self.trainer.plots and self.processes.main:
            from bmojo.training.plots import plot_run  # Matplotlib is slow

            plot_run(self.dir, history, self.rows, self.curriculum, self.evaluations)
        if self.processes.main:
            write_atomically(self.dir.summary, json.dumps(summary, indent=2) + "\n")
        message = f"finished {self.plan.total} steps in {clock(self._seconds())}"
        self._say(message)
        print_results(self.dir, summary, self.evaluations, self.console)
        return Outcome("finished", self.step, 0, message, summary)

    def _interrupted(self) -> Outcome:
        self.checkpoints.wait()
        number = self.stop.number or signal.SIGINT
        message = (
            f"stopped by {signal.Signals(number).name} at step {self.step} of "
            f"{self.plan.total}, all saved in {self.dir.path}; the same command goes on from here"
        )
        self._say(message)
        return Outcome("interrupted", self.step, 128 + number, message)

    def _saved(self, error: DataError) -> DataError:
        """Save what is done before the error ends the run."""
        if self.step and self.checkpoints.latest != self.step:
            self._save()
        self.checkpoints.wait()
        return DataError(f"{error}, and the same command goes on from step {self.step}")

    def _give_up(self, error: NotFiniteError) -> Outcome:
        self.checkpoints.wait()
        message = not_finite(self.dir, error, self.checkpoints.latest, self.processes.index)
        self._say(message, style="red")
        return Outcome("not finite", error.step, NOT_FINITE, message)

    # Small things

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _notice(console: Console) -> Callable[[str], None]:
    return lambda name: console.print(f"{name}: saving after this step", highlight=False)
