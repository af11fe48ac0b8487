"""Slow oracles: every operation as a loop over time, written straight from its equation.

They compute in the dtype of their operands, float64 included, are differentiable, and hold
everything in memory. For tests and for readers.
"""

from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp

from bmojo.types import Array, Bool, Float, Int


def selective_scan(
    x: Float[Array, "B L E"],
    dt: Float[Array, "B L E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B E N"],
    start: Bool[Array, "B L"] | None = None,
) -> tuple[Float[Array, "B L E"], Float[Array, "B E N"]]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t . h_t (arXiv 2312.00752, eq. 2)."""

    def step(h, t):
        if start is not None:
            h = jnp.where(start[:, t, None, None], 0, h)
        h = jnp.exp(jnp.einsum("be,en->ben", dt[:, t], A)) * h
        h = h + jnp.einsum("be,bn,be->ben", dt[:, t], B[:, t], x[:, t])
        return h, jnp.einsum("bn,ben->be", C[:, t], h)

    state, y = jax.lax.scan(step, state, jnp.arange(x.shape[1]))
    return jnp.swapaxes(y, 0, 1), state


def ssd(
    x: Float[Array, "B L H P"],
    dt: Float[Array, "B L H"],
    A: Float[Array, "H"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B H P N"],
    start: Bool[Array, "B L"] | None = None,
) -> tuple[Float[Array, "B L H P"], Float[Array, "B H P N"]]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t (arXiv 2405.21060, eq. 2)."""

    def step(h, t):
        if start is not None:
            h = jnp.where(start[:, t, None, None, None], 0, h)
        h = jnp.exp(dt[:, t] * A)[:, :, None, None] * h
        h = h + jnp.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        return h, jnp.einsum("bhpn,bn->bhp", h, C[:, t])

    state, y = jax.lax.scan(step, state, jnp.arange(x.shape[1]))
    return jnp.swapaxes(y, 0, 1), state


