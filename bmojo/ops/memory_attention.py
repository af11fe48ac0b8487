"""Attention over a sliding window and memory slots, or over the whole past.

The public operations: each chooses an implementation, cuts the arrays for a mesh and calls
:mod:`bmojo.ops.attention_xla`, :mod:`bmojo.ops.attention_native` or
:mod:`bmojo.ops.attention_pallas`.

``auto`` is ``pallas`` on a TPU or GPU, ``native`` on a CPU with a C++ compiler, and ``xla``
elsewhere. ``xla`` takes over, and a log line says so once for each reason, where

- a call has fewer than ``FEWEST`` tokens, such as a step of decoding;
- key-value heads have slots of their own;
- full attention runs on a device that JAX's own kernels, which compute it, are not for, or has
  tokens before the call (``pallas`` only);
- with ``auto`` only, the kernels cannot run at these sizes or cannot be compiled on this
  machine. By name that is an error.
"""

from collections.abc import Callable
from typing import Any, Literal

from bmojo.ops import attention_native, attention_xla
from bmojo.ops.axes import on_each_device
from bmojo.ops.implementations import Implementations
from bmojo.ops.masks import Slots
from bmojo.types import Array, Float, Int

Implementation = Literal["auto", "xla", "native", "pallas"]

IMPLEMENTATIONS = Implementations(
    "attention", ("xla", "native", "pallas"), "pallas", "xla", field="attention_implementation"
)

FEWEST = 16
"""Tokens of a call from which on kernels pay: a block has no fewer rows."""

ROWS = ("batch", None)
KEYS = ("batch", None, "kv_heads", None)
SLOTS = ("batch", None, None, "kv_heads", None)
# Query heads are cut as the key-value heads are, so that a device holds whole groups.
QUERIES = KEYS


