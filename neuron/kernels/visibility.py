"""Which keys a query sees, as bounds and masks that all heads share.

A mask holds ``SEEN`` where the key is seen and 0 where not, and is applied to exponentials by
a minimum: what is hidden becomes zero even if its exponential is infinite.
"""

from neuron.kernels.matrices import on_all
from neuron.kernels.tiles import PARTITIONS, load
from neuron.nki import nisa, nl

SEEN = 3.0e38
"""A mask where the key is seen: more than any exponential of a seen key."""

HIDDEN = -1.0e30
"""Added to the score of a slot that is out of sight, where scores are compared."""

ALL_SEEN = 2.0**29
"""Reach where no document ends: more than any token's distance, less than an empty slot's."""


def hide(weights, mask):
    """Weights of what is out of sight become zero."""
    nisa.tensor_tensor(
        dst=weights, data1=weights, data2=mask, op=nl.minimum, engine=nisa.engine.gpsimd
    )


def query_tiles(length, window):
    """(chunk, first query, one past the last) of tiles that no chunk edge cuts."""
    tiles = []
    for chunk in range((length + window - 1) // window):
        end = min((chunk + 1) * window, length)
        for low in range(chunk * window, end, PARTITIONS):
            tiles.append((chunk, low, min(low + PARTITIONS, end)))
    return tiles


def ramp(partitions, columns, offset, slope, step):
    """``offset + slope * partition + step * column`` in float32."""
    tile = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.iota(dst=tile, pattern=[[step, columns]], offset=offset, channel_multiplier=slope)
    return tile


def a_one():
    """A tile that holds one 1."""
    one = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=one, value=1.0)
    return one


