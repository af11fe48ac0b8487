"""Attention over window and memory slots for one new token of each row.

A step reads its keys and values once and does little with them: DMA limits it. Scores are made
with keys on partitions, a column for each row and head; turned over, all heads of several
rows of the batch share the instructions of one softmax.
"""

import dataclasses

from neuron.kernels.tiles import COLUMNS, PARTITIONS, load, load_on_all, share, store
from neuron.kernels.visibility import HIDDEN, ramp
from neuron.nki import nisa, nki, nl

MOST_PARTS = 24
"""Parts of 128 keys whose scores fit PSUM, with room for what comes and goes."""


@nki.jit
def memory_attention_step(
    q,
    k,
    v,
    ring_k,
    ring_v,
    since,
    age,
    slot_k=None,
    slot_v=None,
    distance=None,
):
    """Attention of the next token of each row.

    The window is a ring: place t mod W holds the token at position t. The new token's place
    still holds the token W back, which is out of sight, and is not changed here: the new keys
    and values are operands of their own, and the caller puts them into his buffers, one place
    each. Keys have time last, so that a kernel would write them in pieces of one element.

    Args:
      q: (batch, H, P) queries.
      k: (batch, G, P) keys of the new tokens.
      v: (batch, G, P) their values.
      ring_k: (batch, G, P, W) keys before this token, anything finite where there was none.
      ring_v: (batch, W, G, P) their values.
      since: (batch, 1) tokens of the current chunk before this one, its position mod W.
      age: (batch, 1) tokens of the same document before it.
      slot_k: (batch, G, P, M) keys of the slots of the current chunk; None: no slots.
      slot_v: (batch, M, G, P) their values.
      distance: (batch, M) from the chunk's first token back to the slot's; 2**30 where the
        slot is empty.

    Returns:
      (batch, H, P) in the dtype of ``v``.
    """
    out = nl.ndarray(q.shape, dtype=v.dtype, buffer=nl.shared_hbm)
    slots = None if slot_k == None else (slot_k, slot_v, distance)
    first, end = share(q.shape[0])
    attend(out, q, k, v, (ring_k, ring_v, since, age), slots, first, end)
    return out


