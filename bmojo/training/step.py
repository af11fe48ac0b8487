"""One optimizer step, and one measurement, as pure compiled functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    """The function (parameters, optimizer state, batch) -> the same after a step, and metrics.

    The loss is the mean over counted targets. Parameters and optimizer state are donated:
    the arrays passed in are gone afterwards. Metrics: ``loss``, ``accuracy``, and
    ``grad_norm``, the global norm before clipping.
    """

    def loss_of(parameters: Parameters, batch: dict[str, Array]) -> tuple[Array, Array]:
        model = structure.merge(parameters)
        logits, _ = model(batch["inputs"], segment_ids=batch.get("segment_ids"))
        losses, right, counted = token_losses(logits, batch["targets"])
        number = jnp.maximum(counted.sum(), 1)
        return losses.sum() / number, right.sum() / number

    def step(
        parameters: Parameters, state: Any, batch: dict[str, Array]
    ) -> tuple[Parameters, Any, dict[str, Array]]:
        (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters, batch)
        updates, state = optimizer.update(gradient, state, parameters)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": optax.tree.norm(gradient),
        }
        return optax.apply_updates(parameters, updates), state, metrics

    return jax.jit(step, donate_argnums=(0, 1))


def make_eval_step(structure: Structure) -> jax.stages.Wrapped:
    """The function (parameters, batch) -> ``loss``, ``right`` and ``count`` summed by row."""

    def step(parameters: Parameters, batch: dict[str, Array]) -> dict[str, Array]:
        model = structure.merge(parameters)
        logits, _ = model(batch["inputs"], segment_ids=batch.get("segment_ids"))
        losses, right, counted = token_losses(logits, batch["targets"])
        return {"loss": losses.sum(1), "right": right.sum(1), "count": counted.sum(1)}

    return jax.jit(step)
