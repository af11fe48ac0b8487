"""Checks of the law that every mixer keeps: parallel = recurrent = segments.

One mixer, one sequence, several ways to feed it. Every way must give the same outputs, the
same final state, and the same gradients, also to the initial state. :func:`check_mixer` checks
a mixer of anybody.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.layers.protocol import AuxRequest, check_config, check_mixer_members

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Largest relative root mean square error of each dtype."""


def check_mixer(config: Any, dtype: str = "float32", grid: int | None = None) -> None:
    """Check that a mixer keeps its contract and the law, with small random inputs.

    Outputs, final state and gradients agree between one call, segments and single tokens, from
    nothing and from a given state; right-padded rows equal the rows alone, packed documents the
    documents alone; nothing passes from the future or from another document; the aux output
    changes nothing.

    Args:
      config: of the mixer, for inputs of width 12.
      dtype: of computation and parameters; 'float64' needs ``jax.enable_x64``.
      grid: tokens between two refreshes of the mixer's memory; None: its window, or 1.

    Raises:
      AssertionError: the law is broken; the message names the form and the array.
      ValueError: the mixer lacks a member of the protocol; the message names it.
    """
    kind, number = type(config), jnp.dtype(dtype)
    check_config(kind.__name__, kind)
    check_mixer_members(make(config, number))
    check_forms(config, number)
    check_gradients(config, number)
    check_ragged(config, number)
    check_packed(config, number, grid or getattr(config, "window", None) or 1)
    check_isolation(config, number)
    check_aux(config, number)


def relative_rms(actual: Any, expected: Any) -> float:
    """Root mean square of the difference over that of ``expected``."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    scale = np.sqrt(np.mean(expected**2)) if expected.size else 0.0
    error = np.sqrt(np.mean((actual - expected) ** 2)) if expected.size else 0.0
    return float(error / scale) if scale > 0 else float(error)


def assert_close(actual: Any, expected: Any, dtype: Any, what: str = "") -> None:
    """Trees of arrays agree leaf by leaf within the tolerance of the dtype."""
    limit = TOLERANCE[np.dtype(dtype).name]
    got, want = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (actual, expected))
    assert got.keys() == want.keys()
    for path, leaf in want.items():
        error = relative_rms(got[path], leaf)
        assert error <= limit, f"{what}{jax.tree_util.keystr(path)}: {error:.2e} > {limit:.0e}"


def make(config, dtype, d_model=12, seed=0):
    """A mixer with random parameters."""
    return config.make(d_model, rngs=nnx.Rngs(seed), dtype=dtype, param_dtype=dtype)


def draw(dtype, batch, length, d_model=12, seed=1):
    """Random inputs."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, length, d_model)), dtype)


def run(mixer, u, state, segment_ids=None, lengths=None, cuts=(), capacity=64):
    """Feed u in pieces; ``state`` None begins at nothing."""
    graph, parameters = nnx.split(mixer)
    outs, edges = [], [0, *cuts, u.shape[1]]
    if cuts and state is None:
        state = mixer.init_state(u.shape[0], capacity)
    for low, high in zip(edges, edges[1:], strict=False):
        part = None if segment_ids is None else segment_ids[:, low:high]
        count = None if lengths is None else jnp.clip(lengths - low, 0, high - low)
        out, state = _call(graph, parameters, u[:, low:high], state, part, count)
        outs.append(out)
    return jnp.concatenate(outs, axis=1), state


@functools.partial(jax.jit, static_argnums=0)
def _call(graph, parameters, u, state, segment_ids, lengths):
    return nnx.merge(graph, parameters)(u, state, segment_ids, lengths)


def one_by_one(mixer, u, state, segment_ids=None):
    """Feed u token by token (one compiled step, scanned)."""
    graph, parameters = nnx.split(mixer)
    return _recurrent(graph, parameters, u, state, segment_ids)


@functools.partial(jax.jit, static_argnums=0)
def _recurrent(graph, parameters, u, state, segment_ids):
    mixer = nnx.merge(graph, parameters)
    ids = None if segment_ids is None else jnp.swapaxes(segment_ids, 0, 1)[:, :, None]

    def step(state, now):
        token, segment = now
        out, state = mixer(token[:, None], state, segment)
        return state, out[:, 0]

    state, out = jax.lax.scan(step, state, (jnp.swapaxes(u, 0, 1), ids))
    return jnp.swapaxes(out, 0, 1), state


def warm(mixer, dtype, batch=2, length=21, capacity=64, seed=5, d_model=12):
    """A state that some tokens left behind, rows at different positions."""
    u = draw(dtype, batch, length, d_model, seed)
    lengths = jnp.asarray([length - 5 * row for row in range(batch)])
    return run(mixer, u, mixer.init_state(batch, capacity), lengths=lengths)[1]


