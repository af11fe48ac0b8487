"""Attention over window and memory slots, forward.

One softmax over the last W tokens and the slots of the query's chunk. Scores are made twice.
First with queries on partitions and in bfloat16, only to find each query's largest score:
VectorE masks and reduces in one instruction. Then with keys on partitions, so that their
exponentials are what the product with the values takes, without a transposition: the largest
score goes in as further rows of the contraction, the sum of exponentials comes out as a
further column of the values. What is out of sight is masked on GpSimdE after the exponential.
"""

import dataclasses

from neuron.kernels.attention_operands import (
    QUADRANT,
    Work,
    key_tile,
    key_tiles,
    load_panel,
    load_queries,
    load_slots,
    selector,
    slot_rooms,
)
from neuron.kernels.attention_peaks import fold, peaks_of, turned
from neuron.kernels.attention_slots import fit, scores_by_query, weights_by_query
from neuron.kernels.tiles import COLUMNS, PARTITIONS, store
from neuron.kernels.visibility import (
    ages_of,
    hide,
    limits_row,
    query_tiles,
    slots_by_key,
    starts_row,
    window_by_key,
)
from neuron.nki import nisa, nki, nl

HEADS_BYTES = 24
"""Heads that go together, times the bytes of an element: what fits SBUF."""


