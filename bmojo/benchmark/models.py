"""Models to measure, from the gin files that users train with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo import config
from bmojo.benchmark.cases import Check, difference, limit
from bmojo.config.parse import Macro, read, values
from bmojo.errors import UserError
from bmojo.experiment import REGISTRY
from bmojo.model import ModelConfig, describe, solve_widths
from bmojo.training.parameters import Parameters, Structure, initialize, outline

__all__ = ["MODELS", "Chosen", "Dimensions", "check_forms", "choose", "draw"]

MODELS = ("transformer", "mamba", "mamba2", "hybrid", "bmojo_f", "bmojo", "bmojo_ssd")
"""Compared by default. A name is a file in configs/models, but for ``bmojo_ssd``."""

VARIANTS = {
    "bmojo_ssd": (
        "bmojo",
        ("BMojo.fading=@SSD()", "SSD.expand=1", "SSD.n_heads=%N_HEADS", "SSD.d_state=64"),
    )
}
"""B'MOJO whose fading cell is Mamba-2's."""

UNEQUAL = 0.02


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """What all compared models share.

    Attributes:
      width: of the residual stream.
      layers: pairs of sublayers.
      heads: of attention, and of Mamba-2's recurrence.
      vocabulary: tokens there are.
      window: of attention to a window.
      num_fading: fading slots.
      num_eidetic: eidetic slots.
      parameters: outside embedding and head; None: 12 width^2 for each layer.
      dtype: of the computation.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    vocabulary: int = 256
    window: int = 512
    num_fading: int = 16
    num_eidetic: int = 64
    parameters: int | None = None
    dtype: str = "float32"

    @property
    def target(self) -> int:
        """Parameters outside embedding and head that every model shall have."""
        return self.parameters or 12 * self.width**2 * self.layers


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A model to measure.

    Attributes:
      name: what it is called.
      config: with solved widths.
      parameters: outside embedding and head.
      all_parameters: with them.
    """

    name: str
    config: ModelConfig
    parameters: int
    all_parameters: int

    def flops(self, length: int) -> float:
        """Forward operations for each token of a sequence of that length."""
        return describe(self.config).flops_per_token(length)


def choose(
    names: Sequence[str], dimensions: Dimensions, overrides: Sequence[str] = ()
) -> list[Chosen]:
    """Load models, with equal numbers of parameters within 2 %.

    Args:
      names: of files in configs/models, of variants, or paths of gin files with a model.
      dimensions: what they share.
      overrides: bindings for all of them, 'KEY=VALUE'.

    Raises:
      UserError: there is no such model, its config is wrong, or the numbers cannot be met.
    """
    chosen = []
    for name in dict.fromkeys(names):
        if name == "":
            raise UserError(f"--models: a name is empty; give some of {', '.join(MODELS)}")
        chosen.append(_chosen(name, dimensions, overrides))
    for model in chosen:
        if abs(model.parameters / dimensions.target - 1) > UNEQUAL:
            raise UserError(
                f"--parameters: {model.name} comes to {model.parameters:,} parameters without "
                f"embedding and head, more than 2 % from {dimensions.target:,}; ask for another "
                "number, or more width"
            )
    return chosen


def _chosen(name: str, dimensions: Dimensions, overrides: Sequence[str]) -> Chosen:
    base, variant = VARIANTS.get(name, (name, ()))
    file = base if base.endswith(".gin") else f"models/{base}.gin"
    last = {binding.key: binding.value for binding in read([file], [*variant, *overrides])[0]}
    read_here = {m.name for value in last.values() for m in values(value) if isinstance(m, Macro)}
    shared = {"N_HEADS": dimensions.heads, "WINDOW": dimensions.window}
    slots = {
        "BMojo.num_fading": dimensions.num_fading,
        "BMojo.num_eidetic": dimensions.num_eidetic,
    }
    bindings = [
        f"Model.d_model={dimensions.width}",
        f"Model.n_layers={dimensions.layers}",
        f"Model.vocab_size={dimensions.vocabulary}",
        f"Model.parameters={dimensions.target}",
        f"Model.dtype={dimensions.dtype!r}",
        *(f"{macro}={value}" for macro, value in shared.items() if macro in read_here),
        *(f"{key}={value}" for key, value in slots.items() if last.get(key)),  # 0: has none
        *variant,
    ]
    loaded = config.load(REGISTRY, "Model", [file], [*bindings, *overrides])
    try:
        model = solve_widths(loaded.value)
        description = describe(model)
    except (TypeError, ValueError) as error:
        raise loaded.explain(error) from None
    everything = description.parameters
    return Chosen(name, model, everything - description.embedding_parameters, everything)


def draw(chosen: Chosen, seed: int = 0) -> tuple[Structure, Parameters]:
    """The structure of a model, and freshly drawn parameters."""
    from flax import nnx

    def make() -> Any:
        return chosen.config.make(nnx.Rngs(seed))

    return outline(make)[0], initialize(make)


def check_forms(chosen: Chosen, length: int, seed: int = 0) -> Check:
    """Logits of a whole sequence against those of three segments with the state carried.

    The sequence is a little longer than a window and a half, so that slots are in use, or as
    long as the measured one where that is shorter; the segments do not end at a chunk's edge.

    Args:
      chosen: the model.
      length: of the measured sequences.
      seed: of parameters and tokens.
    """
    structure, parameters = draw(chosen, seed)
    window = max((getattr(mixer, "window", 0) or 0 for mixer in chosen.config.pattern), default=0)
    part = max(1, min(window // 2 + 3 if window else 13, length // 3))
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.integers(0, chosen.config.vocab_size, (1, 3 * part)), jnp.int32)

    @jax.jit
    def whole(parameters: Parameters) -> Any:
        return structure.merge(parameters)(tokens)[0]

    @jax.jit
    def segment(parameters: Parameters, state: Any, tokens: Any) -> Any:
        return structure.merge(parameters)(tokens, state)

    state = jax.jit(lambda p: structure.merge(p).init_state(1, 3 * part))(parameters)
    parts = []
    for first in range(0, 3 * part, part):
        logits, state = segment(parameters, state, tokens[:, first : first + part])
        parts.append(logits)
    what = f"logits of {3 * part} tokens at once and in segments of {part}"
    found = difference(whole(parameters), jnp.concatenate(parts, axis=1))
    return Check(chosen.name, what, found, limit(chosen.config.dtype))
