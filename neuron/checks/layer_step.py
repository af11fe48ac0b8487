"""The step of a whole layer, token by token, against the library's recurrent form.

:class:`Caller` is what surrounds the kernel: it keeps the state and, at a chunk's edge, renews
the slots.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.layers.bmojo import BMojo, BMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSM, SelectiveSSMConfig
from bmojo.ops.masks import NEVER
from bmojo.ops.selection import EMPTY
from neuron.checks.check import (
    BFLOAT16,
    FLOAT32,
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
)
from neuron.checks.innovation import weights
from neuron.emulator.cost import Report
from neuron.kernels.eidetic import running_sets
from neuron.kernels.layer_step import layer_step


@dataclasses.dataclass(frozen=True)
class Size:
    """A layer and tokens to decode.

    Attributes:
      batch: rows.
      length: tokens.
      width: d_model.
      heads: query heads.
      groups: key-value heads.
      window: W.
      fading: fading slots.
      eidetic: eidetic slots.
      states: of a channel of the cell.
      inner: channels of the cell; None: ``width``.
      starts: tokens at which documents start.
      normalized: innovation.
      dtype: of the computation.
      programs: cores of the launch; None: launched without a degree.
    """

    batch: int
    length: int
    width: int
    heads: int
    groups: int
    window: int
    fading: int
    eidetic: int
    states: int = 4
    inner: int | None = None
    starts: tuple[int, ...] = ()
    normalized: bool = False
    dtype: str = "float32"
    programs: int | None = None

    def __str__(self) -> str:
        words = [
            f"{self.batch}x{self.length}",
            f"width {self.width}",
            f"{self.heads}/{self.groups} heads",
            f"window {self.window}",
            f"{self.fading} + {self.eidetic} slots",
            f"{self.inner or self.width} channels of {self.states} states",
        ]
        words += [f"{len(self.starts)} documents start"] if self.starts else []
        words += ["normalized"] if self.normalized else []
        words += [f"{self.programs} programs"] if self.programs else []
        return ", ".join([*words, self.dtype])

    def config(self) -> BMojoConfig:
        """Of the layer."""
        return BMojoConfig(
            window=self.window,
            num_fading=self.fading,
            num_eidetic=self.eidetic,
            n_heads=self.heads,
            n_kv_heads=self.groups,
            fading=SelectiveSSMConfig(d_state=self.states, d_inner=self.inner, expand=1),
            span=3,
            normalize_innovation=self.normalized,
        )


def make(size: Size) -> BMojo:
    """The layer in float32, its parameters drawn wider and rounded to the size's dtype."""
    options = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    layer = BMojo(size.width, size.config(), rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(1)

    def changed(x: jax.Array) -> jax.Array:
        factor = rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        return jnp.asarray((np.asarray(x) * factor).astype(dtype_of(size.dtype)), jnp.float32)

    nnx.update(layer, jax.tree.map(changed, nnx.state(layer, nnx.Param)))
    return layer


def inputs(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs in the size's dtype, and documents."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((size.batch, size.length, size.width), np.float32)
    document = np.zeros((size.batch, size.length), np.int32)
    for start in size.starts:
        document[0, start:] += 1
    return u.astype(dtype_of(size.dtype)), document


def expected(layer: BMojo, u: np.ndarray, document: np.ndarray) -> np.ndarray:
    """The library's layer called with one token after the other."""
    graph, parameters = nnx.split(layer)

    @jax.jit
    def decode(parameters: Any, u: jax.Array, document: jax.Array) -> jax.Array:
        model = nnx.merge(graph, parameters)

        def step(state: Any, token: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            out, state = model(token[0][:, None], state, token[1][:, None])
            return state, out[:, 0]

        tokens = (jnp.moveaxis(u, 1, 0), document.T)
        return jnp.moveaxis(jax.lax.scan(step, model.init_state(u.shape[0]), tokens)[1], 0, 1)

    return np.asarray(decode(parameters, jnp.asarray(u, jnp.float32), jnp.asarray(document)))


class Caller:
    """A layer's state in NumPy, moved on by the kernel.

    Args:
      layer: whose parameters and sizes.
      batch: rows.
      dtype: of tokens, keys and values.
      programs: cores of a launch, or None.
    """

    def __init__(self, layer: BMojo, batch: int, dtype: str, programs: int | None = None):
        config, cell, heads = layer.config, layer.fading, layer.heads
        assert isinstance(cell, SelectiveSSM)
        self.config, self.batch, self.programs = config, batch, programs
        kind = dtype_of(dtype)

        def given(x: Any, *shape: int) -> np.ndarray:
            x = np.asarray(x[...]).astype(kind)
            return x.reshape(shape) if shape else x

        inner, states = cell.d_inner, cell.config.d_state
        self.cell = (
            given(cell.in_proj.kernel),
            given(cell.conv.kernel),
            given(cell.conv.bias, 1, inner),
            given(cell.x_proj.kernel),
            given(cell.dt_proj.kernel),
            given(cell.dt_bias, inner, 1),
            -np.exp(np.asarray(cell.A_log[...], np.float32)),
            given(cell.D, inner, 1),
            given(cell.out_proj.kernel),
        )
        self.heads = tuple(
            given(getattr(heads, name).kernel) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        )
        groups, width = heads.n_kv_heads, heads.d_head
        keep = max(config.span, config.num_fading)
        self.tail = np.zeros((batch, cell.config.d_conv - 1, inner), kind)
        self.hidden = np.zeros((inner, batch, states), np.float32)
        self.outputs = np.zeros((batch, keep, layer.d_model), kind)
        self.ring_k = np.zeros((batch, groups, width, config.window), kind)
        self.ring_v = np.zeros((batch, config.window, groups, width), kind)
        self.power = np.zeros((batch, layer.d_model), np.float32)
        self.score = np.full((batch, config.num_eidetic), EMPTY, np.float32)
        self.kept = [np.zeros((batch, config.num_eidetic, groups, width), kind) for _ in "kv"]
        self.place = np.zeros((batch, config.num_eidetic), np.int32)
        self.segment_pos = np.full((batch, 1), -1, np.int32)
        self.position = 0
        count = config.num_fading + config.num_eidetic
        self.slots = [np.zeros((batch, count, groups, width), kind) for _ in "kv"]
        self.distance = np.full((batch, count), NEVER, np.int32)

    def arguments(self, u: np.ndarray) -> dict[str, Any]:
        """What the kernel takes for one token."""
        config = self.config
        since = np.full((self.batch, 1), self.position % config.window, np.int32)
        given: dict[str, Any] = {
            "u": u,
            "cell": self.cell,
            "heads": self.heads,
            "state": (self.tail, self.hidden, self.outputs),
            "window": (self.ring_k, self.ring_v, since, self.segment_pos),
        }
        if config.num_eidetic:
            given["weights"] = weights(config.span)
            if config.normalize_innovation:
                given["power"] = self.power
        if self.distance.shape[1]:
            given["slots"] = (time_last(self.slots[0]), self.slots[1], self.distance)
        return given

    def step(self, u: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The output of one token of each row; ``start`` marks the first ones of documents."""
        if self.position and self.position % self.config.window == 0:
            self.refresh()
        self.segment_pos = np.where(start[:, None], 0, self.segment_pos + 1).astype(np.int32)
        out, x, self.hidden, y, k, v, *scored = run(
            layer_step, programs=self.programs, **self.arguments(u)
        )
        self.tail = np.concatenate([self.tail, x[:, None]], axis=1)[:, 1:]
        self.outputs = np.concatenate([self.outputs, y[:, None]], axis=1)[:, 1:]
        place = self.position % self.config.window
        self.ring_k[..., place], self.ring_v[:, place] = k, v
        if scored:
            self._insert(scored[0], k, v, start)
            self.power = scored[1] if len(scored) > 1 else self.power
        self.position += 1
        return out

    def _insert(self, score: np.ndarray, k: np.ndarray, v: np.ndarray, start: np.ndarray) -> None:
        """The token into the running set, if it surprised enough."""
        flags = start[:, None].astype(np.float32)
        values, sources = run(running_sets, score, self.score, 1, flags)
        rows, sources = np.arange(self.batch)[:, None], sources[:, 0]
        sources = np.where(values[:, 0] == EMPTY, 0, sources)
        for i, new in enumerate((k, v)):
            self.kept[i] = np.concatenate([self.kept[i], new[:, None]], axis=1)[rows, sources]
        now = np.full((self.batch, 1), self.position, np.int32)
        self.place = np.concatenate([self.place, now], axis=1)[rows, sources]
        self.score = values[:, 0]

    def refresh(self) -> None:
        """Slots for the chunk that begins: the last outputs, projected, and the running set."""
        count = self.config.num_fading
        last = self.outputs[:, self.outputs.shape[1] - count :]
        for i in range(2):
            flat = last.astype(np.float32) @ self.heads[1 + i].astype(np.float32)
            made = flat.reshape(self.batch, count, *self.kept[i].shape[2:])
            self.slots[i] = np.concatenate([made.astype(last.dtype), self.kept[i]], axis=1)
        near = np.broadcast_to(np.arange(count, 0, -1, dtype=np.int32), (self.batch, count))
        far = np.where(self.score == EMPTY, NEVER, self.position - self.place)
        self.distance = np.concatenate([near, far.astype(np.int32)], axis=1)


def check(size: Size) -> list[Compared]:
    """Compare all tokens; in float32 the last alone, too, whose state has come the longest way."""
    layer = make(size)
    u, document = inputs(size)
    caller = Caller(layer, size.batch, size.dtype, size.programs)
    start = np.diff(document, axis=1, prepend=-1) != 0
    found = [caller.step(u[:, t], start[:, t]) for t in range(size.length)]
    wanted = expected(layer, u.astype(np.float32), document)
    out = np.stack(found, axis=1)
    if size.dtype != "float32":
        return [Compared("out", distance(out, wanted), BFLOAT16)]
    return [
        Compared("out", distance(out, wanted), FLOAT32),
        Compared("last", distance(out[:, -1], wanted[:, -1]), FLOAT32),
    ]


GRID = (
    Size(2, 9, 8, 2, 1, 4, 1, 2),
    Size(1, 7, 12, 3, 3, 3, 0, 2, inner=20, normalized=True),
    Size(2, 10, 16, 2, 2, 4, 2, 3, starts=(2, 7), normalized=True),
    Size(1, 6, 8, 2, 2, 2, 2, 0),
    Size(1, 5, 136, 2, 1, 2, 1, 1, states=3, inner=260),
    Size(4, 9, 8, 2, 1, 4, 1, 2, starts=(3,), programs=2),
    Size(2, 9, 32, 2, 2, 4, 1, 2, dtype="bfloat16"),
)
"""Sizes: two chunks at least, grouped heads, ragged blocks, documents, two cores."""

CHECKS = tuple(Check("layer_step", str(s), functools.partial(check, s)) for s in GRID)


def cost(size: Size) -> tuple[Report, Bound]:
    """One token of each row; HBM bounds the step, or TensorE, a cycle for each 128 weights."""
    caller = Caller(make(size), size.batch, size.dtype)
    u, _ = inputs(size)
    caller.segment_pos += 1
    given = caller.arguments(u[:, 0])
    leaves = jax.tree.leaves(given)
    report = measure(layer_step, **given)
    products = [x.size for x in (*caller.cell, *caller.heads) if x.ndim == 2 and 1 not in x.shape]
    slow = 4 if size.dtype == "float32" else 1
    written = nbytes(u[:, 0], u[:, 0], caller.hidden) + 2 * nbytes(caller.ring_v[:, 0])
    written += caller.tail[:, 0].nbytes + 4 * size.batch
    moved = nbytes(*(x for x in leaves if isinstance(x, np.ndarray))) + written
    return report, Bound({"tensor": slow * sum(products) / 128}, moved)


LAYER = Size(20, 1, 768, 12, 12, 512, 8, 32, states=16, dtype="bfloat16")
"""A layer of 130M parameters, window 512, 8 + 32 slots, 20 rows."""

COSTS = tuple(
    Cost("layer_step", str(s), functools.partial(cost, s))
    for s in (
        LAYER,
        dataclasses.replace(LAYER, batch=1),
        dataclasses.replace(LAYER, dtype="float32"),
    )
)
