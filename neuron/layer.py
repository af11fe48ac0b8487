"""The B'MOJO layer for PyTorch, its inner functions plain or NKI kernels.

It is ``bmojo.layers.bmojo.BMojo`` in chunked form: the same parameters, state and results.
"""

import dataclasses

import torch
from torch import Tensor, nn

from neuron import functions, plain
from neuron.configs import LayerConfig
from neuron.plain import EMPTY, NEVER, VACANT, Slots
from neuron.positions import Positions, TokenPositions, advance, next_tail, take
from neuron.selective_ssm import Implementation, Projection, SelectiveSSM, operations

Scored = tuple[Tensor | None, Tensor | None]
"""Innovation (B, L) of a call's tokens, None without eidetic slots, and the power after them."""


@dataclasses.dataclass(frozen=True)
class LayerState:
    """What a layer remembers between two calls.

    Attributes:
      positions: where the rows stand.
      tail: (B, K - 1, E) the last inputs of the short convolution.
      hidden: (B, E, N) float32, the state of the scan.
      outputs: (B, max(span, m_f), D) the last SSM outputs.
      power: (B, D) float32, means of squared residuals of the current document; (B, 0) unless
        innovation is normalized.
      window_k: (B, W - 1, G, P) keys of the last tokens.
      window_v: their values.
      slot_k: (B, m_f + m_e, G, P) keys of the slots of the current chunk, fading ones first.
      slot_v: their values.
      slot_distance: (B, m_f + m_e) int32, from the chunk's first token back.
      kept_k: (B, m_e, G, P) keys of the running set that later chunks will see.
      kept_v: their values.
      kept_score: (B, m_e) float32, their innovation, best first.
      kept_position: (B, m_e) int32, where they stood; -1 in a vacant slot.
    """

    positions: Positions
    tail: Tensor
    hidden: Tensor
    outputs: Tensor
    power: Tensor
    window_k: Tensor
    window_v: Tensor
    slot_k: Tensor
    slot_v: Tensor
    slot_distance: Tensor
    kept_k: Tensor
    kept_v: Tensor
    kept_score: Tensor
    kept_position: Tensor


