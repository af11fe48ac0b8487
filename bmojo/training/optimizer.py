"""AdamW with a learning rate and weight decay for each group of parameters."""

from collections.abc import Mapping

import optax

from bmojo.layers.protocol import GROUPS, Group
from bmojo.training.config import OptimizerConfig


def schedule(config: OptimizerConfig, steps: int, group: str = "other") -> optax.Schedule:
    """Learning rate of a group as a function of the updates made so far.

    It rises from zero over ``warmup * steps`` updates, then follows the schedule to
    ``final_learning_rate`` at ``steps``; a group whose highest rate is lower than that stays
    at its highest.
    """
    peak = {
        "ssm": config.ssm_learning_rate,
        "attention": config.attention_learning_rate,
        "other": config.learning_rate,
    }[group]
    peak = config.learning_rate if peak is None else peak
    final = min(config.final_learning_rate, peak)
    warmup = round(config.warmup * steps)
    remaining = max(1, steps - warmup)
    after = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, remaining, alpha=final / peak),
        "linear": lambda: optax.linear_schedule(peak, final, remaining),
        "constant": lambda: optax.constant_schedule(peak),
    }[config.schedule]()
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    config: OptimizerConfig, steps: int, groups: Mapping[str, Group]
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with the groups' learning rates.

    Args:
      config: rates, moments, decay and schedule.
      steps: updates of the whole curriculum, over which the schedule runs.
      groups: of the parameters, by name; the parameters are a flat dict.
    """
    decaying = ("always", "embedding") if config.decay_embeddings else ("always",)
    rates = {
        label: optax.scale_by_learning_rate(schedule(config, steps, label)) for label in GROUPS
    }
    return optax.chain(
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(b1=config.b1, b2=config.b2),
        optax.add_decayed_weights(
            config.weight_decay,
            mask={name: group.decay in decaying for name, group in groups.items()},
        ),
        optax.partition(rates, {name: group.rate for name, group in groups.items()}),
    )
