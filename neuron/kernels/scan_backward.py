"""The selective scan, backward: gradients of all that ``selective_scan`` takes.

With r_t = a_t dL/dh_t, a_t = exp(dt_t A), r runs backwards in time by itself,
r_t = a_t (C_t dy_t + r_{t+1}), from the gradient of the last state on. Then

    d(dt x)_t = sum over states of r_{t+1} B_t, plus dy_t (B_t . C_t),
    d(dt_t A) = r_t h_{t-1},
    dB_t = sum over channels of r_{t+1} dt_t x_t, plus C_t times that of dy_t dt_t x_t,
    dC_t = sum over channels of h_t dy_t.

h is computed again from its values at the edges of time tiles. As in the forward pass
channels are on partitions and time is on the free axis. A product with a row of B or C is a
matmul of the transposed tile with a diagonal matrix, a sum over channels the diagonal of a
matmul: VectorE, which alone can scan, is left the scans, and one product for each state.
"""

from neuron.kernels.matrices import blocks, filled, identity, on_all, spans, turned
from neuron.kernels.scan import FORGET, tile_columns
from neuron.kernels.tiles import PARTITIONS, cut_channels, join, load, load_as, parts_of, store
from neuron.nki import nisa, nki, nl

GROUP = 6
"""Channel tiles that share the matrices of a state; more do not fit beside each other."""


@nki.jit
def selective_scan_backward(x, dt, A, B, C, edges, dy, dlast, start=None):
    """Gradients of ``neuron.kernels.scan.selective_scan``, time last.

    Args:
      x: (batch, E, L) inputs.
      dt: (batch, E, L) step sizes, not negative.
      A: (E, N) float32, negative; N at most 128.
      B: (batch, N, L) input map.
      C: (batch, N, L) output map.
      edges: (batch, tiles, E, N) float32, what the forward pass kept.
      dy: (batch, E, L), gradient of y.
      dlast: (batch, E, N) float32, gradient of h after the last token.
      start: (batch, L), 1 where a document starts, else 0; None: nowhere.

    Returns:
      Gradients of x, dt (in their dtypes) and A; those of B and C in one, (2, batch, N, L);
      and that of the state before the first token; float32.
    """
    batch, channels, length = x.shape
    states = A.shape[1]
    assert states <= PARTITIONS, f"{states} states of a channel, at most {PARTITIONS}"
    columns = tile_columns(states)
    count = (length + columns - 1) // columns
    assert edges.shape[1] == count, f"{edges.shape[1]} edges, {length} tokens have {count}"
    dx = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    ddt = nl.ndarray(dt.shape, dtype=dt.dtype, buffer=nl.shared_hbm)
    da = nl.ndarray(A.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    dstate = nl.ndarray(dlast.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    dmaps = nl.ndarray((2, batch, states, length), dtype=nl.float32, buffer=nl.shared_hbm)
    sums = dmaps.reshape((2, batch * states, length))
    parts, mine = parts_of(sums)
    tools = Tools(states)

    tiles = cut_channels(channels)
    rates, rate_sums = [], []
    for i in range(len(tiles)):
        low, high = tiles[i]
        rates.append(load(A[low:high, :], nl.float32))
        rate_sums.append(filled(high - low, states, 0.0))
    for row in range(batch):
        carries = []
        for i in range(len(tiles)):
            low, high = tiles[i]
            carries.append(load(dlast[row, low:high, :], nl.float32))
        for done in range(count):
            index = count - 1 - done
            begin = index * columns
            stop = min(begin + columns, length)
            rows = Rows(B, C, start, row, begin, stop, tools)
            for group in range(0, len(tiles), GROUP):
                members = []
                for i in range(group, min(group + GROUP, len(tiles))):
                    low, high = tiles[i]
                    place = (row, low, high, begin, stop)
                    edge = load(edges[row, index, low:high, :], nl.float32)
                    member = Member(x, dt, dy, place, rates[i], edge, carries[i], rows, tools)
                    members.append(member)
                for n in range(states):
                    _state(n, members, rows, tools)
                for i in range(len(members)):
                    members[i].finish(dx, ddt, rate_sums[group + i])
            rows.finish(parts[mine], row, begin, stop)
        for i in range(len(tiles)):
            low, high = tiles[i]
            store(dstate[row, low:high, :], carries[i])
    for i in range(len(tiles)):
        low, high = tiles[i]
        store(da[low:high, :], rate_sums[i])
    join(sums, parts, mine)
    return dx, ddt, da, dmaps, dstate


class Tools(nl.NKIObject):
    """Constant matrices.

    Args:
      states: N.
    """

    def __init__(self, states):
        self.eye = identity()
        self.ones = filled(PARTITIONS, PARTITIONS, 1.0)
        # A window of N columns whose column n is ones: columns N - 1 - n on.
        self.picks = filled(PARTITIONS, 2 * states - 1, 0.0)
        nisa.memset(dst=self.picks[:, states - 1 : states], value=1.0)
        self.states = states

    def pick(self, n, partitions):
        """(partitions, N) of zeros, ones in column n."""
        return self.picks[0:partitions, self.states - 1 - n : 2 * self.states - 1 - n]


class Rows(nl.NKIObject):
    """Rows of B and C of one time tile, in all layouts, and the sums of their gradients.

    Args:
      B: (batch, N, L).
      C: (batch, N, L).
      start: (batch, L) or None.
      row: of the batch.
      begin: first column of the tile.
      stop: one past the last.
      tools: constants.
    """

    def __init__(self, B, C, start, row, begin, stop, tools):
        states, columns = B.shape[1], stop - begin
        self.columns = columns
        self.b = load_as(B[row, :, begin:stop], nl.float32)
        self.c = load_as(C[row, :, begin:stop], nl.float32)
        self.b_turned = turned(self.b, nl.float32, tools.eye)
        self.c_turned = turned(self.c, nl.float32, tools.eye)
        product = nl.ndarray((states, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=product, data1=self.b, data2=self.c, op=nl.multiply)
        self.inner = on_all(tools.ones, 0, product, PARTITIONS)
        self.starts = None
        if start != None:
            starts = load_as(start[row : row + 1, begin:stop], nl.float32)
            self.starts = on_all(tools.ones, 0, starts, PARTITIONS)
        shape = (states, columns)
        self.db = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
        self.dc = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
        self.passed = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
        self.summed = False
        self.members = 0

    def finish(self, sums, row, begin, stop):
        """Write the gradients of B and C."""
        shape = self.b.shape
        passed = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=passed, data1=self.c, data2=self.passed, op=nl.multiply)
        db = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=db, data1=passed, data2=self.db, op=nl.add)
        dc = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=dc, op=nl.copy, data=self.dc)
        low = row * shape[0]
        store(sums[0, low : low + shape[0], begin:stop], db)
        store(sums[1, low : low + shape[0], begin:stop], dc)


