"""The operations that are measured: our implementations, plain ones, and what is right."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark import plain
from bmojo.errors import UserError, suggestion
from bmojo.ops import attention_native, reference
from bmojo.ops.attention_xla import causal_attention, memory_attention
from bmojo.ops.convolution import causal_convolution
from bmojo.ops.innovation import innovation, predictor, residual
from bmojo.ops.masks import Slots
from bmojo.ops.native import library
from bmojo.ops.recurrence import IMPLEMENTATIONS, selective_scan
from bmojo.ops.selection import EMPTY, running_sets
from bmojo.ops.ssd import CHUNK_SIZE, ssd
from bmojo.types import Array

__all__ = ["Family", "Sizes", "families"]

TAPS = 4
SPAN = 4
IN_CHUNKS = f"lax.scan in chunks of {plain.CHUNK}"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the operands.

    Attributes:
      batch: rows.
      length: tokens.
      channels: of scans, convolution and innovation.
      states: of a channel, in both scans.
      heads: of attention, and of the second scan.
      width: of all heads of attention together.
      window: W.
      num_fading: fading slots.
      num_eidetic: eidetic slots.
    """

    batch: int = 1
    length: int = 2048
    channels: int = 512
    states: int = 16
    heads: int = 4
    width: int = 256
    window: int = 512
    num_fading: int = 16
    num_eidetic: int = 64


@dataclasses.dataclass(frozen=True)
class Family:
    """One operation.

    Attributes:
      name: what it is called.
      operands: arrays to call it with.
      ours: implementations of this package, by name.
      plain: others, by name.
      baseline: the plain one to compare with; None: there is none.
      oracle: what is right, slowly; called with the operands.
      gradient: what the derivative is taken of for comparison; None: there is no derivative.
      flops: forward operations.
    """

    name: str
    operands: tuple[Array, ...]
    ours: Mapping[str, Callable[..., Any]]
    plain: Mapping[str, Callable[..., Any]]
    baseline: str | None
    oracle: Callable[..., Any]
    gradient: Callable[..., Any] | None
    flops: float


def families(sizes: Sizes, only: Sequence[str] = (), seed: int = 0) -> list[Family]:
    """The operations ``only``, or all, at these sizes; operands are drawn from the seed.

    Raises:
      UserError: there is no such operation.
    """
    makers = {
        "scan": _scan,
        "ssd": _ssd,
        "attention": _attention,
        "memory_attention": _memory_attention,
        "convolution": _convolution,
        "selection": _selection,
    }
    for name in only:
        if name not in makers:
            raise UserError(f"--ops: there is no {name!r}; {suggestion(name, makers)}")
    wanted = [make for name, make in makers.items() if not only or name in only]
    return [make(sizes, np.random.default_rng(seed)) for make in wanted]


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _steps(rng: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), shape)), jnp.float32)


def _scan(sizes: Sizes, rng: np.random.Generator) -> Family:
    batch, length, width, states = sizes.batch, sizes.length, sizes.channels, sizes.states
    operands = (
        _normal(rng, batch, length, width),
        _steps(rng, batch, length, width),
        jnp.broadcast_to(-jnp.arange(1.0, states + 1), (width, states)),
        _normal(rng, batch, length, states),
        _normal(rng, batch, length, states),
        _normal(rng, batch, width, states),
    )
    return Family(
        "selective scan",
        operands,
        {
            name: functools.partial(selective_scan, implementation=name)
            for name in sorted(IMPLEMENTATIONS)
            if name != "native" or library.unfit() is None
        },
        {
            "lax.scan": functools.partial(plain.loop, plain.scan_step),
            IN_CHUNKS: functools.partial(plain.loop_in_chunks, plain.scan_step),
            f"{IN_CHUNKS}, channels last": plain.channels_last_in_chunks,
        },
        IN_CHUNKS,
        reference.selective_scan,
        functools.partial(plain.loop, plain.scan_step),
        float(batch * length * width * (7 * states + 1)),
    )


