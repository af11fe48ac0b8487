"""The parts of a layer as compiled programs, forward and with their gradients."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bmojo.benchmark.cases import Case, Check, difference, limit
from bmojo.benchmark.models import Chosen
from bmojo.benchmark.operations import FORWARD, GRADIENT
from bmojo.benchmark.program import Program, compiled
from bmojo.model import Period
from bmojo.training.config import OptimizerConfig
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import count, outline, split
from bmojo.training.train_step import WHOLE, blocked_losses, token_losses
from bmojo.types import Array
from scripts.performance.layer import NORM, PARTS, call, layer

__all__ = ["BESIDE", "OPTIMIZER", "WHOLE_LAYER", "beside", "parts_of"]

WHOLE_LAYER = "the whole layer"
BESIDE = "beside the layers"
OPTIMIZER = "AdamW, parameters of one layer"
ADAMW = 19
"""Operations for a parameter: norm and clipping 3, moments 7, their corrections and the quotient
5, decay, rate and sum 4."""
LOSS = 4
"""Operations for a logit, forward: maximum, difference, exponential, sum."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a part, compiled.

    Attributes:
      flops: forward operations.
      programs: with their arguments, by kind.
      moved: bytes of arguments and results, by kind.
    """

    flops: float
    programs: dict[str, tuple[Program, tuple[Any, ...]]]
    moved: dict[str, int]


class Recorder:
    """The ``run`` of :func:`scripts.performance.layer.layer` that keeps compiled steps.

    Attributes:
      steps: by part.
    """

    def __init__(self) -> None:
        self.steps: dict[str, list[Step]] = {}

    def __call__(
        self, part: str, flops: float, function: Callable[..., Any], modules: Any, *arrays: Any
    ) -> Any:
        """Compile a step, keep it, and return what it computes."""
        graph, state = nnx.split(modules)

        def forward(state: Any, arrays: Any) -> Any:
            return function(nnx.merge(graph, state), *arrays)

        return self.keep(part, flops, forward, (state, arrays))

    def keep(
        self, part: str, flops: float, function: Callable[..., Any], operands: tuple[Any, ...]
    ) -> Any:
        """Compile a function of arrays, forward and with its gradient, and keep both."""
        program = compiled(function, *operands)
        out = program.call(*operands)
        both, arguments = _with_gradient(function, operands, out)
        pulled = compiled(both, *arguments)
        results = pulled.call(*arguments)
        step = Step(
            flops,
            {FORWARD: (program, operands), GRADIENT: (pulled, arguments)},
            {FORWARD: _bytes(operands, out), GRADIENT: _bytes(arguments, results)},
        )
        self.steps.setdefault(part, []).append(step)
        return out


def parts_of(chosen: Chosen, title: str, batch: int, length: int) -> tuple[list[Case], list[Check]]:
    """A layer's parts and the whole layer, forward and with gradients, on random inputs.

    Args:
      chosen: a model of B'MOJO layers.
      title: what its tables are called.
      batch: rows.
      length: tokens.

    Returns:
      The cases, and checks that the parts one after the other give the layer's outputs and its
      gradient with regard to its inputs.
    """

    def make() -> Period:
        return Period(chosen.config, rngs=nnx.Rngs(0))

    structure = outline(make)[0]
    parameters = jax.jit(lambda: split(make())[1])()
    rng = np.random.default_rng(0)
    shape = (batch, length, chosen.config.d_model)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)

    recorder = Recorder()
    out = layer(recorder, structure.merge(parameters), x)
    steps = {part: recorder.steps[part] for part in PARTS}

    def whole(parameters: Any, x: Array) -> Array:
        return structure.merge(parameters)(x, (None, None), None, None)[0]

    flops = sum(step.flops for part in steps.values() for step in part)
    expected = recorder.keep(WHOLE_LAYER, flops, whole, (parameters, x))
    program, arguments = recorder.steps[WHOLE_LAYER][0].programs[GRADIENT]
    cotangent = arguments[-1][0]

    @jax.jit
    def by_parts(parameters: Any, x: Array) -> Array:
        module = structure.merge(parameters)
        return jax.grad(lambda x: jnp.vdot(layer(call, module, x), cotangent))(x)

    slope = program.call(*arguments)[-1][-1]  # with regard to x, the last operand
    found = ((out, expected), (by_parts(parameters, x), slope))
    checks = [
        Check(title, f"{what} by parts and of the layer", difference(*pair), limit("float32"))
        for what, pair in zip(("outputs", "gradients"), found, strict=True)
    ]
    everything = {**steps, WHOLE_LAYER: recorder.steps[WHOLE_LAYER]}
    return _cases(everything, title), checks


def beside(chosen: Chosen, batch: int, length: int) -> list[Case]:
    """Embedding, head with loss, and the optimizer of one layer's parameters."""
    config = chosen.config
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, config.vocab_size, (batch, length + 1)), jnp.int32)
    table = jnp.asarray(rng.normal(size=(config.vocab_size, config.d_model)), jnp.float32)
    recorder = Recorder()
    x = recorder.keep(
        "embedding", 0.0, lambda table, tokens: table[tokens], (table, tokens[:, :-1])
    )
    scale = jnp.ones((config.d_model,), jnp.float32)

    def head(scale: Array, table: Array, x: Array, targets: Array) -> Array:
        root = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        features = x * root * scale * config.d_model**-0.5
        if len(table) > WHOLE:
            return blocked_losses(features, table, targets)[0].mean()
        logits = jnp.einsum("bld,vd->blv", features, table)
        return token_losses(logits, targets)[0].mean()

    flops = float(x.size * (NORM + 1) + batch * length * len(table) * (2 * config.d_model + LOSS))
    recorder.keep("last norm, head and loss", flops, head, (scale, table, x, tokens[:, 1:]))
    return [*_cases(recorder.steps, BESIDE), _optimizer(chosen)]


