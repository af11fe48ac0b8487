"""Parameters, memory and operations of a model, known before it is made."""

import dataclasses
import math

import jax
from flax import nnx

from bmojo.model import Block, Model, ModelConfig, count_parameters, solve_widths


@dataclasses.dataclass(frozen=True)
class Description:
    """What a model of ``config``, whose widths are solved, costs; known before it is made.

    ``parts`` counts the parameters of each part, repeated sublayers summed; ``widths`` has the
    inner widths of the sublayers by name of the part.
    """

    parts: dict[str, int]
    widths: dict[str, dict[str, int]]
    config: ModelConfig

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    @property
    def embedding_parameters(self) -> int:
        """Those of the embedding and, if untied, the head."""
        return self.parts["embedding"] + self.parts.get("head", 0)

    def memory(self, length: int) -> tuple[int, int]:
        """Bytes of one row's state after ``length`` tokens: (recurrent state, keys and values)."""
        model = nnx.eval_shape(lambda: Model(self.config, rngs=nnx.Rngs(0)))
        state, sizes = jax.eval_shape(lambda: model.init_state(1, length)), [0, 0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            is_key_value = getattr(path[-1], "name", None) in ("k", "v")
            sizes[is_key_value] += math.prod(leaf.shape) * leaf.dtype.itemsize
        return sizes[0], sizes[1]

    def flops_per_token(self, length: int) -> float:
        """Forward operations per token at that length, an average over the positions."""
        config = self.config
        block = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
        inner = sum(s.mixer.flops_per_token(length) for s in block.sublayers)
        readout = getattr(nnx.eval_shape(lambda: Model(config, rngs=nnx.Rngs(0))), "readout", None)
        beside = 0.0 if readout is None else readout.flops_per_token(length)
        return config.num_blocks * inner + 2.0 * config.d_model * config.vocab_size + beside


def describe(config: ModelConfig) -> Description:
    """Count a model's parameters without making it."""
    config = solve_widths(config)
    model = nnx.eval_shape(lambda: Model(config, rngs=nnx.Rngs(0)))
    modules, widths = {"embedding": model.embedding}, {}
    for index, sublayer in enumerate(model.blocks.sublayers):
        name = f"{config.num_blocks} x {type(sublayer.mixer).__name__} ({index + 1})"
        modules[name], widths[name] = sublayer, dict(getattr(sublayer.mixer, "widths", {}))
    modules |= {"norm": model.norm} | ({} if config.tie_embeddings else {"head": model.head})
    if hasattr(model, "readout"):
        modules["readout"] = model.readout
    parts = {name: count_parameters(module) for name, module in modules.items()}
    return Description(parts, widths, config)
