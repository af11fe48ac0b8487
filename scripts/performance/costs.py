"""ESTIMATES of what models of the paper's sizes would cost on accelerators. Nothing is run.

    python -m scripts.performance.costs [--sizes 130m 1b4] [--lengths 2048] [--out FILE.md]

A step of training and a decoded token, for each model, size, length and chip:

    time = max(matrix FLOPs / (peak x share), bytes / (bandwidth x share))
           + elementwise operations / (vector rate x share)

The forward operations are `Description.flops_per_token`, of which the scan and the short
convolution are elementwise; the operations of softmax are added. Everything else is an assumption,
and stands in the first tables of the page. No such chip was used.
"""

import argparse
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from bmojo.experiment import load
from bmojo.files import write_atomically
from bmojo.layers.bmojo import BMojo
from bmojo.layers.selective_ssm import SelectiveSSM
from bmojo.layers.ssd import SSD
from bmojo.model import Description, ModelConfig, Period, describe
from bmojo.ops.cross_entropy import TOKENS

MODELS = ("transformer", "mamba", "mamba2", "hybrid", "bmojo_f", "bmojo")
SIZES = ("130m", "370m", "790m", "1b4")
LENGTHS = (2048, 8192, 32768)
VOCABULARY = 50_280
TOKENS_OF_A_STEP = 65_536
ROWS = 64
"""Rows of the second case of decoding."""
PASSES = 4
"""Forward, forward again (remat 'full'), and backward, which counts twice."""
WEIGHTS = 44
"""Bytes for a parameter and step: read in float32 by three passes 12, gradient written and read 8,
both moments read and written 16, parameter read and written 8."""
SOFTMAX = 4
"""Elementwise operations for a score: difference, exponential, two sums."""
KEPT = 32
"""Tokens between the states that Mamba's scan keeps."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do at most.

    Attributes:
      name: of the chip.
      matrix: operations a second of bfloat16 products, dense.
      bandwidth: bytes a second of its memory.
      vector: elementwise float32 operations a second, one for each lane and clock.
      source: where the first two are from.
      vector_source: where the third is from.
    """

    name: str
    matrix: float
    bandwidth: float
    vector: float
    source: str
    vector_source: str


CHIPS = (
    Chip(
        "H100 SXM",
        989e12,
        3.35e12,
        33.5e12,
        "NVIDIA, H100 Tensor Core GPU data sheet (1,979 TFLOP/s with sparsity, halved)",
        "same: 67 TFLOP/s of float32 count a multiply-add as two; here each is by itself",
    ),
    Chip(
        "TPU v5p",
        459e12,
        2.765e12,
        14.3e12,
        "Google Cloud, TPU v5p, key specifications",
        "no data sheet: 2 cores x 8 x 128 lanes x 4 units (JAX, How to Scale Your Model) x 1.75 "
        "GHz, the clock at which 2 x 4 units of 128 x 128 make 459 TFLOP/s",
    ),
    Chip(
        "trn2",
        667e12,
        2.9e12,
        0.98e12,
        "AWS Neuron documentation, Trainium2 architecture",
        "8 cores x 128 lanes of the Vector Engine x 0.96 GHz (NKI guide); the Scalar Engine not "
        "counted",
    ),
)


