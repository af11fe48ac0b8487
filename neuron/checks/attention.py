"""Attention over window and slots: forward, backward and one step, against the library's op."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.attention_xla import memory_attention as op
from bmojo.ops.masks import NEVER, Slots
from neuron.checks.check import (
    BFLOAT16,
    FLOAT32,
    GRADIENT,
    Bound,
    Check,
    Compared,
    Cost,
    distance,
    dtype_of,
    measure,
    nbytes,
    run,
    time_last,
    wide,
)
from neuron.emulator.cost import Report
from neuron.kernels.attention import memory_attention
from neuron.kernels.attention_backward import memory_attention_backward
from neuron.kernels.attention_step import memory_attention_step
from neuron.kernels.visibility import query_tiles

LANES = 128


@dataclasses.dataclass(frozen=True)
class Size:
    """A problem of attention.

    Attributes:
      batch: rows.
      length: L.
      heads: query heads, H.
      groups: key-value heads, G.
      width: of a head, P.
      window: W.
      slots: of a chunk, M.
      before: tokens before the call that the first query's document has.
      documents: starts of documents in a row.
      dtype: of queries, keys and values.
      programs: cores of the launch; None: launched without a degree.
      gain: factor of the queries.
    """

    batch: int
    length: int
    heads: int
    groups: int
    width: int
    window: int
    slots: int = 0
    before: int = 0
    documents: int = 0
    dtype: str = "float32"
    programs: int | None = None
    gain: float = 2.0

    def __str__(self) -> str:
        words = [
            f"{self.batch}x{self.length}",
            f"{self.heads}/{self.groups} heads of {self.width}",
            f"window {self.window}",
            f"{self.slots} slots",
        ]
        words += [f"{self.before} before"] if self.before else []
        words += [f"{self.documents} documents"] if self.documents else []
        words += [f"{self.programs} programs"] if self.programs else []
        words += [f"queries x {self.gain:g}"] if self.gain != 2.0 else []
        return ", ".join([*words, self.dtype])


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arrays of a problem, as the library's op takes them.

    Attributes:
      size: of the problem.
      arrays: q, k, v, the tail's k and v, the slots' k and v.
      segment_pos: (batch, L).
      distance: (batch, C, M).
    """

    size: Size
    arrays: dict[str, np.ndarray]
    segment_pos: np.ndarray
    distance: np.ndarray

    @property
    def names(self) -> list[str]:
        """Arrays that the kernel gets, in the order in which it gives their gradients."""
        names = ["q", "k", "v"]
        names += ["tail_k", "tail_v"] if self.size.before else []
        return names + (["slot_k", "slot_v"] if self.size.slots else [])

    def operands(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the kernels take: q, k, v, and the rest by keyword."""
        a = self.arrays
        options: dict[str, Any] = {"segment_pos": self.segment_pos}
        if self.size.before:
            options |= {"tail_k": time_last(a["tail_k"]), "tail_v": a["tail_v"]}
        if self.size.slots:
            slot_k = np.ascontiguousarray(np.moveaxis(a["slot_k"], 2, -1))
            options |= {"slot_k": slot_k, "slot_v": a["slot_v"], "distance": self.distance}
        return (time_last(a["q"]), time_last(a["k"]), a["v"]), options


def problem(size: Size, seed: int = 0) -> Problem:
    """Random operands, documents and distances; a third of the slots is empty."""
    rng = np.random.default_rng(seed)
    b, length, g, p = size.batch, size.length, size.groups, size.width
    chunks = -(-length // size.window)
    shapes = {
        "q": (b, length, size.heads, p),
        "k": (b, length, g, p),
        "v": (b, length, g, p),
        "tail_k": (b, size.window - 1, g, p),
        "tail_v": (b, size.window - 1, g, p),
        "slot_k": (b, chunks, size.slots, g, p),
        "slot_v": (b, chunks, size.slots, g, p),
    }
    arrays = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    arrays["q"] *= size.gain
    segment_pos = np.broadcast_to(np.arange(length) + size.before, (b, length)).copy()
    for row in range(b):
        for start in sorted(rng.integers(0, length, size.documents)):
            segment_pos[row, start:] = np.arange(length - start)
    far = rng.integers(1, size.before + length + 2, (b, chunks, size.slots))
    far[rng.random(far.shape) < 1 / 3] = NEVER
    kind = dtype_of(size.dtype)
    return Problem(
        size,
        {n: x.astype(kind) for n, x in arrays.items()},
        segment_pos.astype(np.int32),
        far.astype(np.int32),
    )


@functools.partial(jax.jit, static_argnames="window")
def _op(arrays: dict[str, Any], segment_pos: Any, far: Any, window: int) -> jax.Array:
    slots = Slots(arrays["slot_k"], arrays["slot_v"], far[:, :, None]) if far.shape[2] else None
    tail = (arrays["tail_k"], arrays["tail_v"])
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    return op(q, k, v, *tail, segment_pos, window=window, slots=slots)


def expected(p: Problem) -> np.ndarray:
    """The output by ``bmojo.ops.attention_xla`` in float32."""
    arrays = {n: wide(x) for n, x in p.arrays.items()}
    return np.asarray(
        _op(arrays, jnp.asarray(p.segment_pos), jnp.asarray(p.distance), p.size.window)
    )


def expected_gradients(p: Problem, grad: np.ndarray) -> dict[str, np.ndarray]:
    """The gradients by ``jax.grad`` in float32."""
    arrays = {n: wide(x) for n, x in p.arrays.items()}

    def loss(arrays: dict[str, Any]) -> jax.Array:
        out = _op(arrays, jnp.asarray(p.segment_pos), jnp.asarray(p.distance), p.size.window)
        return (out * wide(grad)).sum()

    return {n: np.asarray(x) for n, x in jax.grad(loss)(arrays).items()}


def forward(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's output and logarithms."""
    operands, options = p.operands()
    out, lse = run(memory_attention, *operands, p.size.window, programs=p.size.programs, **options)
    return out, lse


def gradient_of_output(p: Problem) -> np.ndarray:
    """A random gradient to start from."""
    shape = p.arrays["q"].shape
    return np.random.default_rng(1).standard_normal(shape, np.float32).astype(p.arrays["q"].dtype)


def backward(p: Problem, grad: np.ndarray) -> dict[str, np.ndarray]:
    """The kernel's gradients by name."""
    (q, k, v), options = p.operands()
    out, lse = forward(p)
    rest = (out, lse, grad, p.size.window)
    kernel = memory_attention_backward
    found = run(kernel, q, k, v, *rest, programs=p.size.programs, **options)
    return dict(zip(p.names, found, strict=True))


def _limit(size: Size, exact: float) -> float:
    return exact if size.dtype == "float32" else BFLOAT16


def check_forward(size: Size) -> list[Compared]:
    """Compare outputs."""
    p = problem(size)
    return [Compared("out", distance(forward(p)[0], expected(p)), _limit(size, FLOAT32))]


def check_backward(size: Size) -> list[Compared]:
    """Compare gradients."""
    p = problem(size)
    grad = gradient_of_output(p)
    found, wanted = backward(p, grad), expected_gradients(p, grad)
    limit = _limit(size, GRADIENT)
    return [Compared(n, distance(x, wanted[n]), limit) for n, x in found.items()]


def check_step(size: Size) -> list[Compared]:
    """Compare each token of the last chunk, taken one by one."""
    p = problem(size)
    wanted, window, length = expected(p), size.window, size.length
    begin = (length - 1) // window * window
    k, v = (
        np.concatenate([p.arrays[f"tail_{n}"], p.arrays[n]], axis=1).astype(dtype_of(size.dtype))
        for n in ("k", "v")
    )
    worst = 0.0
    for t in range(begin, length):
        ring_k, ring_v = (np.full((x.shape[0], window, *x.shape[2:]), 7, x.dtype) for x in (k, v))
        for token in range(t - window + 1, t):
            ring_k[:, token % window] = k[:, token + window - 1]
            ring_v[:, token % window] = v[:, token + window - 1]
        rows = np.full((size.batch, 1), t % window, np.int32)
        options: dict[str, Any] = {}
        if size.slots:
            slots = [p.arrays[n][:, t // window] for n in ("slot_k", "slot_v")]
            options = {"slot_k": time_last(slots[0]), "slot_v": slots[1]}
            options["distance"] = p.distance[:, t // window]
        found = run(
            memory_attention_step,
            p.arrays["q"][:, t],
            p.arrays["k"][:, t],
            p.arrays["v"][:, t],
            time_last(ring_k),
            ring_v,
            rows,
            p.segment_pos[:, t : t + 1],
            programs=size.programs,
            **options,
        )
        worst = max(worst, distance(found, wanted[:, t]))
    return [Compared("out", worst, _limit(size, FLOAT32))]


GRID = (
    Size(2, 3, 1, 1, 2, 1, slots=4),
    Size(2, 9, 4, 2, 8, 4, slots=3),
    Size(1, 33, 2, 1, 32, 16, slots=16, before=15, documents=3),
    Size(2, 50, 6, 3, 16, 7, slots=9, before=3, documents=4),
    Size(1, 130, 3, 3, 64, 64, slots=40),
    Size(1, 200, 4, 2, 64, 130, slots=40, before=129, documents=3),
    Size(1, 260, 2, 2, 96, 100, slots=70, before=50),
    Size(1, 300, 2, 2, 128, 256, slots=130, documents=2),
    Size(1, 600, 1, 1, 64, 512, slots=40, before=511, documents=2),
    Size(1, 66, 40, 2, 8, 32, slots=5, documents=1),
    Size(2, 40, 4, 2, 32, 16, slots=8, documents=2, programs=2),
    Size(1, 40, 4, 2, 32, 16, slots=8, before=5, programs=2),
    Size(1, 90, 2, 1, 64, 32, slots=8, before=31, documents=2, gain=60.0),
    Size(2, 50, 6, 3, 16, 7, slots=9, before=3, documents=4, dtype="bfloat16"),
    Size(1, 200, 4, 2, 64, 130, slots=40, before=129, documents=3, dtype="bfloat16"),
    Size(1, 300, 2, 2, 128, 256, slots=130, dtype="bfloat16"),
)
"""Sizes for both directions: ragged, grouped, with documents and empty slots, on two cores."""

STEPS = (
    Size(3, 5, 2, 1, 8, 4, slots=3, before=2),
    Size(13, 35, 12, 12, 16, 32, slots=9, before=31, documents=2),
    Size(2, 131, 2, 2, 64, 130, slots=130, documents=3),
    Size(2, 18, 4, 2, 32, 16, slots=8, before=5, programs=2),
    Size(2, 18, 4, 2, 128, 16, slots=8, before=5, dtype="bfloat16"),
    Size(2, 9, 10, 5, 32, 4, slots=3, before=3, documents=2),
)
"""Sizes for the step: all tokens of the last chunk of a call."""

CHECKS = (
    *(Check("memory_attention", str(s), functools.partial(check_forward, s)) for s in GRID),
    *(
        Check("memory_attention_backward", str(s), functools.partial(check_backward, s))
        for s in GRID
    ),
    *(Check("memory_attention_step", str(s), functools.partial(check_step, s)) for s in STEPS),
)


def columns(size: Size) -> list[tuple[int, int]]:
    """Queries of each tile and the keys that any of them sees, slots included."""
    first = 1 - size.window if size.before else 0
    return [
        (high - low, high - max(low - size.window + 1, first) + size.slots)
        for _, low, high in query_tiles(size.length, size.window)
    ]


def bound(size: Size, gradient: bool) -> Bound:
    """What an attention in tiles of 128 queries can't do without.

    Scores, weighted values and their gradients on TensorE, where a product costs a cycle for
    each column of 128 rows; an exponential on ScalarE; the largest score, or the product of
    weights and their gradients, on VectorE. Forward no transposition, backward one.
    """
    times = size.batch * size.heads
    slow = 4 if size.dtype == "float32" else 1
    keys = float(times * sum(n for _, n in columns(size)))
    turned = times * sum(n / LANES * rows for rows, n in columns(size))
    mixed = keys / LANES * size.width
    tensor = 2 * keys + 3 * mixed + turned if gradient else keys + mixed
    cycles = {"tensor": slow * tensor, "scalar": keys, "vector": keys}

    rows, chunks = size.batch * size.length, -(-size.length // size.window)
    held = rows + size.batch * (chunks * size.slots + (size.window - 1 if size.before else 0))
    queries = rows * size.heads * size.width
    inputs = dtype_of(size.dtype).itemsize * (queries + 2 * held * size.groups * size.width)
    known = 4 * (rows * (size.documents > 0) + size.batch * chunks * size.slots)
    logarithms = 4 * rows * size.heads
    output = dtype_of(size.dtype).itemsize * queries
    moved = inputs + known + logarithms + output
    return Bound(cycles, moved + output + inputs if gradient else moved)


def cost_forward(size: Size) -> tuple[Report, Bound]:
    """The forward kernel."""
    p = problem(size)
    operands, options = p.operands()
    if not size.documents:
        del options["segment_pos"]
    return measure(memory_attention, *operands, size.window, **options), bound(size, False)


def cost_backward(size: Size) -> tuple[Report, Bound]:
    """The backward kernel."""
    p = problem(size)
    operands, options = p.operands()
    if not size.documents:
        del options["segment_pos"]
    out, lse = run(memory_attention, *operands, size.window, **options)
    rest = (out, lse, gradient_of_output(p))
    report = measure(memory_attention_backward, *operands, *rest, size.window, **options)
    return report, bound(size, True)


def cost_step(size: Size) -> tuple[Report, Bound]:
    """The step, whose length is that of a window."""
    p = problem(size)
    ring_k, ring_v = time_last(p.arrays["k"]), p.arrays["v"]
    one = np.full((size.batch, 1), size.window - 1, np.int32)
    a = p.arrays
    arguments = [a["q"][:, 0], a["k"][:, 0], a["v"][:, 0], ring_k, ring_v, one, one]
    if size.slots:
        arguments += [time_last(a["slot_k"][:, 0]), a["slot_v"][:, 0], p.distance[:, 0]]
    report = measure(memory_attention_step, *arguments)
    return report, Bound({}, nbytes(*arguments, a["q"][:, 0]))


LAYER = Size(1, 2048, 12, 12, 64, 512, slots=40, dtype="bfloat16")
"""Attention of a layer of 130M parameters in training, window 512, 8 + 32 slots."""

COSTS = (
    Cost("memory_attention", str(LAYER), functools.partial(cost_forward, LAYER)),
    *(
        Cost("memory_attention", str(s), functools.partial(cost_forward, s))
        for s in (
            dataclasses.replace(LAYER, documents=4),
            dataclasses.replace(LAYER, dtype="float32"),
            dataclasses.replace(LAYER, window=128),
            dataclasses.replace(LAYER, window=64),
        )
    ),
    *(
        Cost("memory_attention_backward", str(s), functools.partial(cost_backward, s))
        for s in (
            LAYER,
            dataclasses.replace(LAYER, documents=4),
            dataclasses.replace(LAYER, dtype="float32"),
        )
    ),
    Cost(
        "memory_attention_step",
        str(dataclasses.replace(LAYER, batch=20, length=512)),
        functools.partial(cost_step, dataclasses.replace(LAYER, batch=20, length=512)),
    ),
)
