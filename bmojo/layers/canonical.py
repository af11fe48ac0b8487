"""A fading memory in controllable canonical form: one that can oscillate."""

import dataclasses
import math
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.projection import projection_init
from bmojo.layers.protocol import AuxRequest, MakesMixer, Options, unchanged, with_aux
from bmojo.layers.selective_ssm import MambaBlock, check_steps
from bmojo.ops.axes import Names
from bmojo.ops.collectives import compose_matrices
from bmojo.ops.companion import companion_scan, expand_polynomial
from bmojo.ops.positions import Positions, next_tail
from bmojo.ops.recurrence import COMPANION, Loop
from bmojo.ops.time_sharding import SequenceShard, open_context
from bmojo.types import Array, Float, Int, at_least_float32


@dataclasses.dataclass(frozen=True)
class CanonicalSSMConfig(MakesMixer):
    """Mamba's block around a companion recurrence of small order.

    Attributes:
      order: R, states per channel: 2 (a pair of conjugate poles), 3 (a pair and a real pole)
        or 4 (two pairs).
      d_conv: taps of the short convolution, the present token's included.
      expand: inner width as a multiple of d_model.
      d_inner: inner width, in place of ``expand``.
      dt_min: the smallest step size at initialization.
      dt_max: the largest step size at initialization.
      implementation: of the recurrence; see :func:`bmojo.ops.companion.companion_scan`.
      projection_init: as in :class:`bmojo.layers.selective_ssm.SelectiveSSMConfig`.
    """

    order: int = 2
    d_conv: int = 4
    expand: int = 2
    d_inner: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 0.1
    implementation: Loop = "auto"
    projection_init: str = "lecun"

    free_width: ClassVar[str] = "d_inner"

    def __post_init__(self) -> None:
        if self.order not in (2, 3, 4):
            raise ValueError(f"order: must be 2, 3 or 4, got {self.order}")
        self._check_positive("d_conv", "expand", "d_inner")
        check_steps(self.dt_min, self.dt_max)
        projection_init(self.projection_init)
        COMPANION.check(self.implementation)

    @property
    def implementations(self) -> dict[str, str]:
        """The implementation of the scan on this machine."""
        return {"CanonicalSSM scan": COMPANION.describe(self.implementation)}

    def _make(self, d_model: int, **options: Unpack[Options]) -> "CanonicalSSM":
        return CanonicalSSM(d_model, self, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CanonicalSSMState:
    """What a :class:`CanonicalSSM` carries over time.

    Attributes:
      positions: of each row.
      tail: the last d_conv - 1 inputs of the convolution, in the compute dtype.
      cell: the last R values of the recurrence, the oldest first, at least float32.
      radius: the radii of the last R - 1 tokens, on which coefficients of later ones depend.
    """

    positions: Positions
    tail: Float[Array, "... B T E"]
    cell: Float[Array, "... B E R"]
    radius: Float[Array, "... B T2 E"]


class CanonicalSSM(MambaBlock):
    """Mamba's block with an input-varying companion form of order R in every channel.

    z_t = sum_i a_{t,i} z_{t-i} + g_t b_t x_t and y_t = sum_j c_{t,j} z_{t-j+1} + D x_t, where
    b, c and the step size dt are projected from x, and
    out = W_out (y * silu(gate)). The poles share the radius r_t = exp(-dt_t exp(A_log)), in
    (0, 1), and stand at fixed angles ``theta`` per channel: with alpha the coefficients of
    poles at these angles on the unit circle, a_{t,i} = alpha_i r_t r_{t-1} ... r_{t-i+1};
    for constant r and order 2, a_1 = 2 r cos(theta) and a_2 = -r^2. Then z_t is the output of
    a fixed oscillator times r_1 ... r_t, whatever the inputs: stable at every sequence of
    steps, which poles inside the circle at each single step do not guarantee when angles or
    coefficients vary freely (docs/math/realization.md). g_t makes the gain 1 at the strongest
    resonance. Coefficients and recurrence are in float32 at least.
    See :class:`bmojo.layers.protocol.Mixer`.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("dt_bias", "A_log", "theta", "D")
    axes: ClassVar[dict[str, Names]] = {
        **MambaBlock.axes,
        "A_log": ("inner",),
        "theta": ("inner", None),
    }

    def __init__(
        self, d_model: int, config: CanonicalSSMConfig, **options: Unpack[Options]
    ) -> None:
        """Initialize as Mamba, and each pair at an angle uniform in a band of its own."""
        super().__init__(d_model, config, math.ceil(d_model / 16), 1 + config.order, **options)
        param_dtype, pairs = options["param_dtype"], config.order // 2
        self.A_log = nnx.Param(jnp.zeros((self.d_inner,), param_dtype))
        shape, wide = (self.d_inner, pairs), at_least_float32(param_dtype)
        place = jax.random.uniform(options["rngs"].params(), shape, wide, 0.05, 0.95)
        # A real pole takes the arc within pi / R of angle 0.
        lowest = config.order % 2 / config.order
        place = lowest + (1 - lowest) * (place + jnp.arange(pairs)) / pairs
        self.theta = nnx.Param((jnp.pi * place).astype(param_dtype))
        self.D = nnx.Param(jnp.ones((self.d_inner,), param_dtype))
        init = projection_init(config.projection_init)
        self.out_proj = nnx.Linear(
            self.d_inner, d_model, use_bias=False, kernel_init=init, **options
        )

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: CanonicalSSMState | SequenceShard | None = None,
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
        wide, order = at_least_float32(self.dtype), self.config.order
        x, gate, dt, others, tail = self._projected(u, before.tail, tokens, lengths, context)
        b, c = jnp.split(others, [1], axis=-1)
        exponent = -dt * jnp.exp(self.A_log[...].astype(wide))
        radius = jnp.exp(exponent)
        theta = self.theta[...].astype(wide)

        forcing = peak_gain(theta, order, exponent) * b.astype(wide) * x.astype(wide)
        radii = context.tail(before.radius, radius)
        a = varying_coefficients(unit_coefficients(theta, order), radius, radii, tokens.segment_pos)

        def scan(cell: Array, forcing: Array = forcing) -> tuple[Array, Array]:
            return companion_scan(
                forcing, a, cell, tokens.start, tokens.valid, self.config.implementation
            )

        one = jnp.broadcast_to(jnp.eye(order, dtype=wide), (*before.cell.shape, order))

        def whole() -> tuple[Array, Array]:
            none = jnp.zeros_like(forcing)
            # Column j of the transition is where the j-th unit vector ends up.
            matrix = jax.vmap(lambda cell: scan(cell, none)[1], -1, -1)(one)
            return matrix, scan(jnp.zeros_like(before.cell))[1]

        _, cell = context.scan(compose_matrices, (one, before.cell), whole, tokens.start)
        z, cell = scan(cell)
        by_place = jnp.flip(c.astype(wide), -1)[:, :, None]
        y = jnp.sum(z * by_place, axis=-1).astype(x.dtype)
        out = self._output(y, x, gate).astype(u.dtype)
        after = next_tail(radii, radius, lengths)
        return with_aux(aux, out, context.last(CanonicalSSMState(positions, tail, cell, after)))

    def init_state(self, batch_size: int, capacity: int | None = None) -> CanonicalSSMState:
        """Nothing seen; ``capacity`` is unused."""
        wide, order = at_least_float32(self.dtype), self.config.order
        cell = jnp.zeros((batch_size, self.d_inner, order), wide)
        radius = jnp.ones((batch_size, order - 1, self.d_inner), wide)
        tail = self.conv.init_tail(batch_size)
        return CanonicalSSMState(Positions.zero(batch_size), tail, cell, radius)

    def flops_per_token(self, length: int) -> float:
        """Projections, convolution and recurrence; the same at every length."""
        width, rank, order = self.d_inner, self.dt_rank, self.config.order
        projections = 2 * width * (3 * self.d_model + 2 * rank + 1 + order)
        convolution = 2 * self.config.d_conv * width
        distances = (order + 1) // 2 * (order - 1)
        # Per channel and order: coefficient, autoregression, read-out; for each distance between
        # poles: the gain; per channel: radius, input map, skip.
        return float(projections + convolution + width * (6 * order + 5 * distances + 7))


def unit_coefficients(theta: Float[Array, "E pairs"], order: int) -> Float[Array, "E R"]:
    """Coefficients by lag of poles at angles +-theta on the unit circle, and 1 if R is odd."""
    one = jnp.ones_like(theta[:, 0])
    factors = [jnp.stack([one, -2 * jnp.cos(angle), one], -1) for angle in theta.T]
    if order % 2:
        factors.append(jnp.stack([one, -one], -1))
    return -expand_polynomial(*factors)[:, 1:]


def varying_coefficients(
    unit: Float[Array, "E R"],
    radius: Float[Array, "B L E"],
    past: Float[Array, "B T E"],
    segment_pos: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L E R"]:
    """a_{t,i} = unit_i r_t r_{t-1} ... r_{t-i+1}, from r of the tokens and of those before.

    With ``segment_pos`` zero where that is before the document.
    """
    length, before = radius.shape[1], past.shape[1]
    history = jnp.concatenate([past, radius], axis=1)
    product, products = radius, [radius]
    for lag in range(1, unit.shape[1]):
        earlier = history[:, before - lag : before - lag + length]
        if segment_pos is not None:
            earlier = jnp.where((segment_pos >= lag)[..., None], earlier, 0)
        product = product * earlier
        products.append(product)
    return unit * jnp.stack(products, axis=-1)


def peak_gain(
    theta: Float[Array, "E pairs"], order: int, exponent: Float[Array, "B L E"]
) -> Float[Array, "B L E"]:
    """The inverse of the recurrence's gain at its strongest resonance, at constant radius.

    At the angle of pole k the gain is ``1 / prod_j |1 - r e^{i (theta_j - theta_k)}|``, and
    ``|1 - r e^{i phi}|^2 = (1 - r)^2 + 4 r sin^2(phi / 2)``, where nothing cancels.
    ``exponent`` is log r; an odd order adds a real pole, at angle 0.
    """
    angles = list(theta.T) + ([jnp.zeros_like(theta[:, 0])] if order % 2 else [])
    poles: list[tuple[int | None, Array]] = list(enumerate(angles))
    poles += [(None, -angle) for angle in theta.T]
    gap, radius = -jnp.expm1(exponent), jnp.exp(exponent)
    gains = []
    for k, angle in enumerate(angles):
        gain = gap
        for other, position in poles:
            if other != k:
                chord = 4 * jnp.sin((position - angle) / 2) ** 2
                # The last term bounds the derivative where r rounds to 1 and poles meet.
                gain = gain * jnp.sqrt(gap**2 + radius * chord + 1e-24)
        gains.append(gain)
    return jnp.min(jnp.stack(gains), axis=0)
