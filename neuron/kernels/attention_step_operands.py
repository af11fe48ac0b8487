"""Queries, keys and values of one new token of each row, as TensorE takes them.

A product of the step has a column or two to move, and the least that one takes is 64. So heads of
64 partitions or fewer go in sets: their keys and values lie side by side, and the queries of one
have zeros where the others are.
"""

from neuron.kernels.attention_operands import QUADRANT
from neuron.kernels.tiles import PARTITIONS, load
from neuron.nki import nisa, nl


class Sets(nl.NKIObject):
    """Groups that share the partitions, group s * pack + j on those from j * P on in set s.

    Args:
      groups: G.
      each: query heads of a group.
      width: P.

    Attributes:
      pack: groups of a set.
      count: sets; the last may have fewer groups.
      lanes: partitions of a set.
    """

    def __init__(self, groups, each, width):
        self.groups = groups
        self.each = each
        self.width = width
        self.pack = min(PARTITIONS // width, groups) if width % QUADRANT == 0 else 1
        self.count = (groups + self.pack - 1) // self.pack
        self.lanes = self.pack * width

    def held(self, number):
        """Groups of a set."""
        return min(self.pack, self.groups - number * self.pack)

    def alike(self):
        """(first, end, lanes) of the whole sets together, and of the ragged one."""
        whole = self.groups // self.pack
        found = [(0, whole, self.lanes)]
        if whole < self.count:
            found.append((whole, self.count, self.held(whole) * self.width))
        return found

    def having(self, place):
        """Sets with a group in a place."""
        return (self.groups - place + self.pack - 1) // self.pack


def load_queries(q, sets, low, high):
    """Queries of some rows, (lanes, rows, heads), zeros where another group's keys are."""
    rows, heads, width = high - low, q.shape[1], q.shape[2]
    count = rows * heads
    tile = nl.ndarray((count, sets.lanes), dtype=q.dtype, buffer=nl.sbuf)
    source = q.ap(pattern=[[width, count], [1, width]], offset=low * heads * width)
    for j in range(sets.pack):
        nisa.dma_copy(dst=tile[:, j * width : (j + 1) * width], src=source)
    across = nl.ndarray((sets.lanes, rows, heads), dtype=q.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=across, data=tile, engine=nisa.engine.tensor)
    asked = nl.ndarray((sets.lanes, rows, heads), dtype=q.dtype, buffer=nl.sbuf)
    if sets.pack > 1:
        nisa.memset(dst=asked, value=0.0, engine=nisa.engine.gpsimd)
    for j in range(sets.pack):
        pattern = [
            [count, width],
            [heads, rows],
            [sets.pack * sets.each, sets.having(j)],
            [1, sets.each],
        ]
        offset = j * width * count + j * sets.each
        nisa.tensor_copy(
            dst=asked.ap(pattern=pattern, offset=offset),
            src=across.ap(pattern=pattern, offset=offset),
        )
    return asked


def load_new_keys(k, sets, low, high):
    """Keys of the new tokens, (lanes, sets, rows)."""
    batch, groups, width = k.shape
    rows = high - low
    tile = load(k.reshape((batch, groups * width))[low:high, :], k.dtype)
    across = nl.ndarray((sets.lanes, sets.count, rows), dtype=k.dtype, buffer=nl.psum)
    new = nl.ndarray((sets.lanes, sets.count, rows), dtype=k.dtype, buffer=nl.sbuf)
    for s in range(sets.count):
        lanes = sets.held(s) * width
        nisa.nc_transpose(
            dst=across[0:lanes, s, :],
            data=tile[:, s * sets.lanes : s * sets.lanes + lanes],
            engine=nisa.engine.tensor,
        )
    for first, end, lanes in sets.alike():
        nisa.tensor_copy(dst=new[0:lanes, first:end, :], src=across[0:lanes, first:end, :])
    return new


def load_keys(source, sets, row, more):
    """One row of (batch, G, P, keys) as (lanes, sets, keys), with room for ``more`` keys."""
    groups, width, count = source.shape[1:]
    tile = nl.ndarray((sets.lanes, sets.count, count + more), dtype=source.dtype, buffer=nl.sbuf)
    base = row * groups * width * count
    for first, end, lanes in sets.alike():
        pattern = [[count, lanes], [sets.lanes * count, end - first], [1, count]]
        nisa.dma_copy(
            dst=tile[0:lanes, first:end, 0:count],
            src=source.ap(pattern=pattern, offset=base + first * sets.lanes * count),
        )
    return tile


def load_own_values(v, slots, part, at):
    """Values of a part's slots, and of the new token if it is in the part."""
    groups, width = v.shape[1], v.shape[2]
    tile = nl.ndarray((part.size, groups, width), dtype=v.dtype, buffer=nl.sbuf)
    count = 0 if slots == None else slots[1].shape[1]
    held = min(part.begin + part.size, count) - part.begin
    if held > 0:
        nisa.dma_copy(dst=tile[0:held, :, :], src=slots[1][at, part.begin : part.begin + held])
    if held < part.size:
        nisa.dma_copy(dst=tile[held : part.size, :, :], src=v[at : at + 1, :, :])
    return tile
