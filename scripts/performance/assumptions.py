"""The assumptions of the cost model, as tables."""

from collections.abc import Iterable, Sequence

from bmojo.ops.cross_entropy import TOKENS
from scripts.performance.chips import CHIPS, Shares
from scripts.performance.work import PASSES, SOFTMAX, TOKENS_OF_A_STEP, WEIGHTS

VOCABULARY = 50_280


def assumptions(shares: Shares) -> list[str]:
    """Peaks with their sources, and what else is assumed."""
    chips = table(
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
    return [*chips, "", *table(("assumption", "value", "why"), assumed)]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *lines)]