class Member(nl.NKIObject):
    """One channel tile in one time tile: operands, and sums over states.

    Args:
      x: (batch, E, L); likewise ``dt`` and ``dy``.
      dt: step sizes.
      dy: gradient of the output.
      place: row of the batch, channels and columns.
      rate: (P, N) of A.
      edge: (P, N), h before the tile.
      carry: (P, N), r after the tile; moves on to before the tile.
      rows: of B and C.
      tools: constants.
    """

    def __init__(self, x, dt, dy, place, rate, edge, carry, rows, tools):
        row, low, high, begin, stop = place
        self.place = place
        self.rate, self.edge, self.carry = rate, edge, carry
        self.shape = (high - low, stop - begin)
        self.step = load(dt[row, low:high, begin:stop], dt.dtype)
        self.tokens = load(x[row, low:high, begin:stop], x.dtype)
        self.dy = load_as(dy[row, low:high, begin:stop], nl.float32)
        self.decay_step = self.step
        if rows.starts != None:
            self.decay_step = nl.ndarray(self.shape, dtype=nl.float32, buffer=nl.sbuf)
            nisa.scalar_tensor_tensor(
                dst=self.decay_step,
                data=rows.starts[0 : high - low, :],
                op0=nl.multiply,
                operand0=FORGET,
                op1=nl.add,
                operand1=self.step,
            )
        self.inputs = nl.ndarray(self.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=self.inputs, data1=self.step, data2=self.tokens, op=nl.multiply)
        self.dy_turned = turned(self.dy, nl.float32, tools.eye)
        self.inputs_turned = turned(self.inputs, nl.float32, tools.eye)

        self.dinputs = nl.ndarray(self.shape, dtype=nl.float32, buffer=nl.sbuf)
        inner = rows.inner[0 : high - low, :]
        nisa.tensor_tensor(dst=self.dinputs, data1=self.dy, data2=inner, op=nl.multiply)
        self.ddecays = nl.ndarray(self.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=self.ddecays, value=0.0)
        self.drate = nl.ndarray(rate.shape, dtype=nl.float32, buffer=nl.sbuf)

        product = nl.ndarray(self.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=product, data1=self.dy, data2=self.inputs, op=nl.multiply)
        nisa.nc_matmul(
            dst=rows.passed,
            stationary=tools.ones[0 : high - low, 0 : tools.states],
            moving=product,
            is_stationary_onezero=True,
            accumulate=rows.members > 0,
        )
        rows.members = rows.members + 1

    def finish(self, dx, ddt, rate_sum):
        """Write the gradients of x and dt, and add that of A to its sum."""
        row, low, high, begin, stop = self.place
        tokens = nl.ndarray(self.shape, dtype=dx.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=tokens, data1=self.dinputs, data2=self.step, op=nl.multiply)
        store(dx[row, low:high, begin:stop], tokens)
        pushed = nl.ndarray(self.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=pushed, data1=self.dinputs, data2=self.tokens, op=nl.multiply)
        step = nl.ndarray(self.shape, dtype=ddt.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=step, data1=pushed, data2=self.ddecays, op=nl.add)
        store(ddt[row, low:high, begin:stop], step)
        nisa.tensor_tensor(dst=rate_sum, data1=rate_sum, data2=self.drate, op=nl.add)


