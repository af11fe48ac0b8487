"""A model that reads tokens with a store beside it: what it asks, what it keeps.

Tokens are read in cells of a fixed grid. In a cell every layer with eidetic slots may look up
entries of the store by its own queries; they join its softmax as further slots
(:attr:`bmojo.layers.bmojo_config.BMojoState.stored`). Behind a cell, tokens that have left
window and slots are written. All of this happens between calls of the model's compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from bmojo.errors import UserError
from bmojo.layers.protocol import AuxRequest
from bmojo.model import ModelState
from bmojo.ops.masks import NEVER, Slots
from bmojo.session.admission import CONTEXT, Admission
from bmojo.session.layers import StoredLayer, largest_cell, stored_layers
from bmojo.storage import Store, Trail
from bmojo.types import Array

__all__ = ["Piece", "Session", "Use"]


@dataclasses.dataclass(frozen=True)
class Use:
    """How a store is read and written.

    Attributes:
      every: tokens of a cell; divides the window of every layer with eidetic slots. None: the
        largest such number up to 32.
      nearest: slots that every token of a cell may fill with what it finds, in each head.
      ask: 'within': a cell is read twice, first for its queries, then with what they found; a
        token sees what it and the tokens before it in the cell asked for. 'before': a cell sees
        what the tokens of the cell before asked for, and is read once.
      threshold: tokens are written that leave the eidetic slots, and those whose innovation is
        at least so many times the layer's mean so far; None: the former alone; 0: all.
      agree: an entry is seen only if so many of the last ``2 * agree`` tokens have found what
        lies on its line, the same distance of positions in the same source
        (:class:`bmojo.storage.Trail`). 0: entries are seen one by one.
      write: False: the store is only read.
    """

    every: int | None = None
    nearest: int = 2
    ask: Literal["within", "before"] = "within"
    threshold: float | None = 1.0
    agree: int = 0
    write: bool = True

    def __post_init__(self) -> None:
        for name in ("every", "nearest"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}: must be at least 1, got {number}")
        if self.ask not in ("within", "before"):
            raise ValueError(f"ask: must be 'within' or 'before', got {self.ask!r}")
        if self.agree < 0:
            raise ValueError(f"agree: must not be negative, got {self.agree}")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold: must not be negative, got {self.threshold}")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some tokens that were read.

    Attributes:
      start: how many tokens of the session came before them.
      logits: of the token after each (n, V).
    """

    start: int
    logits: Array