@dataclasses.dataclass(frozen=True)
class Shares:
    """Parts of the peaks that are assumed to be reached.

    Attributes:
      matrix: of products.
      memory: of bandwidth.
      vector: of elementwise work.
    """

    matrix: float = 0.5
    memory: float = 0.8
    vector: float = 0.5


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
      matrix: operations of products.
      vector: elementwise operations.
      moved: bytes read and written.
    """

    matrix: float
    vector: float
    moved: float

    def seconds(self, chip: Chip, shares: Shares) -> tuple[float, float, str]:
        """(the longer of products and memory, elementwise work, which was the longer)."""
        products = self.matrix / (chip.matrix * shares.matrix)
        memory = self.moved / (chip.bandwidth * shares.memory)
        vector = self.vector / (chip.vector * shares.vector)
        return max(products, memory), vector, "matrix" if products >= memory else "memory"


@functools.cache
def _period(config: ModelConfig) -> Period:
    return nnx.eval_shape(lambda: Period(config, rngs=nnx.Rngs(0)))


def mixers(description: Description) -> list[Any]:
    """The mixers of all layers, their parameters without values."""
    config = description.config
    return [sublayer.mixer for sublayer in _period(config).sublayers] * config.num_blocks


def elementwise(mixer: Any) -> float:
    """Operations for a token that ``flops_per_token`` counts and that are no matrix product."""
    if isinstance(mixer, BMojo):
        return elementwise(mixer.fading)
    if isinstance(mixer, SelectiveSSM):
        taps = 2 * mixer.config.d_conv
        return float(mixer.d_inner * (7 * mixer.config.d_state + 3 + taps))
    if isinstance(mixer, SSD):
        return float(2 * mixer.config.d_conv * (mixer.d_inner + 2 * mixer.config.d_state))
    return 0.0


def scores(mixer: Any, length: int, last: bool = False) -> float:
    """Scores for a token, all heads: an average over a sequence, or of its last token."""
    if not hasattr(mixer, "heads"):
        return 0.0
    past = length if last else (length + 1) / 2
    if isinstance(mixer, BMojo):
        config = mixer.config
        seen = min(config.window, past) + config.num_fading + min(config.num_eidetic, length)
    else:
        seen = min(mixer.config.window or math.inf, past)
    return mixer.heads.n_heads * seen


def activation_bytes(mixer: Any, width: int) -> float:
    """Bytes for a token and pass: what products, scan, attention and norm read and write.

    Inputs and outputs of products are bfloat16, those of a scan float32; scores stay on the
    chip, and keys and values are read once.
    """
    found = jax.tree_util.tree_leaves_with_path(nnx.state(mixer, nnx.Param))
    names = [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in found]
    products = [x.shape for name, x in names if "proj" in name and len(x.shape) == 2]
    moved = 2.0 * sum(sum(shape) for shape in products) + 2.0 * 5 * width
    cell = mixer.fading if isinstance(mixer, BMojo) else mixer
    if isinstance(cell, SelectiveSSM | SSD):
        states = cell.config.d_state
        moved += 4.0 * (3 * cell.d_inner + 2 * states)
        kept = cell.config.chunk_size if isinstance(cell, SSD) else KEPT
        moved += 2.0 * 4 * cell.d_inner * states / kept
    if hasattr(mixer, "heads"):
        moved += 2.0 * 4 * width
    return moved


def training(description: Description, length: int) -> Work:
    """A step of ``TOKENS_OF_A_STEP`` tokens on one chip, or one chip's part of a larger step."""
    config, layers = description.config, mixers(description)
    vector = sum(map(elementwise, layers))
    softmax = SOFTMAX * sum(scores(mixer, length) for mixer in layers)
    products = description.flops_per_token(length) - vector
    moved = PASSES * sum(activation_bytes(mixer, config.d_model) for mixer in layers)
    moved += 3 * 2.0 * config.vocab_size * config.d_model / TOKENS  # the table, for each block
    tokens = TOKENS_OF_A_STEP
    return Work(
        PASSES * tokens * products,
        PASSES * tokens * (vector + softmax),
        tokens * moved + WEIGHTS * description.parameters,
    )


def decoding(
    description: Description, length: int, rows: int, state: tuple[int, int] | None = None
) -> Work:
    """A token of each of some rows behind ``length`` tokens, weights in bfloat16.

    Args:
      description: of the model.
      length: tokens before.
      rows: of the batch.
      state: ``description.memory(length)`` where it is known.
    """
    layers = mixers(description)
    vector = sum(map(elementwise, layers))
    softmax = SOFTMAX * sum(scores(mixer, length, last=True) for mixer in layers)
    # At twice the length the average token sees as many tokens as the last one here.
    products = description.flops_per_token(2 * length) - vector
    recurrent, key_values = state or description.memory(length)
    return Work(
        rows * products,
        rows * (vector + softmax),
        2.0 * description.parameters + rows * (2.0 * recurrent + key_values),
    )


def described(model: str, size: str) -> Description:
    """A model of the paper's configs at one of its sizes."""
    shared = [f"experiments/paper/shared/{part}.gin" for part in (size, "text")]
    vocabulary = f"Model.vocab_size={VOCABULARY}"
    experiment, _ = load("experiments/text.gin", [vocabulary], [f"models/{model}.gin", *shared])
    return describe(experiment.model)


def page(sizes: Sequence[str], lengths: Sequence[int], shares: Shares) -> str:
    """All of it in Markdown."""
    paragraphs = (__doc__ or "").strip().split("\n\n")
    lines = ["# ESTIMATES: the paper's sizes on accelerators", ""]
    lines += ["\n\n".join((paragraphs[0], *paragraphs[2:])), "", *assumptions(shares), ""]
    lines += [
        "Below, `matrix` or `memory` is the longer of the two, and what comes after the plus sign "
        f"is elementwise work. A step of training has {TOKENS_OF_A_STEP:,} tokens. Lengths between "
        "which nothing changes share a line.",
        "",
    ]
    for size in sizes:
        found = {model: described(model, size) for model in MODELS}
        lines += [f"## ESTIMATE, {size}: a step of training", ""]
        lines += _table(
            ("model", "tokens of a row", "GFLOPs / token forward", "Mops / token elementwise")
            + tuple(f"{chip.name}: {what}" for chip in CHIPS for what in ("ms", "tokens / s")),
            _lines(found, lengths, shares, _training_cells),
        )
        lines += ["", f"## ESTIMATE, {size}: a decoded token", ""]
        rows = ("1 row", f"{ROWS} rows")
        lines += _table(
            ("model", "tokens before", "MiB of state")
            + tuple(f"{chip.name}: ms, {count}" for chip in CHIPS for count in rows),
            _lines(found, lengths, shares, _decoding_cells),
        )
        lines.append("")
    return "\n".join(lines)


