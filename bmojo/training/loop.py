"""The training loop: from configs to a run directory that is safe to interrupt.

A run is a function of its config. What it writes to ``metrics.jsonl`` is the same to the byte
whether it ran through or was killed and started again any number of times, on the same
machine with the same versions.

The order at a step that has everything due is: line of metrics, checkpoint, evaluation. So a
run that is resumed at step s keeps the lines up to s, drops evaluations of s, and takes them
again if they are due.
"""

import collections
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
from bmojo.training.checkpoint import Checkpoint, Checkpoints
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.journal import AVERAGED, Journal
from bmojo.training.measure import Meter, Row
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
from bmojo.training.plan import Plan, check
from bmojo.training.progress import Status, clock
from bmojo.training.report import costs, implementations, one_line, provenance
from bmojo.training.rundir import RunDir, RunError, write_atomically
from bmojo.training.signals import StopSignals
from bmojo.training.step import device_fields, make_fresh_state, make_train_step


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

    Returns:
      How it ended.

    Raises:
      RunError: the directory is in use, holds another config, or cannot be read or written;
        or the configs do not fit each other.
    """
    console = console or Console()
    check(model_config, trainer_config, curriculum, evaluations)
    run = RunDir(run_dir)
    with run.writing(), run.lock():
        if fresh and (aside := run.move_aside()) is not None:
            console.print(f"the run that was here is now in {aside}", soft_wrap=True)
        run.claim(config_text)
        summary = run.finished()
        if summary is not None:
            return already_finished(run, summary, evaluations, console)
        if trainer_config.compilation_cache:
            use_compilation_cache()
        notice = _notice(console)
        with StopSignals(notice) as stop, Checkpoints(run.checkpoints, trainer_config.keep) as kept:
            loop = _Loop(
                model_config,
                optimizer_config,
                trainer_config,
                tuple(curriculum),
                tuple(evaluations),
                run,
                config_text,
                console,
                stop,
                kept,
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
    ):
        self.began = time.monotonic()
        self.model_config, self.trainer = model_config, trainer
        self.curriculum, self.evaluations = curriculum, evaluations
        self.dir, self.config_text, self.console = run, config_text, console
        self.stop, self.checkpoints = stop, checkpoints

        self.plan = Plan(curriculum, trainer.segments_per_document)
        self.make: Callable[[], Any] = lambda: model_config.make(nnx.Rngs(trainer.seed))
        self.structure, self.shapes = outline(self.make)
        self.optimizer = make_optimizer(optimizer_config, self.plan.total, self.structure.names)
        self.learning_rate = schedule(optimizer_config, self.plan.total)

        self.meter = Meter(self.structure)
        self.fresh = make_fresh_state(self.structure)

        self.step = 0
        self.seconds_before = 0.0
        self.compile_seconds = 0.0
        self.data_state: dict[str, Any] | None = None
        self.data_stage = 0
        self.window: list[list[float]] = []
        self.carried: State | None = None
        self.in_flight: collections.deque[tuple[int, Batch, dict[str, jax.Array]]]
        self.in_flight = collections.deque()
        self.rows: list[Row] = []

    def run(self) -> Outcome:
        """Restore or begin, train to the end, report."""
        self._restore_or_begin()
        self._print_head()
        try:
            with (
                Journal(self.dir, self.step, self.window, self.trainer.tensorboard) as self.journal,
                Status(self.console, self.plan.total, self.step) as self.status,
            ):
                finished = self._evaluate_if_due() and self._train()
        except NotFiniteError as error:
            return self._give_up(error)
        return self._finish() if finished else self._interrupted()

    # Beginning

    def _restore_or_begin(self) -> None:
        state_shapes = jax.eval_shape(self.optimizer.init, self.shapes)
        checkpoint, warnings = self.checkpoints.restore(
            self.shapes, state_shapes, self._carried_shapes
        )
        for warning in warnings:
            self.console.print(warning, style="yellow", soft_wrap=True)
        if checkpoint is None:
            self.parameters = initialize(self.make)
            self.optimizer_state = jax.jit(self.optimizer.init)(self.parameters)
        else:
            self.parameters = checkpoint.parameters
            self.optimizer_state = checkpoint.optimizer_state
            self.step = checkpoint.step
            self.data_stage = checkpoint.meta["stage"]
            self.data_state = checkpoint.meta["data"]
            self.window = checkpoint.meta["window"]
            self.seconds_before = checkpoint.meta["seconds"]
            self.compile_seconds = checkpoint.meta["compile_seconds"]
            if checkpoint.carried is not None:
                fresh = self._fresh_state(self.parameters, self.curriculum[self.data_stage])
                self.carried = unflatten(fresh, checkpoint.carried)

    def _carried_shapes(self, meta: dict[str, Any]) -> dict[str, Any] | None:
        """Of the state that a checkpoint between two segments holds."""
        if not meta["data"]["part"]:
            return None
        stage = self.curriculum[meta["stage"]]
        return jax.eval_shape(lambda p: flatten(self._fresh_state(p, stage)), self.shapes)

    def _fresh_state(self, parameters: Parameters, stage: Stage) -> State:
        """Of the model before the first segment."""
        return self.fresh(parameters, stage.batch_size, stage.data.length)

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
                batches = Batches(source, stage.batch_size, self.plan.examples(index))
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
            program = self._program(batch, programs)
            self.parameters, self.optimizer_state, self.carried, metrics = program(
                self.parameters, self.optimizer_state, self.carried, device_fields(batch)
            )
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
            if log or save or self._due(self.trainer.eval_every) or self.stop.requested():
                self._settle(0, name)
            if log:
                self._log(index)
            if save or self.stop.requested():
                self._save()
            if self.stop.requested() or not self._evaluate_if_due():
                return False
        return True

    def _program(self, batch: Batch, programs: dict[Any, Any]) -> Any:
        """The compiled step for batches of this shape."""
        fields = device_fields(batch)
        key = tuple((name, value.shape) for name, value in fields.items())
        if key not in programs:
            step = make_train_step(self.structure, self.optimizer)
            began = time.monotonic()
            arguments = (self.parameters, self.optimizer_state, self.carried, fields)
            programs[key] = step.lower(*arguments).compile()
            seconds = time.monotonic() - began
            self.compile_seconds += seconds
            rows, length = batch["inputs"].shape
            self._say(f"compiled the step for {rows} x {length} tokens in {seconds:.1f} s")
        return programs[key]

    def _due(self, every: int) -> bool:
        return self.step == self.plan.total or (every > 0 and self.step % every == 0)

    def _settle(self, in_flight: int, stage: str) -> None:
        """Look at the metrics of all steps but the newest few, waiting for them if need be."""
        while len(self.in_flight) > in_flight:
            step, batch, device_metrics = self.in_flight.popleft()
            metrics = {name: float(value) for name, value in device_metrics.items()}
            if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                raise NotFiniteError(step, batch, metrics)
            self.journal.step(step, metrics, batch["inputs"].size)
            speed = self.journal.tokens_per_second
            self.status.update(step, stage, metrics["loss"], metrics["accuracy"], speed)

    def _log(self, stage: int) -> None:
        """Write the means since the last line."""
        rate = float(self.learning_rate(self.step - 1))
        before = {"stage": stage + 1, "tokens": self.plan.tokens(self.step)}
        self.journal.train(self.step, self._seconds(), before, {"learning_rate": rate})

    def _save(self) -> None:
        self.journal.sync()
        meta = {
            "stage": self.data_stage,
            "data": self.data_state,
            "window": self.journal.window,
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
            return not self.stop.requested()
        try:
            rows = self.meter.measure(self.parameters, self.evaluations, self.stop.requested)
        except DataError as error:
            raise self._saved(error) from error
        self.journal.pause()
        if rows is None:
            if self.checkpoints.latest != self.step:
                self._save()
            return False
        self.rows = rows
        self.journal.evaluation(self.step, rows)
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
        if self.trainer.plots:
            from bmojo.training.plots import plot_run  # Matplotlib is slow

            plot_run(self.dir, history, self.rows, self.curriculum, self.evaluations)
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
        message = not_finite(self.dir, error, self.checkpoints.latest)
        self._say(message, style="red")
        return Outcome("not finite", error.step, NOT_FINITE, message)

    # Small things

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _notice(console: Console) -> Callable[[str], None]:
    return lambda name: console.print(f"{name}: saving after this step", highlight=False)
