"""One optimizer step, and one measurement, as pure compiled functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from bmojo.layers.protocol import SequenceShard, State
from bmojo.training.parameters import Parameters, Structure
from bmojo.training.sharding import ONE_DEVICE, Layout, shardings_of
from bmojo.types import Array

MODEL_FIELDS = ("inputs", "targets", "segment_ids")
"""Fields of a batch that go to the device."""

STOP = "stop"
"""Field of a batch, on a mesh of several processes: the signal that each device's process got."""


def device_fields(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fields of a batch that a step needs."""
    return {name: batch[name] for name in MODEL_FIELDS if name in batch}


def make_train_step(
    structure: Structure,
    optimizer: optax.GradientTransformation,
    layout: Layout = ONE_DEVICE,
    shardings: Any = None,
    accumulate: int = 1,
    skip: bool = False,
) -> jax.stages.Wrapped:
    """The function (parameters, optimizer state, carried, batch) -> the same after a step, metrics.

    The loss is the mean over counted targets. ``carried`` is the model's state after the
    segment before, of which no gradient is taken; None: the batch is whole sequences, and
    nothing is carried on. Arrays passed in, but for the batch, are donated: they are gone
    afterwards. Metrics: ``loss``, ``accuracy``, ``grad_norm``, the global norm before clipping,
    and ``count`` of the targets; without any, only ``carried`` changes.

    A batch is run in ``accumulate`` parts one after the other, their gradients summed. With
    ``skip``, only the metrics change where loss or gradient is not finite.
    """
    look = _make_look(structure, layout)

    def loss_of(
        parameters: Parameters, carried: State | None, batch: dict[str, Array], number: Array
    ) -> tuple[Array, tuple[Array, State | None]]:
        (losses, right, _), after = look(parameters, carried, batch)
        return losses.sum() / number, (right.sum() / number, after)

    value_and_grad = jax.value_and_grad(loss_of, has_aux=True)

    def counted(batch: dict[str, Array]) -> Array:
        return (batch["targets"] >= 0).sum()

    def gradient_of(
        parameters: Parameters, carried: State | None, batch: dict[str, Array]
    ) -> tuple[Any, Any]:
        number = jnp.maximum(counted(batch), 1).astype(jnp.float32)
        if accumulate == 1:
            return value_and_grad(parameters, carried, batch, number)

        def add(sums: Any, part: tuple[State | None, dict[str, Array]]) -> tuple[Any, Any]:
            (loss, (accuracy, after)), gradient = value_and_grad(parameters, *part, number)
            return jax.tree.map(jnp.add, sums, (loss, accuracy, gradient)), after

        parts = (_parts(carried, accumulate, axis=1), _parts(batch, accumulate, axis=0))
        zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
        (loss, accuracy, gradient), after = jax.lax.scan(add, zeros, parts)
        return (loss, (accuracy, _whole(after, axis=1))), gradient

    def step(
        parameters: Parameters, state: Any, carried: State | None, batch: dict[str, Array]
    ) -> tuple[Parameters, Any, State | None, dict[str, Array]]:
        stop = batch.pop(STOP, None)
        (loss, (accuracy, after)), gradient = gradient_of(parameters, carried, batch)
        gradient = layout.constrain(gradient, shardings)
        updates, moved = optimizer.update(gradient, state, parameters)
        norm, count = optax.tree.norm(gradient), counted(batch)
        metrics = {"loss": loss, "accuracy": accuracy, "grad_norm": norm, "count": count}
        if stop is not None:
            metrics[STOP] = stop.max()

        def choose(condition: Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda now, was: jnp.where(condition, now, was), new, old)

        moves = count > 0
        if skip:
            finite = jnp.isfinite(loss) & jnp.isfinite(norm)
            moves, after = moves & finite, choose(finite, after, carried)
        new = (optax.apply_updates(parameters, updates), moved)
        return *choose(moves, new, (parameters, state)), after, metrics

    return jax.jit(step, donate_argnums=(0, 1, 2))


def make_eval_step(structure: Structure, layout: Layout = ONE_DEVICE) -> jax.stages.Wrapped:
    """The function (parameters, carried, batch) -> sums by row, and the state to carry on.

    The sums are ``loss``, ``right`` and ``count``; ``carried`` is that of
    :func:`make_train_step`. On a mesh the sums lie on every device.
    """
    look = _make_look(structure, layout)

    def step(
        parameters: Parameters, carried: State | None, batch: dict[str, Array]
    ) -> tuple[dict[str, Array], State | None]:
        batch.pop(STOP, None)
        (losses, right, counted), after = look(parameters, carried, batch)
        sums = {"loss": losses.sum(1), "right": right.sum(1), "count": counted.sum(1)}
        return layout.constrain(sums, layout.sharding()), after

    return jax.jit(step)


def make_fresh_state(
    structure: Structure, layout: Layout = ONE_DEVICE
) -> Callable[[Parameters, int, int], State]:
    """The function (parameters, rows, capacity) -> the model's state before the first token."""

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def fresh(parameters: Parameters, rows: int, capacity: int) -> State:
        state = structure.merge(parameters).init_state(rows, capacity)
        return layout.constrain(state, shardings_of(layout.state(state)))

    return fresh


Sums = tuple[Array, Array, Array]
Look = Callable[[Parameters, State | None, dict[str, Array]], tuple[Sums, State | None]]


def _make_look(structure: Structure, layout: Layout) -> Look:
    """The function to the token losses of a batch, and the state after it if one was carried."""

    def look(
        parameters: Parameters, carried: State | None, batch: dict[str, Array]
    ) -> tuple[Sums, State | None]:
        state, targets = carried, batch["targets"]
        if layout.sequence > 1:
            state = SequenceShard("sequence", layout.sequence, carried)
        model = structure.merge(parameters)
        losses, right, after = model.score(
            batch["inputs"], targets, state, batch.get("segment_ids")
        )
        sums = (losses, right, (targets >= 0).astype(losses.dtype))
        return sums, None if carried is None else after

    if layout.sequence == 1:
        return look
    cut, whole = PartitionSpec(None, "sequence"), PartitionSpec()
    specs: dict[str, Any] = {"in_specs": (whole, whole, cut), "out_specs": (cut, whole)}
    axes = {"sequence"}
    return jax.shard_map(look, mesh=layout.mesh, **specs, axis_names=axes, check_vma=False)


def _parts(tree: Any, count: int, axis: int) -> Any:
    """Every ``count``-th row along ``axis``, so that a device's rows stay on it, a part each."""

    def cut(x: Array) -> Array:
        shape = (*x.shape[:axis], x.shape[axis] // count, count, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

    return jax.tree.map(cut, tree)


def _whole(tree: Any, axis: int) -> Any:
    """The inverse of :func:`_parts`."""

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, axis + 1)
        rows = x.shape[axis] * x.shape[axis + 1]
        return x.reshape(*x.shape[:axis], rows, *x.shape[axis + 2 :])

    return jax.tree.map(join, tree)
