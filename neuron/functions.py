"""Differentiable functions of torch tensors whose forward and backward passes are kernels.

Arguments and results are those of :mod:`neuron.plain`. What is turned over here, from (B, L,
channels) to (B, channels, L) and back, is what the kernels want.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuron import launchers
from neuron.plain import Slots

Gradients = tuple[Tensor | None, ...]


def short_convolution(
    x: Tensor, tail: Tensor, kernel: Tensor, bias: Tensor, segment_pos: Tensor | None
) -> Tensor:
    """Silu of the causal convolution; see :func:`neuron.plain.short_convolution`."""
    if not tail.shape[1]:  # one tap: the kernel wants a tail, and reads nothing of it
        tail = x.new_zeros(x.shape[0], 1, x.shape[2])
    return _Convolution.apply(x, tail.to(x.dtype), kernel, bias, segment_pos)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    start: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The selective scan; see :func:`neuron.plain.selective_scan`."""
    return _Scan.apply(x, dt, A, B, C, state, start)


def innovation(
    y: Tensor,
    tail: Tensor,
    span: int,
    segment_pos: Tensor | None,
    power: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Innovation, without gradient; see :func:`neuron.plain.innovation`."""
    y, tail = y.detach(), tail.detach()
    if power is not None:
        power = power.detach().contiguous()
        if valid is not None and segment_pos is not None:
            y, segment_pos = y * valid[..., None], torch.where(valid, segment_pos, -1)
    found = launchers.innovation(_time_last(y), _time_last(tail), span, segment_pos, power)
    return found[0], None if power is None else found[1]


def running_sets(
    score: Tensor, carried: Tensor, chunk: int, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Selection; see :func:`neuron.plain.running_sets`."""
    scores, sources = launchers.running_sets(
        score.contiguous(), carried.contiguous(), chunk, _numbers(start)
    )
    return scores, sources


def memory_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    segment_pos: Tensor | None,
    tail: tuple[Tensor, Tensor] | None,
    slots: Slots | None,
) -> Tensor:
    """Attention over window and slots; see :func:`neuron.plain.memory_attention`."""
    if tail is not None and not tail[0].shape[1]:  # a window of one token looks at no other
        tail = None
    return _Attention.apply(
        window, segment_pos, q, k, v, *(tail or (None, None)), *(slots or (None, None, None))
    )


class Step(NamedTuple):
    """What a layer makes of one token of each row.

    Attributes:
      out: (B, D) the layer's output.
      x: (B, E) the convolution's new input.
      hidden: (B, E, N) float32, the states of the scan.
      y: (B, D) the cell's output.
      k: (B, G, P) the token's key.
      v: its value.
      score: (B, 1) float32, its innovation; None: none was asked for.
      power: (B, D) float32, the power after it; None: innovation is plain.
    """

    out: Tensor
    x: Tensor
    hidden: Tensor
    y: Tensor
    k: Tensor
    v: Tensor
    score: Tensor | None
    power: Tensor | None


