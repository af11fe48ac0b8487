"""The training loop: from configs to a run directory that is safe to interrupt.

A run is a function of its config. What it writes to ``metrics.jsonl`` is the same to the byte
whether it ran through or was killed and started again any number of times, on the same
machine with the same versions.

The order at a step that has everything due is: line of metrics, checkpoint, evaluation. So a
run that is resumed at step s keeps the lines up to s, drops evaluations of s, and takes them
again if they are due.
"""

import collections
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from bmojo.data.pipeline import Batch, Batches
from bmojo.training import records
from bmojo.training.cache import use_compilation_cache
from bmojo.training.checkpoint import Checkpoint, Checkpoints
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.measure import Row, measure
from bmojo.training.optimizer import make_optimizer, schedule
from bmojo.training.outcome import Outcome, already_finished, print_results
from bmojo.training.parameters import initialize, outline
from bmojo.training.progress import Status, clock
from bmojo.training.report import costs, implementations, provenance
from bmojo.training.rundir import RunDir, RunError, write_atomically
from bmojo.training.signals import StopSignals
from bmojo.training.step import device_fields, make_eval_step, make_train_step

NOT_FINITE = 3


class NotFiniteError(Exception):
    """A loss or a gradient is not a finite number."""

    def __init__(self, step: int, batch: Batch, metrics: dict[str, float]):
        super().__init__(f"step {step}: {metrics}")
        self.step, self.batch, self.metrics = step, batch, metrics


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
    _check(model_config, curriculum, evaluations)
    run = RunDir(run_dir)
    with run.lock():
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

        self.ends = list(itertools.accumulate(stage.steps for stage in curriculum))
        self.total = self.ends[-1]
        self.make: Callable[[], Any] = lambda: model_config.make(nnx.Rngs(trainer.seed))
        self.structure, self.shapes = outline(self.make)
        self.optimizer = make_optimizer(optimizer_config, self.total, self.structure.names)
        self.learning_rate = schedule(optimizer_config, self.total)
        self.eval_step = make_eval_step(self.structure)

        self.step = 0
        self.seconds_before = 0.0
        self.compile_seconds = 0.0
        self.data_state: dict[str, Any] | None = None
        self.data_stage = 0
        self.window: list[list[float]] = []
        self.in_flight: collections.deque[tuple[int, Batch, dict[str, jax.Array]]]
        self.in_flight = collections.deque()
        self.rows: list[Row] = []
        self.speed_mark: tuple[float, int] | None = None
        self.tokens_per_second: float | None = None

    def run(self) -> Outcome:
        """Restore or begin, train to the end, report."""
        self._restore_or_begin()
        self._print_head()
        try:
            with (
                records.Lines(self.dir.metrics) as self.metrics,
                records.Lines(self.dir.speed) as self.speed,
                records.Events(
                    self.dir.tensorboard, self.step, self.trainer.tensorboard
                ) as self.events,
                Status(self.console, self.total, self.step) as self.status,
            ):
                finished = self._evaluate_if_due() and self._train()
        except NotFiniteError as error:
            return self._give_up(error)
        return self._finish() if finished else self._interrupted()

    # Beginning

    def _restore_or_begin(self) -> None:
        state_shapes = jax.eval_shape(self.optimizer.init, self.shapes)
        checkpoint, warnings = self.checkpoints.restore(self.shapes, state_shapes)
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
        records.cut(self.dir.metrics, self._stays)
        records.cut(self.dir.speed, self._stays)

    def _stays(self, record: records.Record) -> bool:
        """Whether a line was written before the point to go on from."""
        step = record["step"]
        return step < self.step or (step == self.step and "evaluation" not in record)

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
            print_line(f"going on from step {self.step} of {self.total}")
        self.facts = facts

    # Training

    def _train(self) -> bool:
        """Run the stages that are left; false if asked to stop."""
        programs: dict[Any, Any] = {}
        first = examples = 0
        for index, (stage, end) in enumerate(zip(self.curriculum, self.ends, strict=True)):
            if self.step < end:
                source = stage.data.source(self.trainer.seed, "train")
                batches = Batches(source, stage.batch_size, examples)
                if self.step > first:
                    self._resume_data(batches, index)
                self.data_stage = index
                if not self._train_stage(index, end, batches, programs):
                    return False
            first = end
            examples += stage.steps * stage.batch_size
        return True

    def _resume_data(self, batches: Batches, stage: int) -> None:
        if self.data_stage != stage or self.data_state is None:
            raise RunError(
                f"{self.checkpoints.directory}: the checkpoint of step {self.step} has the data "
                f"position of stage {self.data_stage + 1}, not {stage + 1}; start over with --fresh"
            )
        batches.set_state(self.data_state)

    def _train_stage(
        self, index: int, end: int, batches: Batches, programs: dict[Any, Any]
    ) -> bool:
        upcoming = (next(batches), batches.get_state())
        program = self._program(upcoming[0], programs)
        name = f"stage {index + 1}/{len(self.curriculum)}"
        self.speed_mark = None
        while self.step < end:
            batch, self.data_state = upcoming
            self.parameters, self.optimizer_state, metrics = program(
                self.parameters, self.optimizer_state, device_fields(batch)
            )
            self.step += 1
            self.in_flight.append((self.step, batch, metrics))
            if self.step < end:  # while the device computes
                upcoming = (next(batches), batches.get_state())
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
            programs[key] = step.lower(self.parameters, self.optimizer_state, fields).compile()
            seconds = time.monotonic() - began
            self.compile_seconds += seconds
            rows, length = batch["inputs"].shape
            self._say(f"compiled the step for {rows} x {length} tokens in {seconds:.1f} s")
        return programs[key]

    def _due(self, every: int) -> bool:
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _settle(self, in_flight: int, stage: str) -> None:
        """Look at the metrics of all steps but the newest few, waiting for them if need be."""
        while len(self.in_flight) > in_flight:
            step, batch, device_metrics = self.in_flight.popleft()
            metrics = {name: float(value) for name, value in device_metrics.items()}
            if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                raise NotFiniteError(step, batch, metrics)
            self.window.append([metrics[name] for name in ("loss", "accuracy", "grad_norm")])
            self._mark_speed(step, batch["inputs"].size)
            self.status.update(
                step, stage, metrics["loss"], metrics["accuracy"], self.tokens_per_second
            )

    def _mark_speed(self, step: int, tokens: int) -> None:
        """Keep the speed since the last pause: a compilation, a checkpoint, an evaluation."""
        now = time.monotonic()
        if self.speed_mark is None:
            self.speed_mark = (now, step)
        elif now > self.speed_mark[0]:
            since, first = self.speed_mark
            self.tokens_per_second = (step - first) * tokens / (now - since)

    def _log(self, stage: int) -> None:
        """Write the means since the last line."""
        means = np.asarray(self.window, np.float64).mean(axis=0).tolist()
        self.window = []
        record = {
            "step": self.step,
            "stage": stage + 1,
            "tokens": self._tokens(),
            "loss": means[0],
            "accuracy": means[1],
            "grad_norm": means[2],
            "learning_rate": float(self.learning_rate(self.step - 1)),
        }
        self.metrics.write(record)
        self.events.write(self.step, {f"train/{k}": v for k, v in record.items() if k != "step"})
        speed = {
            "step": self.step,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self._seconds(),
        }
        self.speed.write(speed)
        if self.tokens_per_second is not None:
            self.events.write(self.step, {"speed/tokens_per_second": self.tokens_per_second})

    def _save(self) -> None:
        self.metrics.sync()
        meta = {
            "stage": self.data_stage,
            "data": self.data_state,
            "window": self.window,
            "seed": self.trainer.seed,
            "seconds": self._seconds(),
            "compile_seconds": self.compile_seconds,
            "config": self.config_text,
        }
        self.checkpoints.save(Checkpoint(self.step, self.parameters, self.optimizer_state, meta))
        self.speed_mark = None

    def _evaluate_if_due(self) -> bool:
        """Take and write the evaluations if it is time; false if asked to stop."""
        if self.step == 0 or not self.evaluations or not self._due(self.trainer.eval_every):
            return not self.stop.requested()
        rows = measure(self.eval_step, self.parameters, self.evaluations, self.stop.requested)
        self.speed_mark = None
        if rows is None:
            if self.checkpoints.latest != self.step:
                self._save()
            return False
        self.rows = rows
        for row in rows:
            self.metrics.write({"step": self.step, **row})
            group = "all" if row["group"] is None else row["group"]
            self.events.write(self.step, {f"{row['evaluation']}/accuracy/{group}": row["accuracy"]})
        shown = [
            f"{row['evaluation']} {row['accuracy']:.3f}" for row in rows if row["group"] is None
        ]
        self._say(f"step {self.step}  accuracy  {'  '.join(shown)}")
        return True

    # Ending

    def _finish(self) -> Outcome:
        self.checkpoints.wait()
        history = records.read(self.dir.metrics)
        last = [record for record in history if "evaluation" not in record][-1]
        summary = {
            "status": "finished",
            "step": self.step,
            "tokens": self._tokens(),
            "final": {name: last[name] for name in ("loss", "accuracy", "grad_norm")},
            "evaluations": self.rows,
            **self.facts,
            "wall_seconds": self._seconds(),
            "compile_seconds": self.compile_seconds,
            **provenance(self.trainer.seed),
        }
        if self.trainer.plots:
            from bmojo.training.plots import plot_accuracy, plot_curve  # Matplotlib is slow

            plot_curve(self.dir.curve, history, self.curriculum)
            if self.rows:
                plot_accuracy(self.dir.accuracy, self.rows, self.evaluations)
        write_atomically(self.dir.summary, json.dumps(summary, indent=2) + "\n")
        message = f"finished {self.total} steps in {clock(self._seconds())}"
        self._say(message)
        print_results(self.dir, summary, self.evaluations, self.console)
        return Outcome("finished", self.step, 0, message, summary)

    def _interrupted(self) -> Outcome:
        self.checkpoints.wait()
        number = self.stop.number or signal.SIGINT
        message = (
            f"stopped by {signal.Signals(number).name} at step {self.step} of {self.total}, all "
            f"saved in {self.dir.path}; the same command goes on from here"
        )
        self._say(message)
        return Outcome("interrupted", self.step, 128 + number, message)

    def _give_up(self, error: NotFiniteError) -> Outcome:
        self.checkpoints.wait()
        path = self.dir.path / f"bad_batch_step{error.step}.npz"
        np.savez(path, **error.batch)  # type: ignore[arg-type]
        good = self.checkpoints.latest
        kept = (
            "nothing was saved before" if good is None else f"the checkpoint of step {good} stays"
        )
        message = (
            f"step {error.step}: loss {error.metrics['loss']}, gradient norm "
            f"{error.metrics['grad_norm']}; the batch is in {path}, {kept}; lower "
            "Optimizer.learning_rate or Optimizer.clip and start over with --fresh"
        )
        self._say(message, style="red")
        return Outcome("not finite", error.step, NOT_FINITE, message)

    # Small things

    def _tokens(self) -> int:
        """Tokens seen in all steps so far."""
        seen = first = 0
        for stage, end in zip(self.curriculum, self.ends, strict=True):
            steps = min(max(self.step - first, 0), stage.steps)
            seen += steps * stage.batch_size * stage.data.length
            first = end
        return seen

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _notice(console: Console) -> Callable[[str], None]:
    return lambda name: console.print(f"{name}: saving after this step", highlight=False)


def _check(
    model_config: Any, curriculum: Sequence[Stage], evaluations: Sequence[Evaluation]
) -> None:
    """See that the configs fit each other."""
    if not curriculum:
        raise RunError("curriculum: it has no stages; give at least one Stage")
    names = [evaluation.name for evaluation in evaluations]
    for name in names:
        if names.count(name) > 1:
            raise RunError(f"evaluations: two are called {name!r}; give each its own name")
    vocab_size = getattr(model_config, "vocab_size", None)
    for data in [stage.data for stage in curriculum] + [e.data for e in evaluations]:
        if vocab_size is not None and data.vocab_size > vocab_size:
            raise RunError(
                f"Model.vocab_size: {vocab_size} tokens do not hold the {data.vocab_size} of "
                f"{type(data).__name__}; raise it to {data.vocab_size}"
            )
