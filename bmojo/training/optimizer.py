"""AdamW whose learning rate and weight decay go by the names of parameters."""

import re
from collections.abc import Iterable

import optax

from bmojo.training.config import OptimizerConfig

GROUPS = ("ssm", "attention", "other")

_ATTENTION = re.compile(r"(.*_)?[qkvo]_proj")
_SSM = re.compile(r"in_proj|x_proj|dt_proj|out_proj|A_log|D|dt_bias|conv.*|theta|fading")
_UNDECAYED = frozenset({"scale", "bias", "A_log", "D", "dt_bias", "theta"})


def group(name: str) -> str:
    """The learning-rate group of a parameter: 'ssm', 'attention' or 'other'.

    The four projections of attention are its group. Projections, transition, skip, step bias
    and short convolution of an SSM, and whatever lies in a module called ``fading``, are the
    SSM's; embedding, head, norms and MLPs are the rest.
    """
    parts = name.split(".")
    if any(_ATTENTION.fullmatch(part) for part in parts):
        return "attention"
    return "ssm" if any(_SSM.fullmatch(part) for part in parts) else "other"


def decays(name: str, embeddings: bool = False) -> bool:
    """Whether weight decay acts on a parameter.

    It does on matrices and convolution kernels; never on norm scales, biases, ``A_log``,
    ``D``, ``dt_bias`` and ``theta``; on embedding tables if ``embeddings``.
    """
    last = name.rsplit(".", 1)[-1]
    if last == "embedding":
        return embeddings
    return last not in _UNDECAYED and not last.endswith("_bias")


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
    config: OptimizerConfig, steps: int, names: Iterable[str]
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with the groups' learning rates.

    Args:
      config: rates, moments, decay and schedule.
      steps: updates of the whole curriculum, over which the schedule runs.
      names: of the parameters, which are a flat dict.
    """
    names = tuple(names)
    labels = {name: group(name) for name in names}
    decayed = {name: decays(name, config.decay_embeddings) for name in names}
    rates = {
        label: optax.scale_by_learning_rate(schedule(config, steps, label)) for label in GROUPS
    }
    return optax.chain(
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(b1=config.b1, b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.partition(rates, labels),
    )