def memory_attention(
    q: Float[Array, "L H P"],
    k: Float[Array, "L G P"],
    v: Float[Array, "L G P"],
    faded_k: Float[Array, "L G P"],
    faded_v: Float[Array, "L G P"],
    score: Sequence[float],
    document: Sequence[int],
    *,
    window: int,
    num_fading: int,
    num_eidetic: int,
    form: str = "chunked",
    offset: int = 0,
) -> Float[Array, "L H P"]:
    """B'MOJO's attention over one row, token by token (design: Algorithm 1 and its forms).

    Eidetic memory is a list that sequential insertion keeps: the least surprising entry
    gives way to a token that surprises more, among equals the latest.

    ``faded_k`` and ``faded_v`` are keys and values of the SSM's outputs, ``score`` is the
    innovation of each token, ``form`` 'chunked', 'sliding' or 'token', ``offset`` the position of
    the first token on the refresh grid.
    """
    remembered: list[int] = []
    frozen: list[int] = []
    first, edge, outs = 0, -offset, []
    for t in range(q.shape[0]):
        if (t + offset) % window == 0:
            frozen, edge = list(remembered), t
        if t and document[t] != document[t - 1]:
            first, remembered, frozen = t, [], []
        if len(remembered) < num_eidetic:
            remembered.append(t)
        elif num_eidetic:
            least = min(remembered, key=lambda p: (score[p], -p))
            if score[t] > score[least]:
                remembered[remembered.index(least)] = t
        tokens = list(range(max(first, t - window + 1), t + 1))
        if form == "chunked":
            tokens, outputs = tokens + frozen, range(edge - num_fading, edge)
        elif form == "sliding":
            outputs = range(t - 2 * window + 1, t - window + 1)
        else:
            tokens, outputs = tokens + remembered, range(t - window, t - window + num_fading)
        faded = [p for p in outputs if p >= first]
        keys = jnp.stack([k[p] for p in tokens] + [faded_k[p] for p in faded])
        values = jnp.stack([v[p] for p in tokens] + [faded_v[p] for p in faded])
        group = q.shape[1] // k.shape[1]
        heads = []
        for h in range(q.shape[1]):
            logits = keys[:, h // group] @ q[t, h] / q.shape[2] ** 0.5
            heads.append(jax.nn.softmax(logits) @ values[:, h // group])
        outs.append(jnp.stack(heads))
    return jnp.stack(outs)


def innovation(
    y: Float[Array, "L D"], span: int, document: Sequence[int], normalize: bool = False
) -> list[float]:
    """mean_d (y_t - (1/k) sum_{i=1..k} y_{t-i})^2, one row, token by token.

    With ``normalize`` each channel's square is divided by the mean of its squares in the
    document so far.
    """
    scores: list[float] = []
    squares: list[Array] = []
    first = 0
    for t in range(y.shape[0]):
        if t and document[t] != document[t - 1]:
            first, squares = t, []
        past = [y[p] for p in range(t - span, t) if p >= first]
        predicted = sum(past, jnp.zeros_like(y[t])) / span
        squares.append((y[t] - predicted) ** 2)
        scale = sum(squares) / len(squares) if normalize else 1.0
        scores.append(float(jnp.mean(squares[-1] / scale)))
    return scores


def companion_scan(
    x: Float[Array, "B L E"],
    a: Float[Array, "B L E R"],
    state: Float[Array, "B E R"],
    start: Bool[Array, "B L"] | None = None,
    valid: Bool[Array, "B L"] | None = None,
) -> tuple[Float[Array, "B L E R"], Float[Array, "B E R"]]:
    """s_t = A_t s_{t-1} + e_R x_t, A_t a shift with last row a_{t,R}..a_{t,1} (2407.06324)."""
    order = a.shape[-1]
    shift = jnp.eye(order, k=1, dtype=a.dtype)
    newest = jnp.eye(order, dtype=a.dtype)[-1]

    def step(s, t):
        past = s if start is None else jnp.where(start[:, t, None, None], 0, s)
        transition = shift + jnp.einsum("i,bej->beij", newest, a[:, t, :, ::-1])
        after = jnp.einsum("beij,bej->bei", transition, past)
        after = after + jnp.einsum("i,be->bei", newest, x[:, t])
        s = after if valid is None else jnp.where(valid[:, t, None, None], after, s)
        return s, s

    state, states = jax.lax.scan(step, state, jnp.arange(x.shape[1]))
    return jnp.swapaxes(states, 0, 1), state


def kept_entries(
    k: Float[Array, "L P"],
    tokens: Int[Array, "L"],
    segment_pos: Int[Array, "L"],
    ring: int,
    chunk: int,
    size: int,
    base: Callable[[Sequence[float], int], float],
    rate: float,
) -> list[list[int]]:
    """The entries in the slots at each token of one row; see :mod:`bmojo.ops.retention`.

    ``base`` is a function of (the products with newer entries of the same answer, position in the
    document).
    """
    words, products = tokens.tolist(), (k @ k.T).tolist()
    kept: list[int] = []
    found: list[list[int]] = []
    for t in range(len(words)):
        begins = t - int(segment_pos[t])
        if t % chunk == 0:
            cost = {}
            candidates = {*kept, *range(t - chunk - ring, t - ring)}
            for i in filter(lambda i: i >= begins, candidates):
                newer = [j for j in range(i + 1, t) if words[j + 1] == words[i + 1]]
                cost[i] = base([products[i][j] for j in newer], i - begins) + (t - i) * rate
            kept = sorted(sorted(cost, key=lambda i: (cost[i], -i))[:size])
        found.append([i for i in kept if i >= begins])
    return found


def verbatim_readout(
    q: Float[Array, "L P"],
    k: Float[Array, "L P"],
    tokens: Int[Array, "L"],
    head: Float[Array, "L V"],
    gate: Float[Array, "L"],
    segment_pos: Int[Array, "L"],
    ring: int,
    chunk: int,
    orders: Sequence[int],
    match: Float[Array, "n"],
    log_scale: Float[Array, ""],
    length: Float[Array, ""],
    gate_lse: Float[Array, ""],
    kept: Sequence[Collection[int]],
) -> Float[Array, "L V"]:
    """p_t = (1 - g_t) head_t + g_t c_t for one row from its first token on; see layers/readout.

    ``head`` are probabilities, ``gate`` the logits of the gate without the log-sum-exp, ``kept``
    further entries that each token reads.
    """
    words, found = tokens.tolist(), []
    for t in range(len(words)):
        begins = t - int(segment_pos[t])
        read = [max(t // chunk * chunk - ring, begins) <= i < t or i in kept[t]
                for i in range(len(words))]  # fmt: skip
        if not any(read):
            found.append(head[t])
            continue
        same = [
            [i - n + 1 >= begins and words[i - n + 1 : i + 1] == words[t - n + 1 : t + 1]
             for n in orders] for i in range(len(words))
        ]  # fmt: skip
        scale = jnp.exp(log_scale) * (1 + length * (jnp.log(sum(read)) / jnp.log(1024) - 1))
        scores = scale * (k @ q[t]) + jnp.array(same) @ match
        scores = jnp.where(jnp.array(read), scores, -jnp.inf)
        copied = jnp.zeros_like(head[t]).at[jnp.roll(tokens, -1)].add(jax.nn.softmax(scores))
        g = jax.nn.sigmoid(gate[t] + gate_lse * (jax.nn.logsumexp(scores) - 15))
        found.append((1 - g) * head[t] + g * copied)
    return jnp.stack(found)


def matched_entries(
    tokens: Int[Array, "L"],
    segment_pos: Int[Array, "L"],
    ring: int,
    chunk: int,
    n: int,
    cap: int,
    capacity: int,
) -> Int[Array, "L cap"]:
    """Entries that each token of one row reads beyond the ring, the newest first, then -1.

    Those of its document that were appended at or before the last chunk edge, end in the token's
    own n-gram, and are among the ``capacity`` appended last; see ops/matching.
    """
    words, found = tokens.tolist(), []
    for t in range(len(words)):
        begins, until, read = t - int(segment_pos[t]), t // chunk * chunk - ring, []
        for i in range(until - 1, max(begins, until - capacity) - 1, -1):
            if i - n + 1 >= begins and words[i - n + 1 : i + 1] == words[t - n + 1 : t + 1]:
                read.append(i)
        found.append((read + [-1] * cap)[:cap])
    return jnp.array(found, jnp.int32).reshape(len(words), cap)
