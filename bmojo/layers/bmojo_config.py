"""Options and state of the B'MOJO layer, with their checks."""

import dataclasses
from typing import Literal

import jax

from bmojo.layers.eidetic_memory import EideticMemory
from bmojo.layers.heads import KeyValues, check_heads
from bmojo.layers.protocol import MakesMixer, MixerConfig, State
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.ops.masks import Slots
from bmojo.ops.memory_attention import IMPLEMENTATIONS, Implementation
from bmojo.ops.positions import Positions
from bmojo.types import Array, Float

TOKENS = ("ssm", "conv", "input")


@dataclasses.dataclass(frozen=True)
class MemoryOptions(MakesMixer):
    """Options of every layer that attends to a window and to a fading memory."""

    window: int = 64
    _: dataclasses.KW_ONLY
    n_heads: int = 4
    n_kv_heads: int | None = None
    fading: MixerConfig | None = dataclasses.field(
        default_factory=lambda: SelectiveSSMConfig(expand=1)
    )
    tokens: Literal["ssm", "conv", "input"] = "ssm"
    read_fading: bool = True
    tie_projections: bool = True
    attention_implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        IMPLEMENTATIONS.check(self.attention_implementation)
        check_heads(self.n_heads, self.n_kv_heads)
        if self.window < 0:
            raise ValueError(f"window: must not be negative, got {self.window}")
        if self.tokens not in TOKENS:
            raise ValueError(f"tokens: must be one of {TOKENS}, got {self.tokens!r}")

    @property
    def implementations(self) -> dict[str, str]:
        """The implementation of each operation of the layer and its cell on this machine."""
        found = dict(getattr(self.fading, "implementations", {}))
        if self.window:
            found["attention"] = IMPLEMENTATIONS.describe(self.attention_implementation)
        return found


@dataclasses.dataclass(frozen=True)
class BMojoOptions(MemoryOptions):
    """Options of :class:`bmojo.layers.bmojo.BMojoConfig`, which describes them."""

    num_fading: int = 8
    num_eidetic: int = 32
    _: dataclasses.KW_ONLY
    span: int = 4
    normalize_innovation: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_fading", "num_eidetic"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.span < 1:
            raise ValueError(f"span: the predictor needs at least one output, got {self.span}")
        if self.window == 0 and self.num_fading + self.num_eidetic:
            raise ValueError("window: slots need a window of at least 1; or set them to 0")
        if self.num_fading > self.window:
            raise ValueError(
                f"num_fading: at most window = {self.window} SSM outputs, got {self.num_fading}"
            )
        needs = {
            "num_fading": self.num_fading,
            "num_eidetic": self.num_eidetic,
            "tokens='ssm'": self.tokens == "ssm",
            "read_fading": self.read_fading,
            "window=0": self.window == 0,
        }
        if self.fading is None and any(needs.values()):
            needed = ", ".join(name for name, is_needed in needs.items() if is_needed)
            raise ValueError(f"fading: a cell is needed for {needed}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BMojoState:
    """The layer's memory between two calls; parts that a config does not use have size zero.

    Attributes:
      positions: of each row.
      fading: state of the fading cell.
      inputs: the last inputs, for ``tokens='conv'``.
      outputs: the last SSM outputs, for the predictor and for fading slots to come.
      window: keys and values of the last W - 1 tokens.
      slots: the frozen memory that the current chunk sees.
      eidetic: the selected tokens so far, which the next chunks will see.
      stored: any number of further slots, none at first, that every token of the calls to
        come sees. The layer never fills them: the holder of the state puts tokens there that
        had left it, and takes them away. A distance of -j means from the j-th token of the
        current chunk on; ``NEVER`` means vacant.
    """

    positions: Positions
    fading: State
    inputs: Float[Array, "... inputs D"]
    outputs: Float[Array, "... outputs D"]
    window: KeyValues
    slots: Slots
    eidetic: EideticMemory
    stored: Slots
