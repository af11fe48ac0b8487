"""What several kernels need: limits, tiles loaded from HBM, a program's share of the work."""

from neuron.nki import nisa, nl

PARTITIONS = 128
COLUMNS = 512
"""Time steps of a tile: one PSUM bank, and long enough to hide fixed costs."""


def share(count):
    """First and one past the last of ``count`` equal units that this program works on."""
    if nl.program_ndim() == 0:
        return 0, count
    programs = nl.num_programs(0)
    assert count % programs == 0, f"{count} units can't be shared by {programs} programs"
    mine = count // programs
    first = nl.program_id(0) * mine
    return first, first + mine


def cut(first, end, size):
    """(begin, stop) of the parts of a range, each of ``size`` but the last."""
    parts = []
    for begin in range(first, end, size):
        parts.append((begin, min(begin + size, end)))
    return parts


def cut_channels(channels):
    """(low, high) of this program's tiles of channels."""
    first, end = share((channels + PARTITIONS - 1) // PARTITIONS)
    return cut(first * PARTITIONS, min(end * PARTITIONS, channels), PARTITIONS)


def load(source, dtype):
    """A tile with what a two-dimensional view of HBM holds, converted if need be."""
    tile = nl.ndarray(source.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source)
    return tile


def load_as(source, dtype):
    """A tile of some dtype, converted on the chip if need be."""
    return as_dtype(load(source, source.dtype), dtype)


def as_dtype(tile, dtype):
    """The tile itself if it is of that dtype, else a converted one."""
    if tile.dtype == dtype:
        return tile
    other = nl.ndarray(tile.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.activation(dst=other, op=nl.copy, data=tile)
    return other


def load_on_all(source, offset, partitions, columns, dtype):
    """Each partition holds the same ``columns`` elements of HBM from ``offset`` on."""
    tile = nl.ndarray((partitions, columns), dtype=dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source.ap(pattern=[[0, partitions], [1, columns]], offset=offset))
    return tile


def history(x, tail, place, span, dtype):
    """Columns ``begin - span`` to ``stop``, what lies before the call from the tail.

    Args:
      x: (batch, D, L).
      tail: (batch, D, at least span), the columns before the call, in order of time.
      place: row of the batch, first channel and one past the last, ``begin`` and ``stop``.
      span: columns before ``begin``.
      dtype: of the tile.
    """
    row, low, high, begin, stop = place
    tile = nl.ndarray((high - low, span + stop - begin), dtype=dtype, buffer=nl.sbuf)
    known = min(span, begin)
    if known < span:
        held = tail.shape[2]
        nisa.dma_copy(
            dst=tile[:, 0 : span - known],
            src=tail[row, low:high, held - span + begin : held],
        )
    nisa.dma_copy(
        dst=tile[:, span - known : span + stop - begin],
        src=x[row, low:high, begin - known : stop],
    )
    return tile


def store(target, tile):
    """What a tile holds, written to HBM, converted if need be."""
    nisa.dma_copy(dst=target, src=tile)


def parts_of(result):
    """Where programs write their parts of a sum over programs, and at which index this one.

    Args:
      result: (2, rows, columns), the sum, in HBM.

    Returns:
      (programs, 2, rows, columns) in HBM; one program writes straight into ``result``.
    """
    halves, rows, columns = result.shape
    if nl.program_ndim() == 0 or nl.num_programs(0) == 1:
        return result.reshape((1, halves, rows, columns)), 0
    shape = (nl.num_programs(0), halves, rows, columns)
    return nl.ndarray(shape, dtype=nl.float32, buffer=nl.shared_hbm), nl.program_id(0)


def join(result, parts, mine):
    """Add the parts of two programs up: each does one half of ``result``."""
    if parts.shape[0] == 1:
        return
    _, rows, columns = result.shape
    nisa.core_barrier(data=parts, cores=(0, 1))
    for low in range(0, rows, PARTITIONS):
        high = min(low + PARTITIONS, rows)
        for begin in range(0, columns, COLUMNS):
            stop = min(begin + COLUMNS, columns)
            one = load(parts[0, mine, low:high, begin:stop], nl.float32)
            other = load(parts[1, mine, low:high, begin:stop], nl.float32)
            total = nl.ndarray((high - low, stop - begin), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_tensor(dst=total, data1=one, data2=other, op=nl.add)
            store(result[mine, low:high, begin:stop], total)
