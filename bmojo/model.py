"""Language models: an embedding, a repeated pattern of sublayers, a head.

A sublayer is a norm, a mixer and a residual connection; the MLP is a mixer without state.
So a Transformer is the pattern (attention, MLP), Mamba is (SSM, SSM), a hybrid is (SSM, MLP,
windowed attention, MLP), and B'MOJO is (B'MOJO, MLP).
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.axes import Names, constrain
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.norm import RMSNorm
from bmojo.layers.protocol import MixerConfig, SequenceShard, State
from bmojo.layers.reading import Reading
from bmojo.types import Array, DType, Float, Int

DTYPES = ("float32", "bfloat16", "float16", "float64")
REMAT = ("none", "full", "products")
KERNELS = ("ffi_call", "pallas_call")
"""JAX's names of kernels."""
FEW_PERIODS = 4
"""Periods that are written out one by one."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
      vocab_size: V, token ids are 0 .. V - 1.
      d_model: D, width of the residual stream.
      n_layers: pairs of sublayers, as the field counts: one mixer and one MLP, or two SSMs.
      pattern: configs of one period of sublayers, repeated 2 n_layers / len(pattern) times.
      tie_embeddings: the head is the embedding's transpose over sqrt(D).
      dtype: of the computation. Norms, softmax, states and logits are float32 at least.
      param_dtype: of the parameters.
      parameters: parameters outside embedding and head to reach as nearly as possible; the
        free width is solved for: ``d_ff`` of the MLPs, or ``d_inner`` of the SSMs in a
        pattern without MLP. None: widths are as configured.
      remat: what the backward pass computes again instead of storing it: 'none', 'full' (the
        inside of each period) or 'products' (that too, but for the outputs of matrix products
        with parameters and of kernels: native and Pallas scans and attention).
      unroll: periods that are written out in each round of the loop over them: more of them run
        faster, without copies of what the backward pass needs, and compile longer. None: all, if
        there are no more than 4, else one.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    pattern: tuple[MixerConfig, ...]
    tie_embeddings: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"
    parameters: int | None = None
    remat: Literal["none", "full", "products"] = "none"
    unroll: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "unroll"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.pattern:
            raise ValueError("pattern: needs at least one mixer")
        if (2 * self.n_layers) % len(self.pattern):
            raise ValueError(
                f"pattern: its {len(self.pattern)} sublayers must divide the 2 x n_layers = "
                f"{2 * self.n_layers} of the model"
            )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"{name}: must be one of {DTYPES}, got {getattr(self, name)!r}")
        if self.remat not in REMAT:
            raise ValueError(f"remat: must be one of {REMAT}, got {self.remat!r}")
        if self.parameters is not None and self.parameters < 1:
            raise ValueError(f"parameters: must be positive, got {self.parameters}")

    @property
    def periods(self) -> int:
        """How often the pattern is repeated."""
        return 2 * self.n_layers // len(self.pattern)

    def make(self, rngs: nnx.Rngs) -> "Model":
        """Make the model with freshly drawn parameters."""
        return Model(self, rngs=rngs)


class Sublayer(nnx.Module):
    """x + mixer(norm(x))."""

    axes: ClassVar[dict[str, Names]] = {"norm.scale": (None,)}

    def __init__(
        self,
        d_model: int,
        config: MixerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ) -> None:
        """Make the norm and the mixer."""
        self.norm = RMSNorm(d_model, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.mixer = config.make(d_model, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(
        self, x: Array, state: State, segment_ids: Array | None, lengths: Array | None
    ) -> tuple[Array, State]:
        """Add the mixer's output to the residual stream."""
        out, state = self.mixer(self.norm(x), state, segment_ids, lengths)
        return constrain(x + out, "batch", None, None), state

    def read(
        self, x: Array, state: State, lengths: Array | None
    ) -> tuple[Array, State, Reading | None]:
        """The same, with what a memory outside the model needs to know."""
        read = getattr(self.mixer, "read", None)
        if read is None:
            return *self(x, state, None, lengths), None
        out, state, reading = read(self.norm(x), state, lengths)
        return constrain(x + out, "batch", None, None), state, reading


