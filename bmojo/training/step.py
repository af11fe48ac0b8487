"""One optimizer step, and one measurement, as pure compiled functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmojo.layers.protocol import State
from bmojo.training.parameters import Parameters, Structure
from bmojo.types import Array, Float, Int

MODEL_FIELDS = ("inputs", "targets", "segment_ids")
"""Fields of a batch that go to the device."""


def device_fields(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a step needs of a batch."""
    return {name: batch[name] for name in MODEL_FIELDS if name in batch}


def token_losses(
    logits: Float[Array, "B L V"], targets: Int[Array, "B L"]
) -> tuple[Float[Array, "B L"], Float[Array, "B L"], Float[Array, "B L"]]:
    """Cross-entropy (nats), right answers and counted targets, zero where the target is -1."""
    counted = targets >= 0
    answers = jnp.where(counted, targets, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
    right = jnp.argmax(logits, axis=-1) == targets
    zero = jnp.zeros_like(losses)
    return (
        jnp.where(counted, losses, zero),
        (counted & right).astype(losses.dtype),
        counted.astype(losses.dtype),
    )


def make_train_step(
    structure: Structure, optimizer: optax.GradientTransformation
) -> jax.stages.Wrapped:
    """The function (parameters, optimizer state, carried, batch) -> the same after a step, metrics.

    The loss is the mean over counted targets. ``carried`` is the model's state after the
    segment before, of which no gradient is taken; None: the batch is whole sequences, and
    nothing is carried on. Arrays passed in, but for the batch, are donated: they are gone
    afterwards. Metrics: ``loss``, ``accuracy``, and ``grad_norm``, the global norm before
    clipping.
    """

    def loss_of(
        parameters: Parameters, carried: State | None, batch: dict[str, Array]
    ) -> tuple[Array, tuple[Array, State | None]]:
        model = structure.merge(parameters)
        logits, state = model(batch["inputs"], carried, segment_ids=batch.get("segment_ids"))
        losses, right, counted = token_losses(logits, batch["targets"])
        number = jnp.maximum(counted.sum(), 1)
        after = None if carried is None else state
        return losses.sum() / number, (right.sum() / number, after)

    def step(
        parameters: Parameters, state: Any, carried: State | None, batch: dict[str, Array]
    ) -> tuple[Parameters, Any, State | None, dict[str, Array]]:
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (accuracy, carried)), gradient = value_and_grad(parameters, carried, batch)
        updates, state = optimizer.update(gradient, state, parameters)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": optax.tree.norm(gradient),
        }
        return optax.apply_updates(parameters, updates), state, carried, metrics

    return jax.jit(step, donate_argnums=(0, 1, 2))


def make_eval_step(structure: Structure) -> jax.stages.Wrapped:
    """The function (parameters, carried, batch) -> sums by row, and the state to carry on.

    The sums are ``loss``, ``right`` and ``count``; ``carried`` is that of
    :func:`make_train_step`.
    """

    def step(
        parameters: Parameters, carried: State | None, batch: dict[str, Array]
    ) -> tuple[dict[str, Array], State | None]:
        model = structure.merge(parameters)
        logits, state = model(batch["inputs"], carried, segment_ids=batch.get("segment_ids"))
        losses, right, counted = token_losses(logits, batch["targets"])
        sums = {"loss": losses.sum(1), "right": right.sum(1), "count": counted.sum(1)}
        return sums, None if carried is None else state

    return jax.jit(step)


def make_fresh_state(structure: Structure) -> Callable[[Parameters, int, int], State]:
    """The function (parameters, rows, capacity) -> the model's state before the first token."""

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def fresh(parameters: Parameters, rows: int, capacity: int) -> State:
        return structure.merge(parameters).init_state(rows, capacity)

    return fresh
