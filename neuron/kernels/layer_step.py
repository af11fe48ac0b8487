"""One new token of each row through a whole B'MOJO layer: cell, innovation and attention.

Rows of the batch are on partitions wherever a token is projected, so that weights stream
through TensorE and are read once; they limit the step, beside the window's keys and values. The
cell's states have channels on partitions. The memory slots of a chunk are operands: what happens
at a chunk's edge comes once in a window, to each row at another time, and a kernel can't branch
on data, so that the caller does it.
"""

from neuron.kernels.attention_step import attend
from neuron.kernels.innovation import TINY
from neuron.kernels.matrices import blocks, identity, turned
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

TOGETHER = 4 * COLUMNS
"""Columns of a product that are made together: half of PSUM."""

FAST = nisa.engine.gpsimd


@nki.jit
def layer_step(u, cell, heads, state, window, weights=(), slots=None, power=None, reads=True):
    """The chunked form of ``bmojo.layers.bmojo`` with a selective SSM, for one token of each row.

    Tokens are made from the input plus the cell's output.

    Args:
      u: (batch, D) normalized inputs.
      cell: the cell's parameters, matrices as (inputs, outputs) in the dtype of ``u``: in_proj
        (D, 2E), taps of the convolution (K, E), the present token's first, their bias (1, E),
        x_proj (E, R + 2N), dt_proj (R, E), dt_bias (E, 1), A (E, N) float32 and negative, the
        skip D (E, 1), out_proj (E, D).
      heads: q_proj (D, H P), k_proj and v_proj (D, G P), o_proj (H P, D).
      state: what the cell remembers: (batch, at least K - 1, E) inputs of the convolution in
        order of time; (E, batch, N) float32 states, channels first; and, with ``weights``,
        (batch, at least k, D) outputs of the cell in order of time.
      window: ring_k, ring_v, since, segment_pos, as ``memory_attention_step`` takes them.
      weights: c_1 .. c_k of the innovation's predictor, numbers; empty: no innovation.
      slots: slot_k, slot_v, distance, as ``memory_attention_step`` takes them; None: no slots.
      power: (batch, D) float32 for normalized innovation; None: plain.
      reads: whether the cell's output is added to the layer's.

    Returns:
      The layer's output (batch, D); what the caller puts into his state: the convolution's
      input (batch, E), the states (E, batch, N) float32, the cell's output (batch, D), the
      token's keys and values, each (batch, G, P); with ``weights`` its innovation (batch, 1)
      float32, and with ``power`` the power after it.
    """
    batch, channels = u.shape
    inner, states = cell[6].shape
    groups, width = window[0].shape[1], window[0].shape[2]
    query_heads = heads[0].shape[1] // width
    out = nl.ndarray(u.shape, dtype=u.dtype, buffer=nl.shared_hbm)
    fresh = nl.ndarray((batch, inner), dtype=u.dtype, buffer=nl.shared_hbm)
    hidden = nl.ndarray((inner, batch, states), dtype=nl.float32, buffer=nl.shared_hbm)
    faded = nl.ndarray(u.shape, dtype=u.dtype, buffer=nl.shared_hbm)
    k = nl.ndarray((batch, groups, width), dtype=u.dtype, buffer=nl.shared_hbm)
    v = nl.ndarray((batch, groups, width), dtype=u.dtype, buffer=nl.shared_hbm)
    results = [out, fresh, hidden, faded, k, v]
    if len(weights) > 0:
        results.append(nl.ndarray((batch, 1), dtype=nl.float32, buffer=nl.shared_hbm))
        if power != None:
            results.append(nl.ndarray(power.shape, dtype=nl.float32, buffer=nl.shared_hbm))
    shape = (batch, query_heads, width)
    q = nl.ndarray(shape, dtype=u.dtype, buffer=nl.private_hbm)
    mixed = nl.ndarray(shape, dtype=u.dtype, buffer=nl.private_hbm)
    segment_pos = window[3]

    first, end = share(batch)
    for part in cut(first, end, PARTITIONS):
        low, high = part
        tools = Tools(u.dtype)
        given = load(u[low:high, :], u.dtype)
        asked = tools.blocks(given)
        y = _cell(tools, asked, cell, state, segment_pos, fresh, hidden, low, high)
        store(faded[low:high, :], y)
        if len(weights) > 0:
            _innovation(y, state[2], weights, segment_pos, power, results[6:], low, high)

        tokens = _added(given, y)
        known = tools.blocks(tokens)
        _store_heads(q, low, high, project(asked, heads[0]))
        _store_heads(k, low, high, project(known, heads[1]))
        _store_heads(v, low, high, project(known, heads[2]))
        attend(mixed, q, k, v, window, slots, low, high)
        joined = mixed.reshape((batch, query_heads * width))
        found = tools.blocks(load(joined[low:high, :], u.dtype))
        looked = project(found, heads[3])
        store(out[low:high, :], _added(looked, y) if reads else looked)
    return tuple(results)


