"""Attention over window and memory slots, forward.

One softmax over the last W tokens and the slots of the query's chunk. Scores are made twice.
First with queries on partitions and in bfloat16, only to find each query's largest score:
VectorE masks and reduces in one instruction. Then with keys on partitions, so that their
exponentials are what the product with the values takes, without a transposition: the largest
score goes in as further rows of the contraction, the sum of exponentials comes out as a
further column of the values. What is out of sight is masked on GpSimdE after the exponential.
"""

from neuron.kernels.tiles import COLUMNS, PARTITIONS, load, load_on_all, store
from neuron.kernels.visibility import (
    ALL_SEEN,
    HIDDEN,
    ages_of,
    limits_row,
    query_tiles,
    reach_column,
    slots_by_key,
    slots_by_query,
    to_column,
    window_bounds,
    window_by_key,
)
from neuron.nki import nisa, nki, nl

HEADS_BYTES = 24
"""Heads that go together, times the bytes of an element: what fits SBUF."""

QUADRANT = 32


@nki.jit
def memory_attention(
    q,
    k,
    v,
    window,
    age=None,
    tail_k=None,
    tail_v=None,
    slot_k=None,
    slot_v=None,
    distance=None,
):
    """The attention of ``bmojo.ops.attention.memory_attention``, on a grid that starts with it.

    Queries and keys have time last, values have it first, so that no operand needs to be
    transposed.

    Args:
      q: (batch, H, P, L) queries.
      k: (batch, G, P, L) keys, G a divisor of H, P at most 128.
      v: (batch, L, G, P) values.
      window: W, tokens that a query sees, its own included.
      age: (batch, L) tokens of the same document before each token; None: no document starts
        or ends in reach, and what ``tail_k`` holds belongs to it.
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

    bytes_each = 4 if q.dtype == nl.float32 else 2
    together = max(1, HEADS_BYTES // (bytes_each * each))
    for first in range(mine[0], mine[1], together):
        some = (first, min(first + together, mine[1]))
        count = (some[1] - some[0]) * each
        folded = width % QUADRANT == 0 and count <= QUADRANT and width + count <= PARTITIONS
        pick = _selector(width if folded else 0, count)
        for row in range(rows[0], rows[1]):
            _row(
                out,
                lse,
                q,
                k,
                v,
                tail_k,
                tail_v,
                slot_k,
                slot_v,
                distance,
                age,
                window,
                row,
                some,
                each,
                folded,
                pick,
            )
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


def _selector(first, count):
    """Ones at (first + i, i), zeros elsewhere, on partitions 0 to first + count."""
    ones = nl.ndarray((first + count, count), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    nisa.affine_select(
        dst=ones,
        pattern=[[-1, count]],
        channel_multiplier=1,
        on_true_tile=ones,
        on_false_value=0.0,
        cmp_op=nl.equal,
        offset=-first,
    )
    return ones


def _row(
    out,
    lse,
    q,
    k,
    v,
    tail_k,
    tail_v,
    slot_k,
    slot_v,
    distance,
    age,
    window,
    row,
    some,
    each,
    folded,
    pick,
):
    """Some heads of one row of the batch, tile by tile."""
    width, length = q.shape[2], q.shape[3]
    heads = (some[0] * each, some[1] * each)
    count = heads[1] - heads[0]
    depth = width + count if folded else width
    panels = []
    if tail_k != None:
        held = tail_k.shape[3]
        panels.append(_panel(tail_k, tail_v, row, some, -held, held, 0, depth))
    queries = None
    ready = 0
    loaded = 0
    chunk_now = -1
    slots = None
    for chunk, low, high in query_tiles(length, window):
        needed = (high + COLUMNS - 1) // COLUMNS
        panels = _still_seen(panels, low - window + 1)
        for n in range(loaded, needed):
            begin = n * COLUMNS
            size = min(COLUMNS, length - begin)
            panels.append(_panel(k, v, row, some, begin, size, begin, depth))
        loaded = needed
        if low >= ready:
            ready = min(low + COLUMNS, (chunk + 1) * window, length)
            queries = None
            queries = _queries(q, row, heads, low, ready, depth)
        if slot_k != None and chunk != chunk_now:
            slots = None
            slots = _slots(slot_k, slot_v, distance, row, chunk, some, depth)
            chunk_now = chunk
        _tile(
            out,
            lse,
            panels,
            queries,
            slots,
            age,
            row,
            heads,
            each,
            low,
            high,
            low - chunk * window,
            window,
            folded,
            pick,
        )


def _still_seen(panels, first):
    """Panels that hold token ``first`` or a later one."""
    kept = []
    for panel in panels:
        if panel[0] + panel[1] > first:
            kept.append(panel)
    return kept


def _panel(k, v, row, some, start, size, offset, depth):
    """Keys and values of consecutive tokens: (first token, count, K, K in bfloat16, V blocks).

    K has the heads' width on partitions and below it ones. A block of V is (first column,
    count, tile), 128 tokens on partitions at most, and has a column of ones.
    """
    groups, width, length = k.shape[1], k.shape[2], k.shape[3]
    count = some[1] - some[0]
    keys = nl.ndarray((depth, count, size), dtype=k.dtype, buffer=nl.sbuf)
    if depth > width:
        nisa.memset(dst=keys[width:depth, :, :], value=1.0, engine=nisa.engine.gpsimd)
    base = ((row * groups + some[0]) * width) * length + offset
    nisa.dma_copy(
        dst=keys[0:width, :, :],
        src=k.ap(pattern=[[length, width], [width * length, count], [1, size]], offset=base),
    )
    half = _half(keys, width)
    blocks = []
    begin = 0
    for edge in range(PARTITIONS - start % PARTITIONS, size + PARTITIONS, PARTITIONS):
        stop = min(edge, size)
        if stop > begin:
            values = nl.ndarray((stop - begin, count, width + 1), dtype=v.dtype, buffer=nl.sbuf)
            staged = load(v[row, offset + begin : offset + stop, some[0] : some[1], :], v.dtype)
            nisa.memset(dst=values[:, :, width : width + 1], value=1.0)
            nisa.tensor_copy(dst=values[:, :, 0:width], src=staged, engine=nisa.engine.gpsimd)
            blocks.append((begin, stop - begin, values))
            begin = stop
    return (start, size, keys, half, blocks)


def _half(tile, width):
    """The first ``width`` partitions in bfloat16; the tile itself if it is 16 bits wide."""
    if tile.dtype != nl.float32:
        return tile[0:width, :, :]
    copy = nl.ndarray((width, tile.shape[1], tile.shape[2]), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_copy(dst=copy, src=tile[0:width, :, :], engine=nisa.engine.gpsimd)
    return copy


def _queries(q, row, heads, low, high, depth):
    """(first token, Q, Q in bfloat16); the partitions below the heads' width are left open."""
    width, length = q.shape[2], q.shape[3]
    count = heads[1] - heads[0]
    tile = nl.ndarray((depth, count, high - low), dtype=q.dtype, buffer=nl.sbuf)
    base = ((row * q.shape[1] + heads[0]) * width) * length + low
    nisa.dma_copy(
        dst=tile[0:width, :, :],
        src=q.ap(pattern=[[length, width], [width * length, count], [1, high - low]], offset=base),
    )
    return (low, tile, _half(tile, width))


