"""State-space duality, backward: gradients of all that ``ssd`` takes.

Within a chunk y_t is the sum over s of W[t, s] u_s, W = decay * (C_t . B_s), u = dt x, and of
what the state before the chunk gives. A chunk's exponents are sums of logarithms over
stretches of tokens, so that the gradient of one logarithm is the sum of all that flows over
its token: from s before it to t at or after it, each summed by itself, nothing subtracted.
"""

from neuron.kernels.matrices import ones_where, turned
from neuron.kernels.ssd import (
    CHUNK,
    Chunk,
    Rates,
    Tools,
    for_heads,
    head_groups,
    keep_and_add,
    load_states,
    matmul,
    product,
    scaled,
    spread,
    store_state,
)
from neuron.kernels.tiles import COLUMNS, PARTITIONS, as_dtype, join, load, load_as, parts_of, store
from neuron.nki import nisa, nki, nl

FAST = nisa.engine.gpsimd
"""Who takes products of two tiles in SBUF: VectorE has enough to do with those in PSUM."""


@nki.jit
def ssd_backward(x, dt, A, B, C, edges, dy, dlast, start=None):
    """Gradients of ``neuron.kernels.ssd.ssd``.

    Args:
      x: (batch, L, H, P) inputs; P at most 512.
      dt: (batch, L, H) float32 step sizes, not negative.
      A: (H,) float32, negative.
      B: (batch, L, N) input map, shared by all heads; N at most 128.
      C: (batch, L, N) output map.
      edges: (batch, chunks, N, H P) float32, what the forward pass kept.
      dy: (batch, L, H, P), gradient of y.
      dlast: (batch, H, P, N) float32, gradient of h after the last token.
      start: (batch, L), 1 where a document starts, else 0; None: nowhere.

    Returns:
      Gradients of x, dt (in their dtypes) and A; those of B and C in one, (2, batch, L, N);
      and that of the state before the first token; float32.
    """
    batch, length, heads, width = x.shape
    states = B.shape[2]
    assert width <= COLUMNS, f"heads of {width} channels, at most {COLUMNS}"
    assert states <= PARTITIONS, f"{states} states of a channel, at most {PARTITIONS}"
    count = (length + CHUNK - 1) // CHUNK
    assert edges.shape[1] == count, f"{edges.shape[1]} edges, {length} tokens have {count}"
    dx = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    ddt = nl.ndarray(dt.shape, dtype=dt.dtype, buffer=nl.shared_hbm)
    da = nl.ndarray((heads,), dtype=nl.float32, buffer=nl.shared_hbm)
    dstate = nl.ndarray(dlast.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    dmaps = nl.ndarray((2, batch, length, states), dtype=nl.float32, buffer=nl.shared_hbm)
    sums = dmaps.reshape((2, batch * length, states))
    parts, mine = parts_of(sums)

    tools = Tools(x.dtype)
    masks = Masks()
    groups = head_groups(x)
    first, end = groups[0][0], groups[len(groups) - 1][1]
    rates = Rates(A, groups)
    drates = nl.ndarray((1, end - first), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=drates, value=0.0)
    for row in range(batch):
        carries = load_states(dlast, row, groups, tools)
        for done in range(count):
            index = count - 1 - done
            begin = index * CHUNK
            stop = min(begin + CHUNK, length)
            chunk = Chunk(dt, B, C, start, row, begin, stop, rates, x.dtype, tools)
            gradients = Gradients(chunk, end - first, masks)
            for i in range(len(groups)):
                low, high = groups[i]
                edge = load(edges[row, index, :, low * width : high * width], nl.float32)
                tokens = load(x[row, begin:stop, low:high, :], x.dtype)
                pull = load_as(dy[row, begin:stop, low:high, :], x.dtype)
                part = (low - first, high - first)
                found = _group(tokens, pull, part, edge, carries[i], chunk, gradients, tools, masks)
                store(dx[row, begin:stop, low:high, :], found)
            gradients.finish(ddt[row, begin:stop, first:end], drates, rates, tools, masks)
            low = row * length + begin
            gradients.maps(parts[mine, :, low : low + stop - begin, :], tools, masks)
        for i in range(len(groups)):
            low, high = groups[i]
            store_state(dstate[row, low:high, :, :], carries[i], tools)
    store(da[first:end], drates)
    join(sums, parts, mine)
    return dx, ddt, da, dmaps, dstate


class Masks(nl.NKIObject):
    """More matrices of zeros and ones.

    Attributes:
      not_before: (t, r), 1 for t >= r.
      before: (s, r), 1 for s < r.
    """

    def __init__(self):
        self.not_before = ones_where(nl.greater_equal)
        self.before = ones_where(nl.less)


class Gradients(nl.NKIObject):
    """What the heads of one chunk add up.

    Args:
      chunk: the chunk.
      heads: of this program.
      masks: constants.

    Attributes:
      scores: (t, s) C_t . B_s where s is not after t, else 0.
      dscores: its gradient, in PSUM.
      db: (s, N) gradient of B, but for that of scores. Likewise ``dc``.
      flows: (r, heads) sums over s < r <= t within the chunk, in PSUM.
      read: (t, heads), what flows from the state before to t.
      kept: (s, heads), what flows from s to the state after.
      passed: (N, heads), what flows from state to state.
      steps: (s, heads), gradient of dt as a factor of x.
    """

    def __init__(self, chunk, heads, masks):
        tokens, states = chunk.tokens, chunk.states
        self.chunk = chunk
        found = nl.ndarray((tokens, tokens), dtype=nl.float32, buffer=nl.psum)
        matmul(found, chunk.c_turned, chunk.b_turned)
        mask = masks.not_before[0:tokens, 0:tokens]
        self.scores = product(found, mask, nl.float32, nisa.engine.vector)
        self.dscores = nl.ndarray((tokens, tokens), dtype=nl.float32, buffer=nl.psum)
        self.db = nl.ndarray((tokens, states), dtype=nl.float32, buffer=nl.sbuf)
        self.dc = nl.ndarray((tokens, states), dtype=nl.float32, buffer=nl.sbuf)
        self.flows = nl.ndarray((tokens, heads), dtype=nl.float32, buffer=nl.psum)
        self.read = nl.ndarray((tokens, heads), dtype=nl.float32, buffer=nl.sbuf)
        self.kept = nl.ndarray((tokens, heads), dtype=nl.float32, buffer=nl.sbuf)
        self.passed = nl.ndarray((states, heads), dtype=nl.float32, buffer=nl.sbuf)
        self.steps = nl.ndarray((tokens, heads), dtype=nl.float32, buffer=nl.sbuf)
        self.begun = False

    def finish(self, ddt, drates, rates, tools, masks):
        """Write the gradient of dt, and add that of A to its sum."""
        chunk = self.chunk
        tokens, heads = chunk.step.shape
        passed = product(self.passed, chunk.kept, nl.float32, nisa.engine.vector)
        for pair in (
            (masks.not_before[0:tokens, 0:tokens], self.read),
            (masks.before[0:tokens, 0:tokens], self.kept),
            (tools.ones[0 : chunk.states, 0:tokens], passed),
        ):
            mask, flow = pair
            nisa.nc_matmul(
                dst=self.flows,
                stationary=mask,
                moving=flow,
                is_stationary_onezero=True,
                accumulate=True,
            )
        logs = nl.ndarray((tokens, heads), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=logs, src=self.flows, engine=nisa.engine.vector)
        slower = product(logs, rates.values[0:tokens, :], nl.float32, nisa.engine.vector)
        step = nl.ndarray((tokens, heads), dtype=ddt.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=step, data1=slower, data2=self.steps, op=nl.add)
        store(ddt, step)
        weighed = product(logs, chunk.step, nl.float32, nisa.engine.vector)
        total = nl.ndarray((1, heads), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(
            dst=total,
            stationary=tools.ones[0:tokens, 0:1],
            moving=weighed,
            is_stationary_onezero=True,
            accumulate=False,
        )
        nisa.tensor_tensor(dst=drates, data1=drates, data2=total, op=nl.add)

    def maps(self, target, tools, masks):
        """Write the gradients of B and C to (2, tokens, N) of HBM."""
        chunk = self.chunk
        tokens = chunk.tokens
        mask = masks.not_before[0:tokens, 0:tokens]
        dscores = product(self.dscores, mask, chunk.dtype, nisa.engine.vector)
        dscores_turned = turned(dscores, chunk.dtype, tools.eye_as)[0:tokens, 0, :]
        for one in (
            (0, self.db, dscores, chunk.c),
            (1, self.dc, dscores_turned, chunk.b),
        ):
            index, total, stationary, moving = one
            scored = nl.ndarray((tokens, chunk.states), dtype=nl.float32, buffer=nl.psum)
            matmul(scored, stationary, moving)
            found = nl.ndarray((tokens, chunk.states), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_tensor(dst=found, data1=scored, data2=total, op=nl.add)
            store(target[index, :, :], found)


def head_cuts(count, width):
    """How (heads, P) is cut into stretches of at most 128 columns that engines can address.

    Returns:
      (begin, end) of the stretches, and for each head its parts: the stretch, first and one
      past the last column in it.
    """
    cuts, parts = [], []
    if width == 32 or width == 64:
        for begin in range(0, count * width, PARTITIONS):
            cuts.append((begin, min(begin + PARTITIONS, count * width)))
        for h in range(count):
            low = h * width % PARTITIONS
            parts.append([(h * width // PARTITIONS, low, low + width)])
        return cuts, parts
    for h in range(count):
        mine = []
        for low in range(0, width, PARTITIONS):
            high = min(low + PARTITIONS, width)
            mine.append((len(cuts), 0, high - low))
            cuts.append((h * width + low, h * width + high))
        parts.append(mine)
    return cuts, parts


def _group(x, dy, heads, edge, carry, chunk, sums, tools, masks):
    """The gradient of x for some heads in one chunk; adds to the chunk's sums.

    ``carry``, the gradient of the state after the chunk, moves on to that before it.
    """
    low, _ = heads
    tokens, count, width = x.shape
    kind = chunk.dtype
    flat = (tokens, count * width)
    cuts, parts = head_cuts(count, width)
    steps = spread(chunk.step, low, x.shape)
    inputs = product(x, steps, kind, FAST)
    dy_turned = turned(dy.reshape(flat), kind, tools.eye_as, cuts)
    inputs_turned = turned(inputs.reshape(flat), kind, tools.eye_as, cuts)

    before, after = as_dtype(edge, kind), as_dtype(carry, kind)
    for one in (
        (inputs_turned, after, chunk.until, chunk.b, sums.db, sums.kept),
        (dy_turned, before, chunk.since, chunk.c, sums.dc, sums.read),
    ):
        turned_tile, state, left, rows, total, flow = one
        state_turned = turned(state, kind, tools.eye_as, cuts)
        found = _map_part(turned_tile, state_turned, parts, heads, left)
        _add_up(flow, heads, product(found, for_heads(rows, count), nl.float32, FAST))
        _add_heads(total, found, sums.begun)
    returned = _states(x, dy, heads, edge, carry, after, chunk, sums)

    decays = chunk.links(heads, tools.not_after, tools.after)
    _flows(dy_turned, inputs_turned, parts, decays, low, chunk, sums, tools, masks)
    weights = product(decays, for_heads(sums.scores, count), kind, FAST)
    within = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.psum)
    for h in range(count):
        matmul(within[:, h, :], weights[:, h, :], dy[:, h, :])
    dinputs = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=dinputs, data1=within, data2=returned, op=nl.add)
    _add_up(sums.steps, heads, product(x, dinputs, nl.float32, FAST))
    sums.begun = True
    return product(dinputs, steps, x.dtype, FAST)


def _add_up(sums, heads, terms):
    """The sums of each head of (rows, heads, columns) in its column."""
    low, high = heads
    nisa.tensor_reduce(dst=sums[:, low:high], op=nl.add, data=terms, axis=2)


def _map_part(tile_turned, state_turned, parts, heads, left):
    """What each head adds to the gradient of B or C by way of a state, (tokens, heads, N).

    Args:
      tile_turned: stretches of (heads x P), tokens.
      state_turned: the same stretches, N.
      parts: of the heads in stretches.
      heads: first and one past the last.
      left: (tokens, all heads), what is left of the state, or in the state of a token.
    """
    low, high = heads
    shape = (tile_turned.shape[2], high - low, state_turned.shape[2])
    found = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    for h in range(high - low):
        for j in range(len(parts[h])):
            i, begin, end = parts[h][j]
            stationary, moving = tile_turned[begin:end, i, :], state_turned[begin:end, i, :]
            matmul(found[:, h, :], stationary, moving, accumulate=j > 0)
    return scaled(found, left, low, nl.float32)


def _add_heads(total, terms, begun):
    """Add the sum over the heads of (rows, heads, columns) to a sum."""
    rows, count, columns = terms.shape
    by_column = terms.ap(pattern=[[count * columns, rows], [1, columns], [columns, count]])
    if not begun:
        nisa.tensor_reduce(dst=total, op=nl.add, data=by_column, axis=2)
        return
    part = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=part, op=nl.add, data=by_column, axis=2)
    nisa.tensor_tensor(dst=total, data1=total, data2=part, op=nl.add)


def _states(x, dy, heads, edge, carry, after, chunk, sums):
    """The gradient of dt x by way of the state after the chunk; ``carry`` moves on."""
    low, _ = heads
    _, count, width = x.shape
    given = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.psum)
    matmul(given, chunk.b_turned, after)
    returned = scaled(given, chunk.until, low, nl.float32)
    passed = product(edge, carry, nl.float32, FAST)
    _add_up(sums.passed, heads, passed.reshape((chunk.states, count, width)))

    taken = nl.ndarray((chunk.states, count, width), dtype=nl.float32, buffer=nl.psum)
    matmul(taken, chunk.c, scaled(dy, chunk.since, low, chunk.dtype))
    keep_and_add(carry, chunk.kept, low, taken)
    return returned


def _flows(dy_turned, inputs_turned, parts, decays, low, chunk, sums, tools, masks):
    """What flows over each token within the chunk, and the gradient of scores."""
    tokens, count = chunk.tokens, decays.shape[1]
    dweights = nl.ndarray(decays.shape, dtype=nl.float32, buffer=nl.psum)
    for h in range(count):
        for j in range(len(parts[h])):
            i, begin, end = parts[h][j]
            stationary, moving = dy_turned[begin:end, i, :], inputs_turned[begin:end, i, :]
            matmul(dweights[:, h, :], stationary, moving, accumulate=j > 0)
    pulled = product(dweights, decays, nl.float32, nisa.engine.vector)
    flux = product(pulled, for_heads(sums.scores, count), nl.float32, FAST)
    flow = nl.ndarray(decays.shape, dtype=nl.float32, buffer=nl.psum)
    for h in range(count):
        nisa.nc_matmul(
            dst=sums.dscores,
            stationary=tools.eye[0:tokens, 0:tokens],
            moving=pulled[:, h, :],
            is_stationary_onezero=True,
            accumulate=sums.begun or h > 0,
        )
        nisa.nc_matmul(
            dst=flow[:, h, :],
            stationary=flux[:, h, :],
            moving=masks.not_before[0:tokens, 0:tokens],
            is_moving_onezero=True,
            accumulate=False,
        )
    found = nl.ndarray(decays.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=found, op=nl.copy, data=flow)
    nisa.affine_select(
        dst=found,
        pattern=[[0, count], [-1, tokens]],
        channel_multiplier=1,
        on_true_tile=found,
        on_false_value=0.0,
        cmp_op=nl.less,
    )
    for h in range(count):
        nisa.nc_matmul(
            dst=sums.flows[:, low + h : low + h + 1],
            stationary=found[:, h, :],
            moving=tools.ones[0:tokens, 0:1],
            is_moving_onezero=True,
            accumulate=False,
        )
