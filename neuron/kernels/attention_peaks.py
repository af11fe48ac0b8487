"""The largest score of each query, before any exponential is taken.

Queries on partitions, scores in bfloat16 products, so that VectorE masks and reduces a bank of
PSUM in one instruction.
"""

from neuron.kernels.tiles import COLUMNS
from neuron.kernels.visibility import HIDDEN, reach_column, slots_by_query, window_bounds
from neuron.nki import nisa, nl


def peaks_of(work, tile, panels, asked, slots, known):
    """Minus the largest score of each query and head, in bfloat16, from column ``base`` on.

    Whatever is subtracted from all scores of a query cancels, so that a rounded number will
    do, if it is the same everywhere. ``known`` are scores of the slots, if there are any already.
    """
    rows, count = asked.shape[2], asked.shape[1]
    first_key = max(tile.low - work.window + 1, panels[0].start)
    banks = (tile.high - first_key + COLUMNS - 1) // COLUMNS
    parts = banks + (1 if slots != None else 0)
    found = nl.ndarray((rows, count, parts), dtype=nl.float32, buffer=nl.sbuf)
    least, most = window_bounds(tile.segment_positions, rows, tile.low, first_key, work.window)
    for head in range(count):
        for bank in range(banks):
            begin = first_key + bank * COLUMNS
            stop = min(begin + COLUMNS, tile.high)
            scores = nl.ndarray((rows, stop - begin), dtype=nl.float32, buffer=nl.psum)
            for panel in panels:
                start = max(begin, panel.start)
                end = min(stop, panel.start + panel.size)
                if end > start:
                    columns = panel.half[
                        :, head // work.each, start - panel.start : end - panel.start
                    ]
                    nisa.nc_matmul(
                        dst=scores[:, start - begin : end - begin],
                        stationary=asked[:, head, :],
                        moving=columns,
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
    if known != None:
        nisa.tensor_reduce(dst=found[:, :, banks : banks + 1], op=nl.maximum, data=known, axis=2)
    elif slots != None:
        _slot_peaks(work, tile, found[:, :, banks : banks + 1], slots, asked)
    peaks = nl.ndarray((rows, work.base + count), dtype=nl.bfloat16, buffer=nl.sbuf)
    if work.base > 0:
        nisa.memset(dst=peaks[:, 0 : work.base], value=0.0, engine=nisa.engine.gpsimd)
    nisa.tensor_reduce(
        dst=peaks[:, work.base : work.base + count],
        op=nl.maximum,
        data=found,
        axis=2,
        negate=True,
    )
    return peaks


def _slot_peaks(work, tile, found, slots, asked):
    """The largest score among the slots that each query sees, for each head."""
    rows, count = asked.shape[2], asked.shape[1]
    reach = reach_column(tile.segment_positions, rows, tile.since)
    penalty = slots_by_query(slots.distances, reach, 0.0, HIDDEN, nl.greater)
    together = max(1, COLUMNS // slots.size)
    for first in range(0, count, together):
        end = min(first + together, count)
        scores = nl.ndarray((rows, end - first, slots.size), dtype=nl.float32, buffer=nl.psum)
        for head in range(first, end):
            nisa.nc_matmul(
                dst=scores[:, head - first, :],
                stationary=asked[:, head, :],
                moving=slots.half[:, head // work.each, 0 : slots.size],
                accumulate=False,
            )
        nisa.nc_matmul(
            dst=scores,
            stationary=work.identity[0:rows, 0:rows],
            moving=penalty.ap(
                pattern=[[slots.size, rows], [0, end - first], [1, slots.size]], offset=0
            ),
            accumulate=True,
        )
        nisa.tensor_reduce(dst=found[:, first:end, :], op=nl.maximum, data=scores, axis=2)


def turned(work, peaks):
    """Peaks with heads on partitions ``base`` and after, queries on the free axis."""
    rows, columns = peaks.shape
    across = nl.ndarray((columns, rows), dtype=nl.bfloat16, buffer=nl.psum)
    nisa.nc_transpose(dst=across, data=peaks)
    turned = nl.ndarray((columns, rows), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.activation(
        dst=turned[work.base : columns, :], op=nl.copy, data=across[work.base : columns, :]
    )
    return turned


def fold(work, queries, place, across):
    """Each head's peak as a further row of its queries; the rows of other heads are zero."""
    end, rows = across.shape
    for head in range(end - work.base):
        nisa.activation(
            dst=queries[work.base : end, head, place : place + rows],
            op=nl.copy,
            data=across[work.base : end, :],
            scale=work.chosen[work.base : end, head : head + 1],
        )
