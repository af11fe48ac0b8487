"""Compiled programs of prefill and decoding, made once for each kind of model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.generation.sampling import Sampling, sample
from bmojo.layers.protocol import State
from bmojo.types import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Programs:
    """Functions of the parameters of one kind of model; a state that they are given is used up.

    Attributes:
      start: (parameters, batch size, capacity) -> the state before the first token.
      chunk: (parameters, state, logits (B, V), tokens (B, C), counts (B,)) -> the logits after the
        first ``counts`` tokens of each row, the given ones where there are none, and the state.
      step: (parameters, state, tokens (B,)) -> logits (B, V) of the next token, and the state.
      unstack: (parameters, state) -> the state in the form of ``block``: a tuple over the blocks
        of the model where attention keeps every token, else as it is.
      block: (parameters, state, tokens, active, ends, seed, numbers, positions, count, sampling,
        size) -> tokens that are read and drawn in a loop, see :func:`read_and_draw`.
    """

    start: Callable[..., State]
    chunk: Callable[..., tuple[Array, State]]
    step: Callable[..., tuple[Array, State]]
    unstack: Callable[[Any, State], Any]
    block: Callable[..., tuple[Array, Array, Array, Any]]


def programs_of(model: Any) -> tuple[Programs, Any]:
    """The functions of a :class:`bmojo.model.Model`, and its parameters."""
    graph, parameters = nnx.split(model)
    return _programs(graph), parameters


@functools.lru_cache(maxsize=16)
def _programs(graph: Any) -> Programs:
    @functools.partial(jax.jit, static_argnums=(1, 2))
    def start(parameters: Any, batch_size: int, capacity: int | None) -> State:
        return nnx.merge(graph, parameters).init_state(batch_size, capacity)

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def chunk(
        parameters: Any, state: State, logits: Array, tokens: Array, counts: Array
    ) -> tuple[Array, State]:
        last = jnp.maximum(counts - 1, 0)[:, None]
        newest, state = nnx.merge(graph, parameters)(tokens, state, None, counts, last)
        return jnp.where(counts[:, None] > 0, newest[:, 0], logits), state

    def step(parameters: Any, state: State, tokens: Array) -> tuple[Array, State]:
        logits, state = nnx.merge(graph, parameters)(tokens[:, None], state)
        return logits[:, 0], state

    apart = jax.jit(lambda state, count: state.unstacked(count), static_argnums=1)

    @functools.partial(jax.jit, donate_argnums=1, static_argnames=("sampling", "size"))
    def block(
        parameters: Any, state: State, *arrays: Any, sampling: Sampling, size: int
    ) -> tuple[Array, Array, Array, State]:
        read = functools.partial(step, parameters)
        return read_and_draw(read, sampling, size, state, *arrays)

    def unstack(parameters: Any, state: State) -> Any:
        # The scan over blocks would copy all keys and values of full attention for each token.
        model = nnx.merge(graph, parameters)
        if growing_leaf(model) is None:
            return state
        states = apart(state, model.config.num_blocks)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        return states

    return Programs(start, chunk, jax.jit(step, donate_argnums=1), unstack, block)


def read_and_draw(
    read: Callable[[State, Array], tuple[Array, State]],
    sampling: Sampling,
    size: int,
    state: State,
    tokens: Int[Array, "B"],
    active: Bool[Array, "B"],
    ends: Bool[Array, "V"],
    seed: Array,
    numbers: Int[Array, "B"],
    positions: Int[Array, "B"],
    count: Array,
) -> tuple[Int[Array, "K B"], Int[Array, "B"], Array, State]:
    """Read a token and draw the next one, up to ``count`` times, until all rows have ended.

    ``read`` gives logits (B, V) and state after one token (B,) of each row; the ``size`` K of the
    result is at least ``count``. The state is that before ``tokens``, which were drawn last.

    Returns:
      The drawn tokens, of all rows; the last of them; their number; the state before the last.
    """

    def unfinished(carry: Any) -> Array:
        step, _, active, _, _ = carry
        return (step < count) & active.any()

    def one(carry: Any) -> Any:
        step, tokens, active, drawn, state = carry
        logits, state = read(state, tokens)
        tokens = sample(logits, seed, numbers, positions + step, sampling=sampling)
        return step + 1, tokens, active & ~ends[tokens], drawn.at[step].set(tokens), state

    drawn = jnp.zeros((size, tokens.shape[0]), tokens.dtype)
    carry = (jnp.zeros((), jnp.int32), tokens, active, drawn, state)
    step, tokens, _, drawn, state = jax.lax.while_loop(unfinished, one, carry)
    return drawn, tokens, step, state


def growing_leaf(model: Any) -> tuple[int, int] | None:
    """Leaf and axis of a state that grow with the capacity; None: none does."""
    return _growing_leaf(model.config)


@functools.lru_cache(maxsize=16)
def _growing_leaf(config: Any) -> tuple[int, int] | None:
    def shapes(capacity: int) -> list[tuple[int, ...]]:
        state = nnx.eval_shape(lambda: config.make(nnx.Rngs(0)).init_state(1, capacity))
        return [leaf.shape for leaf in jax.tree.leaves(state)]

    for leaf, sizes in enumerate(zip(shapes(1), shapes(2), strict=True)):
        for axis, (small, large) in enumerate(zip(*sizes, strict=True)):
            if small != large:
                return leaf, axis
    return None