def memory_attention(
    q: Float[Array, "B L H P"],
    k: Float[Array, "B L G P"],
    v: Float[Array, "B L G P"],
    tail_k: Float[Array, "B T G P"],
    tail_v: Float[Array, "B T G P"],
    segment_pos: Int[Array, "B L"],
    *,
    window: int,
    slots: Slots | None = None,
    slot_range: tuple[int, int | None] = (0, None),
    offset: Int[Array, "B"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B L H P"]:
    """One softmax over a true sliding window and the memory slots of the query's chunk.

    A query at t attends to the tokens t - W + 1 .. t of its document and to the slots of its
    chunk (arXiv 2407.06324, section 3.2). Cost is O(L (W + M)) in time and O(L) in memory.

    Args:
      q: queries.
      k: keys of the same tokens.
      v: values of the same tokens.
      tail_k: keys of the W - 1 tokens before the call, in order of time.
      tail_v: their values.
      segment_pos: tokens of the same document before each token.
      window: W, the query's own token included.
      slots: of the chunks that the call touches: ceil(L / W), or one more with ``offset``.
      slot_range: nearest distance at which a slot is seen, and the first that is too far.
      offset: tokens of the current chunk that precede the call, per row; None: zero.
      implementation: ``auto``, ``xla``, ``native`` or ``pallas``; see the module.

    Returns:
      The attention's output for each query, in the dtype of ``v``. Scores and softmax are
      float32 or wider. There are derivatives of first order in reverse mode only.

    Raises:
      ValueError: there is no such implementation, or a kernel was asked for by name and cannot
        run at these sizes or on this machine.
    """
    if slots is not None and not slots.k.shape[2]:
        slots = None
    name = choose(q, window, slots, implementation)
    options: dict[str, Any] = {"window": window, "slot_range": slot_range}
    if name == "xla":
        return attention_xla.memory_attention(
            q, k, v, tail_k, tail_v, segment_pos, slots=slots, offset=offset, **options
        )
    run = attention_native.memory_attention if name == "native" else _pallas().memory_attention
    operands = [q, k, v, tail_k, tail_v, segment_pos]
    names: list[Any] = [QUERIES, KEYS, KEYS, KEYS, KEYS, ROWS]
    if slots is not None:
        operands += slots
        names += [SLOTS, SLOTS, ("batch", None, None, None)]
    if offset is not None:
        operands.append(offset)
        names.append(("batch",))

    def kernel(*arrays: Array) -> Array:
        own = None if slots is None else Slots(*arrays[6:9])
        last = None if offset is None else arrays[-1]
        return run(*arrays[:6], slots=own, offset=last, **options)

    return on_each_device(kernel, names, QUERIES)(*operands)


def causal_attention(
    q: Float[Array, "B L H P"],
    k: Float[Array, "B K G P"],
    v: Float[Array, "B K G P"],
    segment_pos: Int[Array, "B L"],
    position: Int[Array, "B L"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B L H P"]:
    """Attention over the whole past of the query's document, in O(L) memory.

    Args:
      q: queries.
      k: keys; key i stands at position i of its row.
      v: their values.
      segment_pos: tokens of the same document before each query.
      position: of each query in its row; None: the keys are those of the queries' tokens.
      implementation: ``auto``, ``xla``, ``native`` or ``pallas``; see the module.

    Returns:
      The attention's output for each query, in the dtype of ``v``. Scores and softmax are
      float32 or wider. There are derivatives of first order in reverse mode only.

    Raises:
      ValueError: as :func:`memory_attention`.
    """
    name = choose_causal(q, implementation, first=position is None)
    if name == "xla":
        return attention_xla.causal_attention(q, k, v, segment_pos, position)
    run: Callable[..., Array] = attention_native.causal_attention
    if name == "pallas":
        from bmojo.ops.pallas import causal  # not needed on a CPU

        run = causal.causal_attention
    operands = (q, k, v, segment_pos) if position is None else (q, k, v, segment_pos, position)
    names = (QUERIES, KEYS, KEYS, ROWS, ROWS)[: len(operands)]
    return on_each_device(run, names, QUERIES)(*operands)


def choose(
    q: Float[Array, "B L H P"], window: int, slots: Slots | None, implementation: str = "auto"
) -> str:
    """The implementation of :func:`memory_attention` for these sizes, whose errors it raises."""
    if implementation == "xla":
        return implementation
    name = IMPLEMENTATIONS.resolve(implementation)
    reason = _too_few(q)
    if name == "xla":
        return name
    if slots is not None and slots.distance.shape[2] > 1:
        reason = "heads with slots of their own have no kernel"
    if reason is not None:
        return _instead(name, reason, implementation)
    if name == "pallas":
        count = 0 if slots is None else slots.k.shape[2]
        reason = _pallas().unfit(q.shape[1], window, count, q.shape[3], q.dtype)
        return _unless(reason, name, implementation)
    return name


def choose_causal(
    q: Float[Array, "B L H P"], implementation: str = "auto", first: bool = True
) -> str:
    """The same of :func:`causal_attention`; ``first``: no tokens precede those of the call."""
    name = IMPLEMENTATIONS.resolve(implementation)
    if name == "xla":
        return name
    reason = _too_few(q)
    if name == "native":
        return name if reason is None else _instead(name, reason, implementation)
    from bmojo.ops.pallas import causal, targets

    if reason is None and not first:
        reason = "JAX's kernels of full attention take the tokens of a call alone"
    if reason is None and targets.here().interpret:
        reason = "JAX's kernels of full attention run on TPUs and GPUs alone"
    if reason is not None:
        return _instead(name, reason, implementation)
    return _unless(causal.unfit(q.shape[3], q.dtype), name, implementation)


def _pallas() -> Any:
    from bmojo.ops import attention_pallas  # not needed on a CPU

    return attention_pallas


def _too_few(q: Array) -> str | None:
    return f"calls of fewer than {FEWEST} tokens need none" if q.shape[1] < FEWEST else None


def _instead(name: str, reason: str, implementation: str) -> str:
    return IMPLEMENTATIONS.instead(name, "xla", reason, asked=implementation != "auto")


def _unless(reason: str | None, name: str, implementation: str) -> str:
    """``name`` if there is no reason against it; a kernel that was asked for by name must fit."""
    if reason is None:
        return name
    if implementation == name:
        raise ValueError(f"attention_implementation: {reason}; take 'xla'")
    return _instead(name, reason, implementation)
