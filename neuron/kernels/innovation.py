"""How much each token surprised: the mean over channels of the predictor's squared error.

Channels on partitions, time on the free axis. The prediction is a sum of shifted views of one
tile; squares are on ScalarE; the mean over channels is a matmul with a column of ones,
summed over channel tiles in PSUM.
"""

from neuron.kernels.tiles import COLUMNS, PARTITIONS, history, load_on_all, share, store
from neuron.nki import nisa, nki, nl


@nki.jit
def innovation(y, tail, weights, age=None):
    """Plain innovation, as ``bmojo.ops.innovation`` has it, time last.

    Args:
      y: (batch, D, L) outputs of the fading memory.
      tail: (batch, D, k) the k outputs before the call, in order of time.
      weights: c_1 .. c_k, a tuple of numbers.
      age: (batch, L) tokens of the same document before each token; None: no document ends
        in reach.

    Returns:
      (batch, L) float32: mean over channels of (y_t - sum of c_i y_{t-i})^2.
    """
    batch, channels, length = y.shape
    span = len(weights)
    score = nl.ndarray((batch, length), dtype=nl.float32, buffer=nl.shared_hbm)
    ones = nl.ndarray((PARTITIONS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    first, end = share(batch)

    for row in range(first, end):
        for begin in range(0, length, COLUMNS):
            stop = min(begin + COLUMNS, length)
            columns = stop - begin
            taps = _taps(weights, age, row * length + begin, columns)
            total = nl.ndarray((1, columns), dtype=nl.float32, buffer=nl.psum)
            for low in range(0, channels, PARTITIONS):
                high = min(low + PARTITIONS, channels)
                window = history(y, tail, (row, low, high, begin, stop), span, nl.float32)
                error = _error(window, weights, taps, columns)
                squares = nl.ndarray((high - low, columns), dtype=nl.float32, buffer=nl.sbuf)
                nisa.activation(dst=squares, op=nl.square, data=error)
                nisa.nc_matmul(
                    dst=total,
                    stationary=ones[0 : high - low, :],
                    moving=squares,
                    is_stationary_onezero=True,
                    accumulate=low > 0,
                )
            mean = nl.ndarray((1, columns), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_scalar(dst=mean, data=total, op0=nl.multiply, operand0=1.0 / channels)
            store(score[row : row + 1, begin:stop], mean)
    return score


def _taps(weights, age, offset, columns):
    """-c_i where the token i back is of the same document, else 0, one tile for each i."""
    if age == None:
        return []
    ages = load_on_all(age, offset, PARTITIONS, columns, nl.float32)
    tiles = []
    for i in range(len(weights)):
        tap = nl.ndarray((PARTITIONS, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=tap,
            data=ages,
            op0=nl.greater_equal,
            operand0=float(i + 1),
            op1=nl.multiply,
            operand1=-float(weights[i]),
        )
        tiles.append(tap)
    return tiles


def _error(window, weights, taps, columns):
    """y_t minus its prediction."""
    partitions = window.shape[0]
    span = len(weights)
    error = window[:, span : span + columns]
    for i in range(span):
        past = window[:, span - i - 1 : span - i - 1 + columns]
        less = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
        if len(taps) == 0:
            nisa.scalar_tensor_tensor(
                dst=less,
                data=past,
                op0=nl.multiply,
                operand0=-float(weights[i]),
                op1=nl.add,
                operand1=error,
            )
        else:
            part = nl.ndarray((partitions, columns), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_tensor(dst=part, data1=past, data2=taps[i][0:partitions, :], op=nl.multiply)
            nisa.tensor_tensor(dst=less, data1=part, data2=error, op=nl.add)
        error = less
    return error
