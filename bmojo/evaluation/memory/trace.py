"""Attention and memory of every layer while a model reads a text once.

The text is read in segments through the model's state, so that memory on the device does not
grow with it (but for full attention, which keeps all keys).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.console import Progress, unseen
from bmojo.errors import UserError
from bmojo.generation.generate import check_finite, check_tokens, memory_grows, start
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.protocol import Aux, AuxRequest
from bmojo.model import ModelState
from bmojo.ops.masks import EIDETIC, FADING, WINDOW
from bmojo.types import Array

__all__ = ["SEGMENT_LENGTH", "Layer", "Memory", "Tenancy", "read"]

SEGMENT_LENGTH = 256
_Part = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tenancy:
    """The time of a token (its position) in a layer's frozen slots.

    It ``entered`` at the first chunk edge at which it was in them, and ``left`` at the first at
    which it no longer was; None: it stayed to the end.
    """

    position: int
    entered: int
    left: int | None


@dataclasses.dataclass(frozen=True)
class Mixer:
    """A mixer, counted from 1 (MLPs do not count), of a class ``kind``.

    ``tiers`` are indices of those of :data:`bmojo.ops.masks.TIERS` that it has, ``chunk`` tokens of
    a chunk, of which there are C; 0 without eidetic slots.
    """

    number: int
    kind: str
    tiers: tuple[int, ...]
    chunk: int


@dataclasses.dataclass(frozen=True)
class Layer(Mixer):
    """What one mixer did with n tokens.

    Attributes:
      spread: attention by head, tier and octave of distance, a mean over queries (H, 3, N).
      mass: attention of each query by tier, a mean over heads (n, 3).
      octave: mean octave of the distance that each query looks back (n,).
      innovation: of each token (n,); of size 0 without eidetic slots.
      held: positions in the slots that each chunk sees, -1 where vacant (C, M).
      kept: positions in the running set behind the last token, in order (at most M).
    """

    spread: np.ndarray
    mass: np.ndarray
    octave: np.ndarray
    innovation: np.ndarray
    held: np.ndarray
    kept: np.ndarray

    @property
    def name(self) -> str:
        """How figures and pages call it."""
        return f"layer {self.number} ({self.kind})"

    def tenancies(self) -> list[Tenancy]:
        """Who was in the frozen slots from when to when, by position."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, row in enumerate(self.held):
            for position in row[row >= 0].tolist():
                first.setdefault(position, number)
                last[position] = number
        left = {p: (n + 1) * self.chunk for p, n in last.items() if n < len(self.held) - 1}
        return [Tenancy(p, first[p] * self.chunk, left.get(p)) for p in sorted(first)]


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a model did with a text (n,): layers that attend, from the bottom.

    ``without``: numbers and kinds of the mixers that attend to nothing.
    """

    tokens: np.ndarray
    layers: list[Layer]
    without: list[tuple[int, str]]


def read(
    model: Any,
    tokens: Sequence[int] | np.ndarray,
    progress: Progress = unseen,
    segment_length: int = SEGMENT_LENGTH,
) -> Memory:
    """Read one document of at least one token, ``segment_length`` tokens at once.

    The segment's length changes nothing but time and memory.

    Raises:
      UserError: a token is not of this model, no layer attends to tokens, or attention is not
        a number.
    """
    tokens = np.asarray(tokens, np.int32)
    check_tokens(tokens, model.config.vocab_size)
    mixers = _mixers(model.config)
    if not any(mixer.tiers for mixer in mixers):
        kinds = ", ".join(dict.fromkeys(mixer.kind for mixer in mixers)) or "MLP"
        raise UserError(
            f"nothing to show: no layer of the model attends to tokens (it has {kinds}); take a "
            "run of a model with BMojo or Attention"
        )
    count = len(tokens)
    bins = count.bit_length() + 1
    capacity = -(-count // segment_length) * segment_length if memory_grows(model) else None
    graph, parameters = nnx.split(model)
    segment, state = _segment(graph, bins), start(model, 1, capacity)
    parts: dict[int, list[_Part]] = {m.number: [] for m in mixers if m.tiers}
    for first in range(0, count, segment_length):
        inputs = np.zeros((1, segment_length), np.int32)
        size = min(segment_length, count - first)
        inputs[0, :size] = tokens[first : first + size]
        traces, state = segment(parameters, state, inputs, np.asarray([size], np.int32))
        traces = jax.device_get(traces)
        for mixer in mixers:
            if mixer.tiers:
                parts[mixer.number].append(_part(mixer, traces, first, size))
        progress(size)
    layers = [_layer(m, parts[m.number], state, count) for m in mixers if m.tiers]
    return Memory(tokens, layers, [(m.number, m.kind) for m in mixers if not m.tiers])


@dataclasses.dataclass(frozen=True)
class _Mixer(Mixer):
    """A mixer and its place in the model."""

    block: int
    index: int


def _mixers(config: Any) -> list[_Mixer]:
    """Every mixer but MLPs, from the bottom."""
    found: list[_Mixer] = []
    for block in range(config.num_blocks):
        for index, mixer in enumerate(config.pattern):
            if isinstance(mixer, MLPConfig):
                continue
            kind, chunk = type(mixer).__name__.removesuffix("Config"), 0
            tiers: tuple[int, ...] = ()
            if isinstance(mixer, AttentionConfig):
                tiers = (WINDOW,)
            elif isinstance(mixer, SlidingBMojoConfig):
                tiers = (WINDOW, FADING)
            elif isinstance(mixer, BMojoConfig) and mixer.window:
                fading = mixer.num_fading > 0
                tiers = (WINDOW, *[FADING] * fading, *[EIDETIC] * (mixer.num_eidetic > 0))
                chunk = mixer.window if mixer.num_eidetic else 0
            found.append(_Mixer(len(found) + 1, kind, tiers, chunk, block, index))
    return found


@functools.lru_cache(maxsize=4)
def _segment(graph: Any, bins: int) -> Callable[..., Any]:
    """The program that reads one segment, and traces every mixer that attends."""

    @functools.partial(jax.jit, donate_argnums=1)
    def segment(
        parameters: Any, state: ModelState, tokens: Array, lengths: Array
    ) -> tuple[Any, ModelState]:
        model = nnx.merge(graph, parameters)
        valid = jnp.arange(tokens.shape[1]) < lengths
        octaves = jnp.arange(bins, dtype=jnp.float32)

        def summary(aux: Aux) -> _Part | None:
            """Arrays named as those of ``Layer``, the spread summed."""
            if aux.mass is None:
                return None
            shares = jnp.where(valid[:, None, None, None], aux.mass[:, 0], 0)
            none = jnp.zeros((len(shares), 0))
            return {
                "spread": shares.sum(axis=1),
                "mass": shares.sum(axis=-1).mean(axis=2),
                "octave": (shares.sum(axis=3) @ octaves.astype(shares.dtype)).mean(axis=2),
                "innovation": none if aux.innovation is None else aux.innovation[:, 0],
                "held": none[:, None].astype(jnp.int32) if aux.held is None else aux.held[:, 0],
            }

        _, state, found = model.features(tokens, state, None, lengths, AuxRequest(bins=bins))
        return tuple(map(summary, found)), state

    return segment


def _part(mixer: _Mixer, traces: Any, first: int, size: int) -> _Part:
    """A mixer's part of a segment, without padding; of the slots, what each chunk sees."""
    part = jax.tree.map(lambda x: x[mixer.block], traces[mixer.index])
    check_finite(part["spread"], f"layer {mixer.number} ({mixer.kind}): its attention")
    edges = np.arange(-first % mixer.chunk, size, mixer.chunk) if mixer.chunk else np.zeros(0, int)
    # Positions in order in the front of each row, vacant slots (-1) behind.
    held = part["held"][edges]
    far = np.iinfo(held.dtype).max
    ordered = np.sort(np.where(held < 0, far, held), axis=1)
    spread, held = part["spread"].astype(np.float64), np.where(ordered == far, -1, ordered)
    return {**{name: x[:size] for name, x in part.items()}, "spread": spread, "held": held}


def _layer(mixer: _Mixer, parts: list[_Part], state: ModelState, count: int) -> Layer:
    """The segments of a mixer, put together."""
    held, kept = np.zeros((0, 0), np.int32), np.zeros(0, np.int32)
    if mixer.chunk:
        chosen = state.blocks[mixer.index].eidetic.chosen
        positions = np.asarray(chosen.position)[mixer.block, 0, 0]
        kept = np.sort(positions[positions >= 0])
        # Off the grid a query's view has room for the slots of two chunks, and shows one.
        held = np.concatenate([part["held"][:, : len(positions)] for part in parts])
    spread = np.sum([part["spread"] for part in parts], axis=0) / count
    names = ("mass", "octave", "innovation")
    found: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in names}
    who = {name: getattr(mixer, name) for name in ("number", "kind", "tiers", "chunk")}
    return Layer(**who, spread=spread, **found, held=held, kept=kept)
