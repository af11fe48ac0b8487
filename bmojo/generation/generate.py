"""Prefill in chunks, and decoding in a compiled loop.

The state holds all memory of a model, so decoding costs the same time and memory at every
position. Only full attention keeps all keys and values: its state has a capacity for prompt and
continuation, and sequences beyond it are refused before any work.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.errors import UserError
from bmojo.generation.loop import BLOCK, Draws, in_blocks, one_by_one
from bmojo.generation.programs import growing_leaf, programs_of
from bmojo.generation.sampling import NOT_A_NUMBER, Sampling
from bmojo.generation.stopping import Continuation, Stop
from bmojo.layers.protocol import State
from bmojo.ops.positions import Positions
from bmojo.types import Array, Float, Int

__all__ = [
    "CHUNK", "ENDED", "check_finite", "check_tokens", "decode", "generate_all", "generate_steps",
    "memory_grows", "pad", "prefill", "room", "rows_seen", "single_steps", "start", "state_bytes",
]  # fmt: skip

CHUNK = 128
"""Tokens of a prompt in one call of the model."""

ENDED = -1
"""Takes the place of a token in rows that have ended."""


def pad(prompts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Token sequences as one right-padded array (B, L), and their lengths (B,)."""
    arrays = [np.asarray(prompt, np.int32).reshape(-1) for prompt in prompts]
    lengths = np.asarray([array.size for array in arrays], np.int32)
    tokens = np.zeros((len(arrays), max(lengths, default=0)), np.int32)
    for row, array in zip(tokens, arrays, strict=True):
        row[: array.size] = array
    return tokens, lengths


def check_tokens(tokens: Any, vocab_size: int, name: str = "tokens") -> None:
    """Raise UserError unless all ids are in 0 .. vocab_size - 1."""
    ids = np.asarray(tokens)
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise UserError(
            f"{name}: {int(wrong[0])} is not a token of this model; give ids of "
            f"0 .. {vocab_size - 1}"
        )


def check_finite(values: Any, name: str) -> None:
    """Raise UserError unless all numbers are finite."""
    if not np.isfinite(values).all():
        raise UserError(
            f"{name} is not a number; the model's parameters are broken, use another checkpoint"
        )


def start(model: Any, batch_size: int, capacity: int | None = None) -> State:
    """The state before the first token, made on the device in one program."""
    programs, parameters = programs_of(model)
    return programs.start(parameters, batch_size, capacity if memory_grows(model) else None)


def memory_grows(model: Any) -> bool:
    """Whether the model keeps every token, as full attention does, so that it needs a capacity."""
    return growing_leaf(model) is not None


def room(model: Any, state: State) -> int | None:
    """Tokens that a state can hold in all; None: any number."""
    found = growing_leaf(model)
    return None if found is None else jax.tree.leaves(state)[found[0]].shape[found[1]]


def rows_seen(state: State) -> np.ndarray:
    """Tokens that each row of a state has seen (B,)."""
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Positions))
    found = next((part for part in leaves if isinstance(part, Positions)), None)
    if found is None:
        raise ValueError("state: no positions in it; make it with init_state")
    return np.asarray(found.position)[0]


