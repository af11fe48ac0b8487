"""Mamba's block: a selective diagonal state-space model, the default fading memory."""

import dataclasses
import math
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.projection import project, projection_init
from bmojo.layers.protocol import AuxRequest, MakesMixer, Options, unchanged, with_aux
from bmojo.layers.short_convolution import ShortConvolution
from bmojo.ops.axes import Names, constrain
from bmojo.ops.channels import scale
from bmojo.ops.collectives import compose
from bmojo.ops.positions import Positions
from bmojo.ops.recurrence import SELECTIVE, Implementation, selective_scan
from bmojo.ops.time_sharding import SequenceShard, open_context
from bmojo.types import Array, DType, Float, Int, at_least_float32


@dataclasses.dataclass(frozen=True)
class SelectiveSSMConfig(MakesMixer):
    """The block of Mamba (arXiv 2312.00752, section 3.4).

    Attributes:
      d_state: N, states per channel.
      d_conv: taps of the short convolution, the present token's included.
      expand: inner width as a multiple of d_model.
      dt_rank: rank of the step-size projection. None: d_model / 16, rounded up.
      dt_min: the smallest step size at initialization.
      dt_max: the largest step size at initialization.
      implementation: of the recurrence; see :func:`bmojo.ops.recurrence.selective_scan`.
      d_inner: inner width, in place of ``expand``.
      projection_init: initial projections: 'lecun', normal of variance 1 / fan-in, or 'uniform'
        within 1 / sqrt(fan-in), 1.73 times smaller, as in the reference implementation.
      conv_bias: whether the short convolution has a bias.
    """

    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 0.1
    implementation: Implementation = "auto"
    d_inner: int | None = None
    projection_init: str = "lecun"
    conv_bias: bool = True

    free_width: ClassVar[str] = "d_inner"

    def __post_init__(self) -> None:
        self._check_positive("d_state", "d_conv", "expand", "dt_rank", "d_inner")
        check_steps(self.dt_min, self.dt_max)
        projection_init(self.projection_init)
        SELECTIVE.check(self.implementation)

    @property
    def implementations(self) -> dict[str, str]:
        """The implementation of the scan on this machine."""
        return {"SelectiveSSM scan": SELECTIVE.describe(self.implementation)}

    def _make(self, d_model: int, **options: Unpack[Options]) -> "SelectiveSSM":
        return SelectiveSSM(d_model, self, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RecurrentState:
    """What Mamba and Mamba-2 carry over time.

    Attributes:
      positions: of each row.
      tail: the last d_conv - 1 inputs of the convolution (those of x, or of x, B and C), in the
        compute dtype.
      hidden: state of the recurrence (E, N) or (H, P, N), at least float32.
    """

    positions: Positions
    tail: Float[Array, "... T channels"]
    hidden: Float[Array, "... N"]


class MambaBlock(nnx.Module):
    """Mamba's block around a recurrence, which a subclass adds with A_log, D and out_proj."""

    groups: ClassVar[dict[str, str]] = {"": "ssm"}
    axes: ClassVar[dict[str, Names]] = {
        "in_proj.kernel": ("embed", "inner"),
        "x_proj.kernel": ("inner", None),
        "dt_proj.kernel": (None, "inner"),
        "dt_bias": ("inner",),
        "D": ("inner",),
        "out_proj.kernel": ("inner", "embed"),
    }

    def __init__(
        self, d_model: int, config: Any, dt_rank: int, outputs: int, **options: Unpack[Options]
    ) -> None:
        """Make everything up to the step size and ``outputs`` further projections of x."""
        self.config, self.d_model, self.dtype = config, d_model, options["dtype"]
        self.d_inner, self.dt_rank = config.d_inner or config.expand * d_model, dt_rank
        drawn = {"use_bias": False, "kernel_init": projection_init(config.projection_init)}
        self.in_proj = nnx.Linear(d_model, 2 * self.d_inner, **drawn, **options)
        bias = getattr(config, "conv_bias", True)
        self.conv = ShortConvolution(self.d_inner, config.d_conv, bias, **options)
        self.x_proj = nnx.Linear(self.d_inner, dt_rank + outputs, **drawn, **options)
        init = _symmetric_uniform(dt_rank**-0.5)
        self.dt_proj = nnx.Linear(
            dt_rank, self.d_inner, use_bias=False, kernel_init=init, **options
        )
        key, dtype = options["rngs"].params(), options["param_dtype"]
        self.dt_bias = nnx.Param(
            init_dt_bias(key, self.d_inner, config.dt_min, config.dt_max, dtype)
        )

    def _projected(
        self, u: Array, tail: Array, tokens: Any, lengths: Array | None, context: Any
    ) -> tuple[Array, ...]:
        """x, its gate, the step size (float32 or wider), the other projections; the new tail."""
        wide = at_least_float32(self.dtype)
        u = tokens.without_padding(u)
        x, gate = project(self.in_proj, u, (self.d_inner,), ("inner", "inner"))
        x, tail = self.conv(x, tail, tokens, lengths, context)
        dt, others = jnp.split(self.x_proj(x), [self.dt_rank], axis=-1)
        dt = constrain(self.dt_proj(dt), "batch", None, "inner")
        dt = jax.nn.softplus(dt.astype(wide) + self.dt_bias[...].astype(wide))
        return x, gate, dt, others, tail

    def _output(self, y: Array, x: Array, gate: Array) -> Array:
        """W_out ((y + D x) * silu(gate))."""
        return self.out_proj((y + scale(x, self.D[...].astype(x.dtype))) * jax.nn.silu(gate))

    @property
    def widths(self) -> dict[str, int]:
        """The inner width."""
        return {"d_inner": self.d_inner}


class SelectiveSSM(MambaBlock):
    """Mamba (arXiv 2312.00752, section 3.4), a mixer with a fading memory.

    x and a gate z are projected from u; x passes a short convolution and silu; the step size
    dt, B and C are projected from x; out = W_out ((scan(x) + D x) * silu(z)). The recurrence
    and dt are computed in float32 at least. See :class:`bmojo.layers.protocol.Mixer`.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("dt_bias", "A_log", "D")
    axes: ClassVar[dict[str, Names]] = {**MambaBlock.axes, "A_log": ("inner", None)}

    def __init__(
        self, d_model: int, config: SelectiveSSMConfig, **options: Unpack[Options]
    ) -> None:
        """Initialize as Mamba does but for the projections (``projection_init``).

        A = -(1..N), D = 1, steps log-uniform in [dt_min, dt_max].
        """
        rank, param_dtype = config.dt_rank or math.ceil(d_model / 16), options["param_dtype"]
        super().__init__(d_model, config, rank, 2 * config.d_state, **options)
        poles = jnp.arange(1, config.d_state + 1, dtype=param_dtype)
        self.A_log = nnx.Param(jnp.tile(jnp.log(poles), (self.d_inner, 1)))
        self.D = nnx.Param(jnp.ones((self.d_inner,), param_dtype))
        init = projection_init(config.projection_init)
        self.out_proj = nnx.Linear(
            self.d_inner, d_model, use_bias=False, kernel_init=init, **options
        )

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
        x, z, dt, others, tail = self._projected(u, before.tail, tokens, lengths, context)
        B, C = jnp.split(others, 2, axis=-1)
        if tokens.valid is not None:
            dt = jnp.where(tokens.valid[..., None], dt, 0)
        A = -jnp.exp(self.A_log[...].astype(dt.dtype))

        def scan(hidden: Array) -> tuple[Array, Array]:
            return selective_scan(x, dt, A, B, C, hidden, tokens.start, self.config.implementation)

        def whole() -> tuple[Array, Array]:
            decay = jnp.exp(dt.sum(axis=1)[..., None] * A)
            return decay, scan(jnp.zeros_like(before.hidden))[1]

        first = jnp.ones_like(before.hidden), before.hidden
        _, hidden = context.scan(compose, first, whole, tokens.start)
        y, hidden = scan(hidden)
        out = self._output(y, x, z).astype(u.dtype)
        return with_aux(aux, out, context.last(RecurrentState(positions, tail, hidden)))

    def init_state(self, batch_size: int, capacity: int | None = None) -> RecurrentState:
        """Nothing seen; ``capacity`` is unused."""
        shape = (batch_size, self.d_inner, self.config.d_state)
        hidden = jnp.zeros(shape, at_least_float32(self.dtype))
        return RecurrentState(Positions.zero(batch_size), self.conv.init_tail(batch_size), hidden)

    def flops_per_token(self, length: int) -> float:
        """Projections, convolution and recurrence; the same at every length."""
        width, rank, d_state = self.d_inner, self.dt_rank, self.config.d_state
        projections = 2 * width * (3 * self.d_model + 2 * rank + 2 * d_state)
        convolution = 2 * self.config.d_conv * width
        # Per channel and state: dt A, its exponential, decay times state, input map, sum, and a
        # multiply-add of the output map; per channel: dt x, and the skip.
        return float(projections + convolution + 7 * width * d_state + 3 * width)


def check_steps(dt_min: float, dt_max: float) -> None:
    """Raise ValueError unless steps can be drawn between the two."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"dt_min: must be positive and at most dt_max = {dt_max}, got {dt_min}")


def init_dt_bias(
    key: Array, width: int, dt_min: float, dt_max: float, param_dtype: DType
) -> Float[Array, "E"]:
    """A bias whose softplus is log-uniform in [dt_min, dt_max]."""
    low, high = math.log(dt_min), math.log(dt_max)
    dt = jnp.exp(jax.random.uniform(key, (width,), at_least_float32(param_dtype), low, high))
    return (dt + jnp.log(-jnp.expm1(-dt))).astype(param_dtype)


def _symmetric_uniform(bound: float):
    def init(key, shape, dtype, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init
