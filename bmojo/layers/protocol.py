"""The contract of mixers: one call for training, prefill, decoding and streaming evaluation.

A mixer takes any number of new tokens and the state after the tokens before them, and returns
outputs and the next state. Its config is a frozen dataclass that makes it. :data:`OPTIONAL` and
:data:`OPTIONAL_CONFIG` name the members that a mixer or config may have beside the required ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.ops.axes import Names
from bmojo.ops.time_sharding import SequenceShard as SequenceShard
from bmojo.types import Array, DType, Float, Int

State = Any
"""A frozen dataclass pytree of arrays with a leading batch axis; () if there is none."""


@dataclasses.dataclass(frozen=True)
class AuxRequest:
    """Further outputs that a call of a mixer is asked for.

    Attributes:
      entries: queries, keys, values and innovation of the tokens, for a store beside the model.
      bins: octaves of distance of the attention mass and the held positions, for a report; 0:
        neither.
    """

    entries: bool = False
    bins: int = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Aux:
    """Further outputs of a call; None where the mixer has none or they were not asked for.

    Attributes:
      q: queries.
      k: keys of the tokens.
      v: values of the tokens.
      innovation: of each token.
      mass: shares of each query's attention by tier and octave of distance.
      held: positions of the tokens in the eidetic slots that each query sees, -1 where vacant.
      residual: innovation of a fading cell itself, per head, such as the residual that a
        delta-rule cell writes.
    """

    q: Float[Array, "... L H P"] | None = None
    k: Float[Array, "... L G P"] | None = None
    v: Float[Array, "... L G P"] | None = None
    innovation: Float[Array, "... L"] | None = None
    mass: Float[Array, "... L H tiers bins"] | None = None
    held: Int[Array, "... L slots"] | None = None
    residual: Float[Array, "... L heads"] | None = None


def with_aux(aux: AuxRequest | None, out: Array, state: State, found: Aux | None = None) -> Any:
    """A call's result: (out, state), and ``found`` or an empty Aux where one is asked for."""
    return (out, state) if aux is None else (out, state, found or Aux())


def unchanged(
    mixer: "Mixer", u: Array, state: State | SequenceShard | None, aux: AuxRequest | None
) -> Any:
    """The result of a call without rows or without tokens: no outputs, and the same state."""
    state = state.first if isinstance(state, SequenceShard) else state
    return with_aux(aux, u, mixer.init_state(u.shape[0]) if state is None else state)


@runtime_checkable
class Mixer(Protocol):
    """mixer(u, state) -> (out, state), an ``nnx.Module``."""

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: State | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        aux: AuxRequest | None = None,
    ) -> Any:
        """Mix L new tokens.

        Args:
          u: normalized inputs.
          state: after the tokens before. None: there were none, which is also a promise that
            position 0 is the first token, so that forms may specialize. ``SequenceShard``:
            the tokens are one part of a sequence over several devices.
          segment_ids: document of each token; a change resets every kind of memory. None:
            the row's current document goes on.
          lengths: valid tokens of each row; the rest is padding on the right, leaves no
            trace in the state, and its outputs have no meaning. None: all L, and the only
            choice with ``SequenceShard``.
          aux: further outputs; None: none, and none is computed. With it all tokens are of the
            row's current document.

        Returns:
          (out, state): outputs in the dtype of ``u``, and the state after the valid tokens.
          With ``aux``: (out, state, :class:`Aux`).
        """

    def init_state(self, batch_size: int, capacity: int | None = None) -> State:
        """The state before the first token.

        Args:
          batch_size: rows.
          capacity: tokens that a memory growing with its input must be able to hold; mixers
            with bounded memory ignore it.
        """

    def flops_per_token(self, length: int) -> float:
        """Forward floating-point operations per token (2 per multiply-add) at that length."""


@runtime_checkable
class MixerConfig(Protocol):
    """A frozen dataclass that makes its mixer."""

    def make(self, d_model: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType) -> Mixer:
        """Make the mixer for inputs of width ``d_model``.

        Args:
          d_model: width of inputs and outputs.
          rngs: source of the initial parameters.
          dtype: of the computation; states, softmax and innovation are at least float32.
          param_dtype: of the parameters.
        """


class Options(TypedDict):
    """Keywords of :meth:`MixerConfig.make`."""

    rngs: nnx.Rngs
    dtype: DType
    param_dtype: DType


