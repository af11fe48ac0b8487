"""Training steps: of whole models, of single layers, and against the length of the sequences."""

import dataclasses
import functools
import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.benchmark.cases import Case, Check, Program, Tell, compare, compiled, silent
from bmojo.benchmark.models import Candidate, in_segments
from bmojo.benchmark.results import Row, by_fact
from bmojo.benchmark.rounds import exponent, growth
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_reference import bmojo_reference
from bmojo.layers.protocol import State
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.model import Block
from bmojo.training.config import OptimizerConfig
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import outline, split
from bmojo.training.train_step import make_eval_step, make_fresh_state, make_train_step

STEP_GROUP = "training step"
Made = tuple[list[Case], list[Check]]


class Training:
    """A model in training, on the same random tokens at every step.

    With a capacity, steps are segments of sequences of so many tokens, and the state is carried.
    ``loss`` is that of the first step, NaN before it.
    """

    def __init__(
        self, chosen: Candidate, batch: int, length: int, capacity: int | None = None
    ) -> None:
        self.structure, self._parameters = chosen.draw()
        config = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup=0.0)
        self._optimize = make_optimizer(config, 1, self.structure.groups)
        self._optimizer = jax.jit(self._optimize.init)(self._parameters)
        tokens = chosen.tokens(batch, length + 1)
        self._batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        self.carried: State | None = None
        if capacity is not None:
            self.carried = make_fresh_state(self.structure)(self._parameters, batch, capacity)
        self.loss = math.nan

    @functools.cached_property
    def program(self) -> Program:
        """The compiled step."""
        step = make_train_step(self.structure, self._optimize)
        return compiled(step, self._parameters, self._optimizer, self.carried, self._batch)

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

    def first_step(self, chosen: Candidate, what: str, part: int) -> Check:
        """Step once; the check that its loss is that of the tokens in segments of ``part``."""
        read = self.segment_loss(part)
        self.step()
        return compare(chosen.name, what, self.loss, read, chosen.config.dtype)


