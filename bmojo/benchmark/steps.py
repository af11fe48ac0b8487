"""Whole training steps, and single layers forward and backward."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.benchmark.cases import Case, Check, difference, limit
from bmojo.benchmark.models import Chosen, draw
from bmojo.benchmark.program import Program, compiled
from bmojo.layers.protocol import State
from bmojo.model import Block
from bmojo.training.config import OptimizerConfig
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import Structure, outline, split
from bmojo.training.train_step import make_eval_step, make_fresh_state, make_train_step

__all__ = ["STEP_GROUP", "Training", "layer_cases", "step_cases"]

STEP_GROUP = "training step"
Tell = Callable[[str], None]


class Training:
    """A model in training, on the same random tokens at every step.

    Args:
      chosen: the model.
      batch: rows.
      length: tokens of a step.
      capacity: tokens of the sequences that steps are segments of, their state carried; None:
        steps are whole sequences.
      seed: of parameters and tokens.

    Attributes:
      program: the compiled step.
      loss: of the first step; NaN before it.
    """

    def __init__(
        self, chosen: Chosen, batch: int, length: int, capacity: int | None = None, seed: int = 0
    ) -> None:
        self.structure, self._parameters = draw(chosen, seed)
        config = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup=0.0)
        optimizer = make_optimizer(config, 1, self.structure.groups)
        self._optimizer = jax.jit(optimizer.init)(self._parameters)
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, chosen.config.vocab_size, (batch, length + 1), np.int32)
        self._batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        self.carried: State | None = None
        if capacity is not None:
            self._fresh = make_fresh_state(self.structure)
            self.carried = self._fresh(self._parameters, batch, capacity)
        step = make_train_step(self.structure, optimizer)
        arguments = (self._parameters, self._optimizer, self.carried, self._batch)
        self.program: Program = compiled(step, *arguments)
        self.loss = math.nan

    def step(self) -> None:
        """Run one step; it is done when this returns."""
        arguments = (self._parameters, self._optimizer, self.carried, dict(self._batch))
        self._parameters, self._optimizer, self.carried, metrics = self.program.call(*arguments)
        jax.block_until_ready((self._parameters, self._optimizer, self.carried))
        if math.isnan(self.loss):
            self.loss = float(metrics["loss"])

    def segment_loss(self, part: int) -> float:
        """The loss of the batch under the present parameters, read in segments of ``part``."""
        look, total, count = make_eval_step(self.structure), 0.0, 0.0
        rows, length = self._batch["inputs"].shape
        carried = make_fresh_state(self.structure)(self._parameters, rows, length)
        for first in range(0, length, part):
            batch = {name: v[:, first : first + part] for name, v in self._batch.items()}
            sums, carried = look(self._parameters, carried, batch)
            total, count = total + float(sums["loss"].sum()), count + float(sums["count"].sum())
        return total / count


def step_cases(
    models: Sequence[Chosen],
    batch: int,
    length: int,
    baseline: str | None,
    tell: Tell = lambda text: None,
) -> tuple[list[Case], list[Check]]:
    """One training step of each model: forward, backward, optimizer, buffers donated.

    Returns:
      The cases, and for each model the check that the loss of its first step is that of the
      same tokens read in segments.
    """
    cases, checks = [], []
    for chosen in models:
        tell(f"compiling the step of {chosen.name}")
        training = Training(chosen, batch, length)
        read = training.segment_loss(-(-length // 3))
        training.step()
        what = f"loss of the first step and in three segments, {length} tokens"
        found = difference(training.loss, read)
        checks.append(Check(chosen.name, what, found, limit(chosen.config.dtype)))
        facts = {
            "parameters": chosen.parameters,
            "tokens": batch * length,
        }
        case = Case(
            chosen.name,
            STEP_GROUP,
            training.step,
            baseline=baseline,
            flops=3.0 * batch * length * chosen.flops(length),
            facts=facts,
            **training.program.facts(),
        )
        cases.append(case)
    return cases, checks


def layer_cases(
    models: Sequence[Chosen],
    batch: int,
    length: int,
    baseline: str | None,
    tell: Tell = lambda text: None,
) -> tuple[list[Case], list[Check]]:
    """Forward and backward of one layer of each model: two sublayers, a mixer and an MLP.

    A pattern of two layers, as a hybrid's, is run whole and its time divided by two. Gradients
    are of all parameters and of the inputs.

    Returns:
      The cases, and checks that outputs at this length are those of two segments.
    """
    cases, checks = [], []
    for chosen in models:
        tell(f"compiling a layer of {chosen.name}")
        case, check = _layer(chosen, batch, length, baseline)
        cases.append(case)
        checks.append(check)
    return cases, checks


def _layer(chosen: Chosen, batch: int, length: int, baseline: str | None) -> tuple[Case, Check]:
    config = chosen.config

    def make() -> Block:
        return Block(config, rngs=nnx.Rngs(0))

    structure = outline(make)[0]
    parameters = jax.jit(lambda: split(make())[1])()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, length, config.d_model)), config.dtype)
    weights = jnp.asarray(rng.normal(size=x.shape), x.dtype)
    count = len(config.pattern)

    def loss(parameters: Any, x: Any) -> tuple[Any, Any]:
        out, _ = structure.merge(parameters)(x, (None,) * count, None, None)
        return jnp.sum(out * weights, dtype=jnp.float32), out

    program = compiled(jax.value_and_grad(loss, (0, 1), has_aux=True), parameters, x)
    (_, out), _ = program.call(parameters, x)
    parts = _in_segments(structure, parameters, x, -(-length // 2))

    def run() -> None:
        jax.block_until_ready(program.call(parameters, x))

    layers = count // 2
    inner = sum(s.mixer.flops_per_token(length) for s in nnx.eval_shape(make).sublayers)
    case = Case(
        chosen.name,
        "one layer, forward and backward",
        run,
        units=layers,
        baseline=baseline,
        flops=3.0 * batch * length * inner / layers,
        facts={"layers run": layers, "tokens": batch * length},
        **program.facts(),
    )
    what = f"outputs of {length} tokens at once and in two segments"
    return case, Check(chosen.name, what, difference(out, parts), limit(config.dtype))


def _in_segments(structure: Structure, parameters: Any, x: Any, part: int) -> Any:
    """Outputs of a layer whose state is carried from segment to segment."""
    batch, length, _ = x.shape

    @jax.jit
    def start(parameters: Any) -> Any:
        sublayers = structure.merge(parameters).sublayers
        return tuple(s.mixer.init_state(batch, length) for s in sublayers)

    @jax.jit
    def segment(parameters: Any, x: Any, state: Any) -> Any:
        return structure.merge(parameters)(x, state, None, None)

    state, outs = start(parameters), []
    for first in range(0, length, part):
        out, state = segment(parameters, x[:, first : first + part], state)
        outs.append(out)
    return jnp.concatenate(outs, axis=1)
