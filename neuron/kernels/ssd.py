"""State-space duality, forward: one decay per head, chunks of 128 tokens as matmuls.

Operands lie in memory as ``bmojo.ops.ssd`` has them, tokens on partitions. The logarithm of
what is left at t of what came in at s is a sum over s < r <= t of its own, a matmul with
zeros and ones: as a difference of running sums small ones would drown in rounding. A start
of a document adds a number to the sum that makes its exponential vanish.

The result on tokens s and t of a chunk is decay[s, t] (C_t . B_s) dt_s x_s; the state, kept as
(N, heads x P), takes the tokens in with what is left of them at the chunk's end.
"""

from neuron.kernels.matrices import filled, identity, ones_where, turned
from neuron.kernels.scan import FORGET
from neuron.kernels.tiles import (
    COLUMNS,
    PARTITIONS,
    as_dtype,
    cut,
    load,
    load_as,
    load_on_all,
    share,
    store,
)
from neuron.nki import nisa, nki, nl

CHUNK = PARTITIONS
HEADS = 4
"""Heads that share an instruction: as many chunks of one head fill a PSUM bank."""


@nki.jit
def ssd(x, dt, A, B, C, state, start=None, keep_edges=False):
    """The recurrence of ``bmojo.ops.ssd.ssd``.

    Args:
      x: (batch, L, H, P) inputs; P at most 512.
      dt: (batch, L, H) float32 step sizes, not negative.
      A: (H,) float32, negative.
      B: (batch, L, N) input map, shared by all heads; N at most 128.
      C: (batch, L, N) output map.
      state: (batch, H, P, N) float32, h before the first token.
      start: (batch, L), 1 where a document starts, else 0; None: nowhere.
      keep_edges: return what the backward pass needs, too.

    Returns:
      y, like ``x``, and (batch, H, P, N) float32, h after the last token. With
      ``keep_edges`` also h before each chunk of 128 tokens, (batch, chunks, N, H P) float32.
      Matmuls take operands in the dtype of ``x``, sums and h are float32.
    """
    batch, length, _, width = x.shape
    states = B.shape[2]
    assert width <= COLUMNS, f"heads of {width} channels, at most {COLUMNS}"
    assert states <= PARTITIONS, f"{states} states of a channel, at most {PARTITIONS}"
    y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    last = nl.ndarray(state.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    count = (length + CHUNK - 1) // CHUNK
    kept = []
    if keep_edges:
        shape = (batch, count, states, state.shape[1] * width)
        kept.append(nl.ndarray(shape, dtype=nl.float32, buffer=nl.shared_hbm))
    tools = Tools(x.dtype)
    groups = head_groups(x)
    rates = Rates(A, groups)

    for row in range(batch):
        carries = load_states(state, row, groups, tools)
        for index in range(count):
            begin = index * CHUNK
            stop = min(begin + CHUNK, length)
            chunk = Chunk(dt, B, C, start, row, begin, stop, rates, x.dtype, tools)
            scores = _scores(chunk, tools)
            for i in range(len(groups)):
                low, high = groups[i]
                for edges in kept:
                    store(edges[row, index, :, low * width : high * width], carries[i])
                heads = (low - groups[0][0], high - groups[0][0])
                tokens = load(x[row, begin:stop, low:high, :], x.dtype)
                outputs = _group(tokens, heads, chunk, scores, carries[i], tools)
                store(y[row, begin:stop, low:high, :], outputs)
        for i in range(len(groups)):
            low, high = groups[i]
            store_state(last[row, low:high, :, :], carries[i], tools)
    return (y, last, kept[0]) if keep_edges else (y, last)


def head_groups(x):
    """(first, end) of groups of this program's heads that share instructions."""
    first, end = share(x.shape[2])
    size = max(1, min(HEADS, COLUMNS // x.shape[3]))
    return cut(first, end, size)


class Tools(nl.NKIObject):
    """Constant matrices.

    Args:
      dtype: of operands of matmuls.

    Attributes:
      eye: the identity; ``eye_as`` in that dtype.
      not_after: (r, t), 1 for r <= t.
      after: (r, s), 1 for r > s.
    """

    def __init__(self, dtype):
        self.eye = identity()
        self.eye_as = self.eye if dtype == nl.float32 else identity(dtype)
        self.ones = filled(PARTITIONS, PARTITIONS, 1.0)
        self.not_after = ones_where(nl.less_equal)
        self.after = ones_where(nl.greater)


class Rates(nl.NKIObject):
    """A of this program's heads on all partitions.

    Args:
      A: (H,).
      groups: of heads.
    """

    def __init__(self, A, groups):
        self.first, self.end = groups[0][0], groups[len(groups) - 1][1]
        self.values = load_on_all(A, self.first, PARTITIONS, self.end - self.first, nl.float32)


class Chunk(nl.NKIObject):
    """What the heads share of one chunk, and what decays.

    Args:
      dt: (batch, L, H).
      B: (batch, L, N).
      C: (batch, L, N).
      start: (batch, L) or None.
      row: of the batch.
      begin: first token.
      stop: one past the last.
      rates: A.
      dtype: of operands of matmuls.
      tools: constants.

    Attributes:
      step: (tokens, heads), dt.
      logs: (tokens, heads), dt A; far below zero where a document starts.
      since: (tokens, heads), what is left of the state before the chunk.
      until: (tokens, heads), what is left of a token at the chunk's end.
      kept: (N, heads), what is left of the state at the chunk's end.
    """

    def __init__(self, dt, B, C, start, row, begin, stop, rates, dtype, tools):
        tokens = stop - begin
        self.tokens, self.dtype = tokens, dtype
        self.states = B.shape[2]
        self.b = load_as(B[row, begin:stop, :], dtype)
        self.c = load_as(C[row, begin:stop, :], dtype)
        self.b_turned = turned(self.b, dtype, tools.eye_as)[0 : self.states, 0, :]
        self.c_turned = turned(self.c, dtype, tools.eye_as)[0 : self.states, 0, :]
        self.step = load_as(dt[row, begin:stop, rates.first : rates.end], nl.float32)
        shape = self.step.shape
        self.logs = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=self.logs, data1=self.step, data2=rates.values[0:tokens, :], op=nl.multiply
        )
        if start != None:
            offset = row * start.shape[1] + begin
            column = nl.ndarray((tokens, 1), dtype=start.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=column, src=start.ap([[1, tokens], [1, 1]], offset=offset))
            barrier = nl.ndarray((tokens, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_scalar(dst=barrier, data=column, op0=nl.multiply, operand0=FORGET)
            nisa.tensor_scalar(dst=self.logs, data=self.logs, op0=nl.subtract, operand0=barrier)
        self.since = self._decays(tools.not_after[0:tokens, 0:tokens])
        self.until = self._decays(tools.after[0:tokens, 0:tokens])
        self.kept = self._decays(tools.ones[0:tokens, 0 : self.states])

    def _decays(self, chosen):
        """Exponentials of sums of logarithms, over the tokens that each column chooses."""
        heads = self.logs.shape[1]
        rows = chosen.shape[1]
        sums = nl.ndarray((rows, heads), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(
            dst=sums,
            stationary=chosen,
            moving=self.logs,
            is_stationary_onezero=True,
            accumulate=False,
        )
        decays = nl.ndarray((rows, heads), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=decays, op=nl.exp, data=sums)
        return decays

    def links(self, heads, to, since):
        """Exponentials of sums of each head's logarithms, (tokens, heads, tokens).

        Args:
          heads: first and one past the last.
          to: (r, partition) 0/1, the tokens r that count for a row.
          since: (r, column) 0/1, those that count for a column.
        """
        low, high = heads
        tokens, count = self.tokens, high - low
        shape = (tokens, count, tokens)
        weighed = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        for h in range(count):
            nisa.activation(
                dst=weighed[:, h, :],
                op=nl.copy,
                data=since[0:tokens, 0:tokens],
                scale=self.logs[:, low + h : low + h + 1],
            )
        sums = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(
            dst=sums,
            stationary=to[0:tokens, 0:tokens],
            moving=weighed,
            is_stationary_onezero=True,
            accumulate=False,
        )
        decays = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=decays, op=nl.exp, data=sums)
        return decays


def matmul(dst, stationary, moving, accumulate=False):
    """One pass of TensorE; ``dst`` is in PSUM."""
    nisa.nc_matmul(dst=dst, stationary=stationary, moving=moving, accumulate=accumulate)


def scaled(tile, columns, first, dtype):
    """Each head of (rows, heads, P) times its column of ``columns``."""
    result = nl.ndarray(tile.shape, dtype=dtype, buffer=nl.sbuf)
    for h in range(tile.shape[1]):
        nisa.activation(
            dst=result[:, h, :],
            op=nl.copy,
            data=tile[:, h, :],
            scale=columns[:, first + h : first + h + 1],
        )
    return result


def spread(columns, first, shape):
    """Columns of (rows, all heads) as if each were there P times, (rows, heads, P)."""
    rows, count, width = shape
    return columns.ap(pattern=[[columns.strides[0], rows], [1, count], [0, width]], offset=first)


def for_heads(tile, count):
    """A (rows, columns) tile as if it were there once for each head."""
    rows, columns = tile.shape
    return tile.ap(pattern=[[tile.strides[0], rows], [0, count], [1, columns]])


def product(data1, data2, dtype, engine):
    """The product of two tiles."""
    result = nl.ndarray(data1.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=result, data1=data1, data2=data2, op=nl.multiply, engine=engine)
    return result


def _scores(chunk, tools):
    """B_s . C_t for s <= t, else 0; s on partitions."""
    shape = (chunk.tokens, chunk.tokens)
    found = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    matmul(found, chunk.b_turned, chunk.c_turned)
    mask = tools.not_after[0 : chunk.tokens, 0 : chunk.tokens]
    return product(found, mask, nl.float32, nisa.engine.vector)


def _group(x, heads, chunk, scores, carry, tools):
    """Outputs of some heads in one chunk; ``carry`` moves on to the chunk's end."""
    low, high = heads
    tokens, count, width = x.shape
    decays = chunk.links(heads, tools.after, tools.not_after)
    weights = product(decays, for_heads(scores, count), chunk.dtype, nisa.engine.gpsimd)
    steps = spread(chunk.step, low, x.shape)
    inputs = product(x, steps, chunk.dtype, nisa.engine.gpsimd)

    within = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.psum)
    for h in range(count):
        matmul(within[:, h, :], weights[:, h, :], inputs[:, h, :])
    before = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.psum)
    matmul(before, chunk.c_turned, as_dtype(carry, chunk.dtype))
    remembered = scaled(before, chunk.since, low, nl.float32)
    y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=y, data1=within, data2=remembered, op=nl.add)

    left = nl.ndarray((tokens, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=left, data1=chunk.step[:, low:high], data2=chunk.until[:, low:high], op=nl.multiply
    )
    taken = nl.ndarray((chunk.states, count, width), dtype=nl.float32, buffer=nl.psum)
    matmul(taken, chunk.b, scaled(x, left, 0, chunk.dtype))
    keep_and_add(carry, chunk.kept, low, taken)
    return y


def keep_and_add(carry, kept, first, taken):
    """(N, heads x P) times what each head keeps, plus what is new."""
    count, width = taken.shape[1], taken.shape[2]
    for h in range(count):
        part = carry[:, h * width : (h + 1) * width]
        nisa.scalar_tensor_tensor(
            dst=part,
            data=part,
            op0=nl.multiply,
            operand0=kept[:, first + h : first + h + 1],
            op1=nl.add,
            operand1=taken[:, h, :],
        )


def load_states(state, row, groups, tools):
    """The states of groups of heads of a row of the batch, each as (N, heads x P)."""
    tiles = []
    for i in range(len(groups)):
        low, high = groups[i]
        tiles.append(_load_state(state[row, low:high, :, :], tools))
    return tiles


def _load_state(source, tools):
    """(heads, P, N) of HBM as (N, heads x P)."""
    count, width, states = source.shape
    rows = source.reshape((count * width, states))
    tile = nl.ndarray((states, count * width), dtype=nl.float32, buffer=nl.sbuf)
    for low in range(0, count * width, PARTITIONS):
        high = min(low + PARTITIONS, count * width)
        part = turned(load(rows[low:high, :], nl.float32), nl.float32, tools.eye)
        nisa.tensor_copy(dst=tile[:, low:high], src=part[0:states, 0, :])
    return tile


def store_state(target, tile, tools):
    """(N, heads x P) as (heads, P, N) of HBM."""
    count, width, states = target.shape
    rows = target.reshape((count * width, states))
    for low in range(0, count * width, PARTITIONS):
        high = min(low + PARTITIONS, count * width)
        part = turned(tile[:, low:high], nl.float32, tools.eye)
        store(rows[low:high, :], part[0 : high - low, 0, :])
