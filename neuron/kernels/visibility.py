"""Which keys a query sees, as bounds and masks that all heads share.

A mask holds ``SEEN`` where the key is seen and 0 where not, and is applied to exponentials by
a minimum: what is hidden becomes zero even if its exponential is infinite.
"""

from neuron.kernels.tiles import PARTITIONS, load, load_on_all
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


def to_column(row):
    """A row (1, n) of float32 as a column (n, 1)."""
    columns = row.shape[1]
    one = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=one, value=1.0)
    turned = nl.ndarray((columns, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=turned, stationary=row, moving=one, accumulate=False)
    column = nl.ndarray((columns, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=column, src=turned)
    return column


def ages_of(age, row, low, high):
    """Ages of some queries: as a column, and as a row on all partitions; None, None without."""
    if age == None:
        return None, None
    column = to_column(load(age[row : row + 1, low:high], nl.float32))
    offset = row * age.shape[1] + low
    return column, load_on_all(age, offset, PARTITIONS, high - low, nl.float32)


# Queries on partitions.


def window_bounds(ages, queries, low, first_key, window):
    """First and last column that each query sees, column 0 being token ``first_key``."""
    last = ramp(queries, 1, low - first_key, 1, 0)
    first = nl.ndarray((queries, 1), dtype=nl.float32, buffer=nl.sbuf)
    if ages == None:
        nisa.tensor_scalar(dst=first, data=last, op0=nl.subtract, operand0=float(window - 1))
        return first, last
    nisa.scalar_tensor_tensor(
        dst=first,
        data=ages,
        op0=nl.minimum,
        operand0=float(window - 1),
        op1=nl.subtract,
        operand1=last,
        reverse1=True,
    )
    return first, last


def reach_column(ages, queries, since):
    """How far back from the chunk's first token each query's document goes."""
    reach = nl.ndarray((queries, 1), dtype=nl.float32, buffer=nl.sbuf)
    if ages == None:
        nisa.memset(dst=reach, value=ALL_SEEN, engine=nisa.engine.gpsimd)
    else:
        place = ramp(queries, 1, since, 1, 0)
        nisa.tensor_tensor(dst=reach, data1=ages, data2=place, op=nl.subtract)
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


def window_by_query(ages, queries, ahead, keys, window):
    """Mask (queries, keys) of ones and zeros, or None where every query sees every key.

    Args:
      ages: (queries, 1), or None where no document ends.
      queries: how many.
      ahead: tokens from the first key forward to the first query.
      keys: how many.
      window: W.
    """
    past = keys - 1 <= ahead
    near = ahead + queries - 1 < window
    if past and near and ages == None:
        return None
    mask = nl.ndarray((queries, keys), dtype=nl.bfloat16, buffer=nl.sbuf)
    if ages != None or not near:
        first, _ = window_bounds(ages, queries, ahead, 0, window)
        nisa.tensor_scalar(
            dst=mask,
            data=ramp(queries, keys, 0, 0, 1),
            op0=nl.greater_equal,
            operand0=first,
        )
    else:
        nisa.memset(dst=mask, value=1.0, engine=nisa.engine.gpsimd)
    if not past:
        nisa.affine_select(
            dst=mask,
            pattern=[[-1, keys]],
            channel_multiplier=1,
            on_true_tile=mask,
            on_false_value=0.0,
            cmp_op=nl.greater_equal,
            offset=ahead,
        )
    return mask


# Keys on partitions.


def limits_row(ages, queries, window):
    """How many tokens back each query sees, less its place in the tile, on all partitions."""
    if ages == None:
        return ramp(PARTITIONS, queries, window - 1, 0, -1)
    place = ramp(PARTITIONS, queries, 0, 0, 1)
    limits = nl.ndarray((PARTITIONS, queries), dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=limits,
        data=ages,
        op0=nl.minimum,
        operand0=float(window - 1),
        op1=nl.subtract,
        operand1=place,
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
    past = keys - 1 <= ahead
    near = ahead + queries - 1 < window
    if past and near and not dated:
        return None
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


def slots_by_key(distances, ages, queries, since, dtype):
    """Mask (slots, queries).

    Args:
      distances: (slots, 1).
      ages: of the queries on all partitions, or None.
      queries: how many.
      since: tokens of the chunk before the first query.
      dtype: of the mask.
    """
    slots = distances.shape[0]
    reach = nl.ndarray((slots, queries), dtype=nl.float32, buffer=nl.sbuf)
    if ages == None:
        nisa.memset(dst=reach, value=ALL_SEEN, engine=nisa.engine.gpsimd)
    else:
        place = ramp(slots, queries, since, 0, 1)
        nisa.tensor_tensor(dst=reach, data1=ages[0:slots, :], data2=place, op=nl.subtract)
    mask = nl.ndarray((slots, queries), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=mask,
        data=reach,
        op0=nl.greater_equal,
        operand0=distances,
        op1=nl.multiply,
        operand1=SEEN,
    )
    return mask
