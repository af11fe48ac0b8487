"""The short causal convolution in front of a recurrence, with silu: forward and backward.

Channels on partitions, time on the free axis. A tap is a shifted view of one tile; TensorE
multiplies it by a diagonal matrix and sums in PSUM. In float32, where a matmul is slow, the
other engines take half of them.
"""

from neuron.kernels.matrices import filled, identity
from neuron.kernels.tiles import (
    COLUMNS,
    PARTITIONS,
    as_dtype,
    cut_channels,
    history,
    load,
    load_as,
    store,
)
from neuron.nki import nisa, nki, nl

FAST = nisa.engine.gpsimd


@nki.jit
def short_convolution(x, tail, kernel, bias, segment_pos=None):
    """Silu of ``bmojo.ops.convolution.causal_convolution`` plus bias, time last.

    Args:
      x: (batch, D, L) inputs.
      tail: (batch, D, at least K - 1), inputs before the call, in order of time.
      kernel: (D, K) taps, the present token's first.
      bias: (D, 1).
      segment_pos: (batch, L) tokens of the same document before each token; None: no document ends
        in reach.

    Returns:
      (batch, D, L), like ``x``. The tail after the call is a slice of the inputs.
    """
    batch, _, length = x.shape
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tiles = _tiles(kernel, bias, x.dtype)
    for row in range(batch):
        for begin in range(0, length, COLUMNS):
            stop = min(begin + COLUMNS, length)
            masks = _masks(segment_pos, row, begin, stop, kernel.shape[1])
            for tile in tiles:
                window = tile.window(x, tail, row, begin, stop)
                z = tile.sum(tile.delayed(window, masks))
                y = nl.ndarray(z.shape, dtype=x.dtype, buffer=nl.sbuf)
                nisa.activation(dst=y, op=nl.silu, data=z, bias=tile.bias)
                store(out[row, tile.low : tile.high, begin:stop], y)
    return out