def step_cases(
    models: Sequence[Candidate], batch: int, length: int, baseline: str | None, tell: Tell = silent
) -> Made:
    """One training step of each model: forward, backward, optimizer, buffers donated.

    The checks are that the loss of the first step is that of the same tokens read in segments, and
    :func:`check_reference`.
    """
    cases, checks = [], []
    for chosen in models:
        tell(f"compiling the step of {chosen.name}")
        training = Training(chosen, batch, length)
        what = f"loss of the first step and in three segments, {length} tokens"
        checks.append(training.first_step(chosen, what, -(-length // 3)))
        checks += check_reference(chosen)
        cases.append(
            Case(
                chosen.name, STEP_GROUP, training.step, baseline=baseline,
                flops=3.0 * batch * length * chosen.flops(length),
                facts={"parameters": chosen.parameters, "tokens": batch * length},
                **training.program.facts,
            )
        )  # fmt: skip
    return cases, checks


def check_reference(chosen: Candidate, length: int = 53) -> list[Check]:
    """The B'MOJO layers of a model, with narrow heads and windows, against the reference.

    :func:`bmojo.layers.bmojo_reference.bmojo_reference` computes the same layer token by token;
    layers without a window or with a cell that it does not have are left out.
    """
    checks = []
    for config in chosen.config.pattern:
        if not (isinstance(config, BMojoConfig) and isinstance(config.fading, SelectiveSSMConfig)):
            continue
        if not config.window:
            continue
        window, fading = min(config.window, 16), min(config.num_fading, 16)
        small = dataclasses.replace(config, window=window, num_fading=fading)
        layer = small.make(4 * config.n_heads)
        u = np.random.default_rng(0).normal(size=(length, 4 * config.n_heads)).astype(np.float32)
        flat = nnx.to_flat_state(nnx.state(layer, nnx.Param))
        parameters = {".".join(map(str, path)): leaf[...] for path, leaf in flat}
        names = inspect.signature(bmojo_reference).parameters.keys() & vars(small)
        want = bmojo_reference(parameters, u, **{name: vars(small)[name] for name in names})
        found = nnx.jit(lambda layer, u: layer(u)[0])(layer, u[None])[0]
        what = f"layer and its reference, token by token, {length} tokens"
        checks.append(compare(chosen.name, what, found, want))
    return checks


def layer_cases(
    models: Sequence[Candidate], batch: int, length: int, baseline: str | None, tell: Tell = silent
) -> Made:
    """Forward and backward of one layer of each model: two sublayers, a mixer and an MLP.

    A pattern of two layers, as a hybrid's, is run whole and its time divided by two. Gradients
    are of all parameters and of the inputs. Checked: outputs are those of two segments.
    """
    cases, checks = [], []
    for chosen in models:
        tell(f"compiling a layer of {chosen.name}")
        case, check = _layer(chosen, batch, length, baseline)
        cases.append(case)
        checks.append(check)
    return cases, checks


def _layer(chosen: Candidate, batch: int, length: int, baseline: str | None) -> tuple[Case, Check]:
    config = chosen.config

    def make() -> Block:
        return Block(config, rngs=nnx.Rngs(0))

    structure = outline(make)[0]
    parameters = jax.jit(lambda: split(make())[1])()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, length, config.d_model)), config.dtype)
    weights = jnp.asarray(rng.normal(size=x.shape), x.dtype)
    count = len(config.pattern)

    def read(parameters: Any, x: Any, state: Any = (None,) * count) -> Any:
        return structure.merge(parameters)(x, state)[:2]

    def start(parameters: Any) -> Any:
        return tuple(
            s.mixer.init_state(batch, length) for s in structure.merge(parameters).sublayers
        )

    def loss(parameters: Any, x: Any) -> tuple[Any, Any]:
        out, _ = read(parameters, x)
        return jnp.sum(out * weights, dtype=jnp.float32), out

    program = compiled(jax.value_and_grad(loss, (0, 1), has_aux=True), parameters, x)
    (_, out), _ = program.call(parameters, x)
    layers = count // 2
    inner = sum(s.mixer.flops_per_token(length) for s in nnx.eval_shape(make).sublayers)
    facts = {"layers run": layers, "tokens": batch * length}
    flops, group = 3.0 * batch * length * inner / layers, "one layer, forward and backward"
    counts: dict[str, Any] = {"units": layers, "flops": flops, "facts": facts}
    case = program.case(chosen.name, group, (parameters, x), baseline=baseline, **counts)
    what = f"outputs of {length} tokens at once and in two segments"
    parts = in_segments(read, start, parameters, x, -(-length // 2))
    return case, compare(chosen.name, what, out, parts, config.dtype)


def length_cases(
    models: Sequence[Candidate],
    lengths: Sequence[int],
    segment: int,
    batch: int = 1,
    tell: Tell = silent,
) -> Made:
    """Training steps on whole sequences, and on their last segments with the state carried.

    Lengths are multiples of ``segment``. The state before the last segment is that of training
    steps on all segments before it, on the same tokens again and again; every sample starts from
    it anew. Checked: the loss of the shortest sequence is that of the same tokens in segments.
    """
    cases, checks = [], []

    def add(chosen: Candidate, training: Training, run: Any, length: int, whole: bool) -> None:
        tokens = batch * (length if whole else segment)
        kind = "whole sequences" if whole else f"last segment of {segment:,} tokens"
        more = {"facts": {"length": length, "tokens in a step": tokens}, **training.program.facts}
        more["flops"] = 3.0 * tokens * chosen.flops(length) if whole else None
        cases.append(Case(f"{length:,} tokens", f"{chosen.name}, {kind}", run, **more))

    for chosen in models:
        for length in sorted(lengths):
            tell(f"compiling {chosen.name}, {length:,} tokens")
            training = Training(chosen, batch, length)
            if length == min(lengths):
                what = f"loss of {length} tokens at once and in segments of {segment}"
                checks.append(training.first_step(chosen, what, segment))
            add(chosen, training, training.step, length, whole=True)
        for length in sorted(lengths):
            tell(f"training {chosen.name} up to the last segment of {length:,} tokens")
            training = Training(chosen, batch, segment, capacity=length)
            for _ in range(length // segment - 1):
                training.step()
            add(chosen, training, _again(training), length, whole=False)
    return cases, checks


def _again(training: Training) -> Callable[[], float]:
    """A step from the state as it is now, however often; returns its seconds."""
    before = training.carried

    def run() -> float:
        training.carried = jax.block_until_ready(jax.tree.map(jnp.copy, before))
        began = time.perf_counter()
        training.step()
        return time.perf_counter() - began

    training.carried = None
    return run


def conclude_lengths(rows: Sequence[Row]) -> list[str]:
    """For each table, how time and temporary memory grow with the length."""
    notes = []
    for group, found in by_fact(rows, "length", lambda row: row.group).items():
        lengths = [row.facts["length"] for row in found]
        taken = growth(exponent(lengths, [row.seconds.median for row in found]))
        memory = [row.temporary_bytes for row in found if row.temporary_bytes is not None]
        held = growth(exponent(lengths, memory)) if len(memory) == len(found) else "unknown"
        notes.append(f"{group}: time of a step is {taken}, temporary memory {held}")
    return notes
