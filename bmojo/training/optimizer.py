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
    own = {"ssm": config.ssm_learning_rate, "attention": config.attention_learning_rate}.get(group)
    peak = config.learning_rate if own is None else own
    final, warmup = min(config.final_learning_rate, peak), round(config.warmup * steps)
    remaining = max(1, steps - warmup)
    after = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, remaining, alpha=final / peak)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, final, remaining)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    config: OptimizerConfig, steps: int, groups: Mapping[str, Group]
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with the learning rates of ``groups``, by name.

    The schedule runs over ``steps`` updates; the parameters are a flat dict.
    """
    decaying = ("always", "embedding") if config.decay_embeddings else ("always",)
    decayed = {name: group.decay in decaying for name, group in groups.items()}
    rates = {g: optax.scale_by_learning_rate(schedule(config, steps, g)) for g in GROUPS}
    return optax.chain(
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(b1=config.b1, b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.partition(rates, {name: group.rate for name, group in groups.items()}),
    )
