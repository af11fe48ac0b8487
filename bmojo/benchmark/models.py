"""Models to measure, of equal size, from the gin files of ``configs/models``."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo import config
from bmojo.benchmark.cases import Check, compare
from bmojo.config.parse import Macro, read, values
from bmojo.description import describe
from bmojo.errors import UserError
from bmojo.experiment import REGISTRY
from bmojo.model import ModelConfig, solve_widths
from bmojo.training.parameters import Parameters, Structure, initialize, outline

MODELS = ("transformer", "mamba", "mamba2", "hybrid", "bmojo_f", "bmojo", "bmojo_ssd")
"""Compared by default. A name is a file in configs/models, but for ``bmojo_ssd``."""
SSD = ("BMojo.fading=@SSD()", "SSD.expand=1", "SSD.n_heads=%N_HEADS", "SSD.d_state=64")
VARIANTS = {"bmojo_ssd": ("bmojo", SSD)}  # B'MOJO whose fading cell is Mamba-2's
UNEQUAL = 0.02  # largest relative difference between numbers of parameters


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """Dimensions that all compared models share.

    ``layers`` are pairs of sublayers; ``parameters`` are those outside embedding and head, None:
    12 width^2 for each layer.
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
        """Parameters outside embedding and head that every model gets."""
        return self.parameters or 12 * self.width**2 * self.layers


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model to measure: name, config with solved widths, parameters but embedding and head."""

    name: str
    config: ModelConfig
    parameters: int

    def flops(self, length: int) -> float:
        """Forward operations for each token of a sequence of that length."""
        return describe(self.config).flops_per_token(length)

    @property
    def window(self) -> int:
        """The largest window of its mixers; 0: none has one."""
        return max((getattr(mixer, "window", 0) or 0 for mixer in self.config.pattern), default=0)

    def draw(self) -> tuple[Structure, Parameters]:
        """Its structure, and freshly drawn parameters."""

        def make() -> Any:
            return self.config.make(nnx.Rngs(0))

        return outline(make)[0], initialize(make)

    def tokens(self, rows: int, length: int) -> np.ndarray:
        """Random tokens, always the same."""
        shape = rows, length
        return np.random.default_rng(0).integers(0, self.config.vocab_size, shape, np.int32)


def choose(
    names: Sequence[str], dimensions: Dimensions, overrides: Sequence[str] = ()
) -> list[Candidate]:
    """Load models, with equal numbers of parameters within 2 %.

    A name is that of a file in configs/models, of a variant, or the path of a gin file.

    Raises:
      UserError: there is no such model, its config is wrong, or the numbers cannot be met.
    """
    chosen = [_load(name, dimensions, overrides) for name in dict.fromkeys(names)]
    for model in chosen:
        if abs(model.parameters / dimensions.target - 1) > UNEQUAL:
            raise UserError(
                f"--parameters: {model.name} comes to {model.parameters:,} parameters without "
                f"embedding and head, more than 2 % from {dimensions.target:,}; ask for another "
                "number, or more width"
            )
    return chosen


def _load(name: str, dimensions: Dimensions, overrides: Sequence[str]) -> Candidate:
    base, variant = VARIANTS.get(name, (name, ()))
    file = base if base.endswith(".gin") else f"models/{base}.gin"
    last = {binding.key: binding.value for binding in read([file], [*variant, *overrides])[0]}
    used = {m.name for value in last.values() for m in values(value) if isinstance(m, Macro)}
    macros = {"N_HEADS": dimensions.heads, "WINDOW": dimensions.window}
    slots = {f"BMojo.{n}": getattr(dimensions, n) for n in ("num_fading", "num_eidetic")}
    bindings = [
        f"Model.d_model={dimensions.width}",
        f"Model.n_layers={dimensions.layers}",
        f"Model.vocab_size={dimensions.vocabulary}",
        f"Model.parameters={dimensions.target}",
        f"Model.dtype={dimensions.dtype!r}",
        *(f"{macro}={value}" for macro, value in macros.items() if macro in used),
        *(f"{key}={value}" for key, value in slots.items() if last.get(key)),  # 0: has none
        *variant,
    ]
    loaded = config.load(REGISTRY, "Model", [file], [*bindings, *overrides])
    try:
        model = solve_widths(loaded.value)
        description = describe(model)
    except (TypeError, ValueError) as error:
        raise loaded.explain(error) from None
    return Candidate(name, model, description.parameters - description.embedding_parameters)


def in_segments(call: Any, start: Any, parameters: Any, x: Any, part: int) -> jax.Array:
    """Outputs for x (B, L, ...) of a model or layer that reads ``part`` tokens at a time.

    ``call`` maps (parameters, x, state) to (outputs, state), ``start`` parameters to a state.
    """
    call, state, outs = jax.jit(call), jax.jit(start)(parameters), []
    for first in range(0, x.shape[1], part):
        out, state = call(parameters, x[:, first : first + part], state)
        outs.append(out)
    return jnp.concatenate(outs, axis=1)


def check_segments(chosen: Candidate, length: int) -> Check:
    """The check that logits of a whole sequence are those of three segments.

    The sequence is a little longer than a window and a half, so that slots are in use, but not
    longer than ``length``. The segments do not end at a chunk's edge.
    """
    structure, parameters = chosen.draw()
    part = max(1, min(chosen.window // 2 + 3 if chosen.window else 13, length // 3))
    tokens = chosen.tokens(1, 3 * part)

    def read(parameters: Parameters, tokens: Any, state: Any = None) -> Any:
        return structure.merge(parameters)(tokens, state)

    def start(parameters: Parameters) -> Any:
        return structure.merge(parameters).init_state(1, 3 * part)

    whole = jax.jit(read)(parameters, tokens)[0]
    parts = in_segments(read, start, parameters, tokens, part)
    what = f"logits of {3 * part} tokens at once and in segments of {part}"
    return compare(chosen.name, what, whole, parts, chosen.config.dtype)