class Tools(nl.NKIObject):
    """Identity matrices.

    Args:
      dtype: of tokens.

    Attributes:
      eye: in that dtype.
      plain: in float32.
    """

    def __init__(self, dtype):
        self.plain = identity()
        self.eye = self.plain if dtype == nl.float32 else identity(dtype)

    def blocks(self, tile):
        """The transposes of a tile's columns, 128 at a time: a list of (columns, rows)."""
        rows = tile.shape[0]
        cuts = blocks(tile.shape[1])
        together = COLUMNS // rows
        found = []
        for begin in range(0, len(cuts), together):
            part = cuts[begin : begin + together]
            result = turned(tile, tile.dtype, self.eye, part)
            for j in range(len(part)):
                found.append(result[0 : part[j][1] - part[j][0], j, :])
        return found


def product(tokens, tiles, begin, end):
    """Tokens times some columns of a matrix, (rows, columns) in the tokens' dtype.

    Args:
      tokens: blocks of :meth:`Tools.blocks`.
      tiles: the matrix, 128 inputs at a time.
      begin: first column of the tiles.
      end: one past the last.
    """
    rows = tokens[0].shape[1]
    total = nl.ndarray((rows, end - begin), dtype=nl.float32, buffer=nl.psum)
    for part in cut(0, end - begin, COLUMNS):
        low, high = part
        for i in range(len(tokens)):
            nisa.nc_matmul(
                dst=total[:, low:high],
                stationary=tokens[i],
                moving=tiles[i][:, begin + low : begin + high],
                accumulate=i > 0,
            )
    result = nl.ndarray((rows, end - begin), dtype=tokens[0].dtype, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.copy, data=total)
    return result


def rows_of(weight, begin, end):
    """Some columns of a matrix in HBM, 128 inputs at a time."""
    tiles = []
    for part in blocks(weight.shape[0]):
        tiles.append(load(weight[part[0] : part[1], begin:end], weight.dtype))
    return tiles


def project(tokens, weight):
    """Tokens, as blocks, times a matrix in HBM: (rows, outputs)."""
    outputs = weight.shape[1]
    result = nl.ndarray((tokens[0].shape[1], outputs), dtype=tokens[0].dtype, buffer=nl.sbuf)
    for part in cut(0, outputs, TOGETHER):
        begin, end = part
        made = product(tokens, rows_of(weight, begin, end), 0, end - begin)
        if end - begin == outputs:
            return made
        nisa.tensor_copy(dst=result[:, begin:end], src=made)
    return result


def _store_heads(target, low, high, tile):
    """Rows of joined heads into (batch, heads, P)."""
    batch, count, width = target.shape
    store(target.reshape((batch, count * width))[low:high, :], tile)


