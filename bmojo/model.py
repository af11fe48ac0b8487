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

from bmojo.layers.norm import RMSNorm, check_epsilon
from bmojo.layers.protocol import (
    Aux,
    AuxRequest,
    MixerConfig,
    SequenceShard,
    State,
    check_mixer_members,
)
from bmojo.layers.readout import Look, Readout, ReadoutConfig, mixed_log_probabilities, mixed_loss
from bmojo.ops.axes import RULES, Names, constrain, is_cut
from bmojo.ops.cross_entropy import blocked_cross_entropy, cross_entropy
from bmojo.types import Array, Float, Int, at_least_float32

DTYPE_FIELDS = ("dtype", "param_dtype")
DTYPES = ("float32", "bfloat16", "float16", "float64")
KERNELS = ("ffi_call", "pallas_call")
"""JAX's names of kernels."""

FEW_BLOCKS = 4
"""Blocks that are written out one by one."""

LOGITS_AT_ONCE = 4096
"""Words of a vocabulary whose logits are computed at once, at most."""


TOKENS_AT_ONCE = 32
"""Tokens of a row whose mixed probabilities are computed at once, beside those of all words."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
      vocab_size: V, token ids are 0 .. V - 1.
      d_model: D, width of the residual stream.
      n_layers: pairs of sublayers, as the field counts: one mixer and one MLP, or two SSMs.
      pattern: configs of the sublayers of one block, repeated 2 n_layers / len(pattern) times.
      tie_embeddings: the head is the embedding's transpose times ``logit_scale``.
      dtype: of the computation. Norms, softmax, states and logits are float32 at least.
      param_dtype: of the parameters.
      parameters: parameters outside embedding and head to reach as nearly as possible; the
        free width is solved for: that of the last sublayer in the pattern that has one, ``d_ff``
        of the MLPs or ``d_inner`` of the SSMs. None: widths are as configured.
      remat: what the backward pass computes again instead of storing it: 'none', 'full' (the
        inside of each block) or 'products' (that too, but for the outputs of matrix products
        with parameters and of kernels: native and Pallas scans and attention).
      unroll: blocks that are written out in each round of the loop over them: more of them run
        faster, without copies of what the backward pass needs, and compile longer. None: all, if
        there are no more than 4, else one.
      readout: a verbatim read-out beside the head; None, or one that reads nothing: none.
      logit_scale: of a tied head; None: 1 / sqrt(D).
      norm_epsilon: of the norms before the sublayers and before the head.
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
    readout: ReadoutConfig | None = None
    logit_scale: float | None = None
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "parameters", "unroll"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.pattern:
            raise ValueError("pattern: needs at least one mixer")
        if (2 * self.n_layers) % len(self.pattern):
            raise ValueError(
                f"pattern: its {len(self.pattern)} sublayers must divide the 2 x n_layers = "
                f"{2 * self.n_layers} of the model"
            )
        for name in DTYPE_FIELDS:
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"{name}: must be one of {DTYPES}, got {getattr(self, name)!r}")
        check_epsilon(self.norm_epsilon)
        if self.logit_scale is not None and not self.tie_embeddings:
            raise ValueError("logit_scale: is of a tied head; set tie_embeddings, or leave it out")
        if self.remat not in ("none", "full", "products"):
            raise ValueError(f"remat: give 'none', 'full' or 'products', got {self.remat!r}")

    @property
    def tied_scale(self) -> float:
        """The factor of a tied head's logits."""
        return self.d_model**-0.5 if self.logit_scale is None else self.logit_scale

    @property
    def num_blocks(self) -> int:
        """Repetitions of the pattern."""
        return 2 * self.n_layers // len(self.pattern)

    def make(self, rngs: nnx.Rngs) -> "Model":
        """Make the model with freshly drawn parameters."""
        return Model(self, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelState:
    """All that a model remembers between two calls.

    Attributes:
      blocks: for each sublayer of the pattern its state, whose arrays have the blocks as first
        axis; or a list of such states without that axis (:meth:`unstacked`).
      readout: state of the verbatim read-out, with a first axis of length 1; () where there is
        none.
    """

    blocks: Any
    readout: Any = ()

    def unstacked(self, count: int) -> "ModelState":
        """The same state with that of each of ``count`` blocks by itself."""
        pick = [jax.tree.map(operator.itemgetter(i), self.blocks) for i in range(count)]
        return dataclasses.replace(self, blocks=pick)


class Sublayer(nnx.Module):
    """x + mixer(norm(x))."""

    axes: ClassVar[dict[str, Names]] = {"norm.scale": (None,)}

    def __init__(
        self, d_model: int, config: MixerConfig, epsilon: float = 1e-6, **options: Any
    ) -> None:
        self.norm = RMSNorm(d_model, epsilon=epsilon, **options)
        self.mixer = config.make(d_model, **options)
        check_mixer_members(self.mixer)


class Block(nnx.Module):
    """One repetition of the pattern."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        options = _options(config, rngs) | {"epsilon": config.norm_epsilon}
        self.sublayers = nnx.List([Sublayer(config.d_model, m, **options) for m in config.pattern])

    def __call__(
        self,
        x: Float[Array, "B L D"],
        states: Sequence[State],
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[State, ...], tuple[Aux, ...]]:
        """Run the sublayers one after the other; their states, and their Aux if asked for."""
        after, found = [], []
        for sublayer, state in zip(self.sublayers, states, strict=True):
            u, more = sublayer.norm(x), {} if aux is None else {"aux": aux}
            out, state, *rest = sublayer.mixer(u, state, segment_ids, lengths, **more)
            x = constrain(x + out, "batch", None, None)
            after.append(state)
            found += rest
        return x, tuple(after), tuple(found)


class Model(nnx.Module):
    """Next-token logits, with a state that carries everything the model remembers."""

    axes: ClassVar[dict[str, Names]] = {
        "embedding.embedding": ("vocab", "embed"),
        "norm.scale": (None,),
        "head.kernel": ("embed", "vocab"),
    }
    tables: ClassVar[tuple[str, ...]] = ("embedding.embedding",)

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Draw the parameters; ValueError if ``config.parameters`` cannot be reached."""
        self.config = config = solve_widths(config)
        options, draw = _options(config, rngs), nnx.initializers.normal(1.0)
        shape = (config.vocab_size, config.d_model)
        self.embedding = nnx.Embed(*shape, embedding_init=draw, **options)
        make = nnx.vmap(lambda keys: Block(config, rngs=keys), in_axes=0, out_axes=0)
        self.blocks = make(rngs.split(config.num_blocks))
        self.norm = RMSNorm(config.d_model, epsilon=config.norm_epsilon, **options)
        if not config.tie_embeddings:
            self.head = nnx.Linear(config.d_model, config.vocab_size, use_bias=False, **options)
        if config.readout is not None and config.readout.reads:
            self.readout = Readout(config.d_model, config.readout, config.vocab_size, **options)

    def __call__(
        self,
        tokens: Int[Array, "B L"],
        state: ModelState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        at: Int[Array, "B K"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
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
          aux: further outputs of the mixers.

        Returns:
          (logits, state): logits (B, L or K, V), float32 or wider, and the state after the valid
          tokens; with a read-out they are the logarithms of the mixed probabilities. With ``aux``:
          (logits, state, found), for each sublayer of the pattern its Aux with the blocks as
          first axis.
        """
        x, look, state, *found = self._forward(tokens, state, segment_ids, lengths, aux)
        if at is not None:
            x = jnp.take_along_axis(x, at[:, :, None], axis=1)
        logits = self.logits(x)
        if look is not None:
            logits = mixed_log_probabilities(look, logits, at)
        return logits, state, *found

    def score(
        self,
        tokens: Int[Array, "B L"],
        targets: Int[Array, "B L"],
        state: ModelState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L"], Float[Array, "B L"], Any]:
        """The loss of each target, given the tokens up to its place.

        All losses of training, evaluation and harness come from here. Beyond ``LOGITS_AT_ONCE``
        words the logits of all tokens never exist at once; where arrays are cut over a mesh,
        each device has those of its own rows or words. Arguments are those of :meth:`__call__`,
        and ``targets``, the token after each; -1: none, its loss is zero.

        Returns:
          Cross-entropy in nats, 1.0 where the target was the likeliest token and else 0.0, both
          float32 or wider, and the state after the valid tokens.
        """
        features, look, state = self._forward(tokens, state, segment_ids, lengths)
        counted = targets >= 0
        answers = jnp.where(counted, targets, 0)
        factors, table = self.logit_factors(features)
        if RULES.get() is None and len(table) > LOGITS_AT_ONCE:
            flat = factors.reshape(-1, table.shape[1])
            losses, right = blocked_cross_entropy(flat, table, answers.reshape(-1))
            losses, right = losses.reshape(targets.shape), right.reshape(targets.shape)
        else:
            losses, right = cross_entropy(self.logits(features), answers, is_cut("vocab"))
        if look is not None:
            losses = mixed_loss(look, losses, answers)
            right = self._likeliest(jax.lax.stop_gradient((features, look))) == answers
        return jnp.where(counted, losses, 0), (counted & right).astype(losses.dtype), state

    def features(
        self,
        tokens: Int[Array, "B L"],
        state: ModelState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """The input of the head for each token, and the state after them; see :meth:`__call__`.

        A state whose blocks are apart (:meth:`ModelState.unstacked`) runs the blocks written out
        instead of scanned: in a compiled loop large states are then updated in place, where the
        scan copies them. The deeper the model, the longer it takes to compile.
        """
        x, _, state, *found = self._forward(tokens, state, segment_ids, lengths, aux)
        return x, state, *found

    def _forward(
        self,
        tokens: Int[Array, "B L"],
        state: ModelState | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Features, what the read-out reads for them (None: there is none), the state, Aux."""
        graph, parameters = nnx.split(self.blocks)

        def block(x: Array, inputs: tuple[nnx.State, State]) -> tuple[Array, Any]:
            own, states = inputs
            states = _by_sublayer(states, len(self.config.pattern))
            x, *after = nnx.merge(graph, own)(x, states, segment_ids, lengths, aux)
            return x, after

        x = constrain(self._embed(tokens), "batch", None, None)
        memory = _part_of(state, "blocks")
        if isinstance(memory, list):
            results = []
            for index, states in enumerate(memory):
                own = jax.tree.map(operator.itemgetter(index), parameters)
                x, after = block(x, (own, states))
                results.append(after)
            after, found = map(list, zip(*results, strict=True))
        else:
            count, remat = self.config.num_blocks, self.config.remat
            stored = _products if remat == "products" else None
            body = block if remat == "none" else jax.checkpoint(block, policy=stored)
            unroll = self.config.unroll or (count if count <= FEW_BLOCKS else 1)
            x, (after, found) = jax.lax.scan(
                body, x, (parameters, memory), unroll=min(unroll, count)
            )
        rest, x = () if aux is None else (found,), self.norm(x)
        if not hasattr(self, "readout"):
            return x, None, ModelState(after), *rest
        ring = jax.tree.map(operator.itemgetter(0), _part_of(state, "readout"))
        look, ring = self.readout(x, tokens, ring, segment_ids, lengths)
        return x, look, ModelState(after, _stacked(ring)), *rest

    def _likeliest(self, now: tuple[Float[Array, "B L D"], Look]) -> Int[Array, "B L"]:
        """The likeliest token of the head and the read-out together, by blocks of tokens."""
        features, look = now
        length = features.shape[1]
        size = min(length, TOKENS_AT_ONCE)
        starts = [*range(0, length - size, size), length - size]

        def block(first: Array) -> Array:
            x = jax.lax.dynamic_slice_in_dim(features, first, size, 1)
            logits = mixed_log_probabilities(look.part(first, size), self.logits(x))
            return jnp.argmax(logits, axis=-1)

        *whole, last = jax.lax.map(block, jnp.array(starts))
        rest = length - size * len(whole)
        return jnp.concatenate([*whole, last[:, size - rest :]], axis=1)

    def logits(self, features: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """The head, in float32 or wider."""
        dtype = at_least_float32(features.dtype)
        if self.config.tie_embeddings:
            factors, table = self.logit_factors(features)
            return jnp.einsum("bld,vd->blv", factors, table, preferred_element_type=dtype)
        return self.head(features).astype(dtype)

    def logit_factors(
        self, features: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "V D"]]:
        """Factors of the logits: scaled features, and a row for each word."""
        if self.config.tie_embeddings:
            table = self.embedding.embedding[...].astype(features.dtype)
            return features * self.config.tied_scale, table
        return features, self.head.kernel[...].astype(features.dtype).T

    def init_state(self, batch_size: int, capacity: int | None = None) -> ModelState:
        """The state before the first token; full attention has room for ``capacity`` tokens."""
        graph, parameters = nnx.split(self.blocks)

        def block(own: nnx.State) -> State:
            sublayers = nnx.merge(graph, own).sublayers
            return tuple(s.mixer.init_state(batch_size, capacity) for s in sublayers)

        ring = self.readout.init_state(batch_size) if hasattr(self, "readout") else ()
        ring = _stacked(ring)
        return ModelState(jax.vmap(block)(parameters), ring)

    def _embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """A row of the table for each token."""
        # By channels: XLA cannot look up in a table whose rows are cut where time is cut too.
        table = constrain(self.embedding.embedding[...], None, "lookup")
        return jnp.take(table.astype(self.embedding.dtype), tokens, axis=0)


def _options(config: ModelConfig, rngs: nnx.Rngs) -> dict[str, Any]:
    options: dict[str, Any] = {name: jnp.dtype(getattr(config, name)) for name in DTYPE_FIELDS}
    for name, dtype in options.items():
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(f"{name}: {dtype} needs numbers of 64 bits; set JAX_ENABLE_X64=1")
    return options | {"rngs": rngs}


def _part_of(state: ModelState | SequenceShard | None, name: str) -> Any:
    """The part of a model's state that its blocks or its read-out are called with."""
    if isinstance(state, SequenceShard):
        return dataclasses.replace(state, first=_part_of(state.first, name))
    return None if state is None else getattr(state, name)


def _stacked(state: State) -> State:
    """The state of a part that is there once, with an axis of blocks as all others have."""
    return jax.tree.map(lambda x: x[None], state)


def _by_sublayer(states: State | SequenceShard | None, count: int) -> tuple[Any, ...]:
    """The states of ``count`` sublayers."""
    if isinstance(states, SequenceShard):
        firsts = _by_sublayer(states.first, count)
        return tuple(SequenceShard(states.axis, states.size, first) for first in firsts)
    return (None,) * count if states is None else states


def _products(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """Whether a primitive's output is stored: products with parameters, and kernels."""
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
    fields = [getattr(m, "free_width", None) for m in config.pattern]
    field = next(filter(None, reversed(fields)), "a width")
    mixers = zip(config.pattern, fields, strict=True)
    free: list[Any] = [m for m, own in mixers if own == field and getattr(m, field) is None]
    if not free:
        raise ValueError(
            f"parameters: nothing is free to reach {config.parameters}; leave {field} unset"
        )
    multiples = [getattr(mixer, "width_multiple", 1) for mixer in free]
    step = math.lcm(2 if config.d_model < 256 else 8, *multiples)

    def at(width: int) -> ModelConfig:
        wide = [dataclasses.replace(m, **{field: width}) for m in free]
        pattern = [wide[free.index(m)] if m in free else m for m in config.pattern]
        return dataclasses.replace(config, pattern=tuple(pattern), parameters=None)

    base = _inner_parameters(at(step))
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
    """Parameters of all blocks, without allocating them."""
    block = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
    return config.num_blocks * count_parameters(block)
