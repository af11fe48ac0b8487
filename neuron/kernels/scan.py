"""The selective scan, forward: y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t.

Channels on partitions, time on the free axis, a loop over the N states of a channel. For each
state ScalarE makes the decays, VectorE the inputs and the scan, GpSimdE the products with C
and their sum.
"""

from neuron.kernels.matrices import identity, on_all
from neuron.kernels.tiles import COLUMNS, PARTITIONS, as_dtype, load, load_as, share, store
from neuron.nki import nisa, nki, nl

ROWS_BYTES = 64 * 1024
"""SBUF bytes of a partition for the rows of B and C of one time tile."""

FORGET = 1e30
"""Added to the step of a decay that must vanish: exp(A * 1e30) is zero for A below -1e-28."""


def tile_columns(states):
    """Time steps of a tile for which the rows of B and C fit."""
    columns = COLUMNS
    while 2 * states * columns * 4 > ROWS_BYTES and columns > 32:
        columns = columns // 2
    return columns


@nki.jit
def selective_scan(x, dt, A, B, C, state, start=None, keep_edges=False):
    """The scan of ``bmojo.ops.recurrence.selective_scan``, time last.

    Args:
      x: (batch, E, L) inputs.
      dt: (batch, E, L) step sizes, not negative.
      A: (E, N) float32, negative.
      B: (batch, N, L) input map.
      C: (batch, N, L) output map.
      state: (batch, E, N) float32, h before the first token.
      start: (batch, L), 1 where a document starts, else 0; None: nowhere.
      keep_edges: return what the backward pass needs, too.

    Returns:
      y, (batch, E, L) in the dtype of ``x``, and (batch, E, N) float32, h after the last
      token. With ``keep_edges`` also h before each time tile, (batch, tiles, E, N) float32,
      tiles of ``tile_columns(N)`` tokens.
    """
    batch, channels, length = x.shape
    states = A.shape[1]
    columns = tile_columns(states)
    y = nl.ndarray((batch, channels, length), dtype=x.dtype, buffer=nl.shared_hbm)
    last = nl.ndarray((batch, channels, states), dtype=nl.float32, buffer=nl.shared_hbm)
    count = (length + columns - 1) // columns
    kept = []
    if keep_edges:
        shape = (batch, count, channels, states)
        kept.append(nl.ndarray(shape, dtype=nl.float32, buffer=nl.shared_hbm))
    first, end = share((channels + PARTITIONS - 1) // PARTITIONS)

    eye = identity()
    for row in range(batch):
        carries = []
        rates = []
        for tile in range(first, end):
            low = tile * PARTITIONS
            high = min(low + PARTITIONS, channels)
            rates.append(load(A[low:high, :], nl.float32))
            carries.append(load(state[row, low:high, :], nl.float32))

        for begin in range(0, length, columns):
            stop = min(begin + columns, length)
            rows_b = _rows(B, row, begin, stop, eye)
            rows_c = _rows(C, row, begin, stop, eye)
            starts = None
            if start != None:
                tile = load_as(start[row : row + 1, begin:stop], nl.float32)
                starts = on_all(eye, 0, tile, PARTITIONS)
            for tile in range(first, end):
                low = tile * PARTITIONS
                high = min(low + PARTITIONS, channels)
                step = load(dt[row, low:high, begin:stop], dt.dtype)
                tokens = load(x[row, low:high, begin:stop], x.dtype)
                decay_step = step
                if start != None:
                    decay_step = _forgetful(step, starts)
                carry = carries[tile - first]
                for edges in kept:
                    store(edges[row, begin // columns, low:high, :], carry)
                rate = rates[tile - first]
                total = _tile(step, tokens, decay_step, rate, rows_b, rows_c, carry)
                store(y[row, low:high, begin:stop], as_dtype(total, y.dtype))

        for tile in range(first, end):
            low = tile * PARTITIONS
            high = min(low + PARTITIONS, channels)
            store(last[row, low:high, :], carries[tile - first])
    return (y, last, kept[0]) if keep_edges else (y, last)


def _rows(source, row, begin, stop, eye):
    """The rows of B or C of one time tile, each on all partitions."""
    rows = []
    for low in range(0, source.shape[1], PARTITIONS):
        high = min(low + PARTITIONS, source.shape[1])
        tile = load_as(source[row, low:high, begin:stop], nl.float32)
        for n in range(high - low):
            rows.append(on_all(eye, n, tile, PARTITIONS))
    return rows


def _forgetful(step, starts):
    """Steps that make the decay vanish where a document starts."""
    partitions, columns = step.shape
    starts = starts[0:partitions, :]
    changed = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=changed, data=starts, op0=nl.multiply, operand0=FORGET, op1=nl.add, operand1=step
    )
    return changed


def _tile(step, tokens, decay_step, rate, rows_b, rows_c, carry):
    """Y of one tile; ``carry`` moves on to the state after its last column."""
    partitions, columns = tokens.shape
    shape = (partitions, columns)
    inputs = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=inputs, data1=step, data2=tokens, op=nl.multiply)
    total = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    for n in range(rate.shape[1]):
        decay = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=decay, op=nl.exp, data=decay_step, scale=rate[:, n : n + 1])
        pushed = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=pushed, data1=inputs, data2=rows_b[n][0:partitions, :], op=nl.multiply
        )
        states = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor_scan(
            dst=states,
            data0=decay,
            data1=pushed,
            initial=carry[:, n : n + 1],
            op0=nl.multiply,
            op1=nl.add,
        )
        nisa.activation(dst=carry[:, n : n + 1], op=nl.copy, data=states[:, columns - 1 : columns])
        read = total if n == 0 else nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=read,
            data1=states,
            data2=rows_c[n][0:partitions, :],
            op=nl.multiply,
            engine=nisa.engine.gpsimd,
        )
        if n > 0:
            nisa.tensor_tensor(
                dst=total, data1=total, data2=read, op=nl.add, engine=nisa.engine.gpsimd
            )
    return total