@nki.jit
def short_convolution_backward(x, tail, kernel, bias, dout, segment_pos=None):
    """Gradients of ``short_convolution``.

    Args:
      x: (batch, D, L) inputs.
      tail: (batch, D, at least K - 1), inputs before the call.
      kernel: (D, K) taps.
      bias: (D, 1).
      dout: (batch, D, L), gradient of the result.
      segment_pos: (batch, L) or None.

    Returns:
      Gradients of x and tail (in their dtypes), kernel and bias (float32).
    """
    batch, _, length = x.shape
    taps = kernel.shape[1]
    dx = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    dtail = nl.ndarray(tail.shape, dtype=tail.dtype, buffer=nl.shared_hbm)
    dkernel = nl.ndarray(kernel.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    dbias = nl.ndarray(bias.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    tiles = _tiles(kernel, bias, x.dtype)
    for row in range(batch):
        for tile in tiles:
            tile.later = None
        count = (length + COLUMNS - 1) // COLUMNS
        for done in range(count):
            begin = (count - 1 - done) * COLUMNS
            stop = min(begin + COLUMNS, length)
            masks = _masks(segment_pos, row, begin, stop, taps)
            for tile in tiles:
                pulls = _pulls(tile, x, tail, dout, row, begin, stop, masks)
                views = []
                for i in range(taps):
                    views.append(pulls[i][:, i : i + stop - begin])
                found = tile.sum(views)
                store(dx[row, tile.low : tile.high, begin:stop], as_tile(found, x.dtype))
                if begin == 0:
                    before = tile.before(pulls, tail.shape[2])
                    store(dtail[row, tile.low : tile.high, :], as_dtype(before, tail.dtype))
    for tile in tiles:
        store(dkernel[tile.low : tile.high, :], tile.sums[:, 0:taps])
        store(dbias[tile.low : tile.high, :], tile.sums[:, taps : taps + 1])
    return dx, dtail, dkernel, dbias


def as_tile(product, dtype):
    """What PSUM or SBUF holds as a tile of some dtype in SBUF."""
    tile = nl.ndarray(product.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.activation(dst=tile, op=nl.copy, data=product)
    return tile


def _tiles(kernel, bias, dtype):
    """This program's channel tiles."""
    eye = identity()
    tiles = []
    for part in cut_channels(kernel.shape[0]):
        tiles.append(Channels(kernel, bias, part[0], part[1], dtype, eye))
    return tiles


def _masks(segment_pos, row, begin, stop, taps):
    """1 where the token some lags back is of the same document, a tile for each lag.

    Tiles go on for as many columns as the longest lag, zeros after the call's last token.
    """
    if segment_pos == None:
        return []
    end = min(stop + taps - 1, segment_pos.shape[1])
    columns = stop - begin + taps - 1
    segment_positions = filled(PARTITIONS, columns, 0.0)
    offset = row * segment_pos.shape[1] + begin
    nisa.dma_copy(
        dst=segment_positions[:, 0 : end - begin],
        src=segment_pos.ap(pattern=[[0, PARTITIONS], [1, end - begin]], offset=offset),
    )
    masks = []
    for lag in range(1, taps):
        mask = nl.ndarray((PARTITIONS, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=mask, data=segment_positions, op0=nl.greater_equal, operand0=float(lag)
        )
        masks.append(mask)
    return masks


class Channels(nl.NKIObject):
    """One channel tile: taps as columns and as diagonal matrices.

    Args:
      kernel: (D, K).
      bias: (D, 1).
      low: first channel.
      high: one past the last.
      dtype: of operands of matmuls.
      eye: the identity.

    Attributes:
      later: (P, K - 1) gradients of sums after the time tile; None: there are none.
      sums: (P, K + 1), gradients of taps and bias.
    """

    def __init__(self, kernel, bias, low, high, dtype, eye):
        self.low, self.high, self.dtype = low, high, dtype
        self.taps = load_as(kernel[low:high, :], nl.float32)
        self.bias = load_as(bias[low:high, :], nl.float32)
        self.count = kernel.shape[1]
        self.on_tensor = (self.count + 1) // 2 if dtype == nl.float32 else self.count
        rows = high - low
        self.diagonals = nl.ndarray((rows, self.on_tensor, rows), dtype=dtype, buffer=nl.sbuf)
        for i in range(self.on_tensor):
            nisa.activation(
                dst=self.diagonals[:, i, :],
                op=nl.copy,
                data=eye[0:rows, 0:rows],
                scale=self.taps[:, i : i + 1],
            )
        self.later = None
        self.sums = filled(rows, self.count + 1, 0.0)

    def window(self, x, tail, row, begin, stop):
        """Inputs from the longest lag before ``begin`` on."""
        place = (row, self.low, self.high, begin, stop)
        return history(x, tail, place, self.count - 1, x.dtype)

    def delayed(self, window, masks):
        """For each lag the inputs so far back, those of other documents zero."""
        columns = window.shape[1] - self.count + 1
        views = []
        for lag in range(self.count):
            begin = self.count - 1 - lag
            view = window[:, begin : begin + columns]
            if lag > 0 and len(masks) > 0:
                mask = masks[lag - 1][0 : window.shape[0], 0:columns]
                view = _product(view, mask, window.dtype)
            views.append(view)
        return views

    def sum(self, views):
        """The sum of taps times views, in PSUM or SBUF."""
        total = nl.ndarray(views[0].shape, dtype=nl.float32, buffer=nl.psum)
        for i in range(self.on_tensor):
            nisa.nc_matmul(
                dst=total,
                stationary=self.diagonals[:, i, :],
                moving=views[i],
                accumulate=i > 0,
            )
        for i in range(self.on_tensor, self.count):
            more = nl.ndarray(views[0].shape, dtype=nl.float32, buffer=nl.sbuf)
            if (i - self.on_tensor) % 2 == 0:
                self.add(more, views[i], i, total)
            else:
                tap = self.taps[:, i : i + 1]
                part = nl.ndarray(views[0].shape, dtype=nl.float32, buffer=nl.sbuf)
                nisa.activation(dst=part, op=nl.copy, data=views[i], scale=tap)
                nisa.tensor_tensor(dst=more, data1=total, data2=part, op=nl.add, engine=FAST)
            total = more
        return total

    def add(self, dst, view, i, total):
        """``dst`` = tap i times a view, plus a sum."""
        nisa.scalar_tensor_tensor(
            dst=dst,
            data=view,
            op0=nl.multiply,
            operand0=self.taps[:, i : i + 1],
            op1=nl.add,
            operand1=total,
        )

    def before(self, pulls, held):
        """Gradient of the tail."""
        total = filled(self.high - self.low, held, 0.0)
        for i in range(1, self.count):
            part = total[:, held - i : held]
            self.add(part, pulls[i][:, 0:i], i, part)
        return total


def _product(data1, data2, dtype):
    """The product of two tiles in SBUF."""
    tile = nl.ndarray(data1.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=tile, data1=data1, data2=data2, op=nl.multiply, engine=FAST)
    return tile


def _pulls(tile, x, tail, dout, row, begin, stop, masks):
    """Gradients of the sums before bias and silu, for each lag those that reach that far.

    They go on for as many columns as the longest lag. Adds to the gradients of taps and bias.
    """
    columns, span = stop - begin, tile.count - 1
    rows = tile.high - tile.low
    window = tile.window(x, tail, row, begin, stop)
    z = tile.sum(tile.delayed(window, masks))
    slope = nl.ndarray(z.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=slope, op=nl.silu_dx, data=z, bias=tile.bias)
    given = load(dout[row, tile.low : tile.high, begin:stop], dout.dtype)
    pull = nl.ndarray((rows, columns + span), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=pull[:, 0:columns], data1=given, data2=slope, op=nl.multiply)
    if span > 0:
        if tile.later == None:
            tile.later = filled(rows, span, 0.0)
        nisa.tensor_copy(dst=pull[:, columns : columns + span], src=tile.later)

    found = nl.ndarray((rows, tile.count + 1), dtype=nl.float32, buffer=nl.sbuf)
    vector_idles = tile.on_tensor == tile.count
    _total(pull[:, 0:columns], found[:, tile.count : tile.count + 1], vector_idles)
    pulls = []
    plain = as_dtype(pull, tile.dtype)
    for lag in range(tile.count):
        reaching, rounded = pull, plain
        if lag > 0 and len(masks) > 0:
            reaching = _product(pull, masks[lag - 1][0:rows, :], nl.float32)
            rounded = as_dtype(reaching, tile.dtype)
        past = window[:, span - lag : span - lag + columns]
        product = _product(reaching[:, 0:columns], past, nl.float32)
        _total(product, found[:, lag : lag + 1], vector_idles and lag == 0)
        pulls.append(rounded)
    nisa.tensor_tensor(dst=tile.sums, data1=tile.sums, data2=found, op=nl.add)
    if span > 0:
        tile.later = nl.ndarray((rows, span), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=tile.later, src=pull[:, 0:span])
    return pulls


def _total(terms, column, by_vector):
    """The sum of each row, in a column."""
    if by_vector:
        nisa.tensor_reduce(dst=column, op=nl.add, data=terms, axis=1)
        return
    nisa.activation(
        dst=terms,
        op=nl.copy,
        data=terms,
        reduce_op=nl.add,
        reduce_res=column,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
