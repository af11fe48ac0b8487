"""The JAX layer beside the layer for PyTorch: the same parameters, calls, gradients.

``python -m tests.neuron.parity`` prints the largest errors.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.training.parameters import split
from neuron.configs import layer_config
from neuron.layer import BMojoLayer, LayerState
from neuron.positions import Positions
from neuron.weights import load_layer, sources
from tests.numerics import relative_rms

ROWS, LONGEST, WIDTH = 2, 22, 8
CELL = SelectiveSSMConfig(expand=1, d_state=3)
CONFIGS = {
    "both": BMojoConfig(
        window=5, num_fading=2, num_eidetic=4, n_heads=4, n_kv_heads=2, fading=CELL, span=3
    ),
    "eidetic": BMojoConfig(
        window=1,
        num_fading=0,
        num_eidetic=9,
        n_heads=1,
        read_fading=False,
        fading=SelectiveSSMConfig(expand=1, d_state=2, d_conv=1),
        normalize_innovation=True,
    ),
    "fading": BMojoConfig(
        window=7,
        num_fading=7,
        num_eidetic=0,
        n_heads=2,
        fading=SelectiveSSMConfig(d_inner=6, d_state=2, d_conv=2, dt_rank=2),
    ),
}
NOTHING = 1e-6
"""Gradients below it are rounding errors: all are about 1 otherwise."""

FLOATS = ("tail", "hidden", "outputs", "window_k", "window_v", "slot_k", "slot_v")
KEPT = ("kept_k", "kept_v")


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the layer.

    Attributes:
      before: tokens of each row that made the state; (0, 0) is a call without a state.
      lengths: tokens of each row in the call.
      documents: starts of documents, the same in all rows, counted from the first token of all.
    """

    before: tuple[int, int]
    lengths: tuple[int, int]
    documents: tuple[int, ...] = ()

    def __str__(self):
        words = f"{self.lengths} after {self.before}"
        return words + (f" documents {self.documents}" if self.documents else "")

    def ids(self, first, count):
        """Documents of ``count`` tokens from ``first`` on, which differs between rows."""
        place = np.asarray(first)[:, None] + np.arange(count)
        return np.searchsorted(np.asarray(self.documents), place, side="right").astype(np.int32)


FIRST = (0, 0)
CALLS = (
    Call(FIRST, (22, 22)),
    Call(FIRST, (20, 20), documents=(4, 7, 15)),
    Call(FIRST, (13, 6)),
    Call(FIRST, (3, 3)),
    Call((5, 12), (22, 22), documents=(3, 9, 14)),
    Call((3, 8), (9, 16), documents=(6, 11)),
    Call((20, 10), (20, 20)),
    Call((2, 1), (4, 2)),
    Call((17, 6), (1, 1)),
    Call((3, 8), (0, 6), documents=(9,)),
)


@functools.cache
def mixer(name, dtype="float32"):
    kind = jnp.dtype(dtype)
    return CONFIGS[name].make(WIDTH, rngs=nnx.Rngs(0), dtype=kind, param_dtype=jnp.float32)


def fields(state):
    """Fields of a :class:`LayerState` from a ``BMojoState``."""
    return {
        "tail": state.fading.tail,
        "hidden": state.fading.hidden,
        "outputs": state.outputs,
        "power": state.eidetic.chosen.power,
        "window_k": state.window.k,
        "window_v": state.window.v,
        "slot_k": state.slots.k,
        "slot_v": state.slots.v,
        "slot_distance": state.slots.distance[:, 0],
        "kept_k": state.eidetic.kept.k,
        "kept_v": state.eidetic.kept.v,
        "kept_score": state.eidetic.chosen.score[:, 0],
        "kept_position": state.eidetic.chosen.position[:, 0],
    }


def total(out, state, weights, valid, sin):
    """A number that depends on outputs and on all of the next state."""
    kept = [sin(state[n]).sum() for n in (*FLOATS, *KEPT)]
    return (out * weights * valid).sum() + sum(kept)


