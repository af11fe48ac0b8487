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


def load(source, dtype):
    """A tile with what a two-dimensional view of HBM holds, converted if need be."""
    tile = nl.ndarray(source.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source)
    return tile


def load_on_all(source, offset, partitions, columns, dtype):
    """Each partition holds the same ``columns`` elements of HBM from ``offset`` on."""
    tile = nl.ndarray((partitions, columns), dtype=dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source.ap(pattern=[[0, partitions], [1, columns]], offset=offset))
    return tile


def store(target, tile):
    """What a tile holds, written to HBM, converted if need be."""
    nisa.dma_copy(dst=target, src=tile)
