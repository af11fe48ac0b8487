"""What the attention kernel reads: keys and values of tokens and slots, as tiles."""

import dataclasses

from neuron.kernels.tiles import COLUMNS, PARTITIONS, load, load_on_all
from neuron.kernels.visibility import ALL_SEEN, a_one, to_column
from neuron.nki import nisa, nl

QUADRANT = 32


@dataclasses.dataclass
class Work(nl.NKIObject):
    """What a program does at a time: some key-value heads and their query heads.

    Attributes:
      window: W.
      groups: first and one past the last of the key-value heads.
      each: query heads to a key-value head.
      width: P.
      depth: rows of a contraction that makes scores: P, and a row for each query head if the
        peaks are folded into it.
      base: the first of those rows, 0 if there are none.
      pick: ones at (base + i, i), bfloat16.
      chosen: the same in float32.
      scale: of the scores.
      identity: (128, 128), bfloat16.
      plain: the same in float32, for operands in float32; else None.
      masks: (shift, keys, queries, mask) of masks that many tiles share.
    """

    window: int
    groups: tuple
    each: int
    width: int
    depth: int
    base: int
    pick: object
    chosen: object
    scale: float
    identity: object
    plain: object
    masks: list


@dataclasses.dataclass
class Panel(nl.NKIObject):
    """Keys and values of consecutive tokens.

    Attributes:
      start: the first token; those before the call are negative.
      size: how many.
      keys: (depth, groups, size or more).
      half: (P, groups, size or more) the keys in bfloat16.
      blocks: of values.
    """

    start: int
    size: int
    keys: object
    half: object
    blocks: list


@dataclasses.dataclass
class Block(nl.NKIObject):
    """At most 128 tokens of a panel, between two multiples of 128.

    Attributes:
      start: the first token.
      size: how many.
      keys: (depth, groups, size).
      values: (size, groups, P + 1), the last column ones.
    """

    start: int
    size: int
    keys: object
    values: object


@dataclasses.dataclass
class Queries(nl.NKIObject):
    """Queries of consecutive tokens.

    Attributes:
      start: the first token.
      tile: (depth, heads, tokens); below P it is for the peaks.
      half: (P, heads, tokens) in bfloat16.
    """

    start: int
    tile: object
    half: object


@dataclasses.dataclass
class SlotTiles(nl.NKIObject):
    """The slots of a chunk.

    Attributes:
      chunk: which.
      size: M.
      keys: (depth, groups, M or more), zeros beyond M.
      half: (P, groups, M or more) in bfloat16.
      distances: (128, M), every partition the same.
      blocks: of values.
    """

    chunk: int
    size: int
    keys: object
    half: object
    distances: object
    blocks: list


@dataclasses.dataclass
class SlotBlock(nl.NKIObject):
    """At most 128 slots of a chunk, of several groups if they are few.

    Few slots leave most partitions idle, so group i * pack + j of the batch is on partitions
    j * stride and after, in set i.

    Attributes:
      start: the first slot.
      size: how many.
      pack: groups that share the partitions.
      stride: partitions from one to the next.
      values: (pack * stride, sets, P + 1), the last column ones.
      distances: (pack * stride, 1), those of an empty slot on partitions between.
    """

    start: int
    size: int
    pack: int
    stride: int
    values: object
    distances: object


def key_tiles(work, dtype):
    """Tiles for the keys of as many panels as a query sees and one more, with rows of ones.

    The panels take turns in them, so that the ones are written once.
    """
    tiles = []
    panels = (work.window + PARTITIONS + COLUMNS - 2) // COLUMNS + 1
    for _ in range(panels):
        tiles.append(key_tile(work, COLUMNS, dtype))
    return tiles


def key_tile(work, size, dtype):
    """A tile for keys, with ones below the heads' width."""
    count = work.groups[1] - work.groups[0]
    tile = nl.ndarray((work.depth, count, size), dtype=dtype, buffer=nl.sbuf)
    if work.depth > work.width:
        below = tile[work.width : work.depth, :, :]
        nisa.memset(dst=below, value=1.0, engine=nisa.engine.gpsimd)
    return tile


def selector(first, count, dtype):
    """Ones at (first + i, i), zeros elsewhere, on partitions 0 to first + count."""
    ones = nl.ndarray((first + count, count), dtype=dtype, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0, engine=nisa.engine.gpsimd)
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


def load_panel(work, keys, k, v, row, start, size, offset):
    """The panel of ``size`` tokens that stand at ``offset`` in ``k`` and ``v``."""
    groups, width, length = k.shape[1], k.shape[2], k.shape[3]
    count = work.groups[1] - work.groups[0]
    base = ((row * groups + work.groups[0]) * width) * length + offset
    nisa.dma_copy(
        dst=keys[0:width, :, 0:size],
        src=k.ap(pattern=[[length, width], [width * length, count], [1, size]], offset=base),
    )
    blocks = []
    begin = 0
    for edge in range(PARTITIONS - start % PARTITIONS, size + PARTITIONS, PARTITIONS):
        stop = min(edge, size)
        if stop > begin:
            source = v[row, offset + begin : offset + stop, work.groups[0] : work.groups[1], :]
            values = nl.ndarray((stop - begin, count, width + 1), dtype=v.dtype, buffer=nl.sbuf)
            nisa.memset(dst=values[:, :, width : width + 1], value=1.0, engine=nisa.engine.gpsimd)
            nisa.tensor_copy(dst=values[:, :, 0:width], src=load(source, v.dtype))
            blocks.append(Block(start + begin, stop - begin, keys[:, :, begin:stop], values))
            begin = stop
    return Panel(start, size, keys, _half(keys, width, size), blocks)


