"""A model that reads tokens with a store beside it.

Tokens are read in cells of a fixed grid. In a cell every layer with eidetic slots may look up
entries of the store by its own queries; they join its softmax as further slots
(:attr:`bmojo.layers.bmojo_config.BMojoState.stored`). Behind a cell, tokens that have left window
and slots are written. All of this happens between calls of the model's compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from bmojo.errors import UserError
from bmojo.layers.protocol import AuxRequest
from bmojo.model import ModelState
from bmojo.ops.masks import NEVER, Slots
from bmojo.session.admission import CONTEXT, Admission
from bmojo.session.layers import StoredLayer, largest_cell, stored_layers
from bmojo.storage import Alignment, Entries, Found, Store
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
        (:class:`bmojo.storage.Alignment`). 0: entries are seen one by one.
      write: False: the store is only read.
    """

    every: int | None = None
    nearest: int = 2
    ask: Literal["within", "before"] = "within"
    threshold: float | None = 1.0
    agree: int = 0
    write: bool = True

    def __post_init__(self) -> None:
        if self.ask not in ("within", "before"):
            raise ValueError(f"ask: must be 'within' or 'before', got {self.ask!r}")
        for name, least in (("every", 1), ("nearest", 1), ("agree", 0), ("threshold", 0)):
            number = getattr(self, name)
            if number is not None and not number >= least:
                raise ValueError(f"{name}: must be at least {least}, got {number}")


class Piece(NamedTuple):
    """Logits (n, V) of the token after each of n, and how many tokens came before these."""

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
        self._start, self._read = _programs(graph, tuple(self.layers))
        self.state: ModelState = self._start(self._parameters)
        self.position = 0
        self._slots = _Slots(self.state, self.layers, self.every * self.use.nearest)
        self._admissions = [Admission(layer.window, self.use.threshold) for layer in self.layers]
        agree = self.use.agree
        self._alignments = [Alignment(agree) if agree else None for _ in self.layers]
        self._recent: list[int] = []
        self._cell: list[list[_Reading]] = []
        self._last: Any = None
        self._closed = False

    def pieces(self, tokens: Any) -> Iterator[Piece]:
        """Read tokens, cell by cell."""
        tokens = np.asarray(tokens, np.int32)
        while len(tokens):
            size, start = self.every - self.position % self.every, self.position
            yield Piece(start, self._piece(tokens[:size]))
            tokens = tokens[size:]

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
                self._keep(_joined(self._cell))
            for layer, admission in zip(self.layers, self._admissions, strict=True):
                self._write(layer, admission.finish())
            self._store.publish()

    def _piece(self, tokens: np.ndarray) -> Array:
        """Read tokens of one cell."""
        size, offset = len(tokens), self.position % self.every
        padded = np.zeros((1, 1 if size == 1 else self.every), np.int32)
        padded[0, :size] = tokens

        def run() -> tuple[Array, ModelState, list[_Reading]]:
            logits, state, readings = self._read(
                self._parameters, self.state, self._slots.held, padded, np.array([size], np.int32)
            )
            cut = jax.tree.map(lambda x: np.asarray(x[:size], np.float32), jax.device_get(readings))
            return logits, state, cut

        if self.ask == "within":
            if offset == 0:
                self._slots.clear()
            if self._store:
                inside = offset + np.arange(size)
                self._look_up(run()[2], self.position, offset, inside)
        logits, self.state, readings = run()
        self._cell.append(readings)
        self._recent += tokens.tolist()
        self.position += size
        if self.position % self.every == 0:
            cell = _joined(self._cell)
            if self._writes:
                self._keep(cell)
            if self.ask == "before":
                self._slots.clear()
                if self._store:
                    self._look_up(cell, self.position - self.every, 0, None)
            self._cell, self._recent = [], self._recent[-CONTEXT:]
        return logits[0, :size]

    def _look_up(
        self, readings: list["_Reading"], first: int, offset: int, inside: np.ndarray | None
    ) -> None:
        """Fill the slots from ``offset`` on with the entries of tokens from position ``first`` on.

        ``inside`` (n,) are their places in the cell that is read with the slots, where a token sees
        those of earlier ones; None: all see all.
        """
        use, cell = self.use, self.position - self.position % self.every
        assert self._store is not None
        for number, (layer, reading) in enumerate(zip(self.layers, readings, strict=True)):
            q, start = reading.q, offset * use.nearest
            found = self._store.assign(
                layer.number,
                q.reshape(len(q), layer.heads, -1, layer.width),
                nearest=use.nearest,
                taken=self._slots.ids[number][:, :start],
                alignment=self._alignments[number],
                first=first,
            )
            since = np.zeros(len(q), int) if inside is None else -(cell % layer.window + inside)
            self._slots.fill(number, start, found, np.repeat(since, use.nearest))

    def _keep(self, readings: list["_Reading"]) -> None:
        """Write the tokens that have left the memory of each layer by the end of this cell."""
        assert self._store is not None
        size, tokens = len(readings[0].innovation), np.asarray(self._recent, np.int32)
        for layer, admission, new in zip(self.layers, self._admissions, readings, strict=True):
            if not all(np.isfinite(x).all() for x in new[1:]):
                raise UserError(
                    f"memory: keys of layer {layer.number} are not numbers; the model's parameters "
                    "are broken, use another checkpoint"
                )
            eidetic = jax.device_get(self.state.blocks[layer.index].eidetic)
            held = eidetic.chosen.position[layer.period, 0, 0]
            first = self.position - size
            kept = admission.take(new.k, new.v, new.innovation, tokens, held[held >= 0], first)
            self._write(layer, kept)
        self._store.advance(size)

    def _write(self, layer: StoredLayer, entries: Entries | None) -> None:
        if entries is not None and self._store is not None:
            self._store.write(layer.number, entries, self._source)


