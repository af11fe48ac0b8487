"""Matrices of zeros and ones in SBUF, and what TensorE does with them.

TensorE sums over partitions, so that a product with such a matrix moves data between
partitions: it transposes, copies a row to all partitions, or adds rows up.
"""

from neuron.kernels.tiles import PARTITIONS, cut
from neuron.nki import nisa, nl


def filled(partitions, columns, value):
    """A float32 tile that holds one number everywhere."""
    tile = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=tile, value=value)
    return tile


def ones_where(compare, partitions=PARTITIONS, columns=PARTITIONS, offset=0):
    """Float32 1 where ``compare(partition - column + offset, 0)``, else 0."""
    tile = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.affine_select(
        dst=tile,
        pattern=[[-1, columns]],
        offset=offset,
        channel_multiplier=1,
        on_true_tile=filled(partitions, columns, 1.0),
        on_false_value=0.0,
        cmp_op=compare,
    )
    return tile


def identity(dtype=nl.float32):
    """The largest identity matrix."""
    eye = ones_where(nl.equal)
    if dtype == nl.float32:
        return eye
    other = nl.ndarray(eye.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=other, src=eye)
    return other


def blocks(columns):
    """(begin, end) of the stretches of up to 128 columns, each a block of its own."""
    return cut(0, columns, PARTITIONS)


def spans(columns):
    """(begin, end, width) of all whole blocks together, and of the ragged one."""
    whole = columns // PARTITIONS * PARTITIONS
    found = []
    if whole > 0:
        found.append((0, whole, PARTITIONS))
    if whole < columns:
        found.append((whole, columns, columns - whole))
    return found


def on_all(selectors, column, rows, partitions):
    """The sum of some rows of a tile on all partitions.

    Args:
      selectors: a whole 0/1 tile.
      column: which of its columns chooses the rows; a column of the identity chooses one.
      rows: (rows, columns), at most one PSUM bank.
      partitions: of the result.
    """
    count, columns = rows.shape
    pattern = [[selectors.shape[1], count], [0, partitions]]
    spread = selectors.ap(pattern=pattern, offset=column)
    product = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=product, stationary=spread, moving=rows, is_stationary_onezero=True, accumulate=False
    )
    tile = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=tile, op=nl.copy, data=product)
    return tile


def turned(tile, dtype, eye, cuts=None):
    """The transposes of stretches of a tile's columns, (128, stretches, partitions).

    Args:
      tile: (partitions, columns).
      dtype: of the result.
      eye: the identity in the dtype of ``tile``; a moving operand of zeros and ones is twice
        as fast in float32.
      cuts: (begin, end) of the stretches, each at most 128 columns; all of them together
        fill at most one PSUM bank. None: blocks of 128.
    """
    partitions, columns = tile.shape
    cuts = blocks(columns) if cuts == None else cuts
    product = nl.ndarray((PARTITIONS, len(cuts), partitions), dtype=tile.dtype, buffer=nl.psum)
    result = nl.ndarray((PARTITIONS, len(cuts), partitions), dtype=dtype, buffer=nl.sbuf)
    for i in range(len(cuts)):
        begin, end = cuts[i]
        nisa.nc_matmul(
            dst=product[0 : end - begin, i, :],
            stationary=tile[:, begin:end],
            moving=eye[0:partitions, 0:partitions],
            is_transpose=True,
            is_moving_onezero=True,
        )
    low = 0
    for i in range(len(cuts)):
        width = cuts[i][1] - cuts[i][0]
        if i + 1 == len(cuts) or cuts[i + 1][1] - cuts[i + 1][0] != width:
            nisa.activation(
                dst=result[0:width, low : i + 1, :],
                op=nl.copy,
                data=product[0:width, low : i + 1, :],
            )
            low = i + 1
    return result