def attend(out, q, k, v, window, slots, first, end):
    """The step of some rows of the batch, from HBM to HBM.

    Args:
      out: (batch, H, P), whose rows are written.
      q: (batch, H, P).
      k: (batch, G, P).
      v: (batch, G, P).
      window: ring_k, ring_v, since, age.
      slots: slot_k, slot_v, distance, or None.
      first: the first row.
      end: one past the last.
    """
    heads, width = q.shape[1], q.shape[2]
    assert heads <= PARTITIONS, f"{heads} heads, at most {PARTITIONS}"
    assert width <= PARTITIONS, f"heads of width {width}, at most {PARTITIONS}"
    ring_k, ring_v, since, age = window
    together = max(1, PARTITIONS // max(heads, k.shape[1]))
    for low in range(first, end, together):
        high = min(low + together, end)
        _rows(out, q, k, v, ring_k, ring_v, since, age, slots, low, high)


@dataclasses.dataclass
class Part(nl.NKIObject):
    """At most 128 keys of each row.

    Attributes:
      kind: new, ring or slots.
      begin: the first place in the ring, or slot.
      size: how many.
      at: columns of the scores before them.
      penalty: (size, rows), added to the scores; None: nothing is out of sight.
    """

    kind: str
    begin: int
    size: int
    at: int
    penalty: object


def _rows(out, q, k, v, ring_k, ring_v, since, age, slots, low, high):
    """The step of some rows, whose heads fit the partitions together."""
    heads, width = q.shape[1], q.shape[2]
    rows = high - low
    parts = _parts(ring_k.shape[3], since, age, slots, low, high)
    total = parts[-1].at + parts[-1].size
    assert len(parts) <= MOST_PARTS, f"{total} keys in {len(parts)} parts, at most {MOST_PARTS}"

    asked = _across(q, low, high)
    new = _across(k, low, high)
    made = nl.ndarray((PARTITIONS, len(parts), PARTITIONS), dtype=nl.float32, buffer=nl.psum)
    for row in range(rows):
        _score_row(made, parts, asked, new, ring_k, slots, low, row)
    scores = nl.ndarray((rows * heads, total), dtype=nl.float32, buffer=nl.sbuf)
    for n in range(len(parts)):
        part = parts[n]
        seen = nl.ndarray((part.size, rows, heads), dtype=nl.float32, buffer=nl.sbuf)
        raw = made[0 : part.size, n, 0 : rows * heads]
        if part.penalty == None:
            nisa.tensor_copy(dst=seen, src=raw)
        else:
            penalty = part.penalty.ap(pattern=[[rows, part.size], [1, rows], [0, heads]], offset=0)
            nisa.tensor_tensor(dst=seen, data1=raw, data2=penalty, op=nl.add)
        _turn(scores[:, part.at : part.at + part.size], seen)

    weights = _softmax(scores, width**-0.5)
    mixers = []
    for part in parts:
        mixer = nl.ndarray((part.size, rows, heads), dtype=v.dtype, buffer=nl.sbuf)
        _turn(mixer, weights[:, part.at : part.at + part.size])
        mixers.append(mixer)
    for row in range(rows):
        _mix_row(out, mixers, parts, v, ring_v, slots, low, row)


def _parts(window, since, age, slots, low, high):
    """The keys of a step, with penalties for those that are out of sight."""
    rows = high - low
    ages = load_on_all(age, low, PARTITIONS, rows, nl.float32)
    places = load_on_all(since, low, PARTITIONS, rows, nl.float32)
    parts = [Part("new", 0, 1, 0, None)]
    for begin in range(0, window, PARTITIONS):
        size = min(PARTITIONS, window - begin)
        penalty = _ring_penalty(ages, places, begin, size, window)
        parts.append(Part("ring", begin, size, 1 + begin, penalty))
    if slots != None:
        reach = nl.ndarray((PARTITIONS, rows), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=reach, data1=ages, data2=places, op=nl.subtract)
        distances = load(slots[2][low:high, :], nl.float32)
        for begin in range(0, distances.shape[1], PARTITIONS):
            size = min(PARTITIONS, distances.shape[1] - begin)
            back = nl.ndarray((size, rows), dtype=nl.float32, buffer=nl.sbuf)
            _turn(back, distances[:, begin : begin + size])
            penalty = _penalty(back, reach[0:size, :])
            parts.append(Part("slots", begin, size, 1 + window + begin, penalty))
    return parts


def _ring_penalty(ages, places, begin, size, window):
    """Penalties of places ``begin`` and after of the ring, (size, rows)."""
    rows = ages.shape[1]
    back = nl.ndarray((size, rows), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=back, data=places[0:size, :], op0=nl.subtract, operand0=ramp(size, 1, begin, 1, 0)
    )
    wrapped = nl.ndarray((size, rows), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=wrapped,
        data=back,
        op0=nl.less_equal,
        operand0=0.0,
        op1=nl.multiply,
        operand1=float(window),
    )
    nisa.tensor_tensor(dst=back, data1=back, data2=wrapped, op=nl.add)
    limit = nl.ndarray((size, rows), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=limit, data=ages[0:size, :], op0=nl.minimum, operand0=float(window - 1))
    return _penalty(back, limit)


def _penalty(distance, limit):
    """``HIDDEN`` where a distance is beyond its limit, 0 elsewhere."""
    penalty = nl.ndarray(distance.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=penalty, data1=distance, data2=limit, op=nl.greater)
    nisa.tensor_scalar(dst=penalty, data=penalty, op0=nl.multiply, operand0=HIDDEN)
    return penalty


def _turn(dst, tile):
    """Partitions and columns exchanged by way of PSUM, converted if need be."""
    rows = tile.shape[0]
    columns = tile.size // rows
    across = nl.ndarray((columns, rows), dtype=tile.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=across, data=tile, engine=nisa.engine.tensor)
    nisa.tensor_copy(dst=dst, src=across)


def _across(source, low, high):
    """Some rows of (batch, heads, P) as (P, rows, heads)."""
    heads, width = source.shape[1], source.shape[2]
    lanes = (high - low) * heads
    tile = nl.ndarray((lanes, width), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=tile,
        src=source.ap(pattern=[[width, lanes], [1, width]], offset=low * heads * width),
    )
    across = nl.ndarray((width, high - low, heads), dtype=source.dtype, buffer=nl.sbuf)
    _turn(across, tile)
    return across


def _score_row(made, parts, asked, new, ring_k, slots, low, row):
    """Scores of one row, keys on partitions: (128, parts, rows and heads)."""
    groups, width, window = ring_k.shape[1:]
    heads = asked.shape[2]
    each = heads // groups
    ring = _keys(ring_k, low + row)
    held = ring if slots == None else _keys(slots[0], low + row)
    for n in range(len(parts)):
        part = parts[n]
        for g in range(groups):
            if part.kind == "new":
                keys = new[:, row, g : g + 1]
            else:
                source = ring if part.kind == "ring" else held
                keys = source[:, g, part.begin : part.begin + part.size]
            column = row * heads + g * each
            nisa.nc_matmul(
                dst=made[0 : part.size, n, column : column + each],
                stationary=keys,
                moving=asked[:, row, g * each : (g + 1) * each],
                accumulate=False,
            )


def _keys(source, row):
    """One row of (batch, G, P, keys) as (P, G, keys)."""
    groups, width, count = source.shape[1:]
    tile = nl.ndarray((width, groups, count), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=tile,
        src=source.ap(
            pattern=[[count, width], [width * count, groups], [1, count]],
            offset=row * groups * width * count,
        ),
    )
    return tile


def _softmax(scores, scale):
    """The softmax of each partition's scaled scores."""
    lanes = scores.shape[0]
    peak = nl.ndarray((lanes, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=peak, op=nl.maximum, data=scores, axis=1, negate=True)
    nisa.tensor_scalar(dst=peak, data=peak, op0=nl.multiply, operand0=scale)
    weights = nl.ndarray(scores.shape, dtype=nl.float32, buffer=nl.sbuf)
    sums = nl.ndarray((lanes, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=weights,
        op=nl.exp,
        data=scores,
        scale=scale,
        bias=peak,
        reduce_op=nl.add,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
        reduce_res=sums,
    )
    nisa.reciprocal(dst=sums, data=sums)
    nisa.tensor_scalar(dst=weights, data=weights, op0=nl.multiply, operand0=sums)
    return weights


def _mix_row(out, mixers, parts, v, ring_v, slots, low, row):
    """Weighted values of one row."""
    groups, width = v.shape[1], v.shape[2]
    heads = out.shape[1]
    each = heads // groups
    at = low + row
    values = []
    for part in parts:
        if part.kind == "new":
            values.append(load(v[at : at + 1, :, :], v.dtype))
        else:
            source = ring_v if part.kind == "ring" else slots[1]
            values.append(load(source[at, part.begin : part.begin + part.size, :, :], v.dtype))
    mixed = nl.ndarray((each, groups, width), dtype=out.dtype, buffer=nl.sbuf)
    together = COLUMNS // width
    for first in range(0, groups, together):
        end = min(first + together, groups)
        total = nl.ndarray((each, end - first, width), dtype=nl.float32, buffer=nl.psum)
        for g in range(first, end):
            for n in range(len(parts)):
                nisa.nc_matmul(
                    dst=total[:, g - first, :],
                    stationary=mixers[n][:, row, g * each : (g + 1) * each],
                    moving=values[n][:, g, :],
                    accumulate=n > 0,
                )
        nisa.activation(dst=mixed[:, first:end, :], op=nl.copy, data=total)
    into = out.ap(
        pattern=[[width, each], [each * width, groups], [1, width]], offset=at * heads * width
    )
    store(into, mixed)