def _state(n, members, rows, tools):
    """One of the N states of a group of channel tiles."""
    columns = rows.columns
    b_diagonal = _diagonals(rows.b_turned, n, columns, tools)
    c_diagonal = _diagonals(rows.c_turned, n, columns, tools)
    b_row = on_all(tools.eye, n, rows.b, PARTITIONS)
    db = nl.ndarray((PARTITIONS, columns), dtype=nl.float32, buffer=nl.psum)
    dc = nl.ndarray((PARTITIONS, columns), dtype=nl.float32, buffer=nl.psum)
    for i in range(len(members)):
        member = members[i]
        decay = nl.ndarray(member.shape, dtype=nl.float32, buffer=nl.sbuf)
        rate = member.rate[:, n : n + 1]
        nisa.activation(dst=decay, op=nl.exp, data=member.decay_step, scale=rate)
        h = _states(member, n, decay, b_diagonal)
        r = _pulls(member, n, decay, c_diagonal)
        for block in blocks(columns):
            begin, stop = block
            for one in ((dc, h, member.dy), (db, r, member.inputs)):
                dst, stationary, moving = one
                nisa.nc_matmul(
                    dst=dst[0 : stop - begin, begin:stop],
                    stationary=stationary[:, begin + 1 : stop + 1],
                    moving=moving[:, begin:stop],
                    accumulate=i > 0,
                )
        _sums(member, n, h, r, b_row)
    for pair in ((db, rows.db), (dc, rows.dc)):
        _add_diagonal(pair[0], pair[1], n, rows.summed, tools)
    rows.summed = True


def _diagonals(turned_rows, n, columns, tools):
    """Row n of B or C on the diagonals of matrices, one for each block of time."""
    tile = nl.ndarray((PARTITIONS, columns), dtype=nl.float32, buffer=nl.sbuf)
    cuts = blocks(columns)
    for i in range(len(cuts)):
        begin, stop = cuts[i]
        width = stop - begin
        nisa.activation(
            dst=tile[0:width, begin:stop],
            op=nl.copy,
            data=tools.eye[0:width, 0:width],
            scale=turned_rows[0:width, i, n : n + 1],
        )
    return tile