def _ssd(sizes: Sizes, rng: np.random.Generator) -> Family:
    batch, length, states, heads = sizes.batch, sizes.length, sizes.states, sizes.heads
    width = sizes.channels // heads
    operands = (
        _normal(rng, batch, length, heads, width),
        _steps(rng, batch, length, heads),
        -jnp.arange(1.0, heads + 1),
        _normal(rng, batch, length, states),
        _normal(rng, batch, length, states),
        _normal(rng, batch, heads, width, states),
    )
    chunk = min(length, CHUNK_SIZE)
    per_token = 2 * chunk * (states + sizes.channels) + 4 * states * sizes.channels
    return Family(
        "Mamba-2's scan (one decay a head)",
        operands,
        {
            f"ssd, {name}": functools.partial(ssd, implementation=name)
            for name in ("native", "xla")
            if name != "native" or library.unfit() is None
        },
        {IN_CHUNKS: functools.partial(plain.loop_in_chunks, plain.ssd_step)},
        IN_CHUNKS,
        reference.ssd,
        functools.partial(plain.loop, plain.ssd_step),
        float(batch * length * per_token),
    )


def _heads(sizes: Sizes, rng: np.random.Generator) -> Array:
    shape = (sizes.batch, sizes.length, sizes.heads, sizes.width // sizes.heads)
    return _normal(rng, *shape)


def _attention(sizes: Sizes, rng: np.random.Generator) -> Family:
    batch, length = sizes.batch, sizes.length
    past = np.tril(np.ones((length, length), bool))
    segment_pos = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    every = functools.partial(plain.attention, mask=past)

    def oracle(q: Array, k: Array, v: Array) -> Array:
        return _by_rows((q, k, v, k, v), np.zeros(length), length, 0, 0)

    forms = {"causal_attention (in blocks)": causal_attention}
    if library.unfit() is None:
        forms["causal_attention, native"] = attention_native.causal_attention
    return Family(
        "causal attention",
        (_heads(sizes, rng), _heads(sizes, rng), _heads(sizes, rng)),
        {
            name: lambda q, k, v, look=look: look(q, k, v, segment_pos)
            for name, look in forms.items()
        },
        {
            "all pairs, masked": every,
            "jax.nn.dot_product_attention": functools.partial(
                jax.nn.dot_product_attention, is_causal=True
            ),
        },
        "jax.nn.dot_product_attention",
        oracle,
        every,
        4.0 * sizes.width * batch * float(past.sum()),
    )


def _memory_attention(sizes: Sizes, rng: np.random.Generator) -> Family:
    """Over a window, the last faded outputs and the most surprising tokens before a chunk."""
    batch, length, window = sizes.batch, sizes.length, sizes.window
    operands = tuple(_heads(sizes, rng) for _ in range(5))
    score = rng.exponential(size=length).astype(np.float32)
    edges = np.arange(0, length, window)
    eidetic, missing = _table(plain.insertion(score, sizes.num_eidetic, window), sizes.num_eidetic)
    fading = edges[:, None] - sizes.num_fading + np.arange(sizes.num_fading)
    absent = fading < 0
    far = np.where(np.concatenate([absent, missing], axis=1), 2**30, 0)
    places = np.concatenate([fading, eidetic], axis=1)
    distance = np.where(far > 0, far, edges[:, None] - places)
    segment_pos = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))

    def ours(
        look: Callable[..., Array], q: Array, k: Array, v: Array, faded_k: Array, faded_v: Array
    ) -> Array:
        empty = jnp.zeros((batch, window - 1, *k.shape[2:]), k.dtype)

        def slots(faded: Array, tokens: Array) -> Array:
            chosen = faded[:, np.maximum(fading, 0)], tokens[:, eidetic]
            return jnp.concatenate(chosen, axis=2)

        held = Slots(
            slots(faded_k, k),
            slots(faded_v, v),
            jnp.asarray(np.broadcast_to(distance[:, None], (batch, *distance[:, None].shape))),
        )
        return look(q, k, v, empty, empty, segment_pos, window=window, slots=held)

    forms = {"memory_attention": memory_attention}
    if library.unfit() is None:
        forms["memory_attention, native"] = attention_native.memory_attention
    sees = _memory_mask(length, window, fading, eidetic, missing)

    def every(q: Array, k: Array, v: Array, faded_k: Array, faded_v: Array) -> Array:
        keys = jnp.concatenate([k, faded_k, k], axis=1)
        values = jnp.concatenate([v, faded_v, v], axis=1)
        return plain.attention(q, keys, values, sees)

    def oracle(*operands: Array) -> Array:
        return _by_rows(operands, score, window, sizes.num_fading, sizes.num_eidetic)

    return Family(
        "attention to window and memory",
        operands,
        {name: functools.partial(ours, look) for name, look in forms.items()},
        {"all pairs, masked": every},
        "all pairs, masked",
        oracle,
        every,
        4.0 * sizes.width * batch * float(sees.sum()),
    )


