"""The parts of a layer and the whole layer as benchmark cases."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.benchmark.cases import Case, Check, compare
from bmojo.benchmark.models import Candidate
from bmojo.benchmark.operations import GRADIENT
from bmojo.model import Block, ModelConfig
from bmojo.training.parameters import outline, split
from bmojo.types import Array
from scripts.performance.layer import layer
from scripts.performance.recorder import Recorder, cases_of
from scripts.performance.steps import PARTS, call

WHOLE_LAYER = "the whole layer"


def drawn(config: ModelConfig) -> tuple[Any, Any]:
    """The structure and fresh parameters of one layer."""
    make = lambda: Block(config, rngs=nnx.Rngs(0))  # noqa: E731
    return outline(make)[0], jax.jit(lambda: split(make())[1])()


def parts_of(
    chosen: Candidate, title: str, batch: int, length: int
) -> tuple[list[Case], list[Check]]:
    """A layer's parts and the whole layer, on random inputs, in tables under a title.

    The checks are that the parts one after the other give the layer's outputs and its gradient
    with regard to its inputs.
    """
    structure, parameters = drawn(chosen.config)
    shape = (batch, length, chosen.config.d_model)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    recorder = Recorder()
    out = layer(recorder, structure.merge(parameters), x)
    steps = {part: recorder.steps[part] for part in PARTS}

    def whole(parameters: Any, x: Array) -> Array:
        return structure.merge(parameters)(x, (None, None))[0]

    flops = sum(step.flops for part in steps.values() for step in part)
    expected = recorder.keep(WHOLE_LAYER, flops, whole, (parameters, x))
    steps[WHOLE_LAYER] = recorder.steps[WHOLE_LAYER]
    program, arguments, _ = steps[WHOLE_LAYER][0].programs[GRADIENT]
    cotangent = arguments[-1][0]

    @jax.jit
    def by_parts(parameters: Any, x: Array) -> Array:
        module = structure.merge(parameters)
        return jax.grad(lambda x: jnp.vdot(layer(call, module, x), cotangent))(x)

    slope = program.call(*arguments)[-1][-1]  # with regard to x, the last operand
    pairs = {"outputs": (out, expected), "gradients": (by_parts(parameters, x), slope)}
    checks = [compare(title, f"{n} by parts and of the layer", *p) for n, p in pairs.items()]
    return cases_of(steps, title), checks
