"""``bmojo.model.Model`` with the pattern (BMojo, MLP), for PyTorch."""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuron.configs import StackConfig
from neuron.layer import BMojoLayer, LayerState
from neuron.positions import Positions
from neuron.selective_ssm import Implementation, Projection

EPSILON = 1e-6
STATE_FIELDS = tuple(field.name for field in dataclasses.fields(LayerState))
POSITION_FIELDS = tuple(field.name for field in dataclasses.fields(Positions))

State = tuple[LayerState, ...]
"""One state for each period."""


class Norm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) times a scale, in float32 until the result is rounded."""

    def __init__(self, width: int, dtype: torch.dtype, param_dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.scale = nn.Parameter(torch.ones(width, dtype=param_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        wide = x.to(self.dtype).float()
        factor = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + EPSILON)
        return (wide * (factor * self.scale.to(self.dtype))).to(self.dtype)


class MLP(nn.Module):
    """W_down(silu(W_gate x) * W_up x), gate and up in one matrix."""

    def __init__(self, width: int, hidden: int, dtype: torch.dtype, param_dtype: torch.dtype):
        super().__init__()
        self.up_proj = Projection(width, 2 * hidden, dtype, param_dtype)
        self.down_proj = Projection(hidden, width, dtype, param_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        gate, up = self.up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Sublayer(nn.Module):
    """A norm and what follows it."""

    def __init__(self, norm: Norm, mixer: nn.Module):
        super().__init__()
        self.norm, self.mixer = norm, mixer


class Block(nn.Module):
    """A B'MOJO layer and an MLP, each on the residual stream."""

    def __init__(self, config: StackConfig, implementation: Implementation):
        super().__init__()
        layer, width = config.layer, config.layer.d_model
        types = getattr(torch, layer.dtype), getattr(torch, config.param_dtype)
        mixers = (
            BMojoLayer(layer, implementation, config.param_dtype),
            MLP(width, config.d_ff, *types),
        )
        self.sublayers = nn.ModuleList(Sublayer(Norm(width, *types), m) for m in mixers)

    def forward(
        self,
        x: Tensor,
        state: LayerState | None,
        segment_ids: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, LayerState]:
        """Run both."""
        memory, transform = self.sublayers
        out, after = memory.mixer(memory.norm(x), state, segment_ids, lengths)
        x = x + out
        return x + transform.mixer(transform.norm(x)), after


class Model(nn.Module):
    """Next-token logits, with a state that carries everything the model remembers.

    Args:
      config: of the model.
      implementation: of the layers; see :class:`neuron.layer.BMojoLayer`.
    """

    def __init__(self, config: StackConfig, implementation: Implementation = "torch"):
        super().__init__()
        self.config, width = config, config.layer.d_model
        self.dtype = getattr(torch, config.layer.dtype)
        types = self.dtype, getattr(torch, config.param_dtype)
        self.embedding = nn.Embedding(config.vocab_size, width, dtype=types[1])
        self.blocks = nn.ModuleList(Block(config, implementation) for _ in range(config.num_blocks))
        self.norm = Norm(width, *types)
        if not config.tie_embeddings:
            self.head = Projection(width, config.vocab_size, *types)

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        segment_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        at: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Predict the token after each of L new tokens.

        Args:
          tokens: (B, L) ids.
          state: from the call before; None: these are the first tokens.
          segment_ids: (B, L) document of each token.
          lengths: (B,) valid tokens of each row, the rest is padding on the right.
          at: (B, K) places whose logits are wanted; None: all.

        Returns:
          Logits (B, L or K, V), float32, and the state after the valid tokens.
        """
        x = F.embedding(tokens.long(), self.embedding.weight.to(self.dtype))
        after = []
        for n, period in enumerate(self.blocks):
            x, new = period(x, None if state is None else state[n], segment_ids, lengths)
            after.append(new)
        if at is not None:
            x = torch.take_along_dim(x, at.long()[:, :, None], dim=1)
        return self._logits(self.norm(x)), tuple(after)

    def init_state(self, rows: int) -> State:
        """The state before the first token."""
        return tuple(period.sublayers[0].mixer.init_state(rows) for period in self.blocks)

    @torch.no_grad()
    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Tensor:
        """The most likely token, again and again.

        Args:
          prompts: token ids, none empty, of any lengths.
          max_new_tokens: tokens of each continuation.

        Returns:
          (prompts, max_new_tokens) int64.

        Raises:
          ValueError: a prompt is empty.
        """
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise ValueError("prompts: one is empty; give at least one token to each")
        device = self.embedding.weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long, device=device)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
        logits, state = self(tokens, None, None, lengths, (lengths - 1)[:, None])
        drawn = []
        for step in range(max_new_tokens):
            newest = logits[:, -1].argmax(dim=-1)
            drawn.append(newest)
            if step + 1 < max_new_tokens:
                logits, state = self(newest[:, None], state)
        return torch.stack(drawn, dim=1) if drawn else tokens[:, :0]

    def _logits(self, x: Tensor) -> Tensor:
        if not self.config.tie_embeddings:
            return self.head(x).float()
        scaled = x * self.config.layer.d_model**-0.5
        return F.linear(scaled.float(), self.embedding.weight.to(x.dtype).float())


class Flat(nn.Module):
    """A model whose state goes in and out as a row of tensors, as tracing and export want.

    Args:
      model: to call, with a state always.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, L, V) and the tensors of the next state.

        Args:
          tokens: (B, L) ids.
          state: of :func:`flatten`.
        """
        logits, after = self.model(tokens, unflatten(state))
        return logits, *flatten(after)


def flatten(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state: of each layer those of its positions, then the others in order."""
    tensors: list[Tensor] = []
    for part in state:
        positions, *rest = (getattr(part, name) for name in STATE_FIELDS)
        tensors += [getattr(positions, name) for name in POSITION_FIELDS]
        tensors += rest
    return tuple(tensors)


def unflatten(tensors: Sequence[Tensor]) -> State:
    """The inverse of :func:`flatten`."""
    first = len(POSITION_FIELDS)
    each = first + len(STATE_FIELDS) - 1
    parts = [tensors[n : n + each] for n in range(0, len(tensors), each)]
    return tuple(LayerState(Positions(*part[:first]), *part[first:]) for part in parts)
