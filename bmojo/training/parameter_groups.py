"""The optimizer group of each parameter: its learning rate and whether it decays.

Groups go by the names of parameters until mixers declare them.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["GROUPS", "Group", "parameter_groups"]

GROUPS = ("ssm", "attention", "other")


class Group(NamedTuple):
    """How the optimizer treats a parameter.

    Attributes:
      rate: of :data:`GROUPS`, the learning rate.
      decay: 'always', 'never', or 'embedding' for tables that decay only if that is asked for.
    """

    rate: str
    decay: str


_ATTENTION = re.compile(r"(.*_)?[qkvo]_proj")
_SSM = re.compile(r"in_proj|x_proj|dt_proj|out_proj|A_log|D|dt_bias|conv.*|theta|fading")
_UNDECAYED = frozenset({"scale", "bias", "A_log", "D", "dt_bias", "theta"})


def parameter_groups(names: Iterable[str]) -> dict[str, Group]:
    """The group of each parameter, by name.

    The four projections of attention are the group 'attention'. Projections, transition, skip,
    step bias and short convolution of an SSM, and all parameters in a module called ``fading``,
    are 'ssm'; embedding, head, norms and MLPs are 'other'. Weight decay acts on matrices and
    convolution kernels; never on norm scales, biases, ``A_log``, ``D``, ``dt_bias``, ``theta``.
    """
    return {name: Group(_rate(name.split(".")), _decay(name)) for name in names}


def _rate(parts: list[str]) -> str:
    if any(_ATTENTION.fullmatch(part) for part in parts):
        return "attention"
    return "ssm" if any(_SSM.fullmatch(part) for part in parts) else "other"


def _decay(name: str) -> str:
    last = name.rsplit(".", 1)[-1]
    if last == "embedding":
        return "embedding"
    return "never" if last in _UNDECAYED or last.endswith("_bias") else "always"
