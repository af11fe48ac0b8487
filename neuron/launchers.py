"""The kernels as functions of torch tensors, in the kernels' own layouts.

Tensors on the CPU go through ``nki.simulate`` as NumPy arrays, which is the emulator where the
package ``nki`` is missing. Tensors on a Neuron device go to the kernel itself: as an operator
of native PyTorch where torch-neuronx has ``nki_op``, else by calling the kernel, as
PyTorch/XLA wants it. **The device path follows AWS's documentation and has never run.**
"""

import functools
from collections.abc import Callable
from typing import Any, Optional

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from neuron.kernels import (
    attention,
    attention_backward,
    convolution,
    eidetic,
    scan,
    scan_backward,
)
from neuron.kernels import innovation as innovation_kernels
from neuron.kernels import layer_step as step_kernels
from neuron.nki import nki, on_device

try:
    from torch_neuronx import nki_op
except ImportError:  # not installed, or the package of that name without code
    nki_op = None

NEURON_DEVICES = ("neuron", "xla", "privateuseone")
# Optional[...] and list[...] below are what torch reads the operators' schemas from.


def _launcher(function: Callable[..., Any]) -> Callable[..., Any]:
    """A typed function that launches a kernel, as an operator where there are any."""
    operator = function
    if nki_op is not None:
        operator = nki_op(f"bmojo::{function.__name__}", mutates_args={})(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        on_cpu = arguments[0].device.type == "cpu"
        return (function if on_cpu else operator)(*arguments)

    return call


@_launcher
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    start: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """y, the last state, and the states at tile edges."""
    return _launch(scan.selective_scan, x, dt, A, B, C, state, start, True)


@_launcher
def selective_scan_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    edges: Tensor,
    dy: Tensor,
    dlast: Tensor,
    start: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """Gradients of x, dt, A, (B, C) and the state."""
    kernel = scan_backward.selective_scan_backward
    return _launch(kernel, x, dt, A, B, C, edges, dy, dlast, start)


@_launcher
def short_convolution(
    x: Tensor,
    tail: Tensor,
    kernel: Tensor,
    bias: Tensor,
    segment_pos: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """The convolution with silu, alone in a list."""
    return _launch(convolution.short_convolution, x, tail, kernel, bias, segment_pos)


@_launcher
def short_convolution_backward(
    x: Tensor,
    tail: Tensor,
    kernel: Tensor,
    bias: Tensor,
    dout: Tensor,
    segment_pos: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """Gradients of x, tail, kernel and bias."""
    return _launch(convolution.short_convolution_backward, x, tail, kernel, bias, dout, segment_pos)


@_launcher
def innovation(
    y: Tensor,
    tail: Tensor,
    span: int,
    segment_pos: Optional[Tensor],  # noqa: UP045
    power: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """Innovation, and the power after it if it is normalized."""
    return _launch(innovation_kernels.innovation, y, tail, _average(span), segment_pos, power)


@_launcher
def running_sets(
    score: Tensor,
    carried: Tensor,
    chunk: int,
    start: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """Scores and sources."""
    return _launch(eidetic.running_sets, score, carried, chunk, start)


@_launcher
def memory_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    segment_pos: Optional[Tensor],  # noqa: UP045
    tail_k: Optional[Tensor],  # noqa: UP045
    tail_v: Optional[Tensor],  # noqa: UP045
    slot_k: Optional[Tensor],  # noqa: UP045
    slot_v: Optional[Tensor],  # noqa: UP045
    distance: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """Output and logarithms."""
    kernel = attention.memory_attention
    return _launch(kernel, q, k, v, window, segment_pos, tail_k, tail_v, slot_k, slot_v, distance)


@_launcher
def memory_attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    window: int,
    segment_pos: Optional[Tensor],  # noqa: UP045
    tail_k: Optional[Tensor],  # noqa: UP045
    tail_v: Optional[Tensor],  # noqa: UP045
    slot_k: Optional[Tensor],  # noqa: UP045
    slot_v: Optional[Tensor],  # noqa: UP045
    distance: Optional[Tensor],  # noqa: UP045
) -> list[Tensor]:
    """Gradients of q, k, v, and of what there is of tail and slots."""
    kernel = attention_backward.memory_attention_backward
    rest = (segment_pos, tail_k, tail_v, slot_k, slot_v, distance)
    return _launch(kernel, q, k, v, out, lse, grad, window, *rest)


@_launcher
def layer_step(
    u: Tensor,
    cell: list[Tensor],
    heads: list[Tensor],
    state: list[Tensor],
    window: list[Tensor],
    slots: list[Tensor],
    span: int,
    power: Optional[Tensor],  # noqa: UP045
    reads: bool,
) -> list[Tensor]:
    """Results of the kernel; without slots where there are none, without innovation for span 0."""
    groups = tuple(cell), tuple(heads), tuple(state), tuple(window)
    rest = _average(span), tuple(slots) or None, power, reads
    return _launch(step_kernels.layer_step, u, *groups, *rest)


def _average(span: int) -> tuple[float, ...]:
    """Weights of the mean of so many outputs."""
    return (1.0 / span,) * span if span else ()


def _launch(kernel: Any, *arguments: Any) -> list[Tensor]:
    device = arguments[0].device
    if device.type == "cpu":
        found = nki.simulate(kernel)(*map(_to_numpy, arguments))
        convert: Callable[[Any], Tensor] = _to_torch
    elif device.type in NEURON_DEVICES:
        found = on_device(kernel)(*arguments)
        convert = Tensor.contiguous
    else:
        raise ValueError(
            f"implementation: 'nki' is for Neuron devices and, emulated, the CPU; the tensors are "
            f"on {device}; move them, or take implementation='torch'"
        )
    results = found if isinstance(found, tuple) else (found,)
    return [convert(x) for x in results]


def _to_numpy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_to_numpy, value))
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _to_torch(array: np.ndarray) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
