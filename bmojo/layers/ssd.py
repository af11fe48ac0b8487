"""Mamba-2's block: a state-space model with one decay per head, the fast fading memory."""

import dataclasses
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.norm import RMSNorm, check_epsilon
from bmojo.layers.projection import project, projection_init
from bmojo.layers.protocol import AuxRequest, MakesMixer, Options, unchanged, with_aux
from bmojo.layers.selective_ssm import RecurrentState, init_dt_bias
from bmojo.layers.short_convolution import ShortConvolution
from bmojo.ops.axes import Names, constrain
from bmojo.ops.channels import scale
from bmojo.ops.collectives import compose
from bmojo.ops.positions import Positions
from bmojo.ops.ssd import IMPLEMENTATIONS, Implementation, ssd
from bmojo.ops.time_sharding import SequenceShard, open_context
from bmojo.types import Array, Float, Int, at_least_float32

DT_MIN, DT_MAX = 1e-3, 0.1
DECAY_MIN, DECAY_MAX = 1.0, 16.0


@dataclasses.dataclass(frozen=True)
class SSDConfig(MakesMixer):
    """The block of Mamba-2 (arXiv 2405.21060, section 7), with one group of B and C.

    Attributes:
      d_state: N, states per channel.
      d_conv: taps of the short convolution, the present token's included.
      expand: inner width as a multiple of d_model.
      n_heads: heads, a divisor of the inner width; each has one decay.
      chunk_size: the most tokens of a chunk of the recurrence.
      d_inner: inner width, in place of ``expand``.
      implementation: of the recurrence; see :func:`bmojo.ops.ssd.ssd`.
      projection_init: initial projections: 'lecun', normal of variance 1 / fan-in, or 'uniform'
        within 1 / sqrt(fan-in), 1.73 times smaller, as in the reference implementation.
      norm_epsilon: of the norm before the output; the reference implementations have 1e-5.
      conv_bias: whether the short convolution has a bias.
      dt_limit: smallest and largest step size; None: no limits.
    """

    d_state: int = 64
    d_conv: int = 4
    expand: int = 2
    n_heads: int = 4
    chunk_size: int = 64
    d_inner: int | None = None
    implementation: Implementation = "auto"
    projection_init: str = "lecun"
    norm_epsilon: float = 1e-6
    conv_bias: bool = True
    dt_limit: tuple[float, float] | None = None

    free_width: ClassVar[str] = "d_inner"

    def __post_init__(self) -> None:
        self._check_positive("d_state", "d_conv", "expand", "n_heads", "chunk_size", "d_inner")
        if self.d_inner is not None and self.d_inner % self.n_heads:
            raise ValueError(f"n_heads: must divide d_inner = {self.d_inner}, got {self.n_heads}")
        IMPLEMENTATIONS.check(self.implementation)
        projection_init(self.projection_init)
        check_epsilon(self.norm_epsilon)
        if self.dt_limit is not None and not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise ValueError(
                f"dt_limit: must be two rising numbers of at least 0, got {self.dt_limit}"
            )

    @property
    def width_multiple(self) -> int:
        """The inner width is cut into heads."""
        return self.n_heads

    @property
    def implementations(self) -> dict[str, str]:
        """The implementation of the scan on this machine."""
        return {"SSD scan": IMPLEMENTATIONS.describe(self.implementation)}

    def _make(self, d_model: int, **options: Unpack[Options]) -> "SSD":
        return SSD(d_model, self, **options)


