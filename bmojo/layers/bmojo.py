"""B'MOJO: eidetic memory, fading memory and a sliding window under one softmax."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers import kernels
from bmojo.layers.axes import Names
from bmojo.layers.forms import FORMS, Call
from bmojo.layers.heads import Heads, KeyValues, check_heads
from bmojo.layers.memory import (
    BMojoState,
    EideticSlots,
    eidetic_before,
    next_tails,
)
from bmojo.layers.protocol import Mixer, MixerConfig, SequenceShard, State
from bmojo.layers.reading import Reading
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.sight import Gathered, Sight
from bmojo.layers.time_sharding import UNSHARDED, TimeContext, open_context
from bmojo.layers.trace import Trace, held_positions
from bmojo.ops.attention import NEVER, Slots, spread_view
from bmojo.ops.attention_choice import Implementation, check_implementation
from bmojo.ops.collectives import add_in_document
from bmojo.ops.convolution import causal_convolution, next_tail
from bmojo.ops.eidetic import EMPTY
from bmojo.ops.innovation import innovation, predictor, residual
from bmojo.ops.positions import Positions, TokenPositions, advance
from bmojo.types import Array, DType, Float, Int, at_least_float32

TOKEN_TAPS = 4


@dataclasses.dataclass(frozen=True)
class BMojoConfig:
    """The layer of arXiv 2407.06324, section 3, and its relatives.

    Attributes:
      window: W, tokens that a query sees verbatim, its own included, and the length of a
        chunk. 0: no attention at all, the layer is its fading cell.
      num_fading: m_f, fading slots: the last SSM outputs before the chunk.
      num_eidetic: m_e, eidetic slots: the most surprising tokens before the chunk. 0 is
        B'MOJO-F.
      n_heads: query heads.
      n_kv_heads: key-value heads, a divisor of n_heads; None: n_heads.
      fading: config of the fading cell, any mixer; None: none, for a plain window.
      form: 'chunked' refreshes slots at chunk edges; 'sliding' lets query i see the SSM
        outputs at [i-2W+1, i-W] (no eidetic slots); 'token' refreshes at every token
        (Algorithm 1 to the letter; slow).
      tokens: what keys, values and eidetic slots are made from: 'ssm' is the input plus the
        SSM's output there, 'conv' the input plus a short causal convolution of it, 'input'
        the bare input.
      read_fading: add the SSM's output to the layer's output.
      tie_projections: fading slots share the key and value projections of tokens.
      span: k, SSM outputs that the predictor of the innovation averages.
      normalize_innovation: scale each channel's residual by its running variance.
      attention_implementation: 'auto', 'xla' or 'pallas'; see
        :mod:`bmojo.ops.attention_choice`.
    """

    window: int = 64
    num_fading: int = 8
    num_eidetic: int = 32
    n_heads: int = 4
    n_kv_heads: int | None = None
    fading: MixerConfig | None = dataclasses.field(
        default_factory=lambda: SelectiveSSMConfig(expand=1)
    )
    form: Literal["chunked", "sliding", "token"] = "chunked"
    tokens: Literal["ssm", "conv", "input"] = "ssm"
    read_fading: bool = True
    tie_projections: bool = True
    span: int = 4
    normalize_innovation: bool = False
    attention_implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        check_implementation(self.attention_implementation, "attention_implementation")
        check_heads(self.n_heads, self.n_kv_heads)
        for name in ("window", "num_fading", "num_eidetic"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        for name, known in (
            ("form", ("chunked", "sliding", "token")),
            ("tokens", ("ssm", "conv", "input")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: must be one of {known}, got {getattr(self, name)!r}")
        if self.span < 1:
            raise ValueError(f"span: the predictor needs at least one output, got {self.span}")
        slots = self.num_fading + self.num_eidetic
        if self.window == 0 and slots:
            raise ValueError("window: slots need a window of at least 1; or set them to 0")
        if self.form == "chunked" and self.num_fading > self.window:
            raise ValueError(
                f"num_fading: at most window = {self.window} SSM outputs, got {self.num_fading}"
            )
        if self.form == "sliding" and self.num_eidetic:
            raise ValueError("num_eidetic: the sliding form has no eidetic slots; set it to 0")
        if self.form == "token" and self.num_fading > 1:
            raise ValueError("num_fading: the token form sees one SSM output; set it to 0 or 1")
        if self.fading is None:
            needs = [
                name
                for name, needed in (
                    ("num_fading", self.num_fading or self.form == "sliding"),
                    ("num_eidetic", self.num_eidetic),
                    ("tokens='ssm'", self.tokens == "ssm"),
                    ("read_fading", self.read_fading),
                    ("window=0", self.window == 0),
                )
                if needed
            ]
            if needs:
                raise ValueError(f"fading: a cell is needed for {', '.join(needs)}")

    def make(self, d_model: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType) -> "BMojo":
        """Make the mixer."""
        return BMojo(d_model, self, rngs=rngs, dtype=dtype, param_dtype=param_dtype)


class BMojo(nnx.Module):
    """out_t = y_t + W_o Attn(q_t; window, fading and eidetic slots), y = SSM(u)."""

    axes: ClassVar[dict[str, Names]] = {
        "fading_k_proj.kernel": ("embed", "kv_heads"),
        "fading_v_proj.kernel": ("embed", "kv_heads"),
        "conv_kernel": (None, "embed"),
    }

    def __init__(
        self,
        d_model: int,
        config: BMojoConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ) -> None:
        """Make the fading cell and the projections."""
        self.config, self.d_model, self.dtype = config, d_model, dtype
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        cell = None if config.fading is None else config.fading.make(d_model, **options)
        self.fading: Mixer | None = nnx.data(cell)
        if config.window == 0:
            return
        self.heads = Heads(d_model, config.n_heads, config.n_kv_heads, **options)
        if config.num_fading and not config.tie_projections:
            d_kv = self.heads.n_kv_heads * self.heads.d_head
            self.fading_k_proj = nnx.Linear(d_model, d_kv, use_bias=False, **options)
            self.fading_v_proj = nnx.Linear(d_model, d_kv, use_bias=False, **options)
        if config.tokens == "conv":
            draw = jax.random.uniform(
                rngs.params(), (TOKEN_TAPS, d_model), param_dtype, minval=-1.0, maxval=1.0
            )
            self.conv_kernel = nnx.Param(draw * TOKEN_TAPS**-0.5)

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: BMojoState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], BMojoState]:
        """Mix L new tokens; see :class:`bmojo.layers.protocol.Mixer`."""
        y, seen, after = self._look(u, state, segment_ids, lengths)
        return self._output(y, seen), after

    def read(
        self,
        u: Float[Array, "B L D"],
        state: BMojoState,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], BMojoState, Reading | None]:
        """What a call gives, and what a memory outside the model needs to know of it.

        Args:
          u: normalized inputs, all of the row's current document.
          state: what the tokens before left behind.
          lengths: valid tokens of each row; None: all L. The others' readings mean nothing.

        Returns:
          Outputs and state as of a call, and the reading; None without eidetic slots.
        """
        y, seen, after = self._look(u, state, None, lengths)
        reading = None
        if seen is not None and seen.innovation is not None:
            reading = Reading(seen.q, seen.new, seen.innovation)
        return self._output(y, seen), after, reading

    def trace(
        self,
        u: Float[Array, "B L D"],
        state: BMojoState,
        lengths: Int[Array, "B"] | None = None,
        *,
        bins: int,
    ) -> Trace | None:
        """What a call would look at and keep; None without a window.

        Args:
          u: normalized inputs, all of the row's current document.
          state: what the tokens before left behind.
          lengths: valid tokens of each row; None: all L. The others' traces mean nothing.
          bins: octaves of distance.
        """
        _, seen, _ = self._look(u, state, None, lengths)
        if seen is None:
            return None
        span, _ = advance(state.positions, u.shape[1], None, lengths)
        score = seen.innovation
        if score is None:
            score = jnp.zeros((u.shape[0], 0), at_least_float32(self.dtype))
        view = seen.sight.view()
        return Trace(spread_view(seen.q, view, bins), held_positions(view, span.position), score)

    def _look(
        self,
        u: Array,
        state: BMojoState | SequenceShard | None,
        segment_ids: Array | None,
        lengths: Array | None,
    ) -> tuple[Array, "_Seen | None", BMojoState]:
        """SSM outputs, what the attention goes by (None without a window), next state."""
        config = self.config
        context, state = open_context(state, lengths)
        on_grid = state is None
        if state is None:
            state = self.init_state(u.shape[0])
        span, positions = context.advance(state.positions, u.shape[1], segment_ids, lengths)
        y, fading = jnp.zeros_like(u), state.fading
        if self.fading is not None:
            inner = None if on_grid else state.fading
            y, fading = self.fading(u, context.inner(inner), segment_ids, lengths)
        # From here on, ``before`` is what came before the tokens of this device.
        before = dataclasses.replace(state, outputs=context.tail(state.outputs, y))
        after: dict[str, Any] = {
            "positions": positions,
            "outputs": next_tail(before.outputs, y, lengths),
        }
        if config.window == 0:
            return y, None, _after(before, fading, after, context)

        before = dataclasses.replace(before, inputs=context.tail(state.inputs, u))
        after["inputs"] = next_tail(before.inputs, u, lengths)
        q, new = self.heads.queries(u), self.heads.key_values(self._tokens(u, y, before, span))
        before = dataclasses.replace(before, window=context.tail(state.window, new))
        after["window"] = next_tails(before.window, new, lengths)
        score = None
        if config.num_eidetic:
            score, after["power"] = self.innovation(y, before, span, lengths, context)
            eidetic = eidetic_before(context, state.eidetic, score, new, span)
            before = dataclasses.replace(before, eidetic=eidetic)
        call = Call(
            window=config.window,
            num_fading=config.num_fading,
            num_eidetic=config.num_eidetic,
            context=context,
            before=before,
            span=span,
            offset=None if on_grid else span.position[:, 0] % config.window,
            lengths=lengths,
            new=new,
            y=y,
            project=self._fading_key_values,
            score=score,
        )
        sight, memory = FORMS[config.form](call)
        return y, _Seen(q, sight, new, score), _after(before, fading, after | memory, context)

    def _output(self, y: Array, seen: "_Seen | None") -> Array:
        """The layer's output."""
        if seen is None:
            return y
        mixed = kernels.attend(seen.q, seen.sight, self.config.attention_implementation)
        out = self.heads.output(mixed)
        return out + y if self.config.read_fading else out

    def init_state(self, batch_size: int, capacity: int | None = None) -> BMojoState:
        """Nothing seen: zero fading state, empty window, vacant slots."""
        config, rows = self.config, batch_size
        attends = config.window > 0
        number = at_least_float32(self.dtype)
        eidetic = config.num_eidetic
        chunked = config.form == "chunked"
        slots = config.num_fading + eidetic if chunked else 0
        outputs = max(config.span if eidetic else 0, config.num_fading if chunked else 0)
        faded = {"chunked": 0, "token": config.window * config.num_fading}.get(
            config.form, 2 * config.window - 1
        )
        normalized = eidetic and config.normalize_innovation

        def key_values(places: int) -> KeyValues:
            if attends:
                return self.heads.empty(rows, places)
            nothing = jnp.zeros((rows, 0, 1, 1), self.dtype)
            return KeyValues(nothing, nothing)

        frozen, stored = key_values(slots), key_values(0)
        return BMojoState(
            positions=Positions.zero(rows),
            fading=() if self.fading is None else self.fading.init_state(rows, capacity),
            inputs=jnp.zeros(
                (rows, TOKEN_TAPS - 1 if config.tokens == "conv" and attends else 0, self.d_model),
                self.dtype,
            ),
            outputs=jnp.zeros((rows, outputs, self.d_model), self.dtype),
            power=jnp.zeros((rows, self.d_model if normalized else 0), number),
            window=key_values(max(config.window - 1, 0)),
            faded=key_values(faded if attends else 0),
            slots=Slots(frozen.k, frozen.v, jnp.full((rows, slots), NEVER, jnp.int32)),
            eidetic=EideticSlots(
                kept=key_values(eidetic),
                score=jnp.full((rows, eidetic), EMPTY, number),
                position=jnp.zeros((rows, eidetic), jnp.int32),
            ),
            stored=Slots(stored.k, stored.v, jnp.full((rows, 0), NEVER, jnp.int32)),
        )

    def flops_per_token(self, length: int) -> float:
        """The cell, the projections, and attention to W + m_f + m_e keys at most."""
        config = self.config
        flops = 0.0 if self.fading is None else self.fading.flops_per_token(length)
        if config.window == 0:
            return flops
        seen = min(config.window, (length + 1) / 2)
        fading, d_kv = float(config.num_fading), self.heads.n_kv_heads * self.heads.d_head
        projected = fading / config.window
        if config.form != "chunked":
            projected = 1.0 if fading or config.form == "sliding" else 0.0
        if config.form == "sliding":
            fading = max(0.0, min(config.window, (length + 1) / 2 - config.window))
        seen += fading + min(config.num_eidetic, length)
        return (
            flops
            + self.heads.projection_flops()
            + 4.0 * self.d_model * d_kv * projected
            + 4.0 * self.d_model * seen
        )

    def innovation(
        self,
        y: Float[Array, "B L D"],
        state: BMojoState,
        span: TokenPositions,
        lengths: Int[Array, "B"] | None = None,
        context: TimeContext = UNSHARDED,
    ) -> tuple[Float[Array, "B L"], Float[Array, "B channels"]]:
        """How much each token surprised the fixed predictor, and the channels' power after."""
        y = jax.lax.stop_gradient(y)
        tail = jax.lax.stop_gradient(state.outputs)
        residuals = residual(y, tail, predictor(self.config.span), span.segment_pos)
        if not self.config.normalize_innovation:
            return innovation(residuals)[0], state.power

        def own() -> tuple[Array, Array]:
            _, total = innovation(residuals, jnp.zeros_like(state.power), span.segment_pos)
            assert total is not None
            return (span.segment_pos == 0).any(axis=1), total

        nothing = jnp.zeros(y.shape[:1], bool)
        _, before = context.scan(add_in_document, (nothing, state.power), own)
        score, power = innovation(residuals, before, span.segment_pos, lengths)
        assert power is not None
        return score, power

    def _tokens(self, u: Array, y: Array, state: BMojoState, span: TokenPositions) -> Array:
        """The contextualised tokens that keys and values are made from."""
        if self.config.tokens == "ssm":
            return u + y
        if self.config.tokens == "conv":
            kernel = self.conv_kernel[...].astype(u.dtype)
            return u + causal_convolution(u, kernel, state.inputs, span.segment_pos)
        return u

    def _fading_key_values(self, y: Array) -> KeyValues:
        """Keys and values of SSM outputs."""
        if self.config.tie_projections:
            return self.heads.key_values(y)
        return self.heads.cut_key_values(self.fading_k_proj(y), self.fading_v_proj(y))


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Queries, what they may look at, the tokens' own keys and values, and their innovation."""

    q: Array
    sight: Sight | Gathered
    new: KeyValues
    innovation: Array | None


def _after(
    before: BMojoState, fading: State, changes: dict[str, Any], context: TimeContext
) -> BMojoState:
    """The state after the tokens of all devices, of which the cell has given its part."""
    own = context.last(dataclasses.replace(before, fading=(), **changes))
    return dataclasses.replace(own, fading=fading)
