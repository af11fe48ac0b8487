"""SwiGLU, the sublayer without memory."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.projection import project
from bmojo.layers.protocol import AuxRequest, SequenceShard, with_aux
from bmojo.ops.axes import Names
from bmojo.types import Array, DType, Float, Int


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """Gated MLP.

    Attributes:
      d_ff: hidden width; None: 8/3 of d_model, or what ``Model.parameters`` asks for.
    """

    d_ff: int | None = None

    free_width: ClassVar[str] = "d_ff"

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.d_ff < 1:
            raise ValueError(f"d_ff: must be at least 1, got {self.d_ff}")

    def make(
        self,
        d_model: int,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ) -> "MLP":
        """Make the sublayer."""
        d_ff = self.d_ff or max(8, round(8 * d_model / 3 / 8) * 8)
        options = {"rngs": rngs or nnx.Rngs(0), "dtype": dtype, "param_dtype": param_dtype}
        return MLP(d_model, d_ff, **options)


class MLP(nnx.Module):
    """W_out(silu(W_gate u) * W_up u) (arXiv 2002.05202), a mixer whose state is empty."""

    axes: ClassVar[dict[str, Names]] = {
        "up_proj.kernel": ("embed", "mlp"),
        "down_proj.kernel": ("mlp", "embed"),
    }

    def __init__(
        self, d_model: int, d_ff: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ) -> None:
        """Make the two projections; gate and up are one matrix."""
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.d_model, self.d_ff = d_model, d_ff
        self.up_proj = nnx.Linear(d_model, 2 * d_ff, **options)
        self.down_proj = nnx.Linear(d_ff, d_model, **options)

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