class Session:
    """One stream of tokens, a document from its beginning, read with a store.

    Args:
      model: a :class:`bmojo.model.Model`.
      store: open; it may be only for reading if ``use.write`` is false. None: there is none,
        and the stream is read as by the model alone.
      use: how the store is read and written.
      source: name of the stream, kept with what is written.

    Attributes:
      state: of the model, behind the tokens that were read.
      position: how many there were.
      ask: as in ``use``; it may be changed on the way.

    Raises:
      UserError: the model has no layer that can use a store, or cells do not fit.
    """

    def __init__(
        self, model: Any, store: Store | None, use: Use | None = None, *, source: str = ""
    ) -> None:
        self.use = use or Use()
        self.layers = stored_layers(model.config)
        self.every = largest_cell(self.layers, self.use.every)
        self.ask = self.use.ask
        self._store, self._source = store, source
        self._writes = store is not None and self.use.write
        graph, self._parameters = nnx.split(model)
        self._start, self._read = _programs(graph)
        self.state: ModelState = self._start(self._parameters)
        self.position = 0
        self._slots = _Slots(self.state, self.layers, self.every * self.use.nearest)
        self._keepers = {
            layer.number: Admission(layer.window, self.use.threshold) for layer in self.layers
        }
        self._trails = {x.number: Trail(self.use.agree) for x in self.layers if self.use.agree}
        self._recent: list[int] = []
        self._cell: list[_Part] = []
        self._last: Any = None
        self._closed = False

    def pieces(self, tokens: Any) -> Iterator[Piece]:
        """Read tokens, cell by cell."""
        tokens = np.asarray(tokens, np.int32)
        first = 0
        while first < len(tokens):
            size = min(self.every - self.position % self.every, len(tokens) - first)
            start = self.position
            yield Piece(start, self._piece(tokens[first : first + size]))
            first += size

    def read(self, tokens: Any) -> Array:
        """Read tokens; the logits (V,) behind the last one that was ever read."""
        for piece in self.pieces(tokens):
            self._last = piece.logits[-1]
        return self._last

    def advance(self, state: ModelState, tokens: Array) -> tuple[Array, ModelState]:
        """One token (1,), as :func:`bmojo.generation.generate.decode` asks for it."""
        self.state = state
        return self.read(tokens)[None], self.state

    def finish(self) -> None:
        """Write what is still in window and slots, and publish; the session is over."""
        if self._closed:
            return
        self._closed = True
        if self._writes:
            assert self._store is not None
            if self._cell:
                self._keep()
            for layer in self.layers:
                kept = self._keepers[layer.number].finish()
                if kept is not None:
                    self._store.write(layer.number, kept, self._source)
            self._store.publish()

    def _piece(self, tokens: np.ndarray) -> Array:
        """Read tokens of one cell."""
        size, offset = len(tokens), self.position % self.every
        padded = np.zeros((1, 1 if size == 1 else self.every), np.int32)
        padded[0, :size] = tokens
        lengths = np.asarray([size], np.int32)

        def run() -> tuple[Array, ModelState, list[_Part]]:
            logits, state, parts = self._read(
                self._parameters, self.state, self._slots.shown(), padded, lengths
            )
            parts = jax.device_get(parts)
            return logits, state, [_part(parts[x.index], x.period, size) for x in self.layers]

        if self.ask == "within":
            if offset == 0:
                self._slots.clear()
            if self._store:
                for layer, part in zip(self.layers, run()[2], strict=True):
                    self._look_up(layer, part.q, offset, within=True)
        logits, self.state, parts = run()
        joined = (_join(*x) for x in zip(self._cell, parts, strict=True))
        self._cell = list(joined) if self._cell else parts
        self._recent += tokens.tolist()
        self.position += size
        if self.position % self.every == 0:
            if self._writes:
                self._keep()
            if self.ask == "before":
                self._slots.clear()
                if self._store:
                    for layer, part in zip(self.layers, self._cell, strict=True):
                        self._look_up(layer, part.q, 0, within=False)
            self._cell = []
            self._recent = self._recent[-CONTEXT:]
        return logits[0, :size]

    def _look_up(self, layer: StoredLayer, q: np.ndarray, offset: int, within: bool) -> None:
        """Fill a layer's slots with what queries (n, H, P) find."""
        use = self.use
        assert self._store is not None
        found = self._store.look_up(
            layer.number,
            np.ascontiguousarray(q.reshape(len(q), layer.heads, -1, layer.width)),
            nearest=use.nearest,
            taken=self._slots.ids(layer, offset * use.nearest),
            trail=self._trails.get(layer.number),
            first=self.position if within else self.position - len(q),
        )
        first = self.position - self.position % self.every
        inside = first % layer.window + offset + np.arange(len(q))
        since = -inside if within else np.zeros(len(q), np.int64)
        self._slots.fill(layer, offset * use.nearest, found, np.repeat(since, use.nearest))

    def _keep(self) -> None:
        """Write what has left the memory of each layer by the end of this cell."""
        assert self._store is not None
        size = len(self._cell[0].innovation)
        tokens = np.asarray(self._recent, np.int32)
        for layer, part in zip(self.layers, self._cell, strict=True):
            if not all(np.isfinite(x).all() for x in (part.k, part.v, part.innovation)):
                raise UserError(
                    f"memory: keys of layer {layer.number} are not numbers; the model's parameters "
                    "are broken, use another checkpoint"
                )
            kept = self._keepers[layer.number].take(
                part.k, part.v, part.innovation, tokens, part.held, self.position - size
            )
            if kept is not None:
                self._store.write(layer.number, kept, self._source)
        self._store.advance(size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Part:
    """Scaled queries, keys, values, innovation of n tokens, and who is in the slots after them."""

    q: Any
    k: Any
    v: Any
    innovation: Any
    held: Any


def _part(parts: _Part, period: int, size: int) -> _Part:
    """One layer's part, without rows and padding."""

    def own(x: Any) -> np.ndarray:
        return np.asarray(x[period, 0, :size], np.float32)

    held = parts.held[period, 0]
    return _Part(own(parts.q), own(parts.k), own(parts.v), own(parts.innovation), held[held >= 0])


def _join(old: _Part, new: _Part) -> _Part:
    """Two parts of a cell, one after the other."""

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(old, name), getattr(new, name)])

    return _Part(both("q"), both("k"), both("v"), both("innovation"), new.held)