class _Reading(NamedTuple):
    """Of n tokens of a layer: scaled queries (n, H, P), keys, values (n, G, P), innovation (n,)."""

    q: Any
    k: Any
    v: Any
    innovation: Any


def _joined(cell: list[list[_Reading]]) -> list[_Reading]:
    """The readings of a cell's parts, of each layer, one after the other."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *cell)


class _Slots:
    """Further slots of all layers: ``held`` by place in the pattern, ``ids`` (G, count) by layer.

    The arrays are NumPy's, for one row and all periods; a vacant slot has the id -1.
    """

    def __init__(self, state: ModelState, layers: list[StoredLayer], count: int):
        self._layers = layers
        self.held: dict[int, Slots] = {}
        for layer in layers:
            empty = state.blocks[layer.index].stored
            periods, _, _, heads, width = empty.k.shape
            k, v = (np.zeros((periods, 1, count, heads, width), x.dtype) for x in empty[:2])
            parts: Any = (k, v, np.full((periods, 1, 1, count), NEVER, np.int32))
            self.held[layer.index] = Slots(*parts)
        self.ids = [np.full((layer.heads, count), -1) for layer in layers]

    def clear(self) -> None:
        """Make all slots vacant."""
        for slots in self.held.values():
            slots.distance[...] = NEVER
        for ids in self.ids:
            ids[...] = -1

    def fill(self, number: int, first: int, found: Found, distance: np.ndarray) -> None:
        """Put entries into the slots of a layer from ``first`` on."""
        layer, part = self._layers[number], slice(first, first + len(distance))
        slots, at = self.held[layer.index], (layer.period, 0, part)
        slots.k[at], slots.v[at] = found.key.swapaxes(0, 1), found.value.swapaxes(0, 1)
        # A slot is there for all heads or for none.
        there = (found.id >= 0).all(axis=0)
        slots.distance[layer.period, 0, 0, part] = np.where(there, distance, NEVER)
        self.ids[number][:, part] = found.id


@functools.lru_cache(maxsize=16)
def _programs(graph: Any, layers: tuple[StoredLayer, ...]) -> tuple[Callable[..., Any], ...]:
    """Compiled functions of the parameters of one kind of model: a first state, and a reading."""

    @jax.jit
    def start(parameters: Any) -> ModelState:
        return nnx.merge(graph, parameters).init_state(1)

    @jax.jit
    def read(
        parameters: Any, state: ModelState, stored: dict[int, Slots], tokens: Array, lengths: Array
    ) -> tuple[Array, ModelState, list[_Reading]]:
        def with_slots(state: ModelState, slots: dict[int, Slots]) -> ModelState:
            blocks = list(state.blocks)
            for i, held in slots.items():
                blocks[i] = dataclasses.replace(blocks[i], stored=held)
            return dataclasses.replace(state, blocks=tuple(blocks))

        shown, request = with_slots(state, stored), AuxRequest(entries=True)
        model = nnx.merge(graph, parameters)
        logits, after, aux = model(tokens, shown, None, lengths, None, request)
        readings = []
        for layer in layers:
            new = aux[layer.index]
            parts = (new.q * layer.width**-0.5, new.k, new.v, new.innovation)
            readings.append(_Reading(*(x[layer.period, 0] for x in parts)))
        return logits, with_slots(after, {i: state.blocks[i].stored for i in stored}), readings

    return start, read
