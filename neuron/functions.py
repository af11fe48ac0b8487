"""Differentiable functions of torch tensors whose forward and backward passes are kernels.

Arguments and results are those of :mod:`neuron.plain`. What is turned over here, from (B, L,
channels) to (B, channels, L) and back, is what the kernels want.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuron import launchers
from neuron.plain import Slots

Gradients = tuple[Tensor | None, ...]


def short_convolution(
    x: Tensor, tail: Tensor, kernel: Tensor, bias: Tensor, age: Tensor | None
) -> Tensor:
    """Silu of the causal convolution; see :func:`neuron.plain.short_convolution`."""
    if not tail.shape[1]:  # one tap: the kernel wants a tail, and reads nothing of it
        tail = x.new_zeros(x.shape[0], 1, x.shape[2])
    return _Convolution.apply(x, tail.to(x.dtype), kernel, bias, age)


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


def innovation(y: Tensor, tail: Tensor, span: int, age: Tensor | None) -> Tensor:
    """Innovation, without gradient; see :func:`neuron.plain.innovation`."""
    return launchers.innovation(_time_last(y.detach()), _time_last(tail.detach()), span, age)[0]


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
    age: Tensor | None,
    tail: tuple[Tensor, Tensor] | None,
    slots: Slots | None,
) -> Tensor:
    """Attention over window and slots; see :func:`neuron.plain.memory_attention`."""
    if tail is not None and not tail[0].shape[1]:  # a window of one token looks at no other
        tail = None
    return _Attention.apply(
        window, age, q, k, v, *(tail or (None, None)), *(slots or (None, None, None))
    )


def memory_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tail: tuple[Tensor, Tensor],
    position: Tensor,
    age: Tensor,
    slots: Slots | None,
) -> Tensor:
    """The same for one new token of each row; see :func:`neuron.plain.memory_attention_step`.

    It has no backward kernel.

    Raises:
      ValueError: a gradient is asked for.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *tail)):
        raise ValueError("memory_attention_step: has no gradient; call it under torch.no_grad()")
    window = tail[0].shape[1] + 1
    # Place t mod W of the ring holds the token at t; the new token's own is not looked at.
    back = (position[:, None] - torch.arange(window, device=q.device)) % window
    rows = torch.arange(q.shape[0], device=q.device)[:, None]
    past = [torch.cat([old, x[:, None]], dim=1) for old, x in zip(tail, (k, v), strict=True)]
    ring_k, ring_v = (x[rows, window - 1 - back] for x in past)
    slot_k, slot_v, distance = slots or (None, None, None)
    return launchers.memory_attention_step(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        _time_last(ring_k),
        ring_v.contiguous(),
        (position % window)[:, None].to(torch.int32).contiguous(),
        age[:, None].to(torch.int32).contiguous(),
        None if slot_k is None else _time_last(slot_k),
        None if slot_v is None else slot_v.contiguous(),
        None if distance is None else distance.contiguous(),
    )[0]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tail: Tensor, kernel: Tensor, bias: Tensor, age: Tensor | None
    ) -> Tensor:
        taps, column = kernel.T.contiguous(), bias[:, None].contiguous()
        operands = _time_last(x), _time_last(tail), taps, column
        ctx.save_for_backward(*operands, age)
        return launchers.short_convolution(*operands, age)[0].movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        *operands, age = ctx.saved_tensors
        found = launchers.short_convolution_backward(*operands, _time_last(grads[0]), age)
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
        age: Tensor | None,
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
            None if age is None else age.to(torch.int32).contiguous(),
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
