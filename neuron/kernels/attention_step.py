"""Attention over window and memory slots for one new token of each row.

A step reads its keys and values once and does little with them: DMA limits it. Scores are made
with keys on partitions, a column for each row and head; turned over, all heads of several
rows of the batch share the instructions of one softmax.
"""

import dataclasses

from neuron.kernels.attention_step_operands import (
    Sets,
    load_keys,
    load_new_keys,
    load_own_values,
    load_queries,
)
from neuron.kernels.tiles import PARTITIONS, load, load_on_all, share, store
from neuron.kernels.visibility import HIDDEN, ramp
from neuron.nki import nisa, nki, nl

MOST_PARTS = 24
"""Parts of 128 keys whose scores fit PSUM, with room for what comes and goes."""

ALWAYS = -(2.0**30)
"""Distance of what is never out of sight."""


@nki.jit
def memory_attention_step(
    q,
    k,
    v,
    ring_k,
    ring_v,
    since,
    segment_pos,
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
      segment_pos: (batch, 1) tokens of the same document before it.
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
    attend(out, q, k, v, (ring_k, ring_v, since, segment_pos), slots, first, end)
    return out


def attend(out, q, k, v, window, slots, first, end):
    """The step of some rows of the batch, from HBM to HBM.

    Args:
      out: (batch, H, P), whose rows are written.
      q: (batch, H, P).
      k: (batch, G, P).
      v: (batch, G, P).
      window: ring_k, ring_v, since, segment_pos.
      slots: slot_k, slot_v, distance, or None.
      first: the first row.
      end: one past the last.
    """
    heads, width = q.shape[1], q.shape[2]
    assert heads <= PARTITIONS, f"{heads} heads, at most {PARTITIONS}"
    assert width <= PARTITIONS, f"heads of width {width}, at most {PARTITIONS}"
    ring_k, ring_v, since, segment_pos = window
    together = max(1, PARTITIONS // max(heads, k.shape[1]))
    for low in range(first, end, together):
        high = min(low + together, end)
        _rows(out, q, k, v, ring_k, ring_v, since, segment_pos, slots, low, high)


@dataclasses.dataclass
class Part(nl.NKIObject):
    """At most 128 keys of each row.

    Attributes:
      kind: ring or own, which is the slots and after them the new token.
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


def _rows(out, q, k, v, ring_k, ring_v, since, segment_pos, slots, low, high):
    """The step of some rows, whose heads fit the partitions together."""
    heads = q.shape[1]
    sets = Sets(k.shape[1], heads // k.shape[1], k.shape[2])
    rows = high - low
    parts = _parts(ring_k.shape[3], since, segment_pos, slots, low, high)
    total = parts[-1].at + parts[-1].size
    assert len(parts) <= MOST_PARTS, f"{total} keys in {len(parts)} parts, at most {MOST_PARTS}"

    asked = load_queries(q, sets, low, high)
    new = load_new_keys(k, sets, low, high)
    made = nl.ndarray((PARTITIONS, len(parts), PARTITIONS), dtype=nl.float32, buffer=nl.psum)
    for row in range(rows):
        _score_row(made, parts, asked, new, ring_k, slots, sets, low, row)
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

    weights = _softmax(scores, sets.width**-0.5)
    mixers = []
    for part in parts:
        mixer = nl.ndarray((part.size, rows, heads), dtype=v.dtype, buffer=nl.sbuf)
        _turn(mixer, weights[:, part.at : part.at + part.size])
        mixers.append(mixer)
    shape = (sets.lanes, sets.count, rows, sets.pack * sets.each)
    mixed = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    for row in range(rows):
        _mix_row(mixed, mixers, parts, v, ring_v, slots, sets, low, row)
    _give(out, mixed, sets, low, high)


def _parts(window, since, segment_pos, slots, low, high):
    """The keys of a step, with penalties for those that are out of sight."""
    rows = high - low
    segment_positions = load_on_all(segment_pos, low, PARTITIONS, rows, nl.float32)
    places = load_on_all(since, low, PARTITIONS, rows, nl.float32)
    parts = []
    for begin in range(0, window, PARTITIONS):
        size = min(PARTITIONS, window - begin)
        penalty = _ring_penalty(segment_positions, places, begin, size, window)
        parts.append(Part("ring", begin, size, begin, penalty))
    if slots == None:
        parts.append(Part("own", 0, 1, window, None))
        return parts
    count = slots[2].shape[1]
    reach = nl.ndarray((PARTITIONS, rows), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=reach, data1=segment_positions, data2=places, op=nl.subtract)
    distances = nl.ndarray((rows, count + 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=distances[:, count : count + 1], value=ALWAYS)
    nisa.dma_copy(dst=distances[:, 0:count], src=slots[2][low:high, :])
    for begin in range(0, count + 1, PARTITIONS):
        size = min(PARTITIONS, count + 1 - begin)
        back = nl.ndarray((size, rows), dtype=nl.float32, buffer=nl.sbuf)
        _turn(back, distances[:, begin : begin + size])
        penalty = _penalty(back, reach[0:size, :])
        parts.append(Part("own", begin, size, window + begin, penalty))
    return parts


def _ring_penalty(segment_positions, places, begin, size, window):
    """Penalties of places ``begin`` and after of the ring, (size, rows)."""
    rows = segment_positions.shape[1]
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
    nisa.tensor_scalar(
        dst=limit, data=segment_positions[0:size, :], op0=nl.minimum, operand0=float(window - 1)
    )
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


def _score_row(made, parts, asked, new, ring_k, slots, sets, low, row):
    """Scores of one row, keys on partitions: (128, parts, rows and heads)."""
    heads = asked.shape[2]
    ring = load_keys(ring_k, sets, low + row, 0)
    if slots == None:
        own = new[:, :, row : row + 1]
    else:
        own = load_keys(slots[0], sets, low + row, 1)
        last = own.shape[2] - 1
        for first, end, lanes in sets.alike():
            nisa.tensor_copy(dst=own[0:lanes, first:end, last], src=new[0:lanes, first:end, row])
    for n in range(len(parts)):
        part = parts[n]
        keys = ring if part.kind == "ring" else own
        for s in range(sets.count):
            lanes = sets.held(s) * sets.width
            first = s * sets.pack * sets.each
            end = first + sets.held(s) * sets.each
            nisa.nc_matmul(
                dst=made[0 : part.size, n, row * heads + first : row * heads + end],
                stationary=keys[0:lanes, s, part.begin : part.begin + part.size],
                moving=asked[0:lanes, row, first:end],
                accumulate=False,
            )


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


def _mix_row(mixed, mixers, parts, v, ring_v, slots, sets, low, row):
    """Weighted values of one row: those of a head on its group's lanes in its own column."""
    at = low + row
    values = []
    for part in parts:
        if part.kind == "ring":
            values.append(load(ring_v[at, part.begin : part.begin + part.size, :, :], v.dtype))
        else:
            values.append(load_own_values(v, slots, part, at))
    for s in range(sets.count):
        lanes = sets.held(s) * sets.width
        count = sets.held(s) * sets.each
        first = s * sets.pack
        for n in range(len(parts)):
            nisa.nc_matmul(
                dst=mixed[0:lanes, s, row, 0:count],
                stationary=values[n][:, first : first + sets.held(s), :],
                moving=mixers[n][:, row, first * sets.each : first * sets.each + count],
                accumulate=n > 0,
            )


def _give(out, mixed, sets, low, high):
    """Results of some rows to HBM, heads side by side."""
    rows, heads, width = high - low, out.shape[1], out.shape[2]
    shape = (sets.lanes, sets.each, sets.count, rows)
    found = nl.ndarray(shape, dtype=out.dtype, buffer=nl.sbuf)
    columns = sets.pack * sets.each
    total = sets.count * rows
    for j in range(sets.pack):
        for r in range(sets.each):
            nisa.activation(
                dst=found.ap(
                    pattern=[[sets.each * total, width], [rows, sets.having(j)], [1, rows]],
                    offset=j * width * sets.each * total + r * total,
                ),
                op=nl.copy,
                data=mixed.ap(
                    pattern=[
                        [total * columns, width],
                        [rows * columns, sets.having(j)],
                        [columns, rows],
                    ],
                    offset=j * width * total * columns + j * sets.each + r,
                ),
            )
    result = nl.ndarray((rows, heads, width), dtype=out.dtype, buffer=nl.sbuf)
    for s in range(sets.count):
        lanes = sets.held(s) * width
        for r in range(sets.each):
            across = nl.ndarray((rows, lanes), dtype=out.dtype, buffer=nl.psum)
            nisa.nc_transpose(dst=across, data=found[0:lanes, r, s, :], engine=nisa.engine.tensor)
            nisa.activation(
                dst=result.ap(
                    pattern=[[heads * width, rows], [sets.each * width, sets.held(s)], [1, width]],
                    offset=(s * sets.pack * sets.each + r) * width,
                ),
                op=nl.copy,
                data=across,
            )
    store(out[low:high, :, :], result)