def _times_row(turned_tile, diagonal, shape):
    """A tile times a row of B or C, in PSUM."""
    product = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    cuts = blocks(shape[1])
    for i in range(len(cuts)):
        begin, stop = cuts[i]
        width = stop - begin
        nisa.nc_matmul(
            dst=product[:, begin:stop],
            stationary=turned_tile[0:width, i, :],
            moving=diagonal[0:width, begin:stop],
            accumulate=False,
        )
    return product


def _states(member, n, decay, b_diagonal):
    """The values of h of one state, (P, 1 + columns), what was before the tile first."""
    partitions, columns = member.shape
    pushed = _times_row(member.inputs_turned, b_diagonal, member.shape)
    h = nl.ndarray((partitions, columns + 1), dtype=nl.float32, buffer=nl.sbuf)
    edge = member.edge[:, n : n + 1]
    nisa.activation(dst=h[:, 0:1], op=nl.copy, data=edge)
    nisa.tensor_tensor_scan(
        dst=h[:, 1 : columns + 1],
        data0=decay,
        data1=pushed,
        initial=edge,
        op0=nl.multiply,
        op1=nl.add,
    )
    return h


def _pulls(member, n, decay, c_diagonal):
    """The values of r of one state, (P, columns + 1), what comes after last; the carry moves on."""
    partitions, columns = member.shape
    pulled = _times_row(member.dy_turned, c_diagonal, member.shape)
    r = nl.ndarray((partitions, columns + 1), dtype=nl.float32, buffer=nl.sbuf)
    carry = member.carry[:, n : n + 1]
    nisa.activation(dst=r[:, columns : columns + 1], op=nl.copy, data=carry)
    backwards = [-1, columns]
    nisa.tensor_tensor_scan(
        dst=r.ap(pattern=[[columns + 1, partitions], backwards], offset=columns - 1),
        data0=pulled.ap(pattern=[[columns, partitions], backwards], offset=columns - 1),
        data1=decay.ap(pattern=[[columns, partitions], backwards], offset=columns - 1),
        initial=carry,
        op0=nl.add,
        op1=nl.multiply,
    )
    nisa.activation(dst=carry, op=nl.copy, data=r[:, 0:1])
    return r


def _sums(member, n, h, r, b_row):
    """What one state adds to the gradients of dt x, of dt A, and of A."""
    partitions, columns = member.shape
    fast = nisa.engine.gpsimd
    flux = nl.ndarray(member.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=flux, data1=r[:, 0:columns], data2=h[:, 0:columns], op=nl.multiply, engine=fast
    )
    nisa.scalar_tensor_tensor(
        dst=member.ddecays,
        data=flux,
        op0=nl.multiply,
        operand0=member.rate[:, n : n + 1],
        op1=nl.add,
        operand1=member.ddecays,
    )
    weighed = nl.ndarray(member.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=weighed, data1=flux, data2=member.step, op=nl.multiply, engine=fast)
    nisa.activation(
        dst=weighed,
        op=nl.copy,
        data=weighed,
        reduce_op=nl.add,
        reduce_res=member.drate[:, n : n + 1],
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    read = nl.ndarray(member.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=read,
        data1=r[:, 1 : columns + 1],
        data2=b_row[0:partitions, :],
        op=nl.multiply,
        engine=fast,
    )
    nisa.tensor_tensor(dst=member.dinputs, data1=member.dinputs, data2=read, op=nl.add, engine=fast)


def _add_diagonal(gradient, total, n, summed, tools):
    """Add the diagonals of matrices side by side to row n of a sum."""
    columns = gradient.shape[1]
    for span in spans(columns):
        begin, stop, width = span
        count = (stop - begin) // width
        found = nl.ndarray((width, stop - begin), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=found, op=nl.copy, data=gradient[0:width, begin:stop])
        kept = nl.ndarray((width, stop - begin), dtype=nl.float32, buffer=nl.sbuf)
        nisa.affine_select(
            dst=kept,
            pattern=[[0, count], [-1, width]],
            channel_multiplier=1,
            on_true_tile=found,
            on_false_value=0.0,
            cmp_op=nl.equal,
        )
        nisa.nc_matmul(
            dst=total[:, begin:stop],
            stationary=tools.pick(n, width),
            moving=kept,
            is_stationary_onezero=True,
            accumulate=summed,
        )