class MakesMixer:
    """Base of our configs: ``make`` with defaults, by the config's own ``_make``."""

    def make(
        self,
        d_model: int,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ) -> Any:
        """Make the mixer; see :meth:`MixerConfig.make`. Without ``rngs`` the seed is 0."""
        options = Options(rngs=rngs or nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype)
        return self._make(d_model, **options)

    def _make(self, d_model: int, **options: Unpack[Options]) -> Any:
        raise NotImplementedError

    def _check_positive(self, *fields: str) -> None:
        """Raise ValueError unless the fields are None or at least 1."""
        for field in fields:
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field}: must be at least 1, got {value}")


GROUPS = ("ssm", "attention", "other")
"""Learning-rate groups."""


class Group(NamedTuple):
    """The optimizer's group of a parameter."""

    rate: str  # of GROUPS, the learning rate
    decay: str  # 'always', 'never', or 'embedding': decays only if that is asked for


OPTIONAL = {
    "axes": "dict: path of a parameter, such as 'q_proj.kernel' -> names of its axes "
    "(bmojo.ops.axes), so that a mesh can cut it; others are whole on every device",
    "groups": "dict: path of a parameter, or '' for all of the module -> learning-rate group, "
    "'ssm' or 'attention'; others are in the group 'other'",
    "undecayed": "tuple: paths of parameters that weight decay leaves alone",
    "tables": "tuple: paths of embedding tables, which decay only if the optimizer is asked to",
    "widths": "dict: name of an inner width -> its value, for descriptions of a model",
}
"""Optional members of a mixer and of the modules in it, with their meaning."""

OPTIONAL_CONFIG = {
    "free_width": "str: the field, None by default, that Model.parameters may solve for",
    "width_multiple": "int: such a width must be a multiple of it",
    "implementations": "dict: name of an operation -> the implementation that runs here",
    "window": "int or None: tokens that its attention sees, itself included",
}
"""Optional members of a mixer's config, with their meaning."""

REQUIRED = ("__call__", "init_state", "flops_per_token")


def check_config(name: str, config: type) -> None:
    """Raise ValueError, naming the missing member, unless a class can be a mixer's config."""
    if not dataclasses.is_dataclass(config):
        raise ValueError(f"{name}: {config.__name__} is no dataclass; decorate it with one")
    if not callable(getattr(config, "make", None)):
        raise ValueError(
            f"{name}: {config.__name__} has no method make(d_model, *, rngs, dtype, param_dtype), "
            "as a mixer's config has (bmojo.layers.protocol.MixerConfig), and no method source, "
            "as a task's has"
        )


def check_mixer_members(mixer: Any) -> None:
    """Raise ValueError, naming the missing or wrong member, unless the contract is kept."""
    name = type(mixer).__name__
    if not isinstance(mixer, nnx.Module):
        raise ValueError(f"{name}: a mixer must be a flax.nnx.Module")
    for member in REQUIRED:
        if not callable(getattr(mixer, member, None)):
            raise ValueError(f"{name}: has no method {member}; see bmojo.layers.protocol.Mixer")
    for member in OPTIONAL:
        kind: Any = tuple if member in ("undecayed", "tables") else Mapping
        value = getattr(mixer, member, None)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name}.{member}: must be a {OPTIONAL[member]}")


def parameter_axes(model: nnx.Module) -> dict[str, Names]:
    """Axis names of the parameters that modules declare in ``axes``, by the parameters' names.

    A further axis in front, that of stacked blocks, is never cut.
    """
    found: dict[str, Names] = {}
    for path, module in nnx.iter_modules(model):
        for name, names in getattr(module, "axes", {}).items():
            value: Any = module
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is not None:
                found[_name((*path, name))] = (None,) * (value.ndim - len(names)) + tuple(names)
    return found


def parameter_groups(model: nnx.Module) -> dict[str, Group]:
    """The optimizer's group of every parameter, by the parameter's name.

    Modules declare learning rates in ``groups`` and decay in ``undecayed`` and ``tables``. A
    declaration for a whole module ('') holds for all parameters below it, and an outer module's
    wins over an inner one's. No name means anything by itself.
    """
    names = [_name(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    rates: dict[str, str] = {}
    decay: dict[str, str] = {}
    for path, module in sorted(nnx.iter_modules(model), key=lambda item: len(item[0])):
        prefix = _name(path)
        for place, rate in getattr(module, "groups", {}).items():
            start = ".".join(filter(None, (prefix, place)))
            for name in names:
                if not start or name == start or name.startswith(start + "."):
                    rates.setdefault(name, rate)
        for member, kind in (("undecayed", "never"), ("tables", "embedding")):
            for place in getattr(module, member, ()):
                decay[".".join(filter(None, (prefix, place)))] = kind
    return {name: Group(rates.get(name, "other"), decay.get(name, "always")) for name in names}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
