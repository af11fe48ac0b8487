"""The verbatim read-out: its oracle, and the law of the house for a model that has one."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.evaluation.streaming import stream_losses
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.readout import ReadoutConfig, mixed_log_probabilities, mixed_loss
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.ops import reference
from bmojo.ops.retention import Retention, _uniform
from tests.numerics import assert_close

CONFIG = ReadoutConfig(ring=6, chunk=4, d_key=4, orders=(1, 2, 3, 5))
V = 5


@pytest.fixture(autouse=True, params=["xla", "native"])
def implementation(request, monkeypatch):
    """Every test, by each implementation."""
    config = dataclasses.replace(CONFIG, implementation=request.param)
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", config)
    return request.param


def make(config=None, d_model=8, dtype=jnp.float32):
    """A read-out whose every parameter matters."""
    config = config or CONFIG
    readout = config.make(d_model, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype)
    rng = np.random.default_rng(1)
    readout.gate_proj.kernel[...] = jnp.asarray(rng.normal(size=(d_model, 1)), dtype)
    readout.length[...], readout.gate_lse[...] = jnp.array(0.2, dtype), jnp.array(0.1, dtype)
    readout.match[...] = jnp.asarray(rng.normal(size=len(config.orders)), dtype)
    return readout


def draw(length, rows=2, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    h = jnp.asarray(rng.normal(size=(rows, length, 8)), dtype)
    tokens = jnp.asarray(rng.integers(0, V, (rows, length)), jnp.int32)
    logits = jnp.asarray(rng.normal(size=(rows, length, V)), dtype)
    ids = jnp.asarray(np.cumsum(rng.random((rows, length)) < 0.15, axis=1), jnp.int32)
    return h, tokens, logits, ids


def base_of(config):
    """The cost of an entry at its edge, by the rule of a config."""
    if config.rule == "redundancy":
        return lambda products, _: max(products, default=-1)
    if config.rule == "random":
        return lambda _, position: -np.log2(float(_uniform(jnp.array(position), config.seed)))
    return lambda products, position: 0


def oracle(readout, h, tokens, logits, segment_pos):
    q, k = jnp.split(readout.proj(h), 2, axis=-1)
    q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    gate = readout.gate_proj(h)[..., 0] + readout.gate[...]
    config, head = readout.config, jax.nn.softmax(logits)
    scalars = (readout.match, readout.log_scale, readout.length, readout.gate_lse)
    rate = Retention(config.slots, config.rule, config.half_life).rate
    rows = []
    for row in zip(q, k, tokens, head, gate, segment_pos, strict=True):
        kept = reference.kept_entries(
            jax.lax.stop_gradient(row[1]), row[2], row[5], config.ring, config.chunk,
            config.slots, base_of(config), rate,
        )  # fmt: skip
        matched = reference.matched_entries(
            row[2], row[5], config.ring, config.chunk, config.match_order, config.matches,
            config.capacity,
        )  # fmt: skip
        kept = [{*a, *b} for a, b in zip(kept, matched.tolist(), strict=True)]
        values = (x[...] for x in scalars)
        rows.append(
            reference.verbatim_readout(
                *row, config.ring, config.chunk, config.orders, *values, kept
            )
        )
    return jnp.log(jnp.stack(rows))


def positions_in(ids):
    found = np.zeros(ids.shape, int)
    for t in range(1, ids.shape[1]):
        found[:, t] = np.where(ids[:, t] == ids[:, t - 1], found[:, t - 1] + 1, 0)
    return jnp.asarray(found)


SLOTS = {"ring": 3, "slots": 2, "chunk": 2, "half_life": 40.0}


MATCHES = SLOTS | {"matches": 3, "match_order": 2, "capacity": 50}


@pytest.mark.parametrize(
    "options, packed",
    [
        ({"ring": 6, "chunk": 4}, True),
        ({"ring": 1, "chunk": 1}, False),
        ({"ring": 3, "chunk": 7}, True),
        ({"ring": 50, "chunk": 4}, False),
        (SLOTS, True),
        (SLOTS | {"half_life": 0.0}, False),
        (SLOTS | {"ring": 0, "slots": 3, "chunk": 5, "rule": "random", "seed": 3}, False),
        (SLOTS | {"rule": "recent"}, False),
        (SLOTS | {"rule": "first", "chunk": 1}, False),
        (MATCHES, True),
        (MATCHES | {"ring": 0, "chunk": 1, "match_order": 1, "matches": 9, "slots": 0}, False),
        (MATCHES | {"capacity": 4, "matches": 2}, True),
    ],
)
@pytest.mark.one_in(11)
def test_the_mixture_is_that_of_the_equations(dtype, packed, options):
    readout = make(dataclasses.replace(CONFIG, **options), dtype=dtype)
    h, tokens, logits, ids = draw(23, dtype=dtype)
    ids = ids if packed else jnp.zeros_like(ids)
    look, _ = readout(h, tokens, None, ids)
    expected = oracle(readout, h, tokens, logits, positions_in(ids))
    assert_close(mixed_log_probabilities(look, logits), expected, dtype)
    targets = jnp.asarray(np.random.default_rng(3).integers(0, V, tokens.shape), jnp.int32)
    chosen = lambda x: jnp.take_along_axis(x, targets[..., None], -1)[..., 0]  # noqa: E731
    losses = mixed_loss(look, -chosen(jax.nn.log_softmax(logits)), targets)
    assert_close(losses, -chosen(expected), dtype)
    at = jnp.array([[3, 22], [0, 7]])
    some = mixed_log_probabilities(look, jnp.take_along_axis(logits, at[..., None], 1), at)
    assert_close(some, jnp.take_along_axis(expected, at[..., None], 1), dtype)


@pytest.mark.one_in(5)
def test_blocks_of_tokens_do_not_matter(dtype, monkeypatch):
    readout = make(dtype=dtype)
    h, tokens, logits, ids = draw(23, dtype=dtype)

    def total(readout, h):
        look, _ = readout(h, tokens, None, ids)
        return (mixed_loss(look, logits[..., 0], tokens) * logits[..., 1]).sum()

    def found():
        graph, params = nnx.split(readout)
        return jax.value_and_grad(lambda p, h: total(nnx.merge(graph, p), h), (0, 1))(params, h)

    def plain(readout, h):
        log_p = oracle(readout, h, tokens, logits, positions_in(ids))
        return (-jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0] * logits[..., 1]).sum()

    whole = found()
    monkeypatch.setattr("bmojo.ops.readout.BLOCK", 5)
    monkeypatch.setattr("bmojo.ops.readout.log_share.__defaults__", ("auto", 5))
    assert_close(jax.tree.leaves(found()), jax.tree.leaves(whole), dtype)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("slots", [{}, MATCHES])
def test_gradients_are_those_of_the_equations(slots):
    with jax.enable_x64(True):
        dtype = jnp.float64
        readout = make(dataclasses.replace(CONFIG, **slots), dtype=dtype)
        h, tokens, logits, ids = draw(17, dtype=dtype)
        graph, params = nnx.split(readout)
        targets = jnp.roll(tokens, 1, axis=1)
        pick = lambda x: jnp.take_along_axis(x, targets[..., None], -1)[..., 0]  # noqa: E731

        def fast(params, h, logits):
            look, _ = nnx.merge(graph, params)(h, tokens, None, ids)
            return mixed_loss(look, -pick(jax.nn.log_softmax(logits)), targets).sum()

        def slow(params, h, logits):
            log_p = oracle(nnx.merge(graph, params), h, tokens, logits, positions_in(ids))
            return -pick(log_p).sum()

        found = jax.grad(fast, (0, 1, 2))(params, h, logits)
        expected = jax.grad(slow, (0, 1, 2))(params, h, logits)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert jnp.abs(b).max() > 0
            assert_close(a, b, dtype)


def small(**options):
    config = ModelConfig(
        vocab_size=V,
        d_model=8,
        n_layers=1,
        readout=CONFIG,
        pattern=(SSDConfig(d_state=4, n_heads=2),),
    )
    model = dataclasses.replace(config, **options).make(nnx.Rngs(0))
    if hasattr(model, "readout"):
        model.readout = make(model.config.readout)
    return model


@functools.partial(jax.jit, static_argnums=0)
def _run(graph, params, tokens, targets, state, ids, lengths):
    model = nnx.merge(graph, params)
    logits, after = model(tokens, state, ids, lengths)
    return logits, after, *model.score(tokens, targets, state, ids, lengths)


def run(model, tokens, targets=None, state=None, ids=None, lengths=None):
    """Logits, state, losses, hits, state."""
    targets = tokens if targets is None else targets
    return _run(*nnx.split(model), tokens, targets, state, ids, lengths)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("slots", [{}, SLOTS, MATCHES | {"capacity": 7}])
@pytest.mark.parametrize("cuts", [(1,) * 23, (5, 1, 17)])
@pytest.mark.one_in(3)
def test_segments_give_what_the_whole_gives(cuts, slots):
    model = small(readout=dataclasses.replace(CONFIG, **slots))
    _, tokens, _, ids = draw(23)
    targets = jnp.roll(tokens, -1, axis=1)
    logits, state, losses, hits, _ = run(model, tokens, targets, None, ids)
    found, now, first = [], model.init_state(2), 0
    for size in cuts:
        part = slice(first, first + size)
        out, now, loss, hit, other = run(
            model, tokens[:, part], targets[:, part], now, ids[:, part]
        )
        found.append((out, loss, hit))
        assert_close(jax.tree.leaves(other), jax.tree.leaves(now), "float32")
        first += size
    for pieces, whole in zip(zip(*found, strict=True), (logits, losses, hits), strict=True):
        assert_close(jnp.concatenate(pieces, axis=1), whole, "float32")
    assert_close(jax.tree.leaves(now), jax.tree.leaves(state), "float32")
    picked = -jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    assert_close(losses, picked, "float32")
    np.testing.assert_array_equal(hits, logits.argmax(-1) == targets)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("slots", [{}, SLOTS | {"rule": "random"}, MATCHES])
def test_padding_leaves_no_trace(slots):
    model = small(readout=dataclasses.replace(CONFIG, **slots))
    _, tokens, _, _ = draw(11)
    state = run(model, tokens, lengths=jnp.array([11, 4]))[1]
    more = jnp.array([[1, 2], [3, 0]])
    found = run(model, more, state=state)[0]
    for row, length in enumerate((11, 4)):
        whole = jnp.concatenate([tokens[row, :length], more[row]])[None]
        assert_close(found[row], run(model, whole)[0][0, -2:], "float32")


@pytest.mark.one_in(2)
def test_documents_are_read_in_segments():
    model = small(readout=dataclasses.replace(CONFIG, **MATCHES))
    leaves = jax.tree.leaves(model.readout.init_state(3))
    assert all(x.shape[0] == 3 for x in leaves)
    tokens = np.random.default_rng(0).integers(0, V, 30)
    documents = [tokens[:23], tokens[3:], tokens[10:15]]
    found = stream_losses(model, documents, segment_length=5, batch_size=2)
    for losses, document in zip(found, documents, strict=True):
        row = jnp.asarray(document[None], jnp.int32)
        whole = run(model, row[:, :-1], row[:, 1:])[2][0]
        assert_close(losses, whole, "float32")


def test_a_read_out_of_nothing_is_none():
    graph, params = nnx.split(small(readout=ReadoutConfig(ring=0)))
    assert not any("readout" in path for path, _ in nnx.to_flat_state(params))


def test_a_target_is_right_if_no_other_token_is_likelier(monkeypatch):
    monkeypatch.setattr("bmojo.model.TOKENS_AT_ONCE", 4)
    model = small()
    _, tokens, _, ids = draw(23)
    best = run(model, tokens, ids=ids)[0].argmax(-1)
    assert run(model, tokens, best, None, ids)[3].all()
    assert not run(model, tokens, (best + 1) % V, None, ids)[3].any()


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"ring": -1}, "ring: must be at least 0"),
        ({"chunk": 0}, "chunk: must be at least 1"),
        ({"orders": (2, 1)}, "orders: must ascend"),
        ({"orders": (0,)}, "orders: must ascend"),
    ],
)
def test_bad_configs(options, problem):
    with pytest.raises(ValueError, match=problem):
        ReadoutConfig(**options)


def test_what_cannot_read_out_refuses_by_name():
    from bmojo.errors import UserError
    from bmojo.export.families import family_of
    from neuron.configs import stack_config

    model = small()
    with pytest.raises(UserError, match="verbatim read-out"):
        family_of(model.config)
    pattern = (BMojoConfig(window=4, n_heads=2, num_fading=2, num_eidetic=2), MLPConfig())
    with pytest.raises(ValueError, match="Model.readout"):
        stack_config(dataclasses.replace(model.config, pattern=pattern))
