"""Attention over window and memory slots, backward.

The weights are recomputed from the saved logarithms, queries on partitions, so that the
gradients of keys and values are products without a transposition; what is transposed is the
gradient of the scores, once, for the gradient of the queries. Gradients of keys and values
stay in PSUM from the first tile of queries that sees a block of keys to the last.
"""

from neuron.kernels.attention import share_rows_or_groups
from neuron.kernels.attention_backward_operands import (
    Keys,
    Work,
    heads_together,
    key_spans,
    load_row,
    most_at_once,
    store_row,
    sums_in_psum,
)
from neuron.kernels.tiles import COLUMNS, PARTITIONS, load, load_on_all, store
from neuron.kernels.visibility import (
    all_seen,
    hide,
    query_tiles,
    reach_column,
    segment_pos_column,
    slots_by_query,
    window_by_query,
)
from neuron.nki import nisa, nki, nl

MASK_BYTES = 48 * 1024
"""SBUF bytes of a partition for masks that heads share; beyond it they are made again."""


@nki.jit
def memory_attention_backward(
    q,
    k,
    v,
    out,
    lse,
    grad,
    window,
    segment_pos=None,
    tail_k=None,
    tail_v=None,
    slot_k=None,
    slot_v=None,
    distance=None,
):
    """Gradients of :func:`neuron.kernels.attention.memory_attention`.

    Gradients of slots are given for each slot. To add them to their tokens is the caller's
    business, for whom it is the transposition of his own gather: a token may be in the sets
    of many chunks, or come from before the call, and the sum over chunks would go through HBM
    once for each chunk.

    Args:
      q: (batch, H, P, L), as in the forward kernel, and so are those that follow.
      k: (batch, G, P, L).
      v: (batch, L, G, P).
      out: (batch, L, H, P) outputs of the forward kernel.
      lse: (batch, L, H) its logarithms.
      grad: (batch, L, H, P) the gradient of ``out``.
      window: W.
      segment_pos: (batch, L) or None.
      tail_k: (batch, G, P, T) or None.
      tail_v: (batch, T, G, P) or None.
      slot_k: (batch, C, G, P, M) or None.
      slot_v: (batch, C, M, G, P) or None.
      distance: (batch, C, M) or None.

    Returns:
      Gradients, all with time first: of q (batch, L, H, P), of k and v (batch, L, G, P), with
      a tail of its keys and values (batch, T, G, P), and with slots of their keys and values
      (batch, C, M, G, P).
    """
    batch, heads, width, length = q.shape
    groups = k.shape[1]
    each = heads // groups
    hbm = nl.shared_hbm
    token_shape = (batch, length, groups, width)
    grad_q = nl.ndarray((batch, length, heads, width), dtype=q.dtype, buffer=hbm)
    grad_k = nl.ndarray(token_shape, dtype=k.dtype, buffer=hbm)
    grad_v = nl.ndarray(token_shape, dtype=v.dtype, buffer=hbm)
    results = [grad_q, grad_k, grad_v]
    grad_tail = None
    if tail_k != None:
        tail_shape = (batch, tail_k.shape[3], groups, width)
        grad_tail = (
            nl.ndarray(tail_shape, dtype=k.dtype, buffer=hbm),
            nl.ndarray(tail_shape, dtype=v.dtype, buffer=hbm),
        )
        results.append(grad_tail[0])
        results.append(grad_tail[1])
    grad_slot = None
    if slot_k != None:
        grad_slot = (
            nl.ndarray(slot_v.shape, dtype=k.dtype, buffer=hbm),
            nl.ndarray(slot_v.shape, dtype=v.dtype, buffer=hbm),
        )
        results.append(grad_slot[0])
        results.append(grad_slot[1])

    tiles = query_tiles(length, window)
    spans = key_spans(length, 0 if tail_k == None else tail_k.shape[3])
    ring = most_at_once(tiles, spans, window)
    slots = 0 if slot_k == None else slot_k.shape[4]
    sums = sums_in_psum(width, ring, (slots + PARTITIONS - 1) // PARTITIONS)
    rows, mine = share_rows_or_groups(batch, groups)
    together = heads_together(length, width, each, 4 if q.dtype == nl.float32 else 2)
    for first in range(mine[0], mine[1], together):
        some = (first, min(first + together, mine[1]))
        for row in range(rows[0], rows[1]):
            held = load_row(row, some, each, tiles, spans, q, k, v, out, lse, grad, tail_k, tail_v)
            for g in range(some[0], some[1]):
                work = Work(row, g, g - some[0], each, window, width**-0.5, ring, sums)
                _group(work, held, tiles, spans, segment_pos, slot_k, slot_v, distance, grad_slot)
            store_row(row, some, each, tiles, spans, held, results)
    return tuple(results)


def _group(work, held, tiles, spans, segment_pos, slot_k, slot_v, distance, grad_slot):
    """Gradients of one key-value head of a row, tile by tile of queries."""
    blocks = []
    opened = 0
    slots = []
    distances = None
    for n in range(len(tiles)):
        chunk, low, high = tiles[n]
        for number in range(opened, len(spans)):
            if spans[number][0] < high:
                blocks.append(_open_tokens(work, held, spans, number, low))
                opened = number + 1
        first = low == chunk * work.window
        if slot_k != None and first:
            slots = _open_slots(work, slot_k, slot_v, chunk, low)
            at = (work.row * slot_k.shape[1] + chunk) * slot_k.shape[4]
            distances = load_on_all(distance, at, PARTITIONS, slot_k.shape[4], nl.float32)
        masks = _masks(work, held, blocks, slots, distances, segment_pos, chunk, low, high)
        for r in range(work.each):
            _tile(work, held, blocks, slots, masks, n, low, high, r)
        last = n + 1 == len(tiles)
        if slots != [] and (last or tiles[n + 1][0] != chunk):
            for block in slots:
                _close_slots(work, block, grad_slot, chunk)
            slots = []
        open_blocks = []
        for block in blocks:
            if last or block.start + block.size <= tiles[n + 1][1] - work.window + 1:
                _close(
                    work,
                    block,
                    held.grad_k[block.number][:, work.index, :],
                    held.grad_v[block.number][:, work.index, :],
                )
            else:
                open_blocks.append(block)
        blocks = open_blocks


def _open_tokens(work, held, spans, number, born):
    """A block of tokens."""
    start, size = spans[number]
    across = held.keys[:, work.index, start : start + size] if start >= 0 else None
    if start < 0:
        at = start + held.tail.shape[2]
        across = held.tail[:, work.index, at : at + size]
    values = _transposed(held.values[number][:, work.index, :])
    sums = work.sums[number % work.ring][0:size, :, :]
    return Keys(start, size, born, across, values, _transposed(across), sums, number)


def _open_slots(work, slot_k, slot_v, chunk, born):
    """The slots of a chunk, in blocks."""
    chunks, groups, width, count = slot_k.shape[1:]
    across = load(slot_k[work.row, chunk, work.group, :, :], slot_k.dtype)
    blocks = []
    for begin in range(0, count, PARTITIONS):
        size = min(PARTITIONS, count - begin)
        source = slot_v[work.row, chunk, begin : begin + size, work.group, :]
        values = _transposed(load(source, slot_v.dtype))
        mine = across[:, begin : begin + size]
        sums = work.sums[work.ring + begin // PARTITIONS][0:size, :, :]
        blocks.append(Keys(0, size, born, mine, values, _transposed(mine), sums, begin))
    return blocks


def _close(work, block, grad_k, grad_v):
    """Move the gradients of a block out of PSUM."""
    nisa.activation(dst=grad_k, op=nl.copy, data=block.sums[:, 0, :], scale=work.scale)
    nisa.tensor_copy(dst=grad_v, src=block.sums[:, 1, :])


def _close_slots(work, block, grad_slot, chunk):
    """Write the gradients of a block of slots."""
    low, high = block.number, block.number + block.size
    shape = (block.size, block.down.shape[1])
    grad_k = nl.ndarray(shape, dtype=grad_slot[0].dtype, buffer=nl.sbuf)
    grad_v = nl.ndarray(shape, dtype=grad_slot[1].dtype, buffer=nl.sbuf)
    _close(work, block, grad_k, grad_v)
    store(grad_slot[0][work.row, chunk, low:high, work.group, :], grad_k)
    store(grad_slot[1][work.row, chunk, low:high, work.group, :], grad_v)


def _transposed(tile, on_scalar=False):
    """A tile of SBUF with partitions and columns exchanged; ScalarE or VectorE moves it back."""
    rows, columns = tile.shape
    turned = nl.ndarray((columns, rows), dtype=tile.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=turned, data=tile, engine=nisa.engine.tensor)
    copy = nl.ndarray((columns, rows), dtype=tile.dtype, buffer=nl.sbuf)
    if on_scalar:
        nisa.activation(dst=copy, op=nl.copy, data=turned)
    else:
        nisa.tensor_copy(dst=copy, src=turned)
    return copy


def _masks(work, held, blocks, slots, distances, segment_pos, chunk, low, high):
    """A mask (queries, keys), or None, for each block and then for each block of slots.

    Heads that are loaded together share them, and tiles too where no document ends, as far as
    there is room.
    """
    queries = high - low
    dated = segment_pos != None
    start = blocks[0].start
    keys = blocks[-1].start + blocks[-1].size - start
    names = [(low if dated else -1, low - start, keys, queries)]
    if slots != []:
        names.append((low if dated else -1, -1, chunk, queries))
    found = []
    for name in names:
        found.append(_known(held.masks, name))
    column = None
    if None in found and dated:
        column = segment_pos_column(segment_pos, work.row, low, high)
    if found[0] == None:
        found[0] = window_by_query(column, queries, low - start, keys, work.window)
        if len(held.masks) * keys * 2 < MASK_BYTES:
            held.masks.append((names[0], found[0]))
    if slots != [] and found[1] == None:
        reach = reach_column(column, queries, low - chunk * work.window)
        found[1] = slots_by_query(distances, reach, 1.0, 0.0, nl.less_equal)
        if len(held.masks) * keys * 2 < MASK_BYTES:
            held.masks.append((names[1], found[1]))
    masks = []
    for block in blocks:
        at = block.start - start
        plain = not dated and all_seen(low - block.start, queries, block.size, work.window)
        masks.append(None if plain else found[0][:, at : at + block.size])
    for block in slots:
        masks.append(found[1][:, block.number : block.number + block.size])
    return masks


def _known(masks, name):
    """The mask of that name, or None."""
    for other, mask in masks:
        if other == name:
            return mask
    return None


def _tile(work, held, blocks, slots, masks, n, low, high, r):
    """What one tile of queries of one head adds to the gradients."""
    head = work.index * work.each + r
    rows = high - low
    width = held.queries.shape[0]
    queries = held.queries[:, head, low:high]
    grads = held.grads[n][:, head, :]
    down = _transposed(queries, True)
    grads_across = _transposed(grads, True)
    total = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.psum)
    pieces = blocks + slots
    started = False
    for first, end in _banks(pieces):
        columns = 0
        for piece in pieces[first:end]:
            columns = columns + piece.size
        weights, slopes = _slopes(
            work,
            pieces[first:end],
            masks[first:end],
            queries,
            grads_across,
            columns,
            held.minus_lse[n][:, head : head + 1],
            held.minus_delta[n][:, head : head + 1],
        )
        at = 0
        for piece in pieces[first:end]:
            mine = slopes[:, at : at + piece.size]
            old = r > 0 or piece.born != low
            nisa.nc_matmul(
                dst=piece.sums[:, 1, :],
                stationary=weights[:, at : at + piece.size],
                moving=grads,
                accumulate=old,
            )
            nisa.nc_matmul(dst=piece.sums[:, 0, :], stationary=mine, moving=down, accumulate=old)
            nisa.nc_matmul(
                dst=total, stationary=_transposed(mine), moving=piece.down, accumulate=started
            )
            started = True
            at = at + piece.size
    nisa.activation(dst=held.grad_q[n][:, head, :], op=nl.copy, data=total, scale=work.scale)


def _banks(pieces):
    """(first, end) of runs of pieces whose keys fit a PSUM bank."""
    runs = []
    first = 0
    columns = 0
    for n in range(len(pieces)):
        if columns + pieces[n].size > COLUMNS:
            runs.append((first, n))
            first = n
            columns = 0
        columns = columns + pieces[n].size
    runs.append((first, len(pieces)))
    return runs


def _slopes(work, pieces, masks, queries, grads, columns, minus_lse, minus_delta):
    """Weights and gradients of the scores before scaling, (queries, columns) each."""
    rows = queries.shape[1]
    shape = (rows, columns)
    scores = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    gains = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    at = 0
    for piece in pieces:
        here = (at, at + piece.size)
        nisa.nc_matmul(
            dst=scores[:, here[0] : here[1]],
            stationary=queries,
            moving=piece.across,
            accumulate=False,
        )
        nisa.nc_matmul(
            dst=gains[:, here[0] : here[1]],
            stationary=grads,
            moving=piece.values,
            accumulate=False,
        )
        at = here[1]
    weights = nl.ndarray(shape, dtype=queries.dtype, buffer=nl.sbuf)
    nisa.activation(dst=weights, op=nl.exp, data=scores, scale=work.scale, bias=minus_lse)
    at = 0
    for i in range(len(pieces)):
        if masks[i] != None:
            hide(weights[:, at : at + pieces[i].size], masks[i])
        at = at + pieces[i].size
    slopes = nl.ndarray(shape, dtype=queries.dtype, buffer=nl.sbuf)
    nisa.activation(dst=slopes, op=nl.copy, data=gains, bias=minus_delta)
    nisa.tensor_tensor(
        dst=slopes, data1=slopes, data2=weights, op=nl.multiply, engine=nisa.engine.gpsimd
    )
    return weights, slopes
