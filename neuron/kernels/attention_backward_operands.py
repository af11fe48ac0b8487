"""What the backward attention kernel holds of a row, and where its sums go."""

import dataclasses

from neuron.kernels.tiles import COLUMNS, PARTITIONS, load, store
from neuron.nki import nisa, nl

ROW_BYTES = 100 * 1024
"""SBUF bytes of a partition for the operands and gradients of one row of the batch."""

SUM_BANKS = 4
"""PSUM banks for the gradients of keys and values; the others are for what comes and goes."""


def heads_together(length, width, each, size):
    """Key-value heads whose operands fit SBUF, at most so many that rows of HBM are long."""
    a_head = length * size * (1 + each) + (length + PARTITIONS) // PARTITIONS * width * size * (
        3 + 2 * each
    )
    assert a_head <= ROW_BYTES, f"{length} tokens are too many for one call; use tails"
    return max(1, min(ROW_BYTES // a_head, COLUMNS // (width * size)))


def key_spans(length, tail):
    """(first token, count) of blocks of keys, cut at multiples of 128 and before the call."""
    spans = []
    for start in range(-((tail + PARTITIONS - 1) // PARTITIONS) * PARTITIONS, length, PARTITIONS):
        low = max(start, -tail)
        high = min(start + PARTITIONS, 0 if start < 0 else length)
        spans.append((low, high - low))
    return spans


def most_at_once(tiles, spans, window):
    """The most blocks that one tile of queries sees."""
    most = 1
    for _, low, high in tiles:
        seen = 0
        for start, size in spans:
            if start < high and start + size > low - window + 1:
                seen = seen + 1
        most = max(most, seen)
    return most


def sums_in_psum(width, ring, slot_blocks):
    """Places in PSUM for gradients of keys and values, (128, 2, P) each."""
    a_bank = COLUMNS // (2 * width)
    banks = (ring + slot_blocks + a_bank - 1) // a_bank
    assert banks <= SUM_BANKS, (
        f"{ring} blocks of keys and {slot_blocks} of slots of width {width} take {banks} banks "
        f"of PSUM, there are {SUM_BANKS}; the window is too long"
    )
    places = []
    for _ in range(banks):
        bank = nl.ndarray((PARTITIONS, a_bank, 2, width), dtype=nl.float32, buffer=nl.psum)
        for i in range(a_bank):
            places.append(bank[:, i, :, :])
    return places


@dataclasses.dataclass
class Work(nl.NKIObject):
    """One key-value head of one row.

    Attributes:
      row: of the batch.
      group: the head.
      index: of the head among those that are loaded.
      each: query heads to a key-value head.
      window: W.
      scale: of the scores.
      ring: blocks of keys that may be open at the same time.
      sums: places in PSUM.
    """

    row: int
    group: int
    index: int
    each: int
    window: int
    scale: float
    ring: int
    sums: list


@dataclasses.dataclass
class Held(nl.NKIObject):
    """What is loaded of one row, and its gradients; i counts heads, n tiles or blocks.

    Attributes:
      queries: (P, i, L).
      keys: (P, i, L).
      tail: (P, i, T), or None.
      grads: n times (queries, i, P).
      minus_lse: n times (queries, i).
      minus_delta: n times (queries, i), minus the products of outputs and their gradients.
      values: n times (keys, i, P).
      grad_q: n times (queries, i, P). Likewise ``grad_k`` and ``grad_v`` by blocks of keys.
      masks: (name, mask) of those that were made.
    """

    queries: object
    keys: object
    tail: object
    grads: list
    minus_lse: list
    minus_delta: list
    values: list
    grad_q: list
    grad_k: list
    grad_v: list
    masks: list


@dataclasses.dataclass
class Keys(nl.NKIObject):
    """A block of keys or slots that is open.

    Attributes:
      start: first token; means nothing for slots.
      size: how many.
      born: the first query of the tile that opened it.
      across: (P, size) keys.
      values: (P, size).
      down: (size, P) keys.
      sums: (size, 2, P) of PSUM, gradients of keys and values so far.
      number: of the block, or the first slot.
    """

    start: int
    size: int
    born: int
    across: object
    values: object
    down: object
    sums: object
    number: int


def load_row(row, some, each, tiles, spans, q, k, v, out, lse, grad, tail_k, tail_v):
    """Operands of some heads of a row, and room for their gradients."""
    heads = (some[0] * each, some[1] * each)
    groups = some[1] - some[0]
    width = q.shape[2]
    tail = None if tail_k == None else _load_across(tail_k, row, some)
    held = Held(
        _load_across(q, row, heads),
        _load_across(k, row, some),
        tail,
        [],
        [],
        [],
        [],
        [],
        [],
        [],
        [],
    )
    for _, low, high in tiles:
        grads = load(grad[row, low:high, heads[0] : heads[1], :], grad.dtype)
        outs = load(out[row, low:high, heads[0] : heads[1], :], out.dtype)
        product = nl.ndarray(grads.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=product, data1=grads, data2=outs, op=nl.multiply, engine=nisa.engine.gpsimd
        )
        minus_delta = nl.ndarray(grads.shape[0:2], dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=minus_delta, op=nl.add, data=product, axis=2, negate=True)
        minus_lse = load(lse[row, low:high, heads[0] : heads[1]], nl.float32)
        nisa.tensor_scalar(dst=minus_lse, data=minus_lse, op0=nl.multiply, operand0=-1.0)
        held.grads.append(grads)
        held.minus_delta.append(minus_delta)
        held.minus_lse.append(minus_lse)
        held.grad_q.append(nl.ndarray(grads.shape, dtype=q.dtype, buffer=nl.sbuf))
    for start, size in spans:
        source, at = (v, start) if start >= 0 else (tail_v, start + tail_v.shape[1])
        held.values.append(load(source[row, at : at + size, some[0] : some[1], :], v.dtype))
        held.grad_k.append(nl.ndarray((size, groups, width), dtype=k.dtype, buffer=nl.sbuf))
        held.grad_v.append(nl.ndarray((size, groups, width), dtype=v.dtype, buffer=nl.sbuf))
    return held


def _load_across(source, row, heads):
    """Some heads of (batch, heads, P, time) as (P, heads, time)."""
    count, width, length = source.shape[1:]
    tile = nl.ndarray((width, heads[1] - heads[0], length), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=tile,
        src=source.ap(
            pattern=[[length, width], [width * length, heads[1] - heads[0]], [1, length]],
            offset=(row * count + heads[0]) * width * length,
        ),
    )
    return tile


def store_row(row, some, each, tiles, spans, held, results):
    """Write the gradients of tokens."""
    for n in range(len(tiles)):
        _, low, high = tiles[n]
        into = results[0][row, low:high, some[0] * each : some[1] * each, :]
        store(into, held.grad_q[n])
    for n in range(len(spans)):
        start, size = spans[n]
        which = 1 if start >= 0 else 3
        at = start if start >= 0 else start + results[3].shape[1]
        store(results[which][row, at : at + size, some[0] : some[1], :], held.grad_k[n])
        store(results[which + 1][row, at : at + size, some[0] : some[1], :], held.grad_v[n])