def _cell(tools, asked, cell, state, segment_pos, fresh, hidden, low, high):
    """The cell's output; its new input and states go to HBM."""
    in_proj, taps, tap_bias, x_proj, dt_proj, dt_bias, rate, skip, out_proj = cell
    inner, states = rate.shape
    rows = high - low
    both = project(asked, in_proj)
    store(fresh[low:high, :], both[:, 0:inner])
    x = _convolved(both[:, 0:inner], state[0], taps, tap_bias, segment_pos, low, high)
    gate = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.activation(dst=gate, op=nl.silu, data=both[:, inner : 2 * inner])
    inputs, gates = tools.blocks(x), tools.blocks(gate)

    small = product(inputs, rows_of(x_proj, 0, x_proj.shape[1]), 0, x_proj.shape[1])
    rank = x_proj.shape[1] - 2 * states
    ranks = tools.blocks(small[:, 0:rank])
    maps = _on_all_rows(tools, small[:, rank : rank + 2 * states])
    steps = rows_of(dt_proj, 0, inner)
    starts = load_on_all(segment_pos, low, PARTITIONS, rows, nl.float32)
    nisa.tensor_scalar(
        dst=starts, data=starts, op0=nl.equal, operand0=0.0, op1=nl.multiply, operand1=FORGET
    )

    gated = []
    parts = blocks(inner)
    for i in range(len(parts)):
        begin, end = parts[i]
        step = _step(ranks, steps, load_as(dt_bias[begin:end, :], nl.float32), begin, end, x.dtype)
        held = load(state[1][begin:end, low:high, :], nl.float32)
        rates = load(rate[begin:end, :], nl.float32)
        y = _scan(step, inputs[i], starts, rates, maps, held)
        store(hidden[begin:end, low:high, :], held)
        total = nl.ndarray(y.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=total,
            data=inputs[i],
            op0=nl.multiply,
            operand0=load_as(skip[begin:end, :], nl.float32),
            op1=nl.add,
            operand1=y,
        )
        result = nl.ndarray(y.shape, dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=result, data1=total, data2=gates[i], op=nl.multiply)
        gated.append(result)
    return project(gated, out_proj)


def _convolved(x, tail, taps, bias, segment_pos, low, high):
    """Silu of the short convolution, (rows, E)."""
    rows, inner = x.shape
    segment_positions = load(segment_pos[low:high, :], nl.float32)
    held = tail.shape[1]
    total = load_on_all(bias, 0, rows, inner, nl.float32)
    for lag in range(taps.shape[0]):
        tap = load_on_all(taps, lag * inner, rows, inner, nl.float32)
        part = nl.ndarray((rows, inner), dtype=nl.float32, buffer=nl.sbuf)
        if lag == 0:
            nisa.tensor_tensor(dst=part, data1=x, data2=tap, op=nl.multiply)
        else:
            nisa.scalar_tensor_tensor(
                dst=part,
                data=load(tail[low:high, held - lag, :], tail.dtype),
                op0=nl.multiply,
                operand0=_reached(segment_positions, lag, 1.0),
                op1=nl.multiply,
                operand1=tap,
            )
        nisa.tensor_tensor(dst=total, data1=total, data2=part, op=nl.add, engine=FAST)
    result = nl.ndarray((rows, inner), dtype=x.dtype, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.silu, data=total)
    return result


def _reached(segment_positions, lag, weight):
    """A weight where the token ``lag`` back is of the same document, else 0, (rows, 1)."""
    column = nl.ndarray(segment_positions.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=column,
        data=segment_positions,
        op0=nl.greater_equal,
        operand0=float(lag),
        op1=nl.multiply,
        operand1=weight,
    )
    return column