def _slots(slot_k, slot_v, distance, row, chunk, some, depth):
    """The slots of a chunk: (count, K, K in bfloat16, distances on all partitions, blocks).

    Few slots leave most partitions idle, so the slots of several groups share a tile:
    group i * pack + j of the batch is on partitions j * stride to j * stride + count of set i.
    A block is (first slot, count, stride, pack, V, distances as a column).
    """
    chunks, groups, width, size = slot_k.shape[1:]
    count = some[1] - some[0]
    stride = min(PARTITIONS, size)
    for quarter in (2 * QUADRANT, QUADRANT):
        if size <= quarter:
            stride = quarter
    columns = max(size, stride)
    keys = nl.ndarray((depth, count, columns), dtype=slot_k.dtype, buffer=nl.sbuf)
    nisa.memset(dst=keys, value=0.0, engine=nisa.engine.gpsimd)
    if depth > width:
        nisa.memset(dst=keys[width:depth, :, :], value=1.0, engine=nisa.engine.gpsimd)
    base = ((row * chunks + chunk) * groups + some[0]) * width * size
    nisa.dma_copy(
        dst=keys[0:width, :, 0:size],
        src=slot_k.ap(pattern=[[size, width], [width * size, count], [1, size]], offset=base),
    )
    at = (row * chunks + chunk) * size
    everywhere = load_on_all(distance, at, PARTITIONS, size, nl.float32)
    blocks = []
    for begin in range(0, size, PARTITIONS):
        held = min(PARTITIONS, size - begin)
        pack = max(1, min(PARTITIONS // stride, count)) if size <= 2 * QUADRANT else 1
        lanes = pack * stride if size <= 2 * QUADRANT else held
        sets = (count + pack - 1) // pack
        values = nl.ndarray((lanes, sets, width + 1), dtype=slot_v.dtype, buffer=nl.sbuf)
        nisa.memset(dst=values, value=1.0)
        back = nl.ndarray((1, lanes), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=back, value=2.0 * ALL_SEEN)
        for j in range(pack):
            mine = (count - j + pack - 1) // pack
            low = j * stride
            base = ((at + begin) * groups + some[0] + j) * width
            nisa.dma_copy(
                dst=values[low : low + held, 0:mine, 0:width],
                src=slot_v.ap(
                    pattern=[[groups * width, held], [pack * width, mine], [1, width]],
                    offset=base,
                ),
            )
            nisa.dma_copy(
                dst=back[:, low : low + held],
                src=distance[row, chunk : chunk + 1, begin : begin + held],
            )
        blocks.append((begin, held, lanes // pack, pack, values, to_column(back)))
    return (size, keys, _half(keys, width), everywhere, blocks)


def _tile(
    out,
    lse,
    panels,
    queries,
    slots,
    age,
    row,
    heads,
    each,
    low,
    high,
    since,
    window,
    folded,
    pick,
):
    """The queries of one tile, all heads of the batch."""
    width = out.shape[3]
    count = heads[1] - heads[0]
    place = (low - queries[0], high - queries[0])
    column, everywhere = ages_of(age, row, low, high)
    sums = (panels, queries, place, low, high, window)
    base = width if folded else 0
    peaks = _peaks(sums, slots, column, since, each, count, base)
    turned = _turned(peaks, base)
    if folded:
        _fold(queries[1], turned, pick, base, place)
        turned = None

    dtype = out.dtype
    scale = width**-0.5
    blocks = _blocks(panels, low - window + 1, high)
    limits = limits_row(everywhere, high - low, window)
    masks = []
    for start, held, _, _, _, _ in blocks:
        masks.append(window_by_key(limits, start, held, low, dtype, age != None, window))
    weights = []
    if slots != None:
        for block in slots[4]:
            mask = slots_by_key(block[5], everywhere, high - low, since, dtype)
            weights.append(
                _slot_weights(
                    slots[1], block, queries[1], place, mask, each, turned, pick, scale, dtype
                )
            )

    mixed = nl.ndarray((high - low, count * width), dtype=dtype, buffer=nl.sbuf)
    logs = nl.ndarray((high - low, count), dtype=nl.float32, buffer=nl.sbuf)
    together = COLUMNS // (width + 1)
    for first in range(0, count, together):
        end = min(first + together, count)
        total = nl.ndarray((high - low, end - first, width + 1), dtype=nl.float32, buffer=nl.psum)
        for head in range(first, end):
            _mix(
                total[:, head - first, :],
                blocks,
                masks,
                queries[1],
                place,
                head,
                each,
                slots,
                weights,
                turned,
                pick,
                scale,
                dtype,
            )
        _finish(mixed, logs, total, peaks[:, base : base + count], first, width, scale)
    store(out[row, low:high, heads[0] : heads[1], :], mixed)
    store(lse[row, low:high, heads[0] : heads[1]], logs)


def _blocks(panels, first, end):
    """(token, count, panel, column, V, index) of blocks of keys with a token of a range."""
    blocks = []
    for panel in panels:
        for begin, held, values in panel[4]:
            token = panel[0] + begin
            if token < end and token + held > first:
                blocks.append((token, held, panel, begin, values, len(blocks)))
    return blocks


def _peaks(sums, slots, column, since, each, count, base):
    """Minus the largest score of each query and head, in bfloat16, from column ``base`` on."""
    panels, queries, place, low, high, window = sums
    rows = high - low
    first_key = max(low - window + 1, panels[0][0])
    banks = (high - first_key + COLUMNS - 1) // COLUMNS
    parts = banks + (1 if slots != None else 0)
    found = nl.ndarray((rows, count, parts), dtype=nl.float32, buffer=nl.sbuf)
    least, most = window_bounds(column, rows, low, first_key, window)
    for head in range(count):
        asked = queries[2][:, head, place[0] : place[1]]
        for bank in range(banks):
            begin = first_key + bank * COLUMNS
            stop = min(begin + COLUMNS, high)
            scores = nl.ndarray((rows, stop - begin), dtype=nl.float32, buffer=nl.psum)
            for panel in panels:
                start = max(begin, panel[0])
                end = min(stop, panel[0] + panel[1])
                if end > start:
                    nisa.nc_matmul(
                        dst=scores[:, start - begin : end - begin],
                        stationary=asked,
                        moving=panel[3][:, head // each, start - panel[0] : end - panel[0]],
                        accumulate=False,
                    )
            seen = nl.ndarray((rows, stop - begin), dtype=nl.float32, buffer=nl.sbuf)
            nisa.range_select(
                dst=seen,
                on_true_tile=scores,
                comp_op0=nl.greater_equal,
                comp_op1=nl.less_equal,
                bound0=least,
                bound1=most,
                range_start=bank * COLUMNS,
                reduce_cmd=nisa.reduce_cmd.reset_reduce,
                reduce_res=found[:, head, bank : bank + 1],
            )
    if slots != None:
        reach = reach_column(column, rows, since)
        penalty = slots_by_query(slots[3], reach, 0.0, HIDDEN, nl.greater)
        _slot_peaks(found[:, :, banks : banks + 1], slots, queries[2], place, penalty, each)

    peaks = nl.ndarray((rows, base + count), dtype=nl.bfloat16, buffer=nl.sbuf)
    if base > 0:
        nisa.memset(dst=peaks[:, 0:base], value=0.0, engine=nisa.engine.gpsimd)
    nisa.tensor_reduce(
        dst=peaks[:, base : base + count], op=nl.maximum, data=found, axis=2, negate=True
    )
    return peaks


def _slot_peaks(found, slots, queries, place, penalty, each):
    """The largest score among the slots that each query sees, for each head."""
    rows, count = found.shape[0], found.shape[1]
    size = slots[0]
    identity = _selector(0, rows)
    together = max(1, COLUMNS // size)
    for first in range(0, count, together):
        end = min(first + together, count)
        scores = nl.ndarray((rows, end - first, size), dtype=nl.float32, buffer=nl.psum)
        for head in range(first, end):
            nisa.nc_matmul(
                dst=scores[:, head - first, :],
                stationary=queries[:, head, place[0] : place[1]],
                moving=slots[2][:, head // each, 0:size],
                accumulate=False,
            )
        nisa.nc_matmul(
            dst=scores,
            stationary=identity,
            moving=penalty.ap(pattern=[[size, rows], [0, end - first], [1, size]], offset=0),
            accumulate=True,
        )
        nisa.tensor_reduce(dst=found[:, first:end, :], op=nl.maximum, data=scores, axis=2)


def _turned(peaks, base):
    """Peaks with heads on partitions ``base`` and after, queries on the free axis."""
    rows, columns = peaks.shape
    across = nl.ndarray((columns, rows), dtype=nl.bfloat16, buffer=nl.psum)
    nisa.nc_transpose(dst=across, data=peaks)
    turned = nl.ndarray((columns, rows), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_copy(
        dst=turned[base:columns, :], src=across[base:columns, :], engine=nisa.engine.scalar
    )
    return turned


def _fold(queries, turned, pick, base, place):
    """Each head's peak as a further row of its queries; the rows of other heads are zero."""
    end, rows = turned.shape
    count = end - base
    nisa.tensor_tensor(
        dst=queries[base:end, :, place[0] : place[1]],
        data1=turned.ap(pattern=[[rows, count], [0, count], [1, rows]], offset=base * rows),
        data2=pick.ap(pattern=[[count, count], [1, count], [0, rows]], offset=base * count),
        op=nl.multiply,
        engine=nisa.engine.gpsimd,
    )


def _score(dst, keys, queries, head, turned, pick):
    """Scores less their query's peak, keys on partitions.

    Args:
      dst: (keys, queries) of PSUM.
      keys: (depth, keys).
      queries: (depth, queries).
      head: index in the batch of heads.
      turned: the peaks, unless the queries hold them.
      pick: ones on the diagonal.
    """
    nisa.nc_matmul(dst=dst, stationary=keys, moving=queries, accumulate=False)
    if turned != None:
        count = pick.shape[0]
        nisa.nc_matmul(
            dst=dst,
            stationary=pick.ap(pattern=[[count, count], [0, keys.shape[1]]], offset=head),
            moving=turned,
            accumulate=True,
        )


def _slot_weights(keys, block, queries, place, mask, each, turned, pick, scale, dtype):
    """Weights of a block of slots: a tile for each set of groups and head of a group."""
    begin, held, stride, pack, values, _ = block
    count = keys.shape[1]
    rows = place[1] - place[0]
    columns = stride if pack * stride == values.shape[0] and begin == 0 else held
    tiles = []
    for first in range(0, count, pack):
        groups = min(pack, count - first)
        for r in range(each):
            scores = nl.ndarray((groups * columns, rows), dtype=nl.float32, buffer=nl.psum)
            for j in range(groups):
                head = (first + j) * each + r
                _score(
                    scores[j * columns : (j + 1) * columns, :],
                    keys[:, first + j, begin : begin + columns],
                    queries[:, head, place[0] : place[1]],
                    head,
                    turned,
                    pick,
                )
            tile = nl.ndarray((groups * columns, rows), dtype=dtype, buffer=nl.sbuf)
            nisa.activation(dst=tile, op=nl.exp, data=scores, scale=scale)
            _hide(tile, mask[0 : groups * columns, :])
            tiles.append(tile)
    return tiles


def _hide(weights, mask):
    """Weights of what is out of sight become zero."""
    nisa.tensor_tensor(
        dst=weights, data1=weights, data2=mask, op=nl.minimum, engine=nisa.engine.gpsimd
    )


def _mix(
    total, blocks, masks, queries, place, head, each, slots, weights, turned, pick, scale, dtype
):
    """The sum of weighted values of one head, and of the weights in its last column."""
    rows = place[1] - place[0]
    asked = queries[:, head, place[0] : place[1]]
    group = head // each
    started = False
    most = COLUMNS // rows
    for first, end in _runs(blocks, most):
        held = blocks[first][1]
        scores = nl.ndarray((held, end - first, rows), dtype=nl.float32, buffer=nl.psum)
        for i in range(first, end):
            column = blocks[i][3]
            keys = blocks[i][2][2][:, group, column : column + held]
            _score(scores[:, i - first, :], keys, asked, head, turned, pick)
        tile = nl.ndarray((held, end - first, rows), dtype=dtype, buffer=nl.sbuf)
        nisa.activation(dst=tile, op=nl.exp, data=scores, scale=scale)
        for i in range(first, end):
            if masks[i] != None:
                _hide(tile[:, i - first, :], masks[i])
            nisa.nc_matmul(
                dst=total,
                stationary=tile[:, i - first, :],
                moving=blocks[i][4][:, group, :],
                accumulate=started,
            )
            started = True
    if slots == None:
        return
    for n in range(len(weights)):
        _, held, stride, pack, values, _ = slots[4][n]
        low = group % pack * stride
        part = weights[n][group // pack * each + head % each]
        nisa.nc_matmul(
            dst=total,
            stationary=part[low : low + held, :],
            moving=values[low : low + held, group // pack, :],
            accumulate=True,
        )


def _runs(blocks, most):
    """(first, end) of runs of at most ``most`` blocks with as many keys."""
    runs = []
    first = 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or end - first == most or blocks[end][1] != blocks[first][1]:
            runs.append((first, end))
            first = end
    return runs


def _finish(mixed, logs, total, peaks, first, width, scale):
    """Outputs and logarithms of the sums of some heads, from head ``first`` on."""
    rows, count = total.shape[0], total.shape[1]
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
    logarithms = nl.ndarray((rows, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=logarithms, op=nl.log, data=sums)
    nisa.scalar_tensor_tensor(
        dst=logs[:, first : first + count],
        data=peaks[:, first : first + count],
        op0=nl.multiply,
        operand0=-scale,
        op1=nl.add,
        operand1=logarithms,
    )