def to_column(row, one):
    """A row (1, n) of float32 as a column (n, 1), by :func:`a_one`."""
    columns = row.shape[1]
    turned = nl.ndarray((columns, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=turned, stationary=row, moving=one, accumulate=False)
    column = nl.ndarray((columns, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=column, op=nl.copy, data=turned)
    return column


def segment_pos_column(segment_pos, row, low, high):
    """Positions of some queries in their documents, a column."""
    return to_column(load(segment_pos[row : row + 1, low:high], nl.float32), a_one())


def segment_positions_of(segment_pos, row, low, high):
    """Positions of some queries in their documents, as a column and a row; None, None without."""
    if segment_pos == None:
        return None, None
    one = a_one()
    segment_positions = load(segment_pos[row : row + 1, low:high], nl.float32)
    return to_column(segment_positions, one), on_all(one, 0, segment_positions, PARTITIONS)


# Queries on partitions.


def window_bounds(segment_positions, queries, low, first_key, window):
    """First and last column that each query sees, column 0 being token ``first_key``."""
    last = ramp(queries, 1, low - first_key, 1, 0)
    first = nl.ndarray((queries, 1), dtype=nl.float32, buffer=nl.sbuf)
    if segment_positions == None:
        nisa.tensor_scalar(dst=first, data=last, op0=nl.subtract, operand0=float(window - 1))
        return first, last
    nisa.scalar_tensor_tensor(
        dst=first,
        data=segment_positions,
        op0=nl.minimum,
        operand0=float(window - 1),
        op1=nl.subtract,
        operand1=last,
        reverse1=True,
    )
    return first, last


def reach_column(segment_positions, queries, since):
    """How far back from the chunk's first token each query's document goes."""
    reach = nl.ndarray((queries, 1), dtype=nl.float32, buffer=nl.sbuf)
    if segment_positions == None:
        nisa.memset(dst=reach, value=ALL_SEEN, engine=nisa.engine.gpsimd)
    else:
        place = ramp(queries, 1, since, 1, 0)
        nisa.tensor_tensor(
            dst=reach,
            data1=segment_positions,
            data2=place,
            op=nl.subtract,
            engine=nisa.engine.gpsimd,
        )
    return reach


def slots_by_query(distances, reach, seen, unseen, op):
    """``seen`` or ``unseen`` for each query and slot: (queries, slots) of bfloat16.

    Args:
      distances: (128, slots), each partition the same.
      reach: (queries, 1).
      seen: value where a slot is seen; one of the two must be 0.
      unseen: value elsewhere.
      op: nl.less_equal for a mask, nl.greater for a penalty.
    """
    queries = reach.shape[0]
    mask = nl.ndarray((queries, distances.shape[1]), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=mask,
        data=distances[0:queries, :],
        op0=op,
        operand0=reach,
        op1=nl.multiply,
        operand1=seen + unseen,
    )
    return mask


def all_seen(ahead, queries, keys, window):
    """Whether every query of a tile sees every key of a block, documents aside."""
    return keys - 1 <= ahead and ahead + queries - 1 < window


def window_by_query(segment_positions, queries, ahead, keys, window):
    """Mask (queries, keys) of ones and zeros.

    Args:
      segment_positions: (queries, 1), or None where no document ends.
      queries: how many.
      ahead: tokens from the first key forward to the first query, not negative.
      keys: how many.
      window: W.
    """
    mask = nl.ndarray((queries, keys), dtype=nl.bfloat16, buffer=nl.sbuf)
    first, _ = window_bounds(segment_positions, queries, ahead, 0, window)
    nisa.tensor_scalar(
        dst=mask,
        data=ramp(queries, keys, 0, 0, 1),
        op0=nl.greater_equal,
        operand0=first,
    )
    if keys > ahead + 1:
        later = mask[:, ahead + 1 : keys]
        nisa.affine_select(
            dst=later,
            pattern=[[-1, keys - ahead - 1]],
            channel_multiplier=1,
            on_true_tile=later,
            on_false_value=0.0,
            cmp_op=nl.greater_equal,
            offset=-1,
        )
    return mask


# Keys on partitions.


def starts_row(segment_positions):
    """Position of each query in its document, less that in the tile, on all partitions."""
    starts = nl.ndarray(segment_positions.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=starts,
        data1=segment_positions,
        data2=ramp(PARTITIONS, segment_positions.shape[1], 0, 0, 1),
        op=nl.subtract,
        engine=nisa.engine.gpsimd,
    )
    return starts


def limits_row(starts, queries, window):
    """How many tokens back each query sees, less its place in the tile, on all partitions."""
    limits = ramp(PARTITIONS, queries, window - 1, 0, -1)
    if starts != None:
        nisa.tensor_tensor(
            dst=limits, data1=limits, data2=starts, op=nl.minimum, engine=nisa.engine.gpsimd
        )
    return limits


def window_by_key(limits, ahead, keys, dtype, dated, window):
    """Mask (keys, queries), or None where every query sees every key.

    Args:
      limits: of :func:`limits_row`.
      ahead: tokens from partition 0's forward to the first query.
      keys: how many.
      dtype: of the mask.
      dated: whether documents may end, which only the run tells.
      window: W.
    """
    queries = limits.shape[1]
    if all_seen(ahead, queries, keys, window) and not dated:
        return None
    past = keys - 1 <= ahead
    near = ahead + queries - 1 < window
    mask = nl.ndarray((keys, queries), dtype=dtype, buffer=nl.sbuf)
    if dated or not near:
        nisa.tensor_scalar(
            dst=mask,
            data=limits[0:keys, :],
            op0=nl.greater_equal,
            operand0=ramp(keys, 1, ahead, -1, 0),
            op1=nl.multiply,
            operand1=SEEN,
        )
    else:
        nisa.memset(dst=mask, value=SEEN, engine=nisa.engine.gpsimd)
    if not past:
        nisa.affine_select(
            dst=mask,
            pattern=[[1, queries]],
            channel_multiplier=-1,
            on_true_tile=mask,
            on_false_value=0.0,
            cmp_op=nl.greater_equal,
            offset=ahead,
        )
    return mask


def slots_by_key(distances, starts, queries, since, dtype):
    """Mask (slots, queries).

    Args:
      distances: (slots, 1).
      starts: of :func:`starts_row`, or None where no document ends.
      queries: how many.
      since: tokens of the chunk before the first query.
      dtype: of the mask.
    """
    slots = distances.shape[0]
    mask = nl.ndarray((slots, queries), dtype=dtype, buffer=nl.sbuf)
    if starts == None:
        starts = nl.ndarray((slots, queries), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=starts, value=ALL_SEEN, engine=nisa.engine.gpsimd)
    back = nl.ndarray((slots, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=back, op=nl.copy, data=distances, bias=float(since))
    nisa.tensor_scalar(
        dst=mask,
        data=starts[0:slots, :],
        op0=nl.greater_equal,
        operand0=back,
        op1=nl.multiply,
        operand1=SEEN,
    )
    return mask
