"""How much each token surprised: the mean over channels of the predictor's squared error.

Channels on partitions, time on the free axis. The prediction is a sum of shifted views of one
tile, shared by VectorE and GpSimdE; squares are on ScalarE; the mean over channels is a matmul
with a column of ones, summed over channel tiles in PSUM.
"""

from neuron.kernels.matrices import filled, on_all
from neuron.kernels.tiles import COLUMNS, PARTITIONS, history, load, load_as, share, store
from neuron.nki import nisa, nki, nl

TINY = 1.1754943508222875e-38
"""The least that a channel's mean square counts for: the smallest normal float32."""


@nki.jit
def innovation(y, tail, weights, segment_pos=None, power=None):
    """Innovation, as ``bmojo.ops.innovation`` has it, time last.

    Args:
      y: (batch, D, L) outputs of the fading memory.
      tail: (batch, D, at least k) outputs before the call, in order of time.
      weights: c_1 .. c_k, a tuple of numbers.
      segment_pos: (batch, L) tokens of the same document before each token; None: no document ends
        in reach.
      power: (batch, D) float32, sums of squared errors of the current document before the
        call, for normalized innovation, which needs ``segment_pos``; None: plain innovation.
        Padding leaves them as they are where ``y`` is 0 and ``segment_pos`` -1.

    Returns:
      (batch, L) float32: mean over channels of e_t^2, e_t = y_t - sum of c_i y_{t-i}. With
      ``power`` each square is divided by the mean of its channel's squares in the document up
      to there, and the sums after the last token, (batch, D) float32, are returned, too.
    """
    batch, channels, length = y.shape
    span = len(weights)
    assert power == None or segment_pos != None, (
        "normalized innovation needs the segment_pos of every token"
    )
    score = nl.ndarray((batch, length), dtype=nl.float32, buffer=nl.shared_hbm)
    after = []
    if power != None:
        after.append(nl.ndarray((batch, channels), dtype=nl.float32, buffer=nl.shared_hbm))
    ones = filled(PARTITIONS, 1, 1.0)
    first, end = share(batch)

    for row in range(first, end):
        carries = _carries(power, row)
        for begin in range(0, length, COLUMNS):
            stop = min(begin + COLUMNS, length)
            columns = stop - begin
            segment_positions = None
            if segment_pos != None:
                known = load_as(segment_pos[row : row + 1, begin:stop], nl.float32)
                segment_positions = on_all(ones, 0, known, PARTITIONS)
            taps = _taps(weights, segment_positions)
            rows = None if power == None else Rows(segment_positions)
            total = nl.ndarray((1, columns), dtype=nl.float32, buffer=nl.psum)
            for low in range(0, channels, PARTITIONS):
                high = min(low + PARTITIONS, channels)
                window = history(y, tail, (row, low, high, begin, stop), span, nl.float32)
                if segment_pos == None:
                    by_vector = low // PARTITIONS % 2
                else:
                    by_vector = span if power == None else 1
                error = _error(window, weights, taps, columns, by_vector)
                squares = nl.ndarray((high - low, columns), dtype=nl.float32, buffer=nl.sbuf)
                nisa.activation(dst=squares, op=nl.square, data=error)
                if rows != None:
                    squares = rows.shares(squares, carries[low // PARTITIONS])
                nisa.nc_matmul(
                    dst=total,
                    stationary=ones[0 : high - low, :],
                    moving=squares,
                    is_stationary_onezero=True,
                    accumulate=low > 0,
                )
            mean = nl.ndarray((1, columns), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_scalar(dst=mean, data=total, op0=nl.multiply, operand0=1.0 / channels)
            if rows != None:
                nisa.tensor_tensor(dst=mean, data1=mean, data2=rows.counts[0:1, :], op=nl.multiply)
            store(score[row : row + 1, begin:stop], mean)
        for result in after:
            columns_of = result.reshape((batch, channels, 1))
            for i in range(len(carries)):
                low = i * PARTITIONS
                store(columns_of[row, low : low + carries[i].shape[0], :], carries[i])
    return (score, after[0]) if power != None else score


def _carries(power, row):
    """The sums of a row of the batch before the call, a column for each channel tile."""
    if power == None:
        return []
    batch, channels = power.shape
    source = power.reshape((batch, channels, 1))
    columns = []
    for low in range(0, channels, PARTITIONS):
        high = min(low + PARTITIONS, channels)
        columns.append(load(source[row, low:high, :], nl.float32))
    return columns


class Rows(nl.NKIObject):
    """What normalization needs of each token, on all partitions.

    Args:
      segment_positions: (128, columns).

    Attributes:
      keep: 1 where a document goes on, 0 where one starts.
      counts: tokens of the document so far, the present one included.
      floors: the least that sums of squares count for.
    """

    def __init__(self, segment_positions):
        self.keep = _changed(segment_positions, nl.not_equal, 0.0)
        self.counts = nl.ndarray(segment_positions.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=self.counts,
            data=segment_positions,
            op0=nl.maximum,
            operand0=0.0,
            op1=nl.add,
            operand1=1.0,
        )
        self.floors = _changed(self.counts, nl.multiply, TINY)

    def shares(self, squares, carry):
        """Squares over their document's sum so far; ``carry`` moves on to the last sum."""
        partitions, columns = squares.shape
        sums = nl.ndarray(squares.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor_scan(
            dst=sums,
            data0=self.keep[0:partitions, :],
            data1=squares,
            initial=carry,
            op0=nl.multiply,
            op1=nl.add,
        )
        nisa.tensor_copy(dst=carry, src=sums[:, columns - 1 : columns])
        fast = nisa.engine.gpsimd
        least = nl.ndarray(squares.shape, dtype=nl.float32, buffer=nl.sbuf)
        floors = self.floors[0:partitions, :]
        nisa.tensor_tensor(dst=least, data1=sums, data2=floors, op=nl.maximum, engine=fast)
        nisa.reciprocal(dst=least, data=least)
        found = nl.ndarray(squares.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=found, data1=squares, data2=least, op=nl.multiply, engine=fast)
        return found


def _changed(tile, op, number):
    """A number applied to each element of a tile."""
    result = nl.ndarray(tile.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=result, data=tile, op0=op, operand0=number)
    return result


def _taps(weights, segment_positions):
    """-c_i where the token i back is of the same document, else 0, one tile for each i."""
    if segment_positions == None:
        return []
    tiles = []
    for i in range(len(weights)):
        tap = nl.ndarray(segment_positions.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=tap,
            data=segment_positions,
            op0=nl.greater_equal,
            operand0=float(i + 1),
            op1=nl.multiply,
            operand1=-float(weights[i]),
        )
        tiles.append(tap)
    return tiles


def _error(window, weights, taps, columns, by_vector):
    """y_t minus its prediction.

    Args:
      window: (channels, span + columns).
      weights: c_1 .. c_k.
      taps: of :func:`_taps`.
      columns: of the result.
      by_vector: of the sums over lags, so many are VectorE's, the others GpSimdE's.
    """
    span = len(weights)
    present = window[:, span : span + columns]
    if len(taps) == 0 and min(weights) == max(weights):
        return _less(_past(window, span, columns, by_vector > 0), weights[0], present)
    error = present
    for i in range(span):
        past = window[:, span - i - 1 : span - i - 1 + columns]
        if len(taps) == 0:
            error = _less(past, weights[i], error)
        else:
            tap = taps[i][0 : window.shape[0], :]
            part = _both(past, tap, nl.multiply, False)
            error = _both(part, error, nl.add, i < by_vector)
    return error


def _less(past, weight, rest):
    """``rest`` less a weight times what was."""
    less = nl.ndarray(rest.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=less, data=past, op0=nl.multiply, operand0=-float(weight), op1=nl.add, operand1=rest
    )
    return less


def _past(window, span, columns, by_vector):
    """The sum of the ``span`` columns before each, by sums of 1, 2, 4 and so on.

    ``by_vector`` tells who makes the last sum.
    """
    sums = [window]
    for j in range(1, span.bit_length()):
        size = 2 ** (j - 1)
        last = sums[j - 1]
        width = span + columns - 2 * size
        final = 2 * size == span
        part = _both(last[:, 0:width], last[:, size : size + width], nl.add, by_vector and final)
        sums.append(part)
    total = None
    at = 0
    for i in range(len(sums)):
        j = len(sums) - 1 - i
        if span // 2**j % 2 == 1:
            part = sums[j][:, at : at + columns]
            total = part if total == None else _both(total, part, nl.add, by_vector)
            at += 2**j
    return total


def _both(data1, data2, op, by_vector):
    """Two tiles as one, by VectorE or GpSimdE."""
    result = nl.ndarray(data1.shape, dtype=nl.float32, buffer=nl.sbuf)
    engine = nisa.engine.vector if by_vector else nisa.engine.gpsimd
    nisa.tensor_tensor(dst=result, data1=data1, data2=data2, op=op, engine=engine)
    return result