def _on_all_rows(tools, tile):
    """All rows of a tile on each partition, (128, rows, columns)."""
    rows, columns = tile.shape
    wide = as_dtype(tile, nl.float32)
    result = nl.ndarray((PARTITIONS, rows, columns), dtype=nl.float32, buffer=nl.sbuf)
    for part in cut(0, rows, COLUMNS // columns):
        low, high = part
        spread = nl.ndarray((PARTITIONS, high - low, columns), dtype=nl.float32, buffer=nl.psum)
        for row in range(low, high):
            nisa.nc_matmul(
                dst=spread[:, row - low, :],
                stationary=tools.plain.ap(
                    pattern=[[PARTITIONS, rows], [0, PARTITIONS]], offset=row
                ),
                moving=wide,
                is_stationary_onezero=True,
                accumulate=False,
            )
        nisa.activation(dst=result[:, low:high, :], op=nl.copy, data=spread)
    return result


def _step(ranks, steps, bias, begin, end, dtype):
    """Step sizes of some channels, (channels, rows) float32."""
    rows = ranks[0].shape[1]
    total = nl.ndarray((end - begin, rows), dtype=nl.float32, buffer=nl.psum)
    for i in range(len(ranks)):
        nisa.nc_matmul(
            dst=total, stationary=steps[i][:, begin:end], moving=ranks[i], accumulate=i > 0
        )
    rounded = nl.ndarray(total.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=rounded, src=total)
    result = nl.ndarray(total.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.softplus, data=rounded, bias=bias)
    return result


def _scan(step, inputs, starts, rates, maps, held):
    """One step of some channels' states, which ``held`` becomes; C h, (channels, rows)."""
    channels, rows, states = held.shape
    forgetful = nl.ndarray(step.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=forgetful, data1=step, data2=starts[0:channels, :], op=nl.add)
    decay = nl.ndarray(held.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=decay,
        data1=forgetful.ap(pattern=[[rows, channels], [1, rows], [0, states]], offset=0),
        data2=rates.ap(pattern=[[states, channels], [0, rows], [1, states]], offset=0),
        op=nl.multiply,
        engine=FAST,
    )
    nisa.activation(dst=decay, op=nl.exp, data=decay)
    nisa.tensor_tensor(dst=held, data1=held, data2=decay, op=nl.multiply, engine=FAST)
    pushed = nl.ndarray(step.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=pushed, data1=step, data2=inputs, op=nl.multiply)
    spread = nl.ndarray(held.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=spread,
        data1=pushed.ap(pattern=[[rows, channels], [1, rows], [0, states]], offset=0),
        data2=maps[0:channels, :, 0:states],
        op=nl.multiply,
    )
    nisa.tensor_tensor(dst=held, data1=held, data2=spread, op=nl.add)
    seen = nl.ndarray(held.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=seen,
        data1=held,
        data2=maps[0:channels, :, states : 2 * states],
        op=nl.multiply,
        engine=FAST,
    )
    y = nl.ndarray((channels, rows), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=y, op=nl.add, data=seen, axis=2)
    return y


def _innovation(y, outputs, weights, segment_pos, power, results, low, high):
    """Score of each row's token, and the power after it, to HBM."""
    segment_positions = load(segment_pos[low:high, :], nl.float32)
    held = outputs.shape[1]
    error = as_dtype(y, nl.float32)
    for i in range(len(weights)):
        less = nl.ndarray(y.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=less,
            data=load(outputs[low:high, held - 1 - i, :], outputs.dtype),
            op0=nl.multiply,
            operand0=_reached(segment_positions, i + 1, -float(weights[i])),
            op1=nl.add,
            operand1=error,
        )
        error = less
    squares = nl.ndarray(y.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=squares, op=nl.square, data=error)
    if power != None:
        sums = load(power[low:high, :], nl.float32)
        nisa.scalar_tensor_tensor(
            dst=sums,
            data=sums,
            op0=nl.multiply,
            operand0=_reached(segment_positions, 1, 1.0),
            op1=nl.add,
            operand1=squares,
        )
        store(results[1][low:high, :], sums)
        share_of = nl.ndarray(segment_positions.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=share_of, data=segment_positions, op0=nl.add, operand0=1.0)
        nisa.reciprocal(dst=share_of, data=share_of)
        nisa.tensor_scalar(
            dst=sums, data=sums, op0=nl.multiply, operand0=share_of, op1=nl.maximum, operand1=TINY
        )
        nisa.reciprocal(dst=sums, data=sums)
        nisa.tensor_tensor(dst=squares, data1=squares, data2=sums, op=nl.multiply)
    score = nl.ndarray(segment_positions.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=score, op=nl.add, data=squares, axis=1)
    nisa.tensor_scalar(dst=score, data=score, op0=nl.multiply, operand0=1.0 / y.shape[1])
    store(results[0][low:high, :], score)


def _added(one, other):
    """The sum of two tiles in their dtype."""
    result = nl.ndarray(one.shape, dtype=one.dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=result, data1=one, data2=other, op=nl.add)
    return result