class SSD(nnx.Module):
    """Mamba-2 (arXiv 2405.21060, section 7.1), a mixer with a fading memory.

    A gate z, x, B, C and the step size dt of each head are projected from u; x, B and C pass
    a short convolution and silu; out = W_out norm((ssd(x) + D x) * silu(z)). The recurrence
    and dt are computed in float32 at least. See :class:`bmojo.layers.protocol.Mixer`.
    """

    groups: ClassVar[dict[str, str]] = {
        name: "ssm" for name in ("in_proj", "conv", "dt_bias", "A_log", "D", "out_proj")
    }
    undecayed: ClassVar[tuple[str, ...]] = ("dt_bias", "A_log", "D")
    axes: ClassVar[dict[str, Names]] = {
        "in_proj.kernel": ("embed", "inner"),
        "dt_bias": ("heads",),
        "A_log": ("heads",),
        "D": ("heads",),
        "norm.scale": ("inner",),
        "out_proj.kernel": ("inner", "embed"),
    }

    def __init__(self, d_model: int, config: SSDConfig, **options: Unpack[Options]) -> None:
        """Initialize as Mamba-2 does but for the projections (``projection_init``).

        -A is uniform in [1, 16], D = 1, steps as in Mamba.

        Raises:
          ValueError: n_heads does not divide the inner width.
        """
        rngs, param_dtype = options["rngs"], options["param_dtype"]
        self.config, self.d_model, self.dtype = config, d_model, options["dtype"]
        self.d_inner = config.d_inner or config.expand * d_model
        heads, d_state = config.n_heads, config.d_state
        if self.d_inner % heads:
            raise ValueError(f"n_heads: must divide the inner width {self.d_inner}, got {heads}")

        convolved = self.d_inner + 2 * d_state
        drawn = {"use_bias": False, "kernel_init": projection_init(config.projection_init)}
        self.in_proj = nnx.Linear(d_model, self.d_inner + convolved + heads, **drawn, **options)
        self.conv = ShortConvolution(convolved, config.d_conv, config.conv_bias, **options)
        self.dt_bias = nnx.Param(init_dt_bias(rngs.params(), heads, DT_MIN, DT_MAX, param_dtype))
        decay = jax.random.uniform(rngs.params(), (heads,), param_dtype, DECAY_MIN, DECAY_MAX)
        self.A_log = nnx.Param(jnp.log(decay))
        self.D = nnx.Param(jnp.ones((heads,), param_dtype))
        self.norm = RMSNorm(self.d_inner, epsilon=config.norm_epsilon, **options)
        self.out_proj = nnx.Linear(self.d_inner, d_model, **drawn, **options)

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: RecurrentState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Mix L new tokens; see :class:`bmojo.layers.protocol.Mixer`."""
        if not u.size:
            return unchanged(self, u, state, aux)
        context, before, tokens, positions = open_context(
            self.init_state, state, u, segment_ids, lengths
        )
        wide = at_least_float32(self.dtype)
        width, heads, d_state = self.d_inner, self.config.n_heads, self.config.d_state

        sizes, names = (width, width + 2 * d_state), ("inner", None, "heads")
        z, convolved, dt = project(self.in_proj, tokens.without_padding(u), sizes, names)
        convolved, tail = self.conv(convolved, before.tail, tokens, lengths, context)
        x, B, C = jnp.split(convolved, [width, width + d_state], axis=-1)
        x = constrain(x.reshape(*x.shape[:2], heads, width // heads), "batch", None, "heads", None)

        dt = jax.nn.softplus(dt.astype(wide) + self.dt_bias[...].astype(wide))
        if self.config.dt_limit is not None:
            dt = jnp.clip(dt, *self.config.dt_limit)
        if tokens.valid is not None:
            dt = jnp.where(tokens.valid[..., None], dt, 0)
        A = -jnp.exp(self.A_log[...].astype(wide))

        def scan(hidden: Array) -> tuple[Array, Array]:
            config = self.config
            return ssd(
                x, dt, A, B, C, hidden, tokens.start, config.chunk_size, config.implementation
            )

        def whole() -> tuple[Array, Array]:
            decay = jnp.exp(dt.sum(axis=1) * A)[..., None, None]
            return decay, scan(jnp.zeros_like(before.hidden))[1]

        first = jnp.ones((*before.hidden.shape[:2], 1, 1), wide), before.hidden
        _, hidden = context.scan(compose, first, whole, tokens.start)
        y, hidden = scan(hidden)
        skip = jnp.repeat(self.D[...].astype(x.dtype), width // heads)
        y = y.reshape(z.shape) + scale(x.reshape(z.shape), skip)
        y = self.norm(y * jax.nn.silu(z))
        out = self.out_proj(y).astype(u.dtype)
        return with_aux(aux, out, context.last(RecurrentState(positions, tail, hidden)))

    @property
    def widths(self) -> dict[str, int]:
        """The inner width."""
        return {"d_inner": self.d_inner}

    def init_state(self, batch_size: int, capacity: int | None = None) -> RecurrentState:
        """Nothing seen; ``capacity`` is unused."""
        heads = self.config.n_heads
        shape = (batch_size, heads, self.d_inner // heads, self.config.d_state)
        hidden = jnp.zeros(shape, at_least_float32(self.dtype))
        return RecurrentState(Positions.zero(batch_size), self.conv.init_tail(batch_size), hidden)

    def flops_per_token(self, length: int) -> float:
        """Projections, convolution and recurrence.

        The recurrence is counted as its matmuls in chunks of ``chunk_size``, or of ``length``
        if that is shorter: scores C B^T, their product with x, and what goes into the state
        and comes out of it.
        """
        width, heads, d_state = self.d_inner, self.config.n_heads, self.config.d_state
        chunk = min(length, self.config.chunk_size)
        projections = 2 * self.d_model * (3 * width + 2 * d_state + heads)
        convolution = 2 * self.config.d_conv * (width + 2 * d_state)
        recurrence = 2 * chunk * (d_state + width) + 4 * d_state * width
        return float(projections + convolution + recurrence)
