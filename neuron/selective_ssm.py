"""The fading memory for PyTorch, and what it shares with the layer."""

import math
from types import ModuleType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuron import functions, plain
from neuron.configs import FadingConfig
from neuron.positions import TokenPositions, next_tail

Implementation = Literal["torch", "nki"]


def operations(implementation: str) -> ModuleType:
    """The module with the inner functions of an implementation.

    Raises:
      ValueError: there is none of that name.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation: must be 'torch' or 'nki', got {implementation!r}")
    return functions if implementation == "nki" else plain


class Projection(nn.Linear):
    """A product with a matrix in the dtype of the computation."""

    def __init__(self, width: int, out: int, dtype: torch.dtype, param_dtype: torch.dtype):
        self.compute = dtype
        super().__init__(width, out, bias=False, dtype=param_dtype)

    def reset_parameters(self) -> None:
        """Draw from a truncated normal distribution of variance 1 / width."""
        deviation = self.in_features**-0.5 / 0.87962566103423978
        nn.init.trunc_normal_(self.weight, 0.0, deviation, -2 * deviation, 2 * deviation)

    def forward(self, x: Tensor) -> Tensor:
        """W x."""
        return F.linear(x.to(self.compute), self.weight.to(self.compute))

    def turned(self) -> Tensor:
        """The matrix as (inputs, outputs)."""
        return self.weight.to(self.compute).T.contiguous()


class ShortConvolution(nn.Module):
    """Taps (K, E), the present token's first, and bias (E,) of the short convolution."""

    def __init__(self, width: int, taps: int, param_dtype: torch.dtype):
        super().__init__()
        bound = taps**-0.5
        self.kernel = nn.Parameter(torch.empty(taps, width, dtype=param_dtype))
        self.bias = nn.Parameter(torch.empty(width, dtype=param_dtype))
        nn.init.uniform_(self.kernel, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class SelectiveSSM(nn.Module):
    """``bmojo.layers.selective_ssm.SelectiveSSM``: Mamba's block.

    Args:
      d_model: D.
      config: of the block.
      dtype: of the computation.
      param_dtype: of the parameters.
      implementation: of the convolution and the scan.
    """

    def __init__(
        self,
        d_model: int,
        config: FadingConfig,
        dtype: torch.dtype,
        param_dtype: torch.dtype,
        implementation: Implementation,
    ):
        super().__init__()
        self.config, self.dtype, self.ops = config, dtype, operations(implementation)
        width, states, rank = config.d_inner, config.d_state, config.dt_rank
        types = dtype, param_dtype
        self.in_proj = Projection(d_model, 2 * width, *types)
        self.conv = ShortConvolution(width, config.d_conv, param_dtype)
        self.x_proj = Projection(width, rank + 2 * states, *types)
        self.dt_proj = Projection(rank, width, *types)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        dt = torch.exp(torch.empty(width).uniform_(low, high))
        self.dt_bias = nn.Parameter((dt + torch.log(-torch.expm1(-dt))).to(param_dtype))
        poles = torch.arange(1, states + 1).log().to(param_dtype)
        self.A_log = nn.Parameter(poles.repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width, dtype=param_dtype))
        self.out_proj = Projection(width, d_model, *types)

    def forward(
        self, u: Tensor, tail: Tensor, hidden: Tensor, span: TokenPositions, fresh: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix the tokens of a call.

        Args:
          u: (B, L, D) inputs.
          tail: the convolution's inputs before the call.
          hidden: the scan's state before it.
          span: of the tokens.
          fresh: nothing was before the call.

        Returns:
          Outputs (B, L, D), and tail and state after the valid tokens.
        """
        config = self.config
        x, z = self.in_proj(u).chunk(2, dim=-1)
        after = next_tail(tail, x, None if span.valid is None else span.lengths)
        segment_pos = None if fresh and span.start is None else span.segment_pos
        kernel, bias = self.conv.kernel.to(x.dtype), self.conv.bias.to(x.dtype)
        x = self.ops.short_convolution(x, tail, kernel, bias, segment_pos)
        dt, B, C = self.x_proj(x).split([config.dt_rank, config.d_state, config.d_state], dim=-1)
        dt = F.softplus(self.dt_proj(dt).float() + self.dt_bias.float())
        if span.valid is not None:
            dt = dt * span.valid[..., None]
        A = -torch.exp(self.A_log.float())
        y, hidden = self.ops.selective_scan(x, dt, A, B, C, hidden, span.start)
        y = (y + self.D.to(x.dtype) * x) * F.silu(z)
        return self.out_proj(y).to(u.dtype), after, hidden

    def operands(self) -> tuple[Tensor, ...]:
        """The parameters as :func:`neuron.kernels.layer_step.layer_step` takes them."""
        width, kind = self.config.d_inner, self.dtype
        return (
            self.in_proj.turned(),
            self.conv.kernel.to(kind).contiguous(),
            self.conv.bias.to(kind).reshape(1, width),
            self.x_proj.turned(),
            self.dt_proj.turned(),
            self.dt_bias.float().reshape(width, 1),
            -torch.exp(self.A_log.float()),
            self.D.to(kind).reshape(width, 1),
            self.out_proj.turned(),
        )
