"""SwiGLU, the sublayer without memory."""

import dataclasses
from typing import Any, ClassVar, Unpack

import jax
from flax import nnx

from bmojo.layers.projection import project
from bmojo.layers.protocol import AuxRequest, MakesMixer, Options, SequenceShard, with_aux
from bmojo.ops.axes import Names
from bmojo.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class MLPConfig(MakesMixer):
    """Gated MLP.

    Attributes:
      d_ff: hidden width; None: 8/3 of d_model, or what ``Model.parameters`` asks for.
      bias: whether the projections have biases.
    """

    d_ff: int | None = None
    bias: bool = False

    free_width: ClassVar[str] = "d_ff"

    def __post_init__(self) -> None:
        self._check_positive("d_ff")

    def _make(self, d_model: int, **options: Unpack[Options]) -> "MLP":
        d_ff = self.d_ff or max(8, round(8 * d_model / 3 / 8) * 8)
        return MLP(d_model, d_ff, self.bias, **options)


class MLP(nnx.Module):
    """W_out(silu(W_gate u) * W_up u) (arXiv 2002.05202), a mixer whose state is empty."""

    axes: ClassVar[dict[str, Names]] = {
        "up_proj.kernel": ("embed", "mlp"),
        "down_proj.kernel": ("mlp", "embed"),
        "up_proj.bias": ("mlp",),
    }
    undecayed: ClassVar[tuple[str, ...]] = ("up_proj.bias", "down_proj.bias")

    def __init__(
        self, d_model: int, d_ff: int, bias: bool = False, **options: Unpack[Options]
    ) -> None:
        """Make the two projections; gate and up are one matrix."""
        self.d_model, self.d_ff = d_model, d_ff
        self.up_proj = nnx.Linear(d_model, 2 * d_ff, use_bias=bias, **options)
        self.down_proj = nnx.Linear(d_ff, d_model, use_bias=bias, **options)

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: tuple[()] | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Transform each token by itself."""
        gate, up = project(self.up_proj, u, (self.d_ff,), ("mlp", "mlp"))
        return with_aux(aux, self.down_proj(jax.nn.silu(gate) * up), ())

    @property
    def widths(self) -> dict[str, int]:
        """The inner width."""
        return {"d_ff": self.d_ff}

    def init_state(self, batch_size: int, capacity: int | None = None) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def flops_per_token(self, length: int) -> float:
        """Three products of d_model by d_ff."""
        return 6.0 * self.d_model * self.d_ff