@functools.cache
def _reference(name, dtype):
    structure, parameters = split(mixer(name, dtype))

    def loss(parameters, u, floats, state, ids, lengths, weights):
        state = jax.tree.unflatten(
            jax.tree.structure(state), _merge(jax.tree.leaves(state), floats)
        )
        out, after = structure.merge(parameters)(u, state, ids, lengths)
        valid = (jnp.arange(u.shape[1]) < lengths[:, None])[..., None]
        values = fields(after)
        wide = {n: values[n].astype(jnp.float32) for n in (*FLOATS, *KEPT)}
        return total(out.astype(jnp.float32), wide, weights, valid, jnp.sin), (out, after)

    if dtype != "float32":
        return jax.jit(lambda *arguments: (loss(*arguments), None)), parameters
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)), parameters


def _merge(leaves, floats):
    floats = iter(floats)
    return [next(floats) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in leaves]


def _floats(state):
    return [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]


@dataclasses.dataclass
class Result:
    """What a call gives: outputs of valid tokens, fields of the next state, gradients."""

    out: list
    state: dict
    gradients: dict


@functools.cache
def inputs(seed, longest=LONGEST):
    rng = np.random.default_rng(seed)
    draw = [rng.standard_normal((ROWS, longest, WIDTH), np.float32) for _ in range(3)]
    return draw


def expected(name, call, dtype="float32"):
    """By the JAX layer, in one compiled program for all calls; and the state before the call.

    Gradients are in float32 only.
    """
    both, parameters = _reference(name, dtype)
    earlier, u, weights = inputs(0)
    kind = jnp.dtype(dtype)
    state = mixer(name, dtype).init_state(ROWS)

    def run(u, state, first, lengths):
        ids = call.ids(first, LONGEST)
        arguments = parameters, u.astype(kind), _floats(state), state, ids, jnp.asarray(lengths)
        return both(*arguments, weights)

    if any(call.before):
        (_, (_, state)), _ = run(earlier, state, (0, 0), call.before)
    (_, (out, after)), grads = run(u, state, call.before, call.lengths)
    out = [np.asarray(out[b, :n], np.float32) for b, n in enumerate(call.lengths)]
    if grads is None:
        return Result(out, fields(after), {}), state
    given = jax.tree.unflatten(
        jax.tree.structure(state),
        [
            next(leaves) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros(x.shape, x.dtype)
            for leaves in [iter(grads[2])]
            for x in jax.tree.leaves(state)
        ],
    )
    gradients = {f"parameter {n}": x for n, x in grads[0].items()}
    gradients |= {f"state {n}": fields(given)[n] for n in (*FLOATS, *KEPT)}
    gradients["u"] = grads[1]
    return Result(out, fields(after), gradients), state


def torch_state(state, dtype):
    """A ``BMojoState`` as a :class:`LayerState` of a layer that computes in ``dtype``."""

    def convert(x, kind=None):
        x = np.asarray(x)
        x = torch.from_numpy(x.astype(np.float32) if x.dtype.name == "bfloat16" else x.copy())
        return x if kind is None else x.to(kind)

    positions = Positions(
        *(convert(getattr(state.positions, n)) for n in ("position", "segment_pos", "segment"))
    )
    rounded = set(FLOATS + KEPT) - {"hidden"}
    values = fields(state).items()
    return LayerState(
        positions, **{n: convert(x, dtype if n in rounded else None) for n, x in values}
    )


@functools.cache
def layer(name, implementation, dtype="float32"):
    made = BMojoLayer(layer_config(CONFIGS[name], WIDTH, dtype), implementation)
    load_layer(made, mixer(name, dtype))
    return made


