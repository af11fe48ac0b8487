"""Weights of few slots in float32, from scores with queries on partitions.

A float32 product takes four cycles for each column that it moves, and few slots are fewer columns
than a tile has queries. The weights are turned over afterwards, several heads at a time, by a
matrix of zeros and ones, which takes two. And the scores' largest needs no product of its own.
"""

from neuron.kernels.tiles import COLUMNS, PARTITIONS
from neuron.kernels.visibility import HIDDEN, reach_column, slots_by_query
from neuron.nki import nisa, nl


def fit(slots, dtype):
    """Whether that is faster: few slots, in float32."""
    return slots != None and dtype == nl.float32 and slots.blocks[0].stride < PARTITIONS


def scores_by_query(work, tile, slots, asked):
    """Scores of the slots, those out of sight hidden, (queries, heads, stride) float32.

    Args:
      work: the heads.
      tile: of queries.
      slots: of the chunk.
      asked: (depth, heads, queries).
    """
    rows, count = asked.shape[2], asked.shape[1]
    stride = slots.blocks[0].stride
    reach = reach_column(tile.segment_positions, rows, tile.since)
    penalty = nl.ndarray((rows, stride), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=penalty, value=HIDDEN, engine=nisa.engine.gpsimd)
    nisa.tensor_copy(
        dst=penalty[:, 0 : slots.size],
        src=slots_by_query(slots.distances, reach, 0.0, HIDDEN, nl.greater),
        engine=nisa.engine.gpsimd,
    )
    seen = nl.ndarray((rows, count, stride), dtype=nl.float32, buffer=nl.sbuf)
    together = COLUMNS // stride
    for first in range(0, count, together):
        end = min(first + together, count)
        scores = nl.ndarray((rows, end - first, stride), dtype=nl.float32, buffer=nl.psum)
        for head in range(first, end):
            nisa.nc_matmul(
                dst=scores[:, head - first, :],
                stationary=asked[0 : work.width, head, :],
                moving=slots.keys[0 : work.width, head // work.each, 0:stride],
                accumulate=False,
            )
        nisa.tensor_tensor(
            dst=seen[:, first:end, :],
            data1=scores,
            data2=penalty.ap(pattern=[[stride, rows], [0, end - first], [1, stride]], offset=0),
            op=nl.add,
        )
    return seen


def weights_by_query(work, slots, seen, peaks):
    """Weights with slots on partitions: a tile for each set of groups and head of a group.

    Args:
      work: the heads.
      slots: of the chunk.
      seen: of :func:`scores_by_query`, which become the weights.
      peaks: minus the largest score of each query and head, from column ``base`` on.
    """
    rows, count, stride = seen.shape
    nisa.tensor_tensor(
        dst=seen,
        data1=seen,
        data2=peaks.ap(pattern=[[peaks.shape[1], rows], [1, count], [0, stride]], offset=work.base),
        op=nl.add,
    )
    nisa.activation(dst=seen, op=nl.exp, data=seen, scale=work.scale)
    tiles = []
    pack = slots.blocks[0].pack
    groups = work.groups[1] - work.groups[0]
    for first in range(0, groups, pack):
        held = min(pack, groups - first)
        for r in range(work.each):
            across = nl.ndarray((held * stride, rows), dtype=nl.float32, buffer=nl.psum)
            nisa.nc_matmul(
                dst=across,
                stationary=seen.ap(
                    pattern=[[count * stride, rows], [work.each * stride, held], [1, stride]],
                    offset=(first * work.each + r) * stride,
                ),
                moving=work.plain[0:rows, 0:rows],
                is_transpose=True,
                is_moving_onezero=True,
            )
            weights = nl.ndarray((held * stride, rows), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=weights, op=nl.copy, data=across)
            tiles.append(weights)
    return tiles