def _by_rows(
    operands: Sequence[Array], score: np.ndarray, window: int, num_fading: int, num_eidetic: int
) -> Array:
    """The oracle of attention, one document a row."""
    document = [0] * len(score)
    rows = []
    for q, k, v, faded_k, faded_v in zip(*operands, strict=True):
        row = reference.memory_attention(
            q,
            k,
            v,
            faded_k,
            faded_v,
            score.tolist(),
            document,
            window=window,
            num_fading=num_fading,
            num_eidetic=num_eidetic,
        )
        rows.append(row)
    return jnp.stack(rows)


def _table(sets: list[list[int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sets before each chunk as rows (C, size), and which places are empty."""
    rows = sets[:-1]
    table = np.zeros((len(rows), size), int)
    missing = np.ones((len(rows), size), bool)
    for index, row in enumerate(rows):
        table[index, : len(row)], missing[index, : len(row)] = row, False
    return table, missing


def _memory_mask(
    length: int, window: int, fading: np.ndarray, eidetic: np.ndarray, missing: np.ndarray
) -> np.ndarray:
    """What each token sees of the tokens, the faded outputs, and the tokens as memory (L, 3 L)."""
    token = np.arange(length)
    back = token[:, None] - token
    seen = np.zeros((length, 3 * length), bool)
    seen[:, :length] = (back >= 0) & (back < window)
    for chunk, first in enumerate(range(0, length, window)):
        rows = slice(first, first + window)
        seen[rows, length + fading[chunk][fading[chunk] >= 0]] = True
        seen[rows, 2 * length + eidetic[chunk][~missing[chunk]]] = True
    return seen


def _convolution(sizes: Sizes, rng: np.random.Generator) -> Family:
    batch, length, width = sizes.batch, sizes.length, sizes.channels
    tail = jnp.zeros((batch, TAPS - 1, width), jnp.float32)

    def oracle(x: Array, kernel: Array) -> np.ndarray:
        past = np.pad(np.asarray(x, np.float64), ((0, 0), (TAPS - 1, 0), (0, 0)))
        taps = np.asarray(kernel, np.float64)
        late = TAPS - 1
        return sum(taps[i] * past[:, late - i : late - i + length] for i in range(TAPS))

    return Family(
        f"causal convolution, {TAPS} taps",
        (_normal(rng, batch, length, width), _normal(rng, TAPS, width)),
        {"causal_convolution": lambda x, kernel: causal_convolution(x, kernel, tail)},
        {"lax.conv_general_dilated": plain.convolution},
        "lax.conv_general_dilated",
        oracle,
        plain.convolution,
        2.0 * TAPS * batch * length * width,
    )


def _selection(sizes: Sizes, rng: np.random.Generator) -> Family:
    """How much each token surprises, and the most surprising ones before each chunk."""
    batch, length, width, size = sizes.batch, sizes.length, sizes.channels, sizes.num_eidetic
    tail, empty = jnp.zeros((batch, SPAN, width)), jnp.full((batch, size), EMPTY)
    segment_pos = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))

    def ours(y: Array) -> tuple[Array, Array, Array]:
        score, _ = innovation(residual(y, tail, predictor(SPAN), segment_pos))
        sets, _ = running_sets(score, empty, sizes.window)
        return score, sets.score, jnp.where(sets.score == EMPTY, 0, sets.source - size)

    def oracle(y: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = [reference.innovation(row, SPAN, [0] * length) for row in y]
        score = np.asarray(rows)
        tables = [_best_first(row, size, sizes.window) for row in score]
        scores, places = (np.stack(part) for part in zip(*tables, strict=True))
        return score, scores, places

    return Family(
        "innovation and selection",
        (_normal(rng, batch, length, width),),
        {"innovation, running_sets": ours},
        {},
        None,
        oracle,
        None,
        float(batch * length * width * (2 * (SPAN + 1) + 2)),
    )


def _best_first(score: np.ndarray, size: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and places of the sets after each chunk (C, size), the best first."""
    sets = plain.insertion(score, size, window)[1:]
    scores, places = np.full((len(sets), size), EMPTY), np.zeros((len(sets), size), int)
    for row, kept in enumerate(sets):
        order = sorted(kept, key=lambda place: (-score[place], place))
        scores[row, : len(order)], places[row, : len(order)] = score[order], order
    return scores, places