def _optimizer(chosen: Chosen) -> Case:
    """A step of AdamW whose buffers are donated, as in training."""

    def make() -> Period:
        return Period(dataclasses.replace(chosen.config, n_layers=1), rngs=nnx.Rngs(0))

    structure = outline(make)[0]
    parameters = jax.jit(lambda: split(make())[1])()
    config = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup=0.0)
    optimizer = make_optimizer(config, 1, structure.groups)
    gradient = jax.tree.map(jnp.ones_like, parameters)

    def update(parameters: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    held = (parameters, jax.jit(optimizer.init)(parameters))
    moved = 2 * _bytes(held) + _bytes(gradient)
    program = compiled(jax.jit(update, donate_argnums=(0, 1)), *held, gradient)

    def run() -> None:
        nonlocal held
        held = program.call(*held, gradient)
        jax.block_until_ready(held)

    return Case(
        OPTIMIZER,
        f"{BESIDE}, {GRADIENT}",
        run,
        flops=float(ADAMW * count(parameters)),
        temporary_bytes=program.temporary_bytes,
        facts={"bytes": moved},
    )


def _cases(parts: dict[str, list[Step]], title: str) -> list[Case]:
    """All parts, forward, then all with gradients."""
    return [
        _case(part, kind, title, steps)
        for kind in (FORWARD, GRADIENT)
        for part, steps in parts.items()
    ]


def _case(part: str, kind: str, title: str, steps: Sequence[Step]) -> Case:
    calls = [step.programs[kind] for step in steps]

    def run() -> None:
        jax.block_until_ready([program.call(*arguments) for program, arguments in calls])

    flops = sum(step.flops for step in steps) * (3 if kind == GRADIENT else 1)
    return Case(
        part,
        f"{title}, {kind}",
        run,
        flops=flops or None,
        temporary_bytes=max(program.temporary_bytes or 0 for program, _ in calls),
        facts={"bytes": sum(step.moved[kind] for step in steps)},
    )


def _with_gradient(
    function: Callable[..., Any], operands: tuple[Any, ...], out: Any
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function to (outputs, gradients), and arguments for it.

    Derivatives are with regard to all operands that have some, pulled back from cotangents that
    are arguments too.
    """
    leaves, tree = jax.tree.flatten(operands)
    smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    moving = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if is_smooth]
    fixed = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if not is_smooth]

    def both(moving: list[Array], fixed: list[Array], cotangents: list[Array]) -> Any:
        def forward(moving: list[Array]) -> tuple[list[Array], list[Array]]:
            sources = {True: iter(moving), False: iter(fixed)}
            found = jax.tree.leaves(
                function(*jax.tree.unflatten(tree, [next(sources[bool(s)]) for s in smooth]))
            )
            return _smooth(found), [v for v in found if not jnp.issubdtype(v.dtype, jnp.inexact)]

        outs, pull, others = jax.vjp(forward, moving, has_aux=True)
        return outs, others, pull(cotangents)[0]

    rng = np.random.default_rng(1)
    cotangents = [
        jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in _smooth(jax.tree.leaves(out))
    ]
    return both, (moving, fixed, cotangents)


def _smooth(values: Sequence[Array]) -> list[Array]:
    return [value for value in values if jnp.issubdtype(value.dtype, jnp.inexact)]


def _bytes(*trees: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