def found(name, call, before, implementation, dtype="float32", gradients=True):
    """By the layer for PyTorch: as long as its longest row, and without what it can do without."""
    made = layer(name, implementation, dtype)
    made.zero_grad()
    length = max(call.lengths)
    _, u, weights = (torch.from_numpy(x[:, :length].copy()) for x in inputs(0))
    u = u.to(made.dtype)
    state = None
    u.requires_grad_(gradients)
    if any(call.before):
        state = torch_state(before, made.dtype)
        for n in (*FLOATS, *KEPT):
            getattr(state, n).requires_grad_(gradients)
    ids = torch.from_numpy(call.ids(call.before, length)) if call.documents else None
    ragged = call.lengths[0] != call.lengths[1]
    lengths = torch.tensor(call.lengths)
    with torch.set_grad_enabled(gradients):
        out, after = made(u, state, ids, lengths if ragged else None)
    values = {f.name: getattr(after, f.name) for f in dataclasses.fields(after)}
    gradient = {}
    if gradients:
        valid = (torch.arange(length) < lengths[:, None])[..., None]
        wide = {n: values[n].float() for n in (*FLOATS, *KEPT)}
        total(out.float(), wide, weights, valid, torch.sin).backward()
        gradient = _gradients(made, u, state)
    rows = [out[b, :n].detach().float().numpy() for b, n in enumerate(call.lengths)]
    state = {n: values[n].detach() for n in values if n != "positions"}
    return Result(rows, state, gradient)


def _gradients(made, u, state):
    parameters = dict(made.named_parameters())
    gradient = {}
    for name, source in sources(made).items():
        grad = parameters[name].grad
        grad = torch.zeros_like(parameters[name]) if grad is None else grad
        gradient[f"parameter {source.name}"] = grad.T if source.turned else grad
    full = torch.zeros(ROWS, LONGEST, WIDTH)
    full[:, : u.shape[1]] = u.grad
    gradient["u"] = full
    if state is not None:
        for n in (*FLOATS, *KEPT):
            value = getattr(state, n)
            gradient[f"state {n}"] = torch.zeros_like(value) if value.grad is None else value.grad
    return {n: x.float().numpy() for n, x in gradient.items()}


def size(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))) if np.size(x) else 0.0


def check(name, call, implementation, gradients=True):
    """Raise AssertionError unless the layers agree in float32; give the largest errors."""
    wanted, before = expected(name, call)
    got = found(name, call, before, implementation, gradients=gradients)
    outputs = [relative_rms(a, b) for a, b in zip(got.out, wanted.out, strict=True)]
    for n, value in wanted.state.items():
        value = np.asarray(value)
        if value.dtype == np.int32:
            np.testing.assert_array_equal(got.state[n].numpy(), value, err_msg=n)
        else:
            outputs.append(relative_rms(got.state[n].float().numpy(), value))
    worst = 0.0
    for n, value in got.gradients.items():
        if size(value) + size(wanted.gradients[n]) < NOTHING:
            continue
        error = relative_rms(value, np.asarray(wanted.gradients[n]))
        assert error <= 1e-4, f"gradient of {n}: {error:.2e}"
        worst = max(worst, error)
    assert max(outputs) <= 1e-5, f"outputs and state: {max(outputs):.2e}"
    return max(outputs), worst


def main():
    pairs = [(name, call) for name in CONFIGS for call in CALLS]
    for implementation in ("torch", "nki"):
        errors = [check(name, call, implementation) for name, call in pairs]
        out, gradient = (max(column) for column in zip(*errors, strict=True))
        print(f"{implementation}: {len(pairs)} calls, outputs {out:.1e}, gradients {gradient:.1e}")
        apart, off, library = [], [], []
        for call in CALLS:
            exact, _ = expected("both", call)
            wanted, before = expected("both", call, "bfloat16")
            got = found("both", call, before, implementation, "bfloat16", gradients=False)
            apart.append(max(map(relative_rms, got.out, wanted.out)))
            off.append(max(map(relative_rms, got.out, exact.out)))
            library.append(max(map(relative_rms, wanted.out, exact.out)))
        print(
            f"{implementation}: bfloat16, {len(CALLS)} calls, outputs {max(apart):.1e}; median "
            f"from float32 {np.median(off):.1e}, the library's own {np.median(library):.1e}"
        )


if __name__ == "__main__":
    main()