def load_queries(work, q, row, low, high):
    """The queries of tokens ``low`` to ``high``."""
    width, length = q.shape[2], q.shape[3]
    first = work.groups[0] * work.each
    count = work.groups[1] * work.each - first
    tile = nl.ndarray((work.depth, count, high - low), dtype=q.dtype, buffer=nl.sbuf)
    base = ((row * q.shape[1] + first) * width) * length + low
    nisa.dma_copy(
        dst=tile[0:width, :, :],
        src=q.ap(pattern=[[length, width], [width * length, count], [1, high - low]], offset=base),
    )
    return Queries(low, tile, _half(tile, width, high - low))


def _half(tile, width, size):
    """The first ``width`` partitions in bfloat16; a view of the tile if it is 16 bits wide."""
    if tile.dtype != nl.float32:
        return tile[0:width, :, :]
    copy = nl.ndarray((width, tile.shape[1], size), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_copy(dst=copy, src=tile[0:width, :, 0:size], engine=nisa.engine.gpsimd)
    return copy


@dataclasses.dataclass
class SlotRoom(nl.NKIObject):
    """Tiles for the slots of a chunk; what is written once is there: ones, zeros, empty slots.

    Attributes:
      keys: as in :class:`SlotTiles`.
      values: of each block, as in :class:`SlotBlock`.
      back: of each block, (1, pack * stride) distances.
      pack: groups that share the partitions.
      stride: partitions from one to the next, if there is one block.
    """

    keys: object
    values: list
    back: list
    pack: int
    stride: int


def slot_rooms(work, slot_k, slot_v):
    """Rooms for two chunks, which take turns."""
    count = work.groups[1] - work.groups[0]
    size = slot_k.shape[4]
    stride = min(PARTITIONS, size)
    if size <= 2 * QUADRANT:
        stride = QUADRANT if size <= QUADRANT else 2 * QUADRANT
    pack = min(PARTITIONS // stride, count)
    sets = (count + pack - 1) // pack
    rooms = []
    for _ in range(2):
        keys = key_tile(work, max(size, stride), slot_k.dtype)
        nisa.memset(dst=keys[0 : work.width, :, :], value=0.0, engine=nisa.engine.gpsimd)
        room = SlotRoom(keys, [], [], pack, stride)
        for begin in range(0, size, PARTITIONS):
            lanes = pack * stride if size <= PARTITIONS else min(PARTITIONS, size - begin)
            values = nl.ndarray((lanes, sets, work.width + 1), dtype=slot_v.dtype, buffer=nl.sbuf)
            nisa.memset(dst=values, value=1.0, engine=nisa.engine.gpsimd)
            back = nl.ndarray((1, lanes), dtype=nl.float32, buffer=nl.sbuf)
            nisa.memset(dst=back, value=2.0 * ALL_SEEN, engine=nisa.engine.gpsimd)
            room.values.append(values)
            room.back.append(back)
        rooms.append(room)
    return rooms


def load_slots(work, room, operands, row, chunk):
    """The slots of a chunk, from all keys, values and distances of slots."""
    slot_k, slot_v, distance = operands
    chunks, groups, width, size = slot_k.shape[1:]
    count = work.groups[1] - work.groups[0]
    base = ((row * chunks + chunk) * groups + work.groups[0]) * width * size
    nisa.dma_copy(
        dst=room.keys[0:width, :, 0:size],
        src=slot_k.ap(pattern=[[size, width], [width * size, count], [1, size]], offset=base),
    )
    at = (row * chunks + chunk) * size
    blocks = []
    for n in range(len(room.values)):
        begin = n * PARTITIONS
        held = min(PARTITIONS, size - begin)
        for j in range(room.pack):
            mine = (count - j + room.pack - 1) // room.pack
            low = j * room.stride
            base = ((at + begin) * groups + work.groups[0] + j) * width
            nisa.dma_copy(
                dst=room.values[n][low : low + held, 0:mine, 0:width],
                src=slot_v.ap(
                    pattern=[[groups * width, held], [room.pack * width, mine], [1, width]],
                    offset=base,
                ),
            )
            nisa.dma_copy(
                dst=room.back[n][:, low : low + held],
                src=distance[row, chunk : chunk + 1, begin : begin + held],
            )
        step = room.values[n].shape[0] // room.pack
        back = to_column(room.back[n], a_one())
        blocks.append(SlotBlock(begin, held, room.pack, step, room.values[n], back))
    everywhere = load_on_all(distance, at, PARTITIONS, size, nl.float32)
    half = _half(room.keys, width, room.keys.shape[2])
    return SlotTiles(chunk, size, room.keys, half, everywhere, blocks)