def _lines(
    found: Mapping[str, Description],
    lengths: Sequence[int],
    shares: Shares,
    cells: Callable[[Description, int, Shares], list[str]],
) -> list[tuple[str, ...]]:
    """A line for each model and length, or for several lengths that do not differ."""
    made = []
    for name, description in found.items():
        rows = [(length, cells(description, length, shares)) for length in lengths]
        for shown, same in itertools.groupby(rows, key=lambda row: row[1]):
            between = [length for length, _ in same]
            reach = f"{between[0]:,}" + (f" to {between[-1]:,}" if len(between) > 1 else "")
            made.append((name, reach, *shown))
    return made


def assumptions(shares: Shares) -> list[str]:
    """Peaks with their sources, and what else is assumed."""
    chips = _table(
        ("chip", "bfloat16 TFLOP/s", "TB/s", "elementwise Tops/s", "source", "elementwise from"),
        (
            (
                chip.name,
                f"{chip.matrix / 1e12:.0f}",
                f"{chip.bandwidth / 1e12:.2f}",
                f"{chip.vector / 1e12:.2f}",
                chip.source,
                chip.vector_source,
            )
            for chip in CHIPS
        ),
    )
    assumed = (
        ("share of the matrix peak", f"{shares.matrix:g}", "assumed, not measured"),
        ("share of the bandwidth", f"{shares.memory:g}", "assumed, not measured"),
        ("share of the elementwise rate", f"{shares.vector:g}", "assumed, not measured"),
        ("tokens of a step on a chip", f"{TOKENS_OF_A_STEP:,}", "32 rows of 2,048, paper/shared"),
        ("words", f"{VOCABULARY:,}", "GPT-NeoX's, as Mamba's"),
        ("window, dtype, remat", "512, bfloat16, full", "paper/shared/text.gin"),
        ("passes", f"{PASSES}", "forward twice, backward as two"),
        ("bytes / parameter and step", f"{WEIGHTS}", "float32 weights, gradient, AdamW"),
        ("bytes / parameter, decoding", "2", "bfloat16"),
        (
            "bytes of activations",
            "formula",
            "operands and results of products in bfloat16 and of scans in float32, at each pass; "
            "scores stay on the chip; nothing is fused",
        ),
        ("table of words", f"read by each {TOKENS} tokens", "bmojo/ops/cross_entropy.py, 3 passes"),
        ("elementwise / score", f"{SOFTMAX}", "softmax"),
        ("left out", "", "norms' and gates' operations, communication, start of kernels, capacity"),
        ("overlap", "products with memory", "elementwise work is added, as if by itself"),
    )
    return [*chips, "", *_table(("assumption", "value", "why"), assumed)]


def _training_cells(description: Description, length: int, shares: Shares) -> list[str]:
    work = training(description, length)
    layers = mixers(description)
    vector = sum(map(elementwise, layers)) + SOFTMAX * sum(scores(m, length) for m in layers)
    cells = [f"{description.flops_per_token(length) / 1e9:.2f}", f"{vector / 1e6:.2f}"]
    for chip in CHIPS:
        longer, alone, which = work.seconds(chip, shares)
        cells.append(f"{longer * 1e3:.0f} {which} + {alone * 1e3:.0f}")
        cells.append(f"{TOKENS_OF_A_STEP / (longer + alone):,.0f}")
    return cells


def _decoding_cells(description: Description, length: int, shares: Shares) -> list[str]:
    state = description.memory(length)
    works = [decoding(description, length, rows, state) for rows in (1, ROWS)]
    cells = [f"{sum(state) / 2**20:.1f}"]
    for chip in CHIPS:
        for work in works:
            longer, alone, _ = work.seconds(chip, shares)
            cells.append(f"{(longer + alone) * 1e3:.3f}")
    return cells


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *lines)]


def main(words: Sequence[str] | None = None) -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    for field in dataclasses.fields(Shares):
        parser.add_argument(f"--{field.name}-share", type=float, default=field.default)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page there")
    given = parser.parse_args(words)
    shares = Shares(given.matrix_share, given.memory_share, given.vector_share)
    text = page(given.sizes, given.lengths, shares)
    if given.out is None:
        print(text)
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(given.out, text)


if __name__ == "__main__":
    main()
