"""Single operations: ours, the same written plainly, and slow oracles of both."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark import plain
from bmojo.benchmark.cases import LIMITS, Case, Check, Tell, compiled, difference, silent
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

FORWARD, GRADIENT = "forward", "forward and gradient"
TAPS, SPAN = 4, 4
IN_CHUNKS = f"lax.scan in chunks of {plain.CHUNK}"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the operands: channels of scans and convolution, width of all heads of attention."""

    batch: int = 1
    length: int = 2048
    channels: int = 512
    states: int = 16
    heads: int = 4
    width: int = 256
    window: int = 512
    num_fading: int = 16
    num_eidetic: int = 64


ODD = Sizes(2, 37, 6, 3, 2, 8, 7, 2, 3)  # where every implementation is compared with the oracle


@dataclasses.dataclass(frozen=True)
class Family:
    """One operation: implementations by name, ``ours`` and ``plain``, of which one is the baseline.

    ``flops`` are those of the forward pass, ``oracle`` computes the right outputs slowly;
    ``gradient`` is the function whose derivative is the right one, None: there is none.
    """

    name: str
    operands: tuple[Array, ...]
    flops: float
    ours: Mapping[str, Callable[..., Any]]
    oracle: Callable[..., Any]
    plain: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    baseline: str | None = None
    gradient: Callable[..., Any] | None = None


def families(sizes: Sizes, only: Sequence[str] = ()) -> list[Family]:
    """The operations ``only``, or all, at these sizes, with random operands.

    Raises:
      UserError: there is no such operation.
    """
    for name in only:
        if name not in MAKERS:
            raise UserError(f"--ops: there is no {name!r}; {suggestion(name, MAKERS)}")
    wanted = [make for name, make in MAKERS.items() if not only or name in only]
    return [make(sizes, np.random.default_rng(0)) for make in wanted]


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _steps(rng: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), shape)), jnp.float32)