@nki.jit
def memory_attention(
    q,
    k,
    v,
    window,
    segment_pos=None,
    tail_k=None,
    tail_v=None,
    slot_k=None,
    slot_v=None,
    distance=None,
):
    """``bmojo.ops.attention_xla.memory_attention``, on a grid that starts with it.

    Queries and keys have time last, values have it first, so that no operand needs to be
    transposed.

    Args:
      q: (batch, H, P, L) queries.
      k: (batch, G, P, L) keys, G a divisor of H, P at most 128.
      v: (batch, L, G, P) values.
      window: W, tokens that a query sees, its own included.
      segment_pos: (batch, L) tokens of the same document before each token; None: no document
        starts or ends in reach, and what ``tail_k`` holds belongs to it.
      tail_k: (batch, G, P, T) keys of the T tokens before the call, T at most W - 1; None: no
        token was before.
      tail_v: (batch, T, G, P) their values.
      slot_k: (batch, C, G, P, M) keys of the slots of each chunk of W tokens; None: no slots.
      slot_v: (batch, C, M, G, P) their values.
      distance: (batch, C, M) from the chunk's first token back to the slot's; 2**30 where
        the slot is empty.

    Returns:
      (batch, L, H, P) in the dtype of ``v``, and (batch, L, H) float32, the logarithm of the
      sum of the exponentials of the scaled scores.
    """
    batch, heads, width, length = q.shape
    groups = k.shape[1]
    each = heads // groups
    assert heads % groups == 0, f"{groups} key-value heads don't divide {heads} heads"
    assert width <= PARTITIONS, f"heads of width {width}, at most {PARTITIONS}"
    out = nl.ndarray((batch, length, heads, width), dtype=v.dtype, buffer=nl.shared_hbm)
    lse = nl.ndarray((batch, length, heads), dtype=nl.float32, buffer=nl.shared_hbm)
    rows, mine = share_rows_or_groups(batch, groups)

    identity = selector(0, PARTITIONS, nl.bfloat16)
    plain = selector(0, PARTITIONS, nl.float32) if q.dtype == nl.float32 else None
    bytes_each = 4 if q.dtype == nl.float32 else 2
    together = max(1, HEADS_BYTES // (bytes_each * each))
    for first in range(mine[0], mine[1], together):
        end = min(first + together, mine[1])
        count = (end - first) * each
        folded = width % QUADRANT == 0 and count <= QUADRANT and width + count <= PARTITIONS
        base = width if folded else 0
        work = Work(
            window=window,
            groups=(first, end),
            each=each,
            width=width,
            depth=base + count if folded else width,
            base=base,
            pick=selector(base, count, nl.bfloat16),
            chosen=selector(base, count, nl.float32),
            scale=width**-0.5,
            identity=identity,
            plain=plain,
            masks=[],
        )
        keys = key_tiles(work, k.dtype)
        rooms = None if slot_k == None else slot_rooms(work, slot_k, slot_v)
        for row in range(rows[0], rows[1]):
            tokens = (q, k, v, tail_k, tail_v, segment_pos)
            _row(work, row, keys, rooms, out, lse, tokens, (slot_k, slot_v, distance))
    return out, lse


def share_rows_or_groups(batch, groups):
    """Rows of the batch and key-value heads that this program works on."""
    programs = nl.num_programs(0) if nl.program_ndim() > 0 else 1
    if programs == 1:
        return (0, batch), (0, groups)
    number = nl.program_id(0)
    if batch % programs == 0:
        mine = batch // programs
        return (number * mine, number * mine + mine), (0, groups)
    assert groups % programs == 0, f"{batch} rows and {groups} heads can't be shared by {programs}"
    mine = groups // programs
    return (0, batch), (number * mine, number * mine + mine)


def _row(work, row, keys, rooms, out, lse, tokens, of_slots):
    """Some heads of one row of the batch, tile by tile."""
    q, k, v, tail_k, tail_v, segment_pos = tokens
    length = q.shape[3]
    panels = []
    if tail_k != None:
        held = tail_k.shape[3]
        tile = key_tile(work, held, k.dtype)
        panels.append(load_panel(work, tile, tail_k, tail_v, row, -held, held, 0))
    queries = None
    ready = 0
    loaded = 0
    slots = None
    for chunk, low, high in query_tiles(length, work.window):
        needed = (high + COLUMNS - 1) // COLUMNS
        panels = _still_seen(panels, low - work.window + 1)
        for n in range(loaded, needed):
            begin = n * COLUMNS
            size = min(COLUMNS, length - begin)
            panels.append(load_panel(work, keys[n % len(keys)], k, v, row, begin, size, begin))
        loaded = needed
        if low >= ready:
            ready = min(low + COLUMNS, (chunk + 1) * work.window, length)
            queries = load_queries(work, q, row, low, ready)
        if rooms != None and (slots == None or slots.chunk != chunk):
            slots = load_slots(work, rooms[chunk % len(rooms)], of_slots, row, chunk)
        since = low - chunk * work.window
        column, everywhere = ages_of(segment_pos, row, low, high)
        starts = None if everywhere == None else starts_row(everywhere)
        tile = Tile(row, low, high, since, column, starts)
        _attend(work, tile, panels, queries, slots, out, lse)


def _still_seen(panels, first):
    """Panels that hold token ``first`` or a later one."""
    kept = []
    for panel in panels:
        if panel.start + panel.size > first:
            kept.append(panel)
    return kept


@dataclasses.dataclass
class Tile(nl.NKIObject):
    """Queries that go together, one on each partition.

    Attributes:
      row: of the batch.
      low: the first token.
      high: one past the last.
      since: tokens of the chunk before the first.
      segment_positions: (queries, 1), or None where no document ends.
      starts: of ``starts_row``, or None.
    """

    row: int
    low: int
    high: int
    since: int
    segment_positions: object
    starts: object


def _attend(work, tile, panels, queries, slots, out, lse):
    """Attention of a tile's queries, all heads of the batch."""
    rows = tile.high - tile.low
    heads = (work.groups[0] * work.each, work.groups[1] * work.each)
    count = heads[1] - heads[0]
    place = tile.low - queries.start
    asked = queries.tile[:, :, place : place + rows]
    seen = scores_by_query(work, tile, slots, asked) if fit(slots, asked.dtype) else None
    half = queries.half[:, :, place : place + rows]
    peaks = peaks_of(work, tile, panels, half, slots, seen)
    across = turned(work, peaks)
    if work.base > 0:
        fold(work, queries.tile, place, across)
        across = None

    blocks = _blocks(panels, tile.low - work.window + 1, tile.high)
    masks = _masks(work, tile, blocks, out.dtype)
    weights = []
    if seen != None:
        weights.append(weights_by_query(work, slots, seen, peaks))
    elif slots != None:
        for block in slots.blocks:
            weights.append(_slot_weights(work, tile, slots, block, asked, across, out.dtype))

    mixed = nl.ndarray((rows, count * work.width), dtype=out.dtype, buffer=nl.sbuf)
    logs = nl.ndarray((rows, count), dtype=nl.float32, buffer=nl.sbuf)
    together = COLUMNS // (work.width + 1)
    for first in range(0, count, together):
        end = min(first + together, count)
        total = nl.ndarray((rows, end - first, work.width + 1), dtype=nl.float32, buffer=nl.psum)
        for head in range(first, end):
            dst = total[:, head - first, :]
            _mix_tokens(work, dst, blocks, masks, asked[:, head, :], head, across)
            for n in range(len(weights)):
                _mix_slots(work, dst, slots.blocks[n], weights[n], head)
        _finish(work, mixed, logs, total, first)
    nisa.scalar_tensor_tensor(
        dst=logs,
        data=peaks[:, work.base : work.base + count],
        op0=nl.multiply,
        operand0=-work.scale,
        op1=nl.add,
        operand1=logs,
    )
    store(out[tile.row, tile.low : tile.high, heads[0] : heads[1], :], mixed)
    store(lse[tile.row, tile.low : tile.high, heads[0] : heads[1]], logs)


def _blocks(panels, first, end):
    """Blocks of keys with a token of a range."""
    blocks = []
    for panel in panels:
        for block in panel.blocks:
            if block.start < end and block.start + block.size > first:
                blocks.append(block)
    return blocks


def _masks(work, tile, blocks, dtype):
    """A mask, or None, for each block of keys; without documents they are made once."""
    rows = tile.high - tile.low
    dated = tile.segment_positions != None
    limits = limits_row(tile.starts, rows, work.window) if dated else None
    masks = []
    for block in blocks:
        ahead = tile.low - block.start
        known = False
        for shift, size, count, mask in work.masks:
            if (shift, size, count) == (ahead, block.size, rows):
                masks.append(mask)
                known = True
        if known:
            continue
        if limits == None:
            limits = limits_row(None, rows, work.window)
        mask = window_by_key(limits, ahead, block.size, dtype, dated, work.window)
        if not dated:
            work.masks.append((ahead, block.size, rows, mask))
        masks.append(mask)
    return masks


def _score(work, dst, keys, queries, head, across):
    """Scores less their query's peak, keys on partitions.

    Args:
      work: the heads.
      dst: (keys, queries) of PSUM.
      keys: (depth, keys).
      queries: (depth, queries).
      head: index in the batch of heads.
      across: the peaks, unless the queries hold them.
    """
    nisa.nc_matmul(dst=dst, stationary=keys, moving=queries, accumulate=False)
    if across != None:
        count = work.pick.shape[0]
        nisa.nc_matmul(
            dst=dst,
            stationary=work.pick.ap(pattern=[[count, count], [0, keys.shape[1]]], offset=head),
            moving=across,
            accumulate=True,
        )


def _slot_weights(work, tile, slots, block, asked, across, dtype):
    """Weights of a block of slots: a tile for each set of groups and head of a group."""
    rows, count = asked.shape[2], slots.keys.shape[1]
    mask = slots_by_key(block.distances, tile.starts, rows, tile.since, dtype)
    tiles = []
    for first in range(0, count, block.pack):
        groups = min(block.pack, count - first)
        for r in range(work.each):
            lanes = groups * block.stride
            scores = nl.ndarray((lanes, rows), dtype=nl.float32, buffer=nl.psum)
            for j in range(groups):
                head = (first + j) * work.each + r
                low = j * block.stride
                keys = slots.keys[:, first + j, block.start : block.start + block.stride]
                dst = scores[low : low + block.stride, :]
                _score(work, dst, keys, asked[:, head, :], head, across)
            weights = nl.ndarray((lanes, rows), dtype=dtype, buffer=nl.sbuf)
            nisa.activation(dst=weights, op=nl.exp, data=scores, scale=work.scale)
            hide(weights, mask[0:lanes, :])
            tiles.append(weights)
    return tiles


def _mix_slots(work, total, block, weights, head):
    """Add the weighted values of a block of slots."""
    group = head // work.each
    low = group % block.pack * block.stride
    part = weights[group // block.pack * work.each + head % work.each]
    nisa.nc_matmul(
        dst=total,
        stationary=part[low : low + block.size, :],
        moving=block.values[low : low + block.size, group // block.pack, :],
        accumulate=True,
    )


def _mix_tokens(work, total, blocks, masks, asked, head, across):
    """Weighted values of the window for one head, and the weights' sum in the last column."""
    rows = asked.shape[1]
    group = head // work.each
    started = False
    for first, end in _runs(blocks, COLUMNS // rows):
        held = blocks[first].size
        scores = nl.ndarray((held, end - first, rows), dtype=nl.float32, buffer=nl.psum)
        for i in range(first, end):
            _score(work, scores[:, i - first, :], blocks[i].keys[:, group, :], asked, head, across)
        weights = nl.ndarray(
            (held, end - first, rows), dtype=blocks[0].values.dtype, buffer=nl.sbuf
        )
        nisa.activation(dst=weights, op=nl.exp, data=scores, scale=work.scale)
        for i in range(first, end):
            if masks[i] != None:
                hide(weights[:, i - first, :], masks[i])
            nisa.nc_matmul(
                dst=total,
                stationary=weights[:, i - first, :],
                moving=blocks[i].values[:, group, :],
                accumulate=started,
            )
            started = True


def _runs(blocks, most):
    """(first, end) of runs of at most ``most`` blocks with as many keys."""
    runs = []
    first = 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or end - first == most or blocks[end].size != blocks[first].size:
            runs.append((first, end))
            first = end
    return runs


def _finish(work, mixed, logs, total, first):
    """Outputs of some heads, from head ``first`` on, and logarithms of their sums."""
    rows, count, width = total.shape[0], total.shape[1], work.width
    sums = total[:, :, width : width + 1]
    inverse = nl.ndarray((rows, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=inverse, data=sums)
    for i in range(count):
        nisa.activation(
            dst=mixed[:, (first + i) * width : (first + i + 1) * width],
            op=nl.copy,
            data=total[:, i, 0:width],
            scale=inverse[:, i : i + 1],
        )
    nisa.activation(dst=logs[:, first : first + count], op=nl.log, data=sums)