class Period(nnx.Module):
    """One period of the pattern."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Make its sublayers."""
        dtype, param_dtype = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)
        self.sublayers = nnx.List(
            [
                Sublayer(config.d_model, mixer, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
                for mixer in config.pattern
            ]
        )

    def __call__(
        self,
        x: Array,
        states: Sequence[State],
        segment_ids: Array | None,
        lengths: Array | None,
    ) -> tuple[Array, tuple[State, ...]]:
        """Run the sublayers one after the other."""
        after = []
        for sublayer, state in zip(self.sublayers, states, strict=True):
            x, state = sublayer(x, state, segment_ids, lengths)
            after.append(state)
        return x, tuple(after)


class Model(nnx.Module):
    """Next-token logits, with a state that carries everything the model remembers."""

    axes: ClassVar[dict[str, Names]] = {
        "embedding.embedding": ("vocab", "embed"),
        "norm.scale": (None,),
        "head.kernel": ("embed", "vocab"),
    }

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Draw the parameters.

        Raises:
          ValueError: ``config.parameters`` cannot be reached.
        """
        self.config = config = solve_widths(config)
        dtype, param_dtype = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embedding = nnx.Embed(
            config.vocab_size,
            config.d_model,
            embedding_init=nnx.initializers.normal(1.0),
            **options,
        )
        make = nnx.vmap(lambda keys: Period(config, rngs=keys), in_axes=0, out_axes=0)
        self.periods = make(rngs.split(config.periods))
        self.norm = RMSNorm(config.d_model, **options)
        if not config.tie_embeddings:
            self.head = nnx.Linear(config.d_model, config.vocab_size, use_bias=False, **options)

    def __call__(
        self,
        tokens: Int[Array, "B L"],
        state: State | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        at: Int[Array, "B K"] | None = None,
    ) -> tuple[Float[Array, "B L V"] | Float[Array, "B K V"], State]:
        """Predict the token after each of L new tokens.

        Args:
          tokens: ids in 0 .. V - 1.
          state: from the call before, or from :meth:`init_state`; None: these are the first
            tokens; :class:`bmojo.layers.protocol.SequenceShard` around one or the other: inside
            ``jax.shard_map``, time is cut over the devices of a mesh axis.
          segment_ids: document of each token; a change resets every kind of memory.
          lengths: valid tokens of each row, the rest is padding on the right.
          at: places in 0 .. L - 1 of each row whose logits are wanted; None: all. The head is
            applied to these alone.

        Returns:
          Logits, float32 or wider, and the state after the valid tokens.
        """
        x, state = self.features(tokens, state, segment_ids, lengths)
        if at is not None:
            x = jnp.take_along_axis(x, at[:, :, None], axis=1)
        return self.logits(x), state

    def read(
        self,
        tokens: Int[Array, "B L"],
        state: State,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L V"], State, tuple[Reading | None, ...]]:
        """Logits and state as of a call, and what a memory outside the model needs to know.

        Args:
          tokens: ids in 0 .. V - 1, all of the row's current document.
          state: from the call before, or from :meth:`init_state`.
          lengths: valid tokens of each row, the rest is padding on the right.

        Returns:
          Logits, state, and for each sublayer of the pattern its reading, periods stacked; None
          for one that has no eidetic slots.
        """
        graph, parameters = nnx.split(self.periods)

        def period(x: Array, inputs: tuple[nnx.State, State]) -> tuple[Array, Any]:
            part, states = inputs
            after, readings = [], []
            for sublayer, old in zip(nnx.merge(graph, part).sublayers, states, strict=True):
                x, new, reading = sublayer.read(x, old, lengths)
                after.append(new)
                readings.append(reading)
            return x, (tuple(after), tuple(readings))

        x, (state, readings) = jax.lax.scan(period, self._embed(tokens), (parameters, state))
        return self.logits(self.norm(x)), state, readings

    def features(
        self,
        tokens: Int[Array, "B L"],
        state: State | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], State]:
        """What the head sees of each token, and the state after them; see :meth:`__call__`."""
        x = constrain(self._embed(tokens), "batch", None, None)
        graph, parameters = nnx.split(self.periods)

        def period(x: Array, inputs: tuple[nnx.State, State]) -> tuple[Array, State]:
            part, states = inputs
            each = _of_sublayers(states, len(self.config.pattern))
            return nnx.merge(graph, part)(x, each, segment_ids, lengths)

        body, count = _remat(period, self.config.remat), self.config.periods
        unroll = self.config.unroll or (count if count <= FEW_PERIODS else 1)
        x, state = jax.lax.scan(body, x, (parameters, state), unroll=min(unroll, count))
        return self.norm(x), state

    def unrolled(
        self, tokens: Int[Array, "B L"], states: Sequence[State]
    ) -> tuple[Float[Array, "B L V"], tuple[State, ...]]:
        """As a call, written out period by period, each of which has its state apart.

        In a compiled loop large states are then updated in place, where the scan over periods
        copies them. The deeper the model, the longer it takes to compile.

        Args:
          tokens: ids in 0 .. V - 1.
          states: of each period, without the axis of periods that :meth:`init_state` gives.

        Returns:
          Logits, and the states after the tokens.
        """
        x, after = self._embed(tokens), []
        graph, parameters = nnx.split(self.periods)
        for index, state in enumerate(states):
            part = jax.tree.map(operator.itemgetter(index), parameters)
            x, state = nnx.merge(graph, part)(x, state, None, None)
            after.append(state)
        return self.logits(self.norm(x)), tuple(after)

    def logits(self, features: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """The head, in float32 or wider."""
        if self.config.tie_embeddings:
            scaled, table = self.words(features)
            dtype = jnp.result_type(jnp.float32, features.dtype)
            return jnp.einsum("bld,vd->blv", scaled, table, preferred_element_type=dtype)
        return self.head(features).astype(jnp.result_type(jnp.float32, features.dtype))

    def words(
        self, features: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "V D"]]:
        """Factors of the logits: features as they meet the table, and a row for each word."""
        if self.config.tie_embeddings:
            table = self.embedding.embedding[...].astype(features.dtype)
            return features * self.config.d_model**-0.5, table
        return features, self.head.kernel[...].astype(features.dtype).T

    def init_state(self, batch_size: int, capacity: int | None = None) -> State:
        """The state before the first token: one per sublayer of the pattern, periods stacked.

        Args:
          batch_size: rows.
          capacity: tokens that full attention must be able to hold.
        """
        graph, parameters = nnx.split(self.periods)

        def period(part: nnx.State) -> State:
            sublayers = nnx.merge(graph, part).sublayers
            return tuple(s.mixer.init_state(batch_size, capacity) for s in sublayers)

        return jax.vmap(period)(parameters)

    def _embed(self, tokens: Int[Array, "B L"]) -> Array:
        """A row of the table for each token."""
        # By channels: XLA cannot look up in a table whose rows are cut where time is cut too.
        table = constrain(self.embedding.embedding[...], None, "lookup")
        return jnp.take(table.astype(self.embedding.dtype), tokens, axis=0)


def _of_sublayers(
    states: State | SequenceShard | None, count: int
) -> tuple[State | SequenceShard | None, ...]:
    """What each of ``count`` sublayers is called with."""
    if isinstance(states, SequenceShard):
        firsts = _of_sublayers(states.first, count)
        return tuple(SequenceShard(states.axis, states.size, first) for first in firsts)
    return (None,) * count if states is None else states


def _remat(period: Any, policy: str) -> Any:
    """A period that stores less for its backward pass."""
    if policy == "none":
        return period
    return jax.checkpoint(period, policy=_products if policy == "products" else None)


def _products(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """Whether what a primitive gives is stored: products with parameters, and what kernels give."""
    if primitive.name in KERNELS:
        return True
    saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return saved(primitive, *arguments, **parameters)


def solve_widths(config: ModelConfig) -> ModelConfig:
    """The config with its free widths set so that ``parameters`` is met as nearly as can be.

    Raises:
      ValueError: no width is free, or even the narrowest model has too many parameters.
    """
    if config.parameters is None:
        return config
    field = "d_ff" if any(isinstance(m, MLPConfig) for m in config.pattern) else "d_inner"
    free = [m for m in config.pattern if getattr(m, field, 0) is None]
    if not free:
        raise ValueError(
            f"parameters: nothing is free to reach {config.parameters}; leave {field} unset"
        )
    step = math.lcm(
        2 if config.d_model < 256 else 8,
        *(getattr(m, "n_heads", 1) for m in free if field == "d_inner"),
    )

    def at(width: int) -> ModelConfig:
        pattern = tuple(
            dataclasses.replace(m, **{field: width})  # type: ignore[type-var]
            if getattr(m, field, 0) is None
            else m
            for m in config.pattern
        )
        return dataclasses.replace(config, pattern=pattern, parameters=None)

    base, slope = _inner_parameters(at(step)), 0
    slope = _inner_parameters(at(2 * step)) - base
    steps = 1 + round((config.parameters - base) / slope)
    if steps < 1:
        raise ValueError(
            f"parameters: {config.parameters} is below the {base} of the narrowest such model"
        )
    return at(steps * step)


def count_parameters(tree: nnx.Module) -> int:
    """Numbers in a module's parameters."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(tree, nnx.Param)))


def _inner_parameters(config: ModelConfig) -> int:
    """Parameters of all periods, without allocating them."""
    period = nnx.eval_shape(lambda: Period(config, rngs=nnx.Rngs(0)))
    return config.periods * count_parameters(period)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a model costs, known before it is made.

    Attributes:
      parts: parameters by part of the model, repeated sublayers summed.
      parameters: all of them.
      embedding_parameters: those of the embedding and, if untied, the head.
      widths: solved or given inner widths of the sublayers, by name of the part.
      config: the config with solved widths.
    """

    parts: list[tuple[str, int]]
    parameters: int
    embedding_parameters: int
    widths: dict[str, dict[str, int]]
    config: ModelConfig

    def memory(self, length: int) -> tuple[int, int]:
        """Bytes of one row's state after ``length`` tokens: (recurrent state, keys and values)."""
        model = nnx.eval_shape(lambda: Model(self.config, rngs=nnx.Rngs(0)))
        kinds: list[bool] = []

        def leaves() -> list[Array]:
            found = jax.tree_util.tree_leaves_with_path(model.init_state(1, length))
            kinds.extend(getattr(path[-1], "name", None) in ("k", "v") for path, _ in found)
            return [leaf for _, leaf in found]

        shapes = jax.eval_shape(leaves)
        sizes = [0, 0]
        for is_key_value, leaf in zip(kinds, shapes, strict=True):
            sizes[is_key_value] += math.prod(leaf.shape) * leaf.dtype.itemsize
        return sizes[0], sizes[1]

    def flops_per_token(self, length: int) -> float:
        """Forward operations per token at that length, an average over the positions."""
        config = self.config
        period = nnx.eval_shape(lambda: Period(config, rngs=nnx.Rngs(0)))
        inner = sum(s.mixer.flops_per_token(length) for s in period.sublayers)
        return config.periods * inner + 2.0 * config.d_model * config.vocab_size


def describe(config: ModelConfig) -> Description:
    """Count a model's parameters without making it."""
    config = solve_widths(config)
    model = nnx.eval_shape(lambda: Model(config, rngs=nnx.Rngs(0)))
    embedding = count_parameters(model.embedding)
    parts = [("embedding", embedding)]
    widths = {}
    for index, sublayer in enumerate(model.periods.sublayers):
        name = f"{config.periods} x {type(sublayer.mixer).__name__} ({index + 1})"
        parts.append((name, count_parameters(sublayer)))
        found = {f: getattr(sublayer.mixer, f, None) for f in ("d_ff", "d_inner")}
        widths[name] = {f: w for f, w in found.items() if w is not None}
    parts.append(("norm", count_parameters(model.norm)))
    if not config.tie_embeddings:
        head = count_parameters(model.head)
        embedding += head
        parts.append(("head", head))
    return Description(parts, sum(n for _, n in parts), embedding, widths, config)
