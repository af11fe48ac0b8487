"""What the layer and the model for PyTorch are made from; needs neither JAX nor PyTorch.

The options are those of ``BMojoConfig`` and its kin that have kernels. What else a config asks
for is refused by name, not replaced.
"""

import dataclasses
import math
from typing import Any

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class FadingConfig:
    """The selective SSM.

    Attributes:
      d_inner: E.
      d_state: N, states of a channel.
      d_conv: taps of the short convolution.
      dt_rank: rank of the projection of the step size.
      dt_min: the smallest step size at initialization.
      dt_max: the largest.
    """

    d_inner: int
    d_state: int = 16
    d_conv: int = 4
    dt_rank: int = 1
    dt_min: float = 1e-3
    dt_max: float = 0.1

    def __post_init__(self) -> None:
        _at_least(self, 1, "d_inner", "d_state", "d_conv", "dt_rank")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(
                f"FadingConfig.dt_min: is {self.dt_min}; it must be positive and at most dt_max = "
                f"{self.dt_max}"
            )


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """The B'MOJO layer, chunked, tokens from the SSM, tied projections.

    Attributes:
      d_model: D.
      fading: of the cell.
      window: W, tokens that a query sees, and of a chunk.
      num_fading: fading slots.
      num_eidetic: eidetic slots.
      n_heads: H.
      n_kv_heads: G, a divisor of H; None: H.
      span: outputs that the predictor averages.
      normalize_innovation: divide each channel's squared residuals by their running mean.
      read_fading: add the SSM's output to the layer's output.
      dtype: of the computation.
    """

    d_model: int
    fading: FadingConfig
    window: int = 64
    num_fading: int = 8
    num_eidetic: int = 32
    n_heads: int = 4
    n_kv_heads: int | None = None
    span: int = 4
    normalize_innovation: bool = False
    read_fading: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _at_least(self, 1, "d_model", "window", "n_heads", "span")
        _at_least(self, 0, "num_fading", "num_eidetic")
        _known_dtype(self, "dtype")
        if self.num_fading > self.window:
            raise ValueError(
                f"LayerConfig.num_fading: is {self.num_fading}; at most window = {self.window}"
            )
        for name, whole in (("n_heads", self.d_model), ("n_kv_heads", self.n_heads)):
            part = getattr(self, name)
            if part is not None and (part < 1 or whole % part):
                raise ValueError(f"LayerConfig.{name}: is {part}; it must divide {whole}")

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.n_kv_heads or self.n_heads

    @property
    def normalizes(self) -> bool:
        """Whether there is an innovation, and it is normalized."""
        return self.normalize_innovation and self.num_eidetic > 0

    @property
    def d_head(self) -> int:
        """P."""
        return self.d_model // self.n_heads


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """A model: num_blocks of a B'MOJO layer and an MLP.

    Attributes:
      vocab_size: V.
      num_blocks: how many.
      layer: the layer of each.
      d_ff: hidden width of the MLP of each.
      tie_embeddings: the head is the embedding's transpose over sqrt(D).
      param_dtype: of the parameters.
    """

    vocab_size: int
    num_blocks: int
    layer: LayerConfig
    d_ff: int
    tie_embeddings: bool = True
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        _at_least(self, 1, "vocab_size", "num_blocks", "d_ff")
        _known_dtype(self, "param_dtype")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StackConfig":
        """The inverse of :meth:`to_dict`."""
        layer = dict(values["layer"])
        layer["fading"] = FadingConfig(**layer["fading"])
        return cls(**{**values, "layer": LayerConfig(**layer)})


def layer_config(config: Any, d_model: int, dtype: str = "float32") -> LayerConfig:
    """The layer of a ``bmojo.layers.bmojo.BMojoConfig``.

    Args:
      config: of the layer.
      d_model: D.
      dtype: of the computation.

    Raises:
      ValueError: an option has no kernel; the message names it.
    """
    if type(config).__name__ != "BMojoConfig":
        raise ValueError(f"the mixer: is {config!r}, only BMojo has kernels")
    _only(config, "BMojo", tokens="ssm")
    if config.num_fading:
        _only(config, "BMojo", tie_projections=True)
    if config.window == 0:
        raise ValueError("BMojo.window: is 0, only windows of at least 1 have kernels")
    cell = config.fading
    if type(cell).__name__ != "SelectiveSSMConfig":
        raise ValueError(f"BMojo.fading: is {cell!r}, only SelectiveSSM has kernels")
    return LayerConfig(
        d_model=d_model,
        fading=FadingConfig(
            d_inner=cell.d_inner or cell.expand * d_model,
            d_state=cell.d_state,
            d_conv=cell.d_conv,
            dt_rank=cell.dt_rank or math.ceil(d_model / 16),
            dt_min=cell.dt_min,
            dt_max=cell.dt_max,
        ),
        window=config.window,
        num_fading=config.num_fading,
        num_eidetic=config.num_eidetic,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        span=config.span,
        normalize_innovation=config.normalize_innovation,
        read_fading=config.read_fading,
        dtype=dtype,
    )


def stack_config(config: Any) -> StackConfig:
    """The stack of a ``bmojo.model.ModelConfig`` with solved widths.

    Raises:
      ValueError: an option has no kernel; the message names it.
    """
    names = tuple(type(mixer).__name__ for mixer in config.pattern)
    if names != ("BMojoConfig", "MLPConfig"):
        raise ValueError(f"Model.pattern: is {names}, only (BMojo, MLP) is supported")
    if config.readout is not None and config.readout.reads:
        raise ValueError("Model.readout: a verbatim read-out has no kernel; set it to None")
    if config.parameters is not None:
        raise ValueError("Model.parameters: widths are not solved; call bmojo.model.solve_widths")
    mixer, mlp = config.pattern
    _only(config, "Model", logit_scale=None, norm_epsilon=1e-6)
    _only(mlp, "MLP", bias=False)
    for name in ("dtype", "param_dtype"):
        if getattr(config, name) not in DTYPES:
            raise ValueError(f"Model.{name}: is {getattr(config, name)!r}, must be in {DTYPES}")
    return StackConfig(
        vocab_size=config.vocab_size,
        num_blocks=config.num_blocks,
        layer=layer_config(mixer, config.d_model, config.dtype),
        d_ff=mlp.d_ff or max(8, round(8 * config.d_model / 3 / 8) * 8),
        tie_embeddings=config.tie_embeddings,
        param_dtype=config.param_dtype,
    )


def _only(config: Any, what: str, **values: Any) -> None:
    for name, value in values.items():
        there = getattr(config, name)
        if there != value:
            raise ValueError(f"{what}.{name}: is {there!r}, only {value!r} has kernels")


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < least:
            kind = type(config).__name__
            raise ValueError(f"{kind}.{name}: is {value}; it must be at least {least}")


def _known_dtype(config: Any, name: str) -> None:
    value = getattr(config, name)
    if value not in DTYPES:
        kind = type(config).__name__
        raise ValueError(f"{kind}.{name}: is {value!r}; it must be one of {DTYPES}")