def layer_step(
    u: Tensor,
    cell: Sequence[Tensor],
    heads: Sequence[Tensor],
    past: tuple[Tensor, Tensor, Tensor],
    window: tuple[Tensor, Tensor],
    position: Tensor,
    segment_pos: Tensor,
    slots: Slots | None,
    span: int,
    power: Tensor | None,
    read_fading: bool,
) -> Step:
    """A whole layer for one new token of each row, by one kernel without a gradient.

    The kernel's ring of keys is put in order from the window, and its states have channels
    first: both are copied in each call.

    Args:
      u: (B, D) inputs.
      cell: operands of the cell as :func:`neuron.kernels.layer_step.layer_step` takes them.
      heads: those of the projections.
      past: the convolution's tail (B, K - 1, E), the states (B, E, N) and the outputs of the
        cell (B, at least span, D) before the token.
      window: keys and values (B, W - 1, G, P) of the tokens before, in order of time.
      position: (B,) of the token.
      segment_pos: (B,) tokens of its document before it.
      slots: of the current chunk, (B, M, G, P) and (B, M); None: none.
      span: outputs that the innovation's predictor averages; 0: no innovation.
      power: (B, D) float32, for normalized innovation; None: plain.
      read_fading: add the cell's output to the layer's.

    Raises:
      ValueError: a gradient is asked for.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (u, *cell, *heads, *past)):
        raise ValueError("layer_step: has no gradient; call it under torch.no_grad()")
    tail, hidden, outputs = past
    if not tail.shape[1]:  # one tap: the kernel wants a tail, and reads nothing of it
        tail = tail.new_zeros(tail.shape[0], 1, tail.shape[2])
    size = window[0].shape[1] + 1
    # Place t mod W of the ring holds the token at t; the new token's own is not looked at.
    back = (position[:, None] - torch.arange(size, device=u.device)) % size
    rows = torch.arange(u.shape[0], device=u.device)[:, None]
    held = [torch.cat([x, x.new_zeros(x.shape[0], 1, *x.shape[2:])], dim=1) for x in window]
    ring_k, ring_v = (x[rows, size - 1 - back] for x in held)
    out, x, states, y, k, v, *scored = launchers.layer_step(
        u.contiguous(),
        list(cell),
        list(heads),
        [tail.contiguous(), hidden.movedim(1, 0).contiguous(), outputs.contiguous()],
        [
            _time_last(ring_k),
            ring_v.contiguous(),
            (position % size)[:, None].to(torch.int32).contiguous(),
            segment_pos[:, None].to(torch.int32).contiguous(),
        ],
        [] if slots is None else [_time_last(slots[0]), *(s.contiguous() for s in slots[1:])],
        span,
        power,
        read_fading,
    )
    score = scored[0] if scored else None
    after = scored[1] if len(scored) > 1 else None
    return Step(out, x, states.movedim(0, 1), y, k, v, score, after)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tail: Tensor, kernel: Tensor, bias: Tensor, segment_pos: Tensor | None
    ) -> Tensor:
        taps, column = kernel.T.contiguous(), bias[:, None].contiguous()
        operands = _time_last(x), _time_last(tail), taps, column
        ctx.save_for_backward(*operands, segment_pos)
        return launchers.short_convolution(*operands, segment_pos)[0].movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        *operands, segment_pos = ctx.saved_tensors
        found = launchers.short_convolution_backward(*operands, _time_last(grads[0]), segment_pos)
        dx, dtail, dkernel, dbias = found
        taps, column = operands[2], operands[3]
        return (
            dx.movedim(-1, 1),
            dtail.movedim(-1, 1),
            dkernel.T.to(taps.dtype),
            dbias[:, 0].to(column.dtype),
            None,
        )


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        state: Tensor,
        start: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        tokens, steps, b, c = (_time_last(v) for v in (x, dt, B, C))
        operands = tokens, steps, A.contiguous(), b, c
        starts = _numbers(start)
        y, last, edges = launchers.selective_scan(*operands, state.contiguous(), starts)
        ctx.save_for_backward(*operands, edges, starts)
        return y.movedim(-1, 1), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        *operands, edges, starts = ctx.saved_tensors
        dy, dlast = _time_last(grads[0]), grads[1].contiguous()
        found = launchers.selective_scan_backward(*operands, edges, dy, dlast, starts)
        dx, ddt, da, maps, dstate = found
        db, dc = maps.movedim(-1, 2).to(operands[3].dtype)
        return dx.movedim(-1, 1), ddt.movedim(-1, 1), da, db, dc, dstate, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        window: int,
        segment_pos: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tail_k: Tensor | None,
        tail_v: Tensor | None,
        slot_k: Tensor | None,
        slot_v: Tensor | None,
        distance: Tensor | None,
    ) -> Tensor:
        tokens = _time_last(q), _time_last(k), v.contiguous()
        rest = (
            None if segment_pos is None else segment_pos.to(torch.int32).contiguous(),
            None if tail_k is None else _time_last(tail_k),
            None if tail_v is None else tail_v.contiguous(),
            None if slot_k is None else slot_k.movedim(2, -1).contiguous(),
            None if slot_v is None else slot_v.contiguous(),
            None if distance is None else distance.to(torch.int32).contiguous(),
        )
        out, lse = launchers.memory_attention(*tokens, window, *rest)
        ctx.window = window
        ctx.save_for_backward(*tokens, out, lse, *rest)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        q, k, v, out, lse, *rest = ctx.saved_tensors
        found = iter(
            launchers.memory_attention_backward(
                q, k, v, out, lse, grads[0].contiguous(), ctx.window, *rest
            )
        )
        tokens = next(found), next(found), next(found)
        tail = (None, None) if rest[1] is None else (next(found), next(found))
        slots = (None, None) if rest[3] is None else (next(found), next(found))
        return (None, None, *tokens, *tail, *slots, None)


def _time_last(x: Tensor) -> Tensor:
    """(B, L, ...) as (B, ..., L)."""
    return x.movedim(1, -1).contiguous()


def _numbers(start: Tensor | None) -> Tensor | None:
    """Where documents start, as numbers."""
    return None if start is None else start.to(torch.float32).contiguous()