def _runnable(forms: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The forms that run here: without native ones where the library of kernels does not."""
    runs = library.unfit() is None
    return {name: form for name, form in forms.items() if runs or "native" not in name}


def _recurrence(
    name: str, sizes: Sizes, rng: np.random.Generator, channels: tuple[int, ...], A: Array,
    flops: int, ours: Mapping[str, Callable[..., Any]], oracle: Callable[..., Any],
    step: plain.Step,
) -> Family:  # fmt: skip
    """A scan over ``channels`` with a step size for each of the first axis; ``flops`` a token."""
    batch, length, states = sizes.batch, sizes.length, sizes.states
    operands = (
        _normal(rng, batch, length, *channels),
        _steps(rng, batch, length, channels[0]),
        A,
        _normal(rng, batch, length, states),
        _normal(rng, batch, length, states),
        _normal(rng, batch, *channels, states),
    )
    loop = partial(plain.loop, step)
    forms, total = {IN_CHUNKS: partial(loop, chunked=True)}, float(batch * length * flops)
    return Family(name, operands, total, _runnable(ours), oracle, forms, IN_CHUNKS, loop)


def _scan(sizes: Sizes, rng: np.random.Generator) -> Family:
    width, states = sizes.channels, sizes.states
    A = jnp.broadcast_to(-jnp.arange(1.0, states + 1), (width, states))
    ours = {n: partial(selective_scan, implementation=n) for n in sorted(IMPLEMENTATIONS)}
    oracle, step, flops = reference.selective_scan, plain.scan_step, width * (7 * states + 1)
    made = _recurrence("selective scan", sizes, rng, (width,), A, flops, ours, oracle, step)
    whole = {"lax.scan": partial(plain.loop, step)}
    last = {f"{IN_CHUNKS}, channels last": plain.channels_last_in_chunks}
    return dataclasses.replace(made, plain={**whole, **made.plain, **last})


def _ssd(sizes: Sizes, rng: np.random.Generator) -> Family:
    states, heads, width = sizes.states, sizes.heads, sizes.channels
    A, chunk = -jnp.arange(1.0, heads + 1), min(sizes.length, CHUNK_SIZE)
    flops = 2 * chunk * (states + width) + 4 * states * width
    ours = {f"ssd, {n}": partial(ssd, implementation=n) for n in ("native", "xla")}
    channels, name = (heads, width // heads), "Mamba-2's scan (one decay a head)"
    oracle, step = reference.ssd, plain.ssd_step
    return _recurrence(name, sizes, rng, channels, A, flops, ours, oracle, step)


def _heads(sizes: Sizes, rng: np.random.Generator, count: int) -> tuple[Array, ...]:
    shape = (sizes.batch, sizes.length, sizes.heads, sizes.width // sizes.heads)
    return tuple(_normal(rng, *shape) for _ in range(count))


def _segment_pos(sizes: Sizes) -> Array:
    return jnp.broadcast_to(jnp.arange(sizes.length, dtype=jnp.int32), (sizes.batch, sizes.length))


def _attention(sizes: Sizes, rng: np.random.Generator) -> Family:
    past = np.tril(np.ones((sizes.length, sizes.length), bool))
    segment_pos, every = _segment_pos(sizes), partial(plain.attention, mask=past)
    score = np.zeros(sizes.length)
    ours = {
        "causal_attention (in blocks)": partial(causal_attention, segment_pos=segment_pos),
        "causal_attention, native": partial(
            attention_native.causal_attention, segment_pos=segment_pos
        ),
    }
    baseline = "jax.nn.dot_product_attention"
    forms = {"all pairs, masked": every}
    forms[baseline] = partial(jax.nn.dot_product_attention, is_causal=True)
    flops = 4.0 * sizes.width * sizes.batch * float(past.sum())
    oracle = lambda q, k, v: _attention_oracle((q, k, v, k, v), score, sizes.length, 0, 0)  # noqa: E731
    operands = _heads(sizes, rng, 3)
    return Family(
        "causal attention", operands, flops, _runnable(ours), oracle, forms, baseline, every
    )


def _memory_attention(sizes: Sizes, rng: np.random.Generator) -> Family:
    """Over a window, the last faded outputs and the most surprising tokens before a chunk."""
    batch, length, window = sizes.batch, sizes.length, sizes.window
    score = rng.exponential(size=length).astype(np.float32)
    # Positions in slots of each chunk (C, slots), negative where a slot is vacant.
    edges = np.arange(0, length, window)[:, None]
    fading = edges + np.arange(-sizes.num_fading, 0)
    eidetic = np.full((len(edges), sizes.num_eidetic), -1)
    sets = plain.most_surprising(score, sizes.num_eidetic, window)[:-1]
    for row, kept in zip(eidetic, sets, strict=True):
        row[: len(kept)] = kept
    positions = np.concatenate([fading, eidetic], axis=1)
    # (C, 1, slots): all heads have the same slots.
    distance = jnp.asarray(np.where(positions < 0, 2**30, edges - positions)[:, None], jnp.int32)
    # Which tokens, faded outputs, and tokens as memory (L, 3 L) each token sees.
    token = np.arange(length)
    back = token[:, None] - token
    sees = np.zeros((length, 3 * length), bool)
    sees[:, :length] = (back >= 0) & (back < window)
    for first, table in ((length, fading), (2 * length, eidetic)):
        row, slot = np.nonzero(table[token // window] >= 0)
        sees[row, first + table[row // window, slot]] = True
    segment_pos = _segment_pos(sizes)

    def ours(look: Callable[..., Array], q: Array, *keys_and_values: Array) -> Array:
        k, v, faded_k, faded_v = keys_and_values
        empty = jnp.zeros((batch, window - 1, *k.shape[2:]), k.dtype)

        def slots(faded: Array, tokens: Array) -> Array:
            chosen = faded[:, np.maximum(fading, 0)], tokens[:, np.maximum(eidetic, 0)]
            return jnp.concatenate(chosen, axis=2)

        shape = (batch, *distance.shape)
        held = Slots(slots(faded_k, k), slots(faded_v, v), jnp.broadcast_to(distance, shape))
        return look(q, k, v, empty, empty, segment_pos, window=window, slots=held)

    def every(q: Array, k: Array, v: Array, faded_k: Array, faded_v: Array) -> Array:
        keys, values = (jnp.concatenate(x, axis=1) for x in ((k, faded_k, k), (v, faded_v, v)))
        return plain.attention(q, keys, values, sees)

    def oracle(*operands: Array) -> Array:
        return _attention_oracle(operands, score, window, sizes.num_fading, sizes.num_eidetic)

    forms = {
        "memory_attention": partial(ours, memory_attention),
        "memory_attention, native": partial(ours, attention_native.memory_attention),
    }
    name, plainly = "attention to window and memory", "all pairs, masked"
    flops, operands = 4.0 * sizes.width * batch * float(sees.sum()), _heads(sizes, rng, 5)
    return Family(name, operands, flops, _runnable(forms), oracle, {plainly: every}, plainly, every)


def _attention_oracle(
    operands: Sequence[Array], score: np.ndarray, window: int, num_fading: int, num_eidetic: int
) -> Array:
    """Memory attention of rows that are one document each."""
    values, document = score.tolist(), [0] * len(score)
    sizes: Any = {"window": window, "num_fading": num_fading, "num_eidetic": num_eidetic}
    look: Any = partial(reference.memory_attention, **sizes)
    return jnp.stack([look(*row, values, document) for row in zip(*operands, strict=True)])


def _convolution(sizes: Sizes, rng: np.random.Generator) -> Family:
    batch, length, width = sizes.batch, sizes.length, sizes.channels
    tail = jnp.zeros((batch, TAPS - 1, width), jnp.float32)

    def oracle(x: Array, kernel: Array) -> np.ndarray:
        past = np.pad(np.asarray(x, np.float64), ((0, 0), (TAPS - 1, 0), (0, 0)))
        taps, late = np.asarray(kernel, np.float64), TAPS - 1
        return sum(taps[i] * past[:, late - i : late - i + length] for i in range(TAPS))

    ours = {"causal_convolution": lambda x, kernel: causal_convolution(x, kernel, tail)}
    name, baseline = f"causal convolution, {TAPS} taps", "lax.conv_general_dilated"
    operands = _normal(rng, batch, length, width), _normal(rng, TAPS, width)
    flops, form = 2.0 * TAPS * batch * length * width, plain.convolution
    return Family(name, operands, flops, ours, oracle, {baseline: form}, baseline, form)


def _selection(sizes: Sizes, rng: np.random.Generator) -> Family:
    """The innovation of each token, and the most surprising tokens before each chunk."""
    batch, length, width, size = sizes.batch, sizes.length, sizes.channels, sizes.num_eidetic
    tail, empty = jnp.zeros((batch, SPAN, width)), jnp.full((batch, size), EMPTY)
    segment_pos = _segment_pos(sizes)

    def ours(y: Array) -> tuple[Array, Array, Array]:
        score, _ = innovation(residual(y, tail, predictor(SPAN), segment_pos))
        sets, _ = running_sets(score, empty, sizes.window)
        return score, sets.score, jnp.where(sets.score == EMPTY, 0, sets.source - size)

    def oracle(y: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        score = np.asarray([reference.innovation(row, SPAN, [0] * length) for row in y])
        shape = (batch, -(-length // sizes.window), size)
        scores, positions = np.full(shape, EMPTY), np.zeros(shape, int)
        for row, values in enumerate(score):
            kept_by_chunk = plain.most_surprising(values, size, sizes.window)[1:]
            for chunk, kept in enumerate(kept_by_chunk):
                scores[row, chunk, : len(kept)] = values[kept]
                positions[row, chunk, : len(kept)] = kept
        return score, scores, positions

    name, forms = "innovation and selection", {"innovation, running_sets": ours}
    operands, flops = _normal(rng, batch, length, width), 2.0 * (SPAN + 2) * batch * length * width
    return Family(name, (operands,), flops, forms, oracle)


MAKERS: dict[str, Callable[[Sizes, np.random.Generator], Family]] = {
    "scan": _scan,
    "ssd": _ssd,
    "attention": _attention,
    "memory_attention": _memory_attention,
    "convolution": _convolution,
    "selection": _selection,
}


def check_operations(only: Sequence[str] = (), tell: Tell = silent) -> list[Check]:
    """Outputs of every implementation against the oracle, and gradients, at an odd size."""
    checks = []
    for family in families(ODD, only):
        tell(f"checking {family.name}")
        right = _arrays(family.oracle(*family.operands))
        slopes = None if family.gradient is None else _evaluate(family.gradient, family)[1]
        for name, function in {**family.ours, **family.plain}.items():
            case = f"{family.name}: {name}"
            found, gradients = _evaluate(function, family)
            checks.append(_check(case, f"output and oracle's, {ODD.length} tokens", found, right))
            if slopes is not None:
                what = f"gradient and derivative of the plain form, {ODD.length} tokens"
                checks.append(_check(case, what, gradients, slopes))
    return checks


def operation_cases(
    sizes: Sizes, only: Sequence[str] = (), tell: Tell = silent
) -> tuple[list[Case], list[Check], list[str]]:
    """Compile everything at the measured size.

    Returns:
      The cases; checks that all forms of one operation agree at this size; and the plain forms
      that were left out because they do not run on this backend.
    """
    cases: list[Case] = []
    checks: list[Check] = []
    notes: list[str] = []
    for family in families(sizes, only):
        for kind in (FORWARD,) if family.gradient is None else (FORWARD, GRADIENT):
            found: dict[str, Any] = {}
            for name, function in {**family.plain, **family.ours}.items():
                tell(f"compiling {family.name}: {name}, {kind}")
                if kind == GRADIENT:
                    function = _with_gradient(function, family.operands)
                try:
                    program = compiled(function, *family.operands)
                    out = program.call(*family.operands)
                except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
                    if name in family.ours:
                        raise
                    reason = str(error).partition("\n")[0]
                    notes.append(f"{family.name}: {name}, {kind}, does not run here: {reason}")
                    continue
                found[name] = _arrays(out[1] if kind == GRADIENT else out)
                more: dict[str, Any] = {"baseline": family.baseline}
                more["flops"] = family.flops * (3 if kind == GRADIENT else 1)
                more["facts"] = {"whose": "ours" if name in family.ours else "plain"}
                group = f"{family.name}, {kind}"
                cases.append(program.case(name, group, family.operands, **more))
            right = found.pop(family.baseline or "", None)
            if right is not None:
                what = f"{kind} and {family.baseline}, {sizes.length} tokens"
                checks += [_check(f"{family.name}: {n}", what, x, right) for n, x in found.items()]
    return cases, checks, notes


def _check(case: str, what: str, found: Sequence[Any], right: Sequence[Any]) -> Check:
    """The check of several arrays by their largest difference; NaN stays NaN."""
    parts = [difference(one, other) for one, other in zip(found, right, strict=True)]
    return Check(case, what, float(np.max(parts)), LIMITS["float32"])


def _evaluate(function: Callable[..., Any], family: Family) -> tuple[Any, Any]:
    """Outputs, and gradients where the operation has any."""
    if family.gradient is None:
        return _arrays(jax.jit(function)(*family.operands)), ()
    both = jax.jit(_with_gradient(function, family.operands))
    (_, found), gradients = both(*family.operands)
    return found, gradients


def _with_gradient(function: Callable[..., Any], operands: tuple[Array, ...]) -> Callable[..., Any]:
    """The function to ((mixture, outputs), gradients) of a fixed mixture of its outputs."""

    def mixture(*operands: Array) -> tuple[Array, tuple[Array, ...]]:
        total = jnp.zeros(())
        found = _arrays(function(*operands))
        for value in found:
            weights = jnp.cos(1.7 * jnp.arange(value.size, dtype=value.dtype))
            total = total + jnp.sum(value * weights.reshape(value.shape))
        return total, found

    return jax.value_and_grad(mixture, tuple(range(len(operands))), has_aux=True)


def _arrays(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)
