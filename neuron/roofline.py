"""How fast the paper's models could be on one NeuronCore: the least time of every part.

A part is a kernel or a matrix product: work of engines and bytes of HBM. Its least time is that
of its busiest engine, or of HBM. Added up, they are the time of parts that run one after
another; the whole model's busiest engine bounds any overlap of them. These are estimates from
published figures, not measurements.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

from bmojo import experiment
from bmojo.description import describe
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.model import ModelConfig
from neuron.checks import attention, convolution, eidetic, innovation, scan
from neuron.checks.check import Bound, Cost
from neuron.emulator import RuleError, targets
from neuron.emulator.cost import Report
from neuron.emulator.targets import Target

SIZES = ("130m", "370m", "790m", "1b4")
LENGTHS = (2048, 8192)
TARGETS = ("trn1", "trn2", "trn3")

VOCABULARY = 50_280
"""Tokens of the models' vocabulary, as Mamba's."""

ARRAY = 128 * 128
"""Multiplications of TensorE in a cycle, in bfloat16."""

HALF, FULL = 2, 4
"""Bytes of a number in bfloat16 and in float32."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that runs by itself.

    Attributes:
      name: what it is; parts of a kernel have the name that ``neuron.verify`` knows.
      bound: what it can't do without.
      times: how often it runs in a training step.
    """

    name: str
    bound: Bound
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a B'MOJO layer and its MLP look like.

    Attributes:
      mixer: the layer's config.
      fading: its cell's.
      width: d_model.
      hidden: width of the MLP.
      length: tokens of a row.
      again: forward passes of a step: 2 if the backward pass makes them again.
    """

    mixer: BMojoConfig
    fading: SelectiveSSMConfig
    width: int
    hidden: int
    length: int
    again: int

    @property
    def inner(self) -> int:
        """Channels of the cell."""
        return self.fading.d_inner or self.fading.expand * self.width

    def parts(self) -> list[Part]:
        """A training step of the layer, one row."""
        return [*self._products(), *self._kernels(), *self._elementwise()]

    def _products(self) -> Iterable[Part]:
        rank = self.fading.dt_rank or -(-self.width // 16)
        heads = self.mixer.n_kv_heads or self.mixer.n_heads
        keys = 2 * self.width * heads // self.mixer.n_heads
        faded = -(-self.length * self.mixer.num_fading // max(self.mixer.window, 1))
        shapes = {
            "cell, in": (self.length, self.width, 2 * self.inner),
            "cell, steps and maps": (self.length, self.inner, rank + 2 * self.fading.d_state),
            "cell, steps": (self.length, rank, self.inner),
            "cell, out": (self.length, self.inner, self.width),
            "queries": (self.length, self.width, self.width),
            "keys and values": (self.length, self.width, keys),
            "fading slots": (faded, self.width, keys),
            "attention, out": (self.length, self.width, self.width),
            "MLP, in": (self.length, self.width, 2 * self.hidden),
            "MLP, out": (self.length, self.hidden, self.width),
        }
        for name, shape in shapes.items():
            yield from product(name, shape, self.again)

    def _kernels(self) -> Iterable[Part]:
        mixer, cell, half = self.mixer, self.fading, "bfloat16"
        heads, groups = mixer.n_heads, mixer.n_kv_heads or mixer.n_heads
        slots = mixer.num_fading + mixer.num_eidetic
        look = attention.Size(
            1, self.length, heads, groups, self.width // heads, mixer.window, slots, dtype=half
        )
        taps = convolution.Size(1, self.length, self.inner, cell.d_conv, dtype=half)
        states = scan.Size(1, self.length, self.inner, cell.d_state, dtype=half)
        score = innovation.Size(
            1, self.length, self.width, mixer.span, normalized=mixer.normalize_innovation
        )
        sets = (1, self.length, mixer.window, mixer.num_eidetic)
        for name, function, size in (
            ("short_convolution", convolution.bound, taps),
            ("selective_scan", scan.bound, states),
            ("memory_attention", attention.bound, look),
        ):
            make: Callable[..., Bound] = function
            yield Part(name, make(size, False), self.again)
            yield Part(f"{name}_backward", make(size, True))
        yield Part("innovation", innovation.bound(score), self.again)
        yield Part("running_sets", eidetic.bound(sets), self.again)

    def _elementwise(self) -> Iterable[Part]:
        """Norms, gates, skips and residual sums, as if fused: HBM once for each result.

        In bfloat16 a product of two tiles takes a cycle for each column. Backward is twice that.
        """
        columns = self.length / 128
        pairs = columns * (6 * self.width + 2 * self.inner + self.hidden)
        alone = columns * (2 * self.width + 2 * self.inner + self.hidden)
        moved = HALF * self.length * (8 * self.width + 3 * self.inner + 2 * self.hidden)
        cycles = {"vector+gpsimd": pairs, "scalar": alone}
        yield Part("elementwise", Bound(cycles, moved), self.again)
        twice = {name: 2 * work for name, work in cycles.items()}
        yield Part("elementwise, backward", Bound(twice, 2 * moved))


def product(name: str, shape: tuple[int, int, int], again: int) -> Iterable[Part]:
    """A matrix product in bfloat16, rows by depth by columns, and its two backward.

    Weights are read once for each; their gradients are written in float32.
    """
    rows, depth, columns = shape
    cycles = {"tensor": rows * depth * columns / ARRAY}
    inputs, outputs, weights = rows * depth, rows * columns, depth * columns
    yield Part(name, Bound(cycles, HALF * (inputs + outputs + weights)), again)
    yield Part(f"{name}, backward", Bound(cycles, HALF * (inputs + outputs + weights)))
    moved = HALF * (inputs + outputs) + FULL * weights
    yield Part(f"{name}, weights", Bound(cycles, moved))


def least(part: Part, target: Target) -> float:
    """Seconds of all runs of a part, at least."""
    return part.times * max(part.bound.seconds(target).values())


def overlapped(parts: list[Part], target: Target) -> tuple[str, float]:
    """The busiest engine, or engines that share, and its seconds if all parts overlap."""
    groups = {name for part in parts for name in part.bound.cycles}
    found: dict[str, float] = {}
    for group in groups:
        members = set(group.split("+"))
        cycles = sum(
            part.times
            * max(
                (c for names, c in part.bound.cycles.items() if set(names.split("+")) <= members),
                default=0.0,
            )
            for part in parts
        )
        found[group] = cycles / sum(target.ghz(name) * 1e9 for name in members)
    moved = sum(part.times * part.bound.bytes for part in parts)
    found["dma"] = moved / min(target.hbm_bytes_per_second, target.dma_bytes_per_second)
    busiest = max(found, key=lambda name: found[name])
    return busiest, found[busiest]


def shape_of(config: ModelConfig, length: int) -> Shape:
    """The shape of the layers of a B'MOJO model.

    Raises:
      ValueError: the model has other layers.
    """
    mixer, mlp = config.pattern if len(config.pattern) == 2 else (None, None)
    if not isinstance(mixer, BMojoConfig) or not isinstance(mlp, MLPConfig):
        raise ValueError("pattern: the roofline knows (BMojo, MLP) only")
    if not isinstance(mixer.fading, SelectiveSSMConfig):
        raise ValueError("fading: the roofline knows SelectiveSSM only")
    hidden = mlp.d_ff or 0
    times = 1 if config.remat == "none" else 2
    return Shape(mixer, mixer.fading, config.d_model, hidden, length, times)


@functools.cache
def model_of(size: str) -> ModelConfig:
    """The paper's model of a size, widths solved."""
    overlays = [f"experiments/paper/shared/{size}.gin", "experiments/paper/shared/text.gin"]
    loaded, _ = experiment.load("experiments/text.gin", overlays=overlays)
    solved = describe(loaded.model).config
    return dataclasses.replace(solved, vocab_size=VOCABULARY)


def emulated(target: Target) -> dict[str, float]:
    """How many times its bound each kernel takes in the emulator, by name, at small sizes.

    Cost is linear in tokens, channels and heads, so that a slice tells what all takes. Empty
    where a kernel needs a later generation.
    """
    look = attention.Size(1, 1536, 2, 2, 64, 512, slots=40, dtype="bfloat16")
    states = scan.Size(1, 512, 384, 16, dtype="bfloat16")
    taps = convolution.Size(1, 1024, 384, 4, dtype="bfloat16")
    score = innovation.Size(1, 2048, 384, 4)
    costs: tuple[tuple[str, Callable[[], tuple[Report, Bound]]], ...] = (
        ("memory_attention", lambda: attention.cost_forward(look)),
        ("memory_attention_backward", lambda: attention.cost_backward(look)),
        ("selective_scan", lambda: scan.cost_forward(states)),
        ("selective_scan_backward", lambda: scan.cost_backward(states)),
        ("short_convolution", lambda: convolution.cost_forward(taps)),
        ("short_convolution_backward", lambda: convolution.cost_backward(taps)),
        ("innovation", lambda: innovation.cost(score)),
        ("running_sets", lambda: eidetic.cost(eidetic.LAYER)),
    )
    found = {}
    with targets.named(target):
        for name, run in costs:
            try:
                report, bound = Cost(name, "", run).run()
            except RuleError:
                return {}
            found[name] = report.seconds[report.bottleneck] / max(bound.seconds(target).values())
    return found


def rows(emulate: bool) -> Iterable[str]:
    """The table in Markdown, row by row."""
    yield (
        "| model | tokens | target | layer, ms | of it, largest part | model, ms | "
        "all overlapped, ms | busiest | by the emulator, ms |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in TARGETS:
        target = targets.resolve(name)
        ratios = emulated(target) if emulate else {}
        for size in SIZES:
            for length in LENGTHS:
                yield row(size, length, target, ratios)


def row(size: str, length: int, target: Target, ratios: dict[str, float]) -> str:
    """A model at a length on a target."""
    config = model_of(size)
    layer = shape_of(config, length).parts()
    head = list(product("head", (length, config.d_model, config.vocab_size), 1))
    alone = sum(least(part, target) for part in layer)
    whole = config.num_blocks * alone + sum(least(part, target) for part in head)
    kernels: dict[str, float] = {}
    for part in layer:
        kernel = part.name.removesuffix("_backward")
        kernels[kernel] = kernels.get(kernel, 0.0) + least(part, target)
    largest = max(kernels, key=lambda kernel: kernels[kernel])
    all_parts = [dataclasses.replace(p, times=p.times * config.num_blocks) for p in layer] + head
    busiest, together = overlapped(all_parts, target)
    taken = "-"
    if ratios:
        more = sum((ratios.get(p.name, 1.0) - 1) * least(p, target) for p in layer)
        taken = f"{(whole + config.num_blocks * more) * 1e3:,.1f}"
    return (
        f"| {size} | {length:,} | {target.device} | {alone * 1e3:.2f} | "
        f"{largest} {kernels[largest] / alone:.0%} | {whole * 1e3:,.1f} | {together * 1e3:,.1f} | "
        f"{busiest} | {taken} |"
    )