class Heads(nn.Module):
    """Projections to queries, keys, values and back."""

    def __init__(self, config: LayerConfig, dtype: torch.dtype, param_dtype: torch.dtype):
        super().__init__()
        d_model, d_kv = config.d_model, config.kv_heads * config.d_head
        types = dtype, param_dtype
        self.d_head = config.d_head
        self.q_proj = Projection(d_model, d_model, *types)
        self.k_proj = Projection(d_model, d_kv, *types)
        self.v_proj = Projection(d_model, d_kv, *types)
        self.o_proj = Projection(d_model, d_model, *types)

    def queries(self, u: Tensor) -> Tensor:
        """(..., H, P)."""
        return self.q_proj(u).unflatten(-1, (-1, self.d_head))

    def key_values(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Twice (..., G, P)."""
        k, v = (p(u).unflatten(-1, (-1, self.d_head)) for p in (self.k_proj, self.v_proj))
        return k, v

    def output(self, mixed: Tensor) -> Tensor:
        """(..., D) of (..., H, P)."""
        return self.o_proj(mixed.flatten(-2))

    def operands(self) -> tuple[Tensor, ...]:
        """The matrices as :func:`neuron.kernels.layer_step.layer_step` takes them."""
        return tuple(p.turned() for p in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))


class BMojoLayer(nn.Module):
    """out_t = y_t + W_o Attn(q_t; window, fading and eidetic slots), y = SSM(u).

    Args:
      config: of the layer.
      implementation: 'torch' for plain PyTorch, 'nki' for the kernels, which run on Neuron
        devices and, emulated and slowly, on the CPU.
      param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: LayerConfig,
        implementation: Implementation = "torch",
        param_dtype: str = "float32",
    ):
        super().__init__()
        self.config, self.implementation = config, implementation
        self.ops = operations(implementation)
        self.dtype = getattr(torch, config.dtype)
        types = self.dtype, getattr(torch, param_dtype)
        self.fading = SelectiveSSM(config.d_model, config.fading, *types, implementation)
        self.heads = Heads(config, *types)

    def init_state(self, rows: int) -> LayerState:
        """The state of rows that have seen nothing."""
        config, device = self.config, self.heads.q_proj.weight.device
        slots, eidetic = config.num_fading + config.num_eidetic, config.num_eidetic

        def zeros(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=device)

        head = config.kv_heads, config.d_head
        cell = config.fading
        return LayerState(
            positions=Positions.zero(rows, device),
            tail=zeros(cell.d_conv - 1, cell.d_inner),
            hidden=zeros(cell.d_inner, cell.d_state, dtype=torch.float32),
            outputs=zeros(max(config.span if eidetic else 0, config.num_fading), config.d_model),
            power=zeros(config.d_model if config.normalizes else 0, dtype=torch.float32),
            window_k=zeros(config.window - 1, *head),
            window_v=zeros(config.window - 1, *head),
            slot_k=zeros(slots, *head),
            slot_v=zeros(slots, *head),
            slot_distance=zeros(slots, dtype=torch.int32) + NEVER,
            kept_k=zeros(eidetic, *head),
            kept_v=zeros(eidetic, *head),
            kept_score=zeros(eidetic, dtype=torch.float32) + EMPTY,
            kept_position=zeros(eidetic, dtype=torch.int32) + VACANT,
        )

    def forward(
        self,
        u: Tensor,
        state: LayerState | None = None,
        segment_ids: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Mix L new tokens.

        Args:
          u: (B, L, D) normalized inputs.
          state: what the tokens before left behind; None: there were none.
          segment_ids: (B, L) document of each token; a change resets every memory. None: the
            row's current document goes on.
          lengths: (B,) valid tokens of each row, the rest is padding on the right, whose
            outputs mean nothing; None: all.

        Returns:
          Outputs (B, L, D) in the dtype of ``u``, and the state after the valid tokens.
        """
        config, fresh, length = self.config, state is None, u.shape[1]
        if state is None:
            state = self.init_state(u.shape[0])
        span, positions = advance(state.positions, length, segment_ids, lengths)
        # Kernels add sums; the state holds means, since a sum stops growing at 2^24 tokens.
        total = state.power * state.positions.segment_pos[:, None]
        state = dataclasses.replace(state, power=total)
        kernels = self.implementation == "nki"
        one = length == 1 and not (kernels and torch.is_grad_enabled())
        offset = None if fresh else state.positions.position % config.window
        grid = Grid(config.window, length, offset, one)
        counts = None if lengths is None else span.lengths
        if one and kernels:
            made = self._step(u, state, span)
            out, x, y, k, v = (part[:, None] for part in (made.out, made.x, made.y, made.k, made.v))
            scored = made.score, made.power
            _, changes = self._slots(k, v, y, scored, state, span, grid)
            tail, hidden = next_tail(state.tail, x, counts), made.hidden
        else:
            y, tail, hidden = self.fading(u, state.tail, state.hidden, span, fresh)
            q, (k, v) = self.heads.queries(u), self.heads.key_values(u + y)
            scored = self._innovation(y, state, span)
            slots, changes = self._slots(k, v, y, scored, state, span, grid)
            out = self.heads.output(self._attend(q, k, v, slots, state, span, grid))
            out = out + y if config.read_fading else out
        changes |= {
            "positions": positions,
            "tail": tail,
            "hidden": hidden,
            "outputs": next_tail(state.outputs, y, counts),
            "window_k": next_tail(state.window_k, k, counts),
            "window_v": next_tail(state.window_v, v, counts),
        }
        state = dataclasses.replace(state, **changes)
        mean = state.power / positions.segment_pos[:, None].clamp(min=1)
        return out, dataclasses.replace(state, power=mean)

    def _step(self, u: Tensor, state: LayerState, span: TokenPositions) -> functions.Step:
        """What one kernel makes of one token of each row."""
        config = self.config
        slots = state.slot_k, state.slot_v, state.slot_distance
        made = functions.layer_step(
            u[:, 0].to(self.dtype),
            self.fading.operands(),
            self.heads.operands(),
            (state.tail, state.hidden, state.outputs),
            (state.window_k, state.window_v),
            span.position[:, 0],
            span.segment_pos[:, 0],
            slots if slots[0].shape[1] else None,
            config.span if config.num_eidetic else 0,
            state.power if config.normalizes else None,
            config.read_fading,
        )
        hidden, power = made.hidden, state.power if made.power is None else made.power
        if span.valid is not None:
            hidden = torch.where(span.valid[:, :, None], hidden, state.hidden)
            power = torch.where(span.valid, power, state.power)
        return made._replace(out=made.out.to(u.dtype), hidden=hidden, power=power)

    def _innovation(self, y: Tensor, state: LayerState, span: TokenPositions) -> Scored:
        """How much the tokens of a call surprised, and the power after them."""
        if not self.config.num_eidetic:
            return None, state.power
        tail, power = state.outputs, state.power if self.config.normalizes else None
        found = self.ops.innovation(y, tail, self.config.span, span.segment_pos, power, span.valid)
        return found[0], state.power if power is None else found[1]

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slots: Slots | None,
        state: LayerState,
        span: TokenPositions,
        grid: "Grid",
    ) -> Tensor:
        """What the queries of a call see of window and slots, (B, L, H, P)."""
        past = state.window_k, state.window_v
        if grid.one:
            there = tuple(x[:, 0] for x in slots) if slots else None
            position, segment_pos = span.position[:, 0], span.segment_pos[:, 0]
            token = q[:, 0], k[:, 0], v[:, 0], past, position, segment_pos, there
            return plain.memory_attention_step(*token)[:, None]
        if grid.offset is None:
            segment_pos = None if span.start is None else span.segment_pos
            return self.ops.memory_attention(q, k, v, grid.window, segment_pos, None, slots)
        segment_pos = grid.lay(span.segment_pos)
        keys, values = (grid.lay_after(*x) for x in zip(past, (k, v), strict=True))
        before = keys[0], values[0]
        arguments = grid.lay(q), keys[1], values[1], grid.window, segment_pos, before, slots
        return grid.take_out(self.ops.memory_attention(*arguments))

    def _slots(
        self,
        k: Tensor,
        v: Tensor,
        y: Tensor,
        scored: Scored,
        state: LayerState,
        span: TokenPositions,
        grid: "Grid",
    ) -> tuple[Slots | None, dict[str, Tensor]]:
        """Slots of the chunks that the call touches, and the fields of the next state."""
        config = self.config
        parts: list[Slots] = []
        changes: dict[str, Tensor] = {}
        if config.num_fading:
            parts.append(self._fading_slots(y, state, grid))
        if config.num_eidetic:
            eidetic, changes = self._eidetic_slots(k, v, scored, state, span, grid)
            parts.append(eidetic)
        if not parts:
            return None, {}
        names = ("slot_k", "slot_v", "slot_distance")
        edges = [torch.cat(x, dim=2) for x in zip(*parts, strict=True)]
        frozen = [
            torch.cat([getattr(state, name)[:, None], x], dim=1)
            for name, x in zip(names, edges, strict=True)
        ]
        offset = 0 if grid.offset is None else grid.offset
        reached = (span.lengths + offset) // config.window
        for name, x in zip(names, frozen, strict=True):
            changes[name] = take(x, reached[:, None])[:, 0]
        keys, values, distance = (x[:, : grid.chunks] for x in frozen)
        return (keys, values, distance), changes

    def _fading_slots(self, y: Tensor, state: LayerState, grid: "Grid") -> Slots:
        """The last m_f SSM outputs at each edge; beyond the call's end they mean nothing."""
        count, rows = self.config.num_fading, y.shape[0]
        past = torch.cat([state.outputs[:, state.outputs.shape[1] - count :], y], dim=1)
        edge = torch.arange(1, grid.chunks + 1, device=y.device) * self.config.window
        edge = edge.expand(rows, -1) if grid.offset is None else edge - grid.offset[:, None]
        index = edge[..., None] + torch.arange(count, device=y.device)
        made = self.heads.key_values(take(past, index.clamp(max=past.shape[1] - 1)))
        distance = torch.arange(count, 0, -1, dtype=torch.int32, device=y.device)
        return *made, distance.expand(rows, grid.chunks, count)

    def _eidetic_slots(
        self,
        k: Tensor,
        v: Tensor,
        scored: Scored,
        state: LayerState,
        span: TokenPositions,
        grid: "Grid",
    ) -> tuple[Slots, dict[str, Tensor]]:
        """The m_e most surprising tokens at each edge, and the running set after the call."""
        config, size = self.config, self.config.num_eidetic
        score, power = scored
        assert score is not None
        if span.valid is not None:
            score = torch.where(span.valid, score, EMPTY)
        start = None if span.start is None else grid.lay(span.start, False)
        scores, source = self.ops.running_sets(
            grid.lay(score, EMPTY), state.kept_score, config.window, start
        )
        empty = scores == EMPTY
        if not grid.one and grid.offset is not None:
            source = torch.where(source < size, source, source - grid.offset[:, None, None])
        source = torch.where(empty, 0, source)

        def recall(old: Tensor, new: Tensor) -> Tensor:
            held = take(torch.cat([old, new.to(old.dtype)], dim=1), source)
            return held.masked_fill(empty.reshape(*empty.shape, *(1,) * (held.ndim - 3)), 0)

        kept_k, kept_v = recall(state.kept_k, k), recall(state.kept_v, v)
        position = recall(state.kept_position, span.position).masked_fill(empty, VACANT)
        first = state.positions.position // config.window
        chunks = torch.arange(1, grid.chunks + 1, dtype=torch.int32, device=k.device)
        edge = (first[:, None] + chunks) * config.window
        distance = torch.where(empty, NEVER, edge[..., None] - position)
        return (kept_k, kept_v, distance), {
            "power": power,
            "kept_k": kept_k[:, -1],
            "kept_v": kept_v[:, -1],
            "kept_score": scores[:, -1],
            "kept_position": position[:, -1],
        }


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a call's tokens stand on their row's grid of chunks.

    Kernels know grids that start with their operands. A row that begins within a chunk is
    moved to the right by as many columns, so that all rows fit one shape whatever their
    positions: L + W - 1 columns.

    Attributes:
      window: W.
      length: L.
      offset: (B,) tokens of the current chunk before the call; None: zero.
      one: the call is one token, which needs no grid.
    """

    window: int
    length: int
    offset: Tensor | None
    one: bool

    @property
    def columns(self) -> int:
        """Tokens of a row on the grid."""
        return self.length if self.offset is None or self.one else self.length + self.window - 1

    @property
    def chunks(self) -> int:
        """Chunks of a row on the grid."""
        return -(-self.columns // self.window)

    def lay(self, x: Tensor, fill: float | bool | None = None) -> Tensor:
        """(B, L, ...) as (B, columns, ...); ``fill`` where no token stands, None: anything."""
        if self.offset is None or self.one:
            return x
        index = torch.arange(self.columns, device=x.device) - self.offset[:, None]
        laid = take(x, index.clamp(0, self.length - 1))
        if fill is None:
            return laid
        return laid.masked_fill((index < 0) | (index >= self.length), fill)

    def lay_after(self, tail: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The W - 1 entries before the grid, and those on it, of which the tail holds some."""
        assert self.offset is not None
        past = torch.cat([tail, x.to(tail.dtype)], dim=1)
        width = self.window - 1
        index = torch.arange(width + self.columns, device=x.device) - self.offset[:, None]
        laid = take(past, index.clamp(0, past.shape[1] - 1))
        return laid[:, :width], laid[:, width:]

    def take_out(self, laid: Tensor) -> Tensor:
        """The inverse of :meth:`lay`."""
        assert self.offset is not None
        step = torch.arange(self.length, device=laid.device)
        return take(laid, self.offset[:, None] + step)