class _Slots:
    """The further slots of all layers of a model, for one row."""

    def __init__(self, state: ModelState, layers: list[StoredLayer], count: int):
        self._held: dict[int, Slots] = {}  # of NumPy arrays, which can be written to
        self._ids: dict[int, np.ndarray] = {}
        for layer in layers:
            empty = state.blocks[layer.index].stored
            periods, _, _, heads, width = empty.k.shape
            k, v = (np.zeros((periods, 1, count, heads, width), x.dtype) for x in empty[:2])
            distance = np.full((periods, 1, 1, count), NEVER, np.int32)
            parts: Any = (k, v, distance)
            self._held[layer.index] = Slots(*parts)
            self._ids[layer.number] = np.full((count, heads), -1, np.int64)

    def clear(self) -> None:
        """Make all slots vacant."""
        for slots in self._held.values():
            slots.distance[...] = NEVER
        for ids in self._ids.values():
            ids[...] = -1

    def ids(self, layer: StoredLayer, count: int) -> np.ndarray:
        """Entries in the first ``count`` slots of a layer (count, G)."""
        return self._ids[layer.number][:count]

    def fill(self, layer: StoredLayer, first: int, found: Any, distance: np.ndarray) -> None:
        """Put what was found into the slots from ``first`` on."""
        slots, place = self._held[layer.index], slice(first, first + len(distance))
        slots.k[layer.period, 0, place] = found.key
        slots.v[layer.period, 0, place] = found.value
        # A slot is there for all heads or for none.
        there = (found.id >= 0).all(axis=1)
        slots.distance[layer.period, 0, 0, place] = np.where(there, distance, NEVER)
        self._ids[layer.number][place] = found.id

    def shown(self) -> dict[int, Slots]:
        """What the program is called with."""
        return self._held


@functools.lru_cache(maxsize=16)
def _programs(graph: Any) -> tuple[Callable[..., ModelState], Callable[..., Any]]:
    """Compiled functions of the parameters of one kind of model."""

    @jax.jit
    def start(parameters: Any) -> ModelState:
        return nnx.merge(graph, parameters).init_state(1)

    @jax.jit
    def read(
        parameters: Any, state: ModelState, stored: dict[int, Slots], tokens: Array, lengths: Array
    ) -> tuple[Array, ModelState, dict[int, _Part]]:
        model = nnx.merge(graph, parameters)

        def with_stored(state: ModelState, slots: dict[int, Slots]) -> ModelState:
            blocks = [
                dataclasses.replace(old, stored=slots[i]) if i in slots else old
                for i, old in enumerate(state.blocks)
            ]
            return dataclasses.replace(state, blocks=tuple(blocks))

        request = AuxRequest(entries=True)
        logits, after, found = model(
            tokens, with_stored(state, stored), None, lengths, None, request
        )
        parts = {}
        for i in stored:
            q = found[i].q * found[i].q.shape[-1] ** -0.5
            held = after.blocks[i].eidetic.chosen.position[:, :, 0]
            parts[i] = _Part(q, found[i].k, found[i].v, found[i].innovation, held)
        before = {i: state.blocks[i].stored for i in stored}
        return logits, with_stored(after, before), parts

    return start, read
