"""Compiled functions of a model that reads and draws tokens, made once for each kind of model."""

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

__all__ = ["Programs", "growing_leaf", "programs_of"]


@dataclasses.dataclass(frozen=True)
class Programs:
    """Functions of the parameters of one kind of model; states that they are given are used up.

    Attributes:
      start: (parameters, batch size, capacity) -> the state before the first token.
      chunk: (parameters, state, logits (B, V), tokens (B, C), counts (B,)) -> the logits behind
        the first ``counts`` tokens of each row, the given ones where there are none, and the
        state.
      step: (parameters, state, tokens (B,)) -> logits (B, V) of the next token, and the state.
      apart: (parameters, state) -> the state as ``block`` takes and gives it: that of each period
        by itself, where the model has full attention.
      block: (parameters, then arguments of ``_block`` from the state on, sampling and size by
        name) -> what that gives: tokens that are read and drawn in a loop.
    """

    start: Callable[..., State]
    chunk: Callable[..., tuple[Array, State]]
    step: Callable[..., tuple[Array, State]]
    apart: Callable[[Any, State], Any]
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

    unstacked = jax.jit(lambda state, count: state.unstacked(count), static_argnums=1)

    @functools.partial(jax.jit, donate_argnums=1, static_argnames=("sampling", "size"))
    def block(
        parameters: Any, state: State, *arrays: Any, sampling: Sampling, size: int
    ) -> tuple[Array, Array, Array, State]:
        read = functools.partial(step, parameters)
        return _block(read, sampling, size, state, *arrays)

    def apart(parameters: Any, state: State) -> Any:
        # The scan over blocks would copy all keys and values of full attention for each token.
        model = nnx.merge(graph, parameters)
        if growing_leaf(model) is None:
            return state
        states = unstacked(state, model.config.num_blocks)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        return states

    return Programs(start, chunk, jax.jit(step, donate_argnums=1), apart, block)


def _block(
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
    """Read a token and draw the next one, again and again, until all rows have ended.

    Args:
      read: gives logits (B, V) and state behind one token (B,) of each row.
      sampling: how tokens are drawn.
      size: K, tokens that there is place for.
      state: of the rows before ``tokens``.
      tokens: the last ones that were drawn.
      active: rows that have not ended.
      ends: tokens that end a row.
      seed: of the draws.
      numbers: number of each row.
      positions: of the first token to draw.
      count: tokens of a row to draw, at most ``size``.

    Returns:
      What was drawn, token after token, as :func:`bmojo.generation.sampling.sample` gives it, in
      all rows; the last of it; how many tokens of a row that is; the state before the last one.
    """

    def more(carry: Any) -> Array:
        step, _, active, _, _ = carry
        return (step < count) & active.any()

    def one(carry: Any) -> Any:
        step, tokens, active, drawn, state = carry
        logits, state = read(state, tokens)
        tokens = sample(logits, seed, numbers, positions + step, sampling=sampling)
        return step + 1, tokens, active & ~ends[tokens], drawn.at[step].set(tokens), state

    drawn = jnp.zeros((size, tokens.shape[0]), tokens.dtype)
    carry = (jnp.zeros((), jnp.int32), tokens, active, drawn, state)
    step, tokens, _, drawn, state = jax.lax.while_loop(more, one, carry)
    return drawn, tokens, step, state


def growing_leaf(model: Any) -> tuple[int, int] | None:
    """Leaf and axis of a state that grow with the capacity."""
    return _growth(nnx.split(model)[0], _outline(model))


def _outline(model: Any) -> Any:
    """Shapes of the parameters, as something that can be looked up."""
    leaves, tree = jax.tree.flatten(nnx.split(model)[1])
    return tree, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


@functools.lru_cache(maxsize=16)
def _growth(graph: Any, outline: Any) -> tuple[int, int] | None:
    tree, leaves = outline
    parameters = jax.tree.unflatten(tree, leaves)

    def shapes(capacity: int) -> list[tuple[int, ...]]:
        def leaves(parameters: Any) -> list[Array]:
            return jax.tree.leaves(nnx.merge(graph, parameters).init_state(1, capacity))

        return [leaf.shape for leaf in jax.eval_shape(leaves, parameters)]

    for leaf, (small, large) in enumerate(zip(shapes(1), shapes(2), strict=True)):
        for axis, sizes in enumerate(zip(small, large, strict=True)):
            if sizes[0] != sizes[1]:
                return leaf, axis
    return None