def floats(state):
    """The leaves that gradients are defined for, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(p): x for p, x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}


def gradients(mixer, u, state, way):
    """Gradients of a fixed random functional of outputs and final state."""
    graph, parameters = nnx.split(mixer, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    smooth = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def loss(parameters, u, values):
        full = list(leaves)
        for i, x in zip(smooth, values, strict=True):
            full[i] = x
        out, last = way(nnx.merge(graph, parameters), u, jax.tree.unflatten(tree, full))
        return functional(out, last)

    return jax.grad(loss, (0, 1, 2))(parameters, u, [leaves[i] for i in smooth])


def functional(out, last):
    """A fixed random functional of outputs and of the numbers in the final state."""

    def one(x):
        return jnp.sum(jnp.cos(jnp.arange(x.size, dtype=x.dtype) * 1.7).reshape(x.shape) * x)

    return sum(map(one, floats(last).values()), one(out))


def check_forms(config, dtype, length=37, cuts=(5, 6, 19, 24), capacity=64):
    """Parallel, segments and recurrent forms agree from nothing and from a given state."""
    mixer = make(config, dtype)
    u = draw(dtype, 2, length)
    segment_ids = jnp.asarray(
        np.sort(np.random.default_rng(3).integers(0, 4, (2, length)), axis=1), jnp.int32
    )
    empty = mixer.init_state(2, capacity)
    for ids in (None, segment_ids):
        whole, last = run(mixer, u, None, ids)
        pieces, last_pieces = run(mixer, u, None, ids, cuts=cuts, capacity=capacity)
        steps, last_steps = one_by_one(mixer, u, empty, ids)
        assert_close(pieces, whole, dtype, "segments ")
        assert_close(steps, whole, dtype, "recurrent ")
        assert_close(last_steps, last_pieces, dtype, "state ")
        shapes, others = ([x.shape for x in jax.tree.leaves(s)] for s in (last, last_pieces))
        if shapes == others:
            assert_close(last_pieces, last, dtype, "state ")
    given = warm(mixer, dtype)
    whole, last = run(mixer, u, given, segment_ids)
    assert np.isfinite(whole).all()
    pieces, last_pieces = run(mixer, u, given, segment_ids, cuts=cuts)
    steps, last_steps = one_by_one(mixer, u, given, segment_ids)
    for got in ((pieces, last_pieces), (steps, last_steps)):
        assert_close(got, (whole, last), dtype, "given state ")


def check_gradients(config, dtype, length=29, cuts=(7, 16), capacity=64):
    """Gradients to parameters, inputs and initial state agree between the forms."""
    mixer = make(config, dtype)
    u = draw(dtype, 2, length)
    given = warm(mixer, dtype, capacity=capacity)
    whole = gradients(mixer, u, given, lambda m, u, s: run(m, u, s))
    pieces = gradients(mixer, u, given, lambda m, u, s: run(m, u, s, cuts=cuts))
    steps = gradients(mixer, u, given, one_by_one)
    assert_close(pieces, whole, dtype, "segments ")
    assert_close(steps, whole, dtype, "recurrent ")


def check_ragged(config, dtype, length=23):
    """A right-padded batch equals its rows one by one, states included."""
    mixer = make(config, dtype)
    u = draw(dtype, 3, length)
    given = warm(mixer, dtype, batch=3)
    lengths = jnp.asarray([length, 0, 9])
    out, last = run(mixer, u, given, lengths=lengths)
    for row, count in enumerate(lengths.tolist()):
        before = jax.tree.map(lambda x, row=row: x[row : row + 1], given)
        after = jax.tree.map(lambda x, row=row: x[row : row + 1], last)
        if count == 0:
            assert_close(after, before, dtype, "untouched ")
            continue
        alone, state = run(mixer, u[row : row + 1, :count], before)
        assert_close(out[row : row + 1, :count], alone, dtype, f"row {row} ")
        assert_close(after, state, dtype, f"row {row} state ")


def check_packed(config, dtype, grid=1):
    """A packed document equals itself alone, at the same offset on the refresh grid."""
    mixer = make(config, dtype)
    first, second = 2 * grid, 17
    u = draw(dtype, 1, first + second)
    ids = jnp.asarray([[7] * first + [8] * second], jnp.int32)
    packed, _ = run(mixer, u, None, ids)
    alone, _ = run(mixer, u[:, first:], None)
    assert_close(packed[:, first:], alone, dtype)


def check_isolation(config, dtype, length=31, target=17, document=9):
    """Exact zeros: no influence of the future, nor of another document."""
    mixer = make(config, dtype)
    graph, parameters = nnx.split(mixer, nnx.Param)
    u = draw(dtype, 1, length)
    ids = jnp.asarray([[1] * document + [2] * (length - document)], jnp.int32)

    def output(u, ids):
        out, _ = nnx.merge(graph, parameters)(u, None, ids)
        return jnp.sum(jnp.sin(out[0, target]))

    alone = jax.jit(jax.grad(output))(u, None)[0]
    assert not np.any(alone[target + 1 :]), "the future leaks"
    assert np.any(alone[: target + 1])
    packed = jax.jit(jax.grad(output))(u, ids)[0]
    assert not np.any(packed[target + 1 :]), "the future leaks"
    assert not np.any(packed[:document]), "the document before leaks"
    assert np.any(packed[document : target + 1])


def check_aux(config, dtype, length=19):
    """Further outputs change neither outputs nor state."""
    mixer = make(config, dtype)
    u, given = draw(dtype, 2, length), warm(mixer, dtype)
    want = mixer(u, given)
    out, after, _ = mixer(u, given, aux=AuxRequest(entries=True, bins=4))
    assert_close((out, after), want, dtype, "aux ")
