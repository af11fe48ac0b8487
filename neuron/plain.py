"""What the kernels compute, in plain PyTorch: for comparison, and where no kernel is wanted.

The functions here and in :mod:`neuron.functions` have the same arguments and results, but for
those of a single token. All tensors have time before channels: (B, L, ...).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

VACANT = -1
"""Position in a vacant slot."""

EMPTY = -1.0
"""Score of an empty slot, and of tokens that don't count."""

NEVER = 2**30
"""Distance of an empty slot."""

Slots = tuple[Tensor, Tensor, Tensor]
"""Keys and values (B, C, M, G, P) and distances (B, C, M) of the slots of C chunks."""


def short_convolution(
    x: Tensor, tail: Tensor, kernel: Tensor, bias: Tensor, segment_pos: Tensor | None
) -> Tensor:
    """Silu of the causal depthwise convolution.

    Args:
      x: (B, L, E) inputs.
      tail: (B, K - 1, E) inputs before the call.
      kernel: (K, E) taps, the present token's first.
      bias: (E,).
      segment_pos: (B, L) tokens of the same document before each token; None: no document ends in
        reach.
    """
    return F.silu(_convolved(x, tail, kernel, segment_pos) + bias)


def _convolved(x: Tensor, tail: Tensor, kernel: Tensor, segment_pos: Tensor | None) -> Tensor:
    length, held = x.shape[1], tail.shape[1]
    past = torch.cat([tail.to(x.dtype), x], dim=1)
    out = kernel[0] * x
    for lag in range(1, kernel.shape[0]):
        delayed = past[:, held - lag : held - lag + length]
        if segment_pos is not None:
            delayed = torch.where((segment_pos >= lag)[..., None], delayed, 0.0)
        out = out + kernel[lag] * delayed
    return out


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    start: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scan of :func:`bmojo.ops.recurrence.selective_scan`, a loop over tokens.

    Args:
      x: (B, L, E) inputs.
      dt: (B, L, E) step sizes.
      A: (E, N) float32, negative.
      B: (B, L, N) input map.
      C: (B, L, N) output map.
      state: (B, E, N) float32, h before the first token.
      start: (B, L) true where a document starts; None: nowhere.

    Returns:
      (B, L, E) in the dtype of ``x``, and h after the last token.
    """
    kind = x.dtype
    x, dt, B, C = (v.to(torch.float32) for v in (x, dt, B, C))
    h, outs = state, []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        if start is not None:  # replaced, as 0 times what is not finite is not 0
            h = torch.where(start[:, t, None, None], 0.0, h)
        h = decay * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        outs.append((h * C[:, t, None, :]).sum(dim=-1))
    return torch.stack(outs, dim=1).to(kind), h


def innovation(
    y: Tensor,
    tail: Tensor,
    span: int,
    segment_pos: Tensor | None,
    power: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Mean over channels of the squared error of the mean of the last ``span`` outputs.

    Args:
      y: (B, L, D) outputs of the SSM.
      tail: (B, at least span, D) outputs before the call.
      span: outputs that the predictor averages.
      segment_pos: (B, L); None only without ``power``.
      power: (B, D) float32, sums of each channel's squares in the document before the call, for
        normalized innovation: squares are divided by their mean up to there. None: plain.
      valid: (B, L) false at padding, which ``power`` passes over; None: there is none.

    Returns:
      (B, L) float32, and ``power`` after the call, both without gradient.
    """
    y, tail = y.detach().to(torch.float32), tail.detach().to(torch.float32)
    taps = torch.full((span + 1, 1), -1.0 / span, device=y.device)
    taps[0] = 1.0
    squares = _convolved(y, tail, taps, segment_pos).square()
    if power is None:
        return squares.mean(dim=-1), None
    assert segment_pos is not None, "normalized innovation needs the segment_pos of every token"
    counted = squares if valid is None else squares * valid[..., None]
    sums, means = power.detach(), []
    for t in range(y.shape[1]):
        sums = torch.where(segment_pos[:, t, None] != 0, sums, 0.0) + counted[:, t]
        means.append(sums / (segment_pos[:, t, None] + 1))
    mean = torch.stack(means, dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return (squares / mean).mean(dim=-1), sums


def running_sets(
    score: Tensor, carried: Tensor, chunk: int, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The most surprising tokens at the end of each chunk; among equals the earlier.

    Args:
      score: (B, L) innovation, ``EMPTY`` where there is no token.
      carried: (B, M) scores of the set before the call, best first.
      chunk: tokens between two edges of the grid, which starts with the call.
      start: (B, L) true where a document starts; None: nowhere.

    Returns:
      Scores (B, C, M), best first, and sources: m is slot m of ``carried``, M + t token t.
      The last set is that after the last token, wherever the call ends.
    """
    rows, length = score.shape
    size = carried.shape[1]
    best = carried
    source = torch.arange(size, dtype=torch.int32, device=score.device).expand(rows, size)
    scores, sources = [], []
    for begin in range(0, length, chunk):
        tokens = score[:, begin : begin + chunk]
        if start is not None:
            document = start[:, begin : begin + chunk].to(torch.int32).cumsum(dim=1)
            tokens = torch.where(document == document[:, -1:], tokens, EMPTY)
            best = torch.where(document[:, -1:] == 0, best, EMPTY)
        own = torch.arange(begin, begin + tokens.shape[1], device=score.device) + size
        pool = torch.cat([best, tokens], dim=1)
        origin = torch.cat([source, own.to(torch.int32).expand(rows, -1)], dim=1)
        order = pool.sort(dim=1, descending=True, stable=True).indices[:, :size]
        best, source = pool.gather(1, order), origin.gather(1, order)
        scores.append(best)
        sources.append(source)
    return torch.stack(scores, dim=1), torch.stack(sources, dim=1)


def memory_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    segment_pos: Tensor | None,
    tail: tuple[Tensor, Tensor] | None,
    slots: Slots | None,
) -> Tensor:
    """One softmax over the last W tokens and the slots of the query's chunk.

    Args:
      q: (B, L, H, P) queries.
      k: (B, L, G, P) keys.
      v: (B, L, G, P) values.
      window: W.
      segment_pos: (B, L); None: no document starts or ends in reach.
      tail: keys and values (B, W - 1, G, P) of the tokens before the call; None: there were
        none.
      slots: of each chunk of W tokens, the first of which starts with the call; None: none.

    Returns:
      (B, L, H, P) in the dtype of ``v``.
    """
    rows, length = q.shape[:2]
    chunks = -(-length // window)
    padding = chunks * window - length
    if segment_pos is None:
        before = 0 if tail is None else NEVER // 2
        segment_pos = torch.arange(length, device=q.device).expand(rows, length) + before
    if tail is None:
        nothing = k.new_zeros(rows, window - 1, *k.shape[2:])
        tail = nothing, nothing

    def own(x: Tensor) -> Tensor:
        x = torch.cat([x, x.new_zeros(rows, padding, *x.shape[2:])], dim=1)
        return x.reshape(rows, chunks, window, *x.shape[2:])

    def with_previous(past: Tensor, x: Tensor) -> Tensor:
        now = own(x)
        first = torch.cat([torch.zeros_like(x[:, :1]), past], dim=1)[:, None]
        return torch.cat([torch.cat([first, now[:, :-1]], dim=1), now], dim=2)

    keys, values = with_previous(tail[0], k), with_previous(tail[1], v)
    since = torch.arange(window, device=q.device)
    reach = own(segment_pos)[..., None]
    back = window + since[:, None] - torch.arange(2 * window, device=q.device)
    mask = (back >= 0) & (back < window) & (back <= reach)
    if slots is not None:
        keys, values = torch.cat([keys, slots[0]], dim=2), torch.cat([values, slots[1]], dim=2)
        far = since[:, None] + slots[2][:, :, None]
        mask = torch.cat([mask, far <= reach], dim=3)
    out = _attend(own(q), keys, values, mask)
    return out.reshape(rows, chunks * window, *out.shape[3:])[:, :length]


def memory_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tail: tuple[Tensor, Tensor],
    position: Tensor,
    segment_pos: Tensor,
    slots: Slots | None,
) -> Tensor:
    """The same for one new token of each row.

    Args:
      q: (B, H, P).
      k: (B, G, P).
      v: (B, G, P).
      tail: keys and values (B, W - 1, G, P) of the tokens before, in order of time.
      position: (B,) of the token.
      segment_pos: (B,) tokens of its document before it.
      slots: of the current chunk, (B, M, G, P) and (B, M); None: none.

    Returns:
      (B, H, P).
    """
    window = tail[0].shape[1] + 1
    pairs = zip(tail, (k, v), strict=True)
    keys, values = (torch.cat([old, x[:, None]], dim=1) for old, x in pairs)
    back = torch.arange(window - 1, -1, -1, device=q.device)
    mask = back <= segment_pos[:, None]
    if slots is not None:
        keys, values = torch.cat([keys, slots[0]], dim=1), torch.cat([values, slots[1]], dim=1)
        far = (position % window)[:, None] + slots[2]
        mask = torch.cat([mask, far <= segment_pos[:, None]], dim=1)
    return _attend(q[:, None], keys, values, mask[:, None])[:, 0]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    *rest, length, heads, width = q.shape
    groups = k.shape[-2]
    # What is not finite reaches the scores alone, where the mask replaces it: 0 * nan is nan.
    good = k.isfinite().all(dim=-1) & v.isfinite().all(dim=-1)
    k, v = (torch.where(good[..., None], x, 0.0) for x in (k, v))
    lost = torch.where(good, 0.0, torch.nan).movedim(-1, -2)[..., None, None, :]
    q = (q * width**-0.5).reshape(*rest, length, groups, heads // groups, width)
    scores = torch.einsum("...lghp,...sgp->...ghls", q.float(), k.float())
    scores = (scores + lost).masked_fill(
        ~mask[..., None, None, :, :], torch.finfo(scores.dtype).min
    )
    weights = torch.exp(scores - scores.detach().amax(dim=-1, keepdim=True))
    mixed = torch.einsum("...ghls,...sgp->...lghp", weights.to(v.dtype).float(), v.float())
    inverse = (1 / weights.sum(dim=-1)).movedim(-1, -3)
    return (mixed * inverse[..., None]).to(v.dtype).reshape(*rest, length, heads, width)