def state_bytes(state: State) -> int:
    """Bytes of all arrays of a state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def prefill(
    model: Any,
    tokens: Int[Any, "B L"],
    lengths: Int[Any, "B"] | None = None,
    state: State | None = None,
    *,
    chunk_size: int = CHUNK,
    capacity: int | None = None,
) -> tuple[Float[Array, "B V"], State]:
    """Read prompts, ``chunk_size`` tokens of every row at once, with one program for all lengths.

    Args:
      model: a :class:`bmojo.model.Model`.
      tokens: prompts, padded on the right.
      lengths: tokens of each row; None: all L.
      state: of the rows, from :func:`start` or an earlier call; its arrays are used up. None:
        nothing was read before.
      chunk_size: tokens of a row in one call of the model.
      capacity: tokens that full attention must hold without a state; None: the longest prompt.

    Returns:
      Logits of the token after each row's last one (zeros for a row without tokens), and the
      state after the prompts.

    Raises:
      UserError: a prompt is longer than the memory, or holds a wrong token.
    """
    tokens = np.asarray(tokens, np.int32)
    rows, width = tokens.shape
    counts = np.full(rows, width, np.int32) if lengths is None else np.asarray(lengths, np.int32)
    valid = np.arange(width) < counts[:, None]
    check_tokens(tokens[valid], model.config.vocab_size, "prompt")
    longest = int(counts.max(initial=0))
    if state is None:
        places = longest if capacity is None else capacity
        _check_room(model, longest, places)
        state = start(model, rows, places)
    elif (places_there := room(model, state)) is not None:
        _check_room(model, int((rows_seen(state) + counts).max(initial=0)), places_there)
    programs, parameters = programs_of(model)
    dtype = jnp.result_type(jnp.float32, model.config.dtype)
    logits = jnp.zeros((rows, model.config.vocab_size), dtype)
    for first in range(0, longest, chunk_size):
        chunk = np.zeros((rows, chunk_size), np.int32)
        part = np.where(valid, tokens, 0)[:, first : first + chunk_size]
        chunk[:, : part.shape[1]] = part
        inside = np.clip(counts - first, 0, chunk_size)
        logits, state = programs.chunk(parameters, state, logits, chunk, inside)
    return logits, state


def decode(
    model: Any,
    logits: Float[Array, "B V"],
    state: State,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop: Stop | None = None,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    prompts: Sequence[Any] | None = None,
    block: int = BLOCK,
    advance: Callable[[State, Array], tuple[Array, State]] | None = None,
) -> Iterator[np.ndarray]:
    """Draw tokens that continue the rows, in a compiled loop.

    Calls of the loop draw 1, 2, 4, ... tokens of each row, as long as a call is short; the tokens
    do not depend on it. Those after a stop string are thrown away.

    Args:
      model: a :class:`bmojo.model.Model`.
      logits: of the next token, from :func:`prefill`.
      state: from :func:`prefill`; it is used up.
      max_new_tokens: after so many tokens every row ends.
      sampling: distribution of the tokens; None: always the most likely one.
      stop: further ends of a row.
      seed: of the draws, below 2^32.
      rows: number of each row. The draws of a row depend on the seed and its number, never on
        the rows beside it, logits on them by rounding alone, which in bfloat16 changes some
        tokens. None: 0, 1, ...
      prompts: token ids before each continuation, whose text is searched for stop strings.
      block: largest number of tokens of a row in one call of the loop.
      advance: reads one token (B,) of each row, from (state, tokens) to the next logits (B, V) and
        state; called for a token when the next one is asked for. None: the model reads, in the
        loop.

    Yields:
      The next token of each row (B,), ENDED for rows that have ended. There is no step without
      any token.

    Raises:
      UserError: prompt and new tokens are longer than the memory, or logits are NaN.
      ValueError: ``block`` is below 1.
    """
    if block < 1:
        raise ValueError(f"block: {block} tokens are none; give at least 1")
    sampling, stop = sampling or Sampling(temperature=0.0), stop or Stop()
    _check_seed(seed)
    position = rows_seen(state)
    places = room(model, state)
    if places is not None:
        # The last token is not read again.
        _check_room(model, int(position.max(initial=0)) + max_new_tokens - 1, places)
    batch = len(position)
    numbers = np.arange(batch, dtype=np.int32) if rows is None else np.asarray(rows, np.int32)
    draws = Draws(sampling, np.uint32(seed), numbers, position)
    texts: list[Continuation] = []
    if stop.strings and stop.decode is not None:
        before = [()] * batch if prompts is None else prompts
        texts = [Continuation(stop.decode, prompt) for prompt in before]
    active = np.ones(batch, bool)
    if advance is None:
        steps = in_blocks(model, logits, state, draws, stop.ids, active, max_new_tokens, block)
    else:
        steps = one_by_one(advance, logits, state, draws, max_new_tokens)
    for ids in steps:
        if (ids[active] == NOT_A_NUMBER).any():
            raise UserError(
                "generation: the model's logits are not numbers; its parameters are broken, "
                "use another checkpoint"
            )
        active &= ~np.isin(ids, stop.ids)
        if not active.any():
            return
        ids[~active] = ENDED
        yield ids
        for row in np.flatnonzero(active) if texts else ():
            active[row] = not stop.met(texts[row], ids[row])
        if not active.any():
            return


def single_steps(model: Any) -> Callable[[State, Array], tuple[Array, State]]:
    """The model as ``advance`` of :func:`decode`: a call of a program for each token."""
    programs, parameters = programs_of(model)
    return functools.partial(programs.step, parameters)


def generate_steps(
    model: Any,
    prompts: Sequence[Any],
    *,
    max_new_tokens: int,
    chunk_size: int = CHUNK,
    capacity: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Iterator[np.ndarray]:
    """:func:`prefill` of non-empty prompts of any lengths, then :func:`decode`, with its options.

    The capacity of full attention is enough for the longest prompt and the new tokens, rounded up
    to whole chunks, unless it is given.

    Raises:
      UserError: at once, if a prompt is empty, holds a wrong token, or, with its
        continuation, does not fit into the capacity.
    """
    tokens, lengths = pad(prompts)
    if not lengths.all():
        raise UserError("prompt: it is empty; give at least one token")
    needed = tokens.shape[1] + max_new_tokens - 1
    if capacity is None:
        capacity = -(-needed // chunk_size) * chunk_size
    _check_seed(seed)
    _check_room(model, needed, capacity)
    check_tokens(tokens, model.config.vocab_size, "prompt")

    def run() -> Iterator[np.ndarray]:
        logits, state = prefill(model, tokens, lengths, chunk_size=chunk_size, capacity=capacity)
        more = {"max_new_tokens": max_new_tokens, "seed": seed, "prompts": prompts, **options}
        yield from decode(model, logits, state, **more)

    return run()


def generate_all(model: Any, prompts: Sequence[Any], **options: Any) -> list[np.ndarray]:
    """The whole continuation of every prompt; the options are those of :func:`generate_steps`."""
    steps = list(generate_steps(model, prompts, **options))
    table = np.asarray(steps, np.int32).reshape(-1, len(prompts))
    return [column[column != ENDED] for column in table.T]


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: {seed} is out of range; give one in 0 .. 2^32 - 1")


def _check_room(model: Any, needed: int, places: int) -> None:
    if needed > places and memory_grows(model):
        raise UserError(
            f"prompt longer than memory: {needed} tokens, new ones included, do not fit into "
            f"the {places} that full attention was given; raise the capacity or shorten the prompt"
        )
